"""`make simulate SEEDS=N`: many runs, on all cores; a failure prints its seed and the one command that repeats it.

python tests/simulation/simulate.py [--seeds N] [--first N] [--one SEED]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from broken import BROKEN
from world import Report, simulate

BROKEN_SEEDS = 200
CHUNK_S = 600
Chunk = tuple[dict[int, str], Counter[str]]
RUNS_A_PROCESS = 20
"""What was killed in a run stays in memory: a process does so many runs, and is replaced."""
__all__ = ["catch", "repeat_command", "run_chunk", "run_seeds"]


def repeat_command(seed: int) -> str:
    """What repeats a run."""
    return f"python tests/simulation/simulate.py --one {seed}"


def catch(rule: str) -> tuple[int, str] | None:
    """The first of 200 seeds with which the run of a broken rule hurts an invariant, and that invariant's name."""
    for seed in range(BROKEN_SEEDS):
        report = simulate(seed, rule)
        if report.violation is not None:
            return seed, report.violation.name
    return None


def run_chunk(first: int, count: int) -> Chunk:
    """Runs one after another, in a process of their own: violations by seed, how often each fault and each kind of change occurred."""
    ran = subprocess.run(
        [sys.executable, __file__, "--chunk", str(first), str(count)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=CHUNK_S,
    )
    violations, counts = json.loads(ran.stdout)
    return {int(seed): text for seed, text in violations.items()}, Counter(counts)


def chunk(first: int, count: int) -> str:
    """What the process of `run_chunk` prints."""
    gc.disable()  # what was killed cannot be collected, and looking through it takes longer with every run
    violations: dict[int, str] = {}
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        report: Report = simulate(seed)
        counts += report.counts + report.rows
        if report.violation is not None:
            violations[seed] = str(report.violation)
    return json.dumps([violations, counts])


def run_seeds(first: int, count: int) -> Chunk:
    """All of them, on all cores; a violation is told at once."""
    violations: dict[int, str] = {}
    counts: Counter[str] = Counter()
    firsts = range(first, first + count, RUNS_A_PROCESS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found, happened in pool.map(run_chunk, firsts, [min(RUNS_A_PROCESS, first + count - start) for start in firsts]):
            counts += happened
            violations |= found
            for seed, violation in found.items():
                sys.stderr.write(f"seed {seed}: {violation}\n  repeat it with: {repeat_command(seed)}\n")
    return violations, counts


def leave(failed: bool) -> None:
    """End at once: what was killed in the simulation cannot be finalized, and Python would try."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(failed))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=200, help="how many")
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--one", type=int, help="only this seed, with what was recorded")
    asked.add_argument("--broken", action="store_true", help="break every rule in turn: each must be caught")
    asked.add_argument("--rule", choices=BROKEN, help="break only this one")
    asked.add_argument("--chunk", type=int, nargs=2, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of texts is part of a run
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606  # itself
    if options.chunk:
        sys.stdout.write(chunk(*options.chunk))
        leave(failed=False)
    if options.one is not None:
        report = simulate(options.one)
        sys.stdout.write(
            "\n".join(line[:400] for line in report.history) + f"\n{dict(report.counts)}\n{report.violation or 'no violation'}\n"
        )
        leave(report.violation is not None)
    if options.broken or options.rule:
        missed = 0
        for rule in [options.rule] if options.rule else BROKEN:
            by = catch(rule)
            missed += by is None
            sys.stdout.write(f"{rule:40} {'NOT CAUGHT' if by is None else f'seed {by[0]:3}: {by[1]}'}\n")
        leave(bool(missed))
    violations, counts = run_seeds(options.first, options.seeds)
    for name, number in counts.most_common():
        sys.stdout.write(f"{number:9} {name}\n")
    sys.stdout.write(f"{options.seeds} runs, {len(violations)} with a violation\n")
    leave(bool(violations))


if __name__ == "__main__":
    main()
