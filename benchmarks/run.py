"""`make bench`: the floor and AgentExecutor in pairs, alternating, each on a fresh server; medians, ratios, and where the CPU time went.

It reports, it does not judge: no number makes it fail.

    python benchmarks/run.py [--rounds 5] [--seconds 4]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PAIR = ("floor", "ours")
FIGURES = ("tasks_per_s", "median_ms", "p95_ms", "p99_ms")

Loads = list[dict[str, Any]]
"""What one run of floor.py or ours.py says, a load an entry."""


def run(name: str, passed_on: list[str]) -> Loads:
    """One benchmark in a process of its own."""
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *passed_on], check=True, stdout=subprocess.PIPE, text=True)
    loads: Loads = json.loads(done.stdout)["loads"]
    return loads


def rounds(count: int, passed_on: list[str]) -> dict[str, list[Loads]]:
    """All rounds; who begins alternates, so that a machine that warms up or slows down favours neither."""
    results: dict[str, list[Loads]] = {name: [] for name in PAIR}
    for number in range(count):
        for name in PAIR if number % 2 == 0 else reversed(PAIR):
            loads = run(name, passed_on)
            results[name].append(loads)
            said = ", ".join(f"{load['in_flight']} in flight: {load['tasks_per_s']} tasks/s, {load['median_ms']} ms" for load in loads)
            print(f"round {number + 1} of {count}, {name}: {said}", file=sys.stderr)
    return results


def summary(results: dict[str, list[Loads]]) -> Loads:
    """Medians over the rounds; the ratios are medians of each round's own ratio."""
    lines: Loads = []
    for index, load in enumerate(results[PAIR[0]][0]):
        line: dict[str, Any] = {"in_flight": load["in_flight"]}
        for name in PAIR:
            runs = [loads[index] for loads in results[name]]
            line[name] = {figure: round(median(run[figure] for run in runs), 3) for figure in FIGURES}
            processes = runs[0]["cpu_ms_per_task"]
            line[name]["cpu_ms_per_task"] = {who: round(median(run["cpu_ms_per_task"][who] for run in runs), 3) for who in processes}
        pairs = [(floor[index], ours[index]) for floor, ours in zip(*(results[name] for name in PAIR), strict=True)]
        line["ratio"] = {figure: round(median(ours[figure] / floor[figure] for floor, ours in pairs), 3) for figure in FIGURES}
        lines.append(line)
    return lines


def tables(lines: Loads) -> list[Table]:
    """A table a load: rates and latencies, then CPU time by process."""
    made = []
    for line in lines:
        table = Table("", *PAIR, "ours / floor", title=f"{line['in_flight']} in flight", title_justify="left")
        for figure in FIGURES:
            table.add_row(figure, *(str(line[name][figure]) for name in PAIR), str(line["ratio"][figure]))
        for who, floor in line["floor"]["cpu_ms_per_task"].items():
            ours = line["ours"]["cpu_ms_per_task"][who]
            table.add_row(f"cpu ms per task: {who}", str(floor), str(ours), f"{ours / floor:.3f}" if floor else "")
        made.append(table)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each load (default 4)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[128, 1], help="loads (default 128 1)")
    asked = parser.parse_args()
    passed_on = ["--seconds", str(asked.seconds), "--in-flight", *map(str, asked.in_flight)]
    lines = summary(rounds(asked.rounds, passed_on))
    console = Console()
    for table in tables(lines):
        console.print(table)
    print(json.dumps({"rounds": asked.rounds, "seconds": asked.seconds, "loads": lines}))


if __name__ == "__main__":
    main()
