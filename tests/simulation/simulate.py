"""`make simulate SEEDS=N`: many runs, on all cores; a failure prints its seed and the one command that repeats it.

python tests/simulation/simulate.py [--seeds N] [--first N] [--one SEED]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from broken import BROKEN
from world import Report, simulate

BROKEN_SEEDS = 200
__all__ = ["first_caught", "repeat_command", "run_broken", "run_seed", "run_seeds"]


def repeat_command(seed: int) -> str:
    """What repeats a run."""
    return f"python tests/simulation/simulate.py --one {seed}"


def run_seed(seed: int) -> tuple[int, str | None, Counter[str], Counter[str]]:
    """One run in a process of the pool: seed, violation, faults, rows."""
    report: Report = simulate(seed)
    return seed, None if report.violation is None else str(report.violation), report.counts, report.rows


def first_caught(rule: str, first: int, count: int) -> tuple[int, str] | None:
    """The first seed with which the run of a broken rule hurts an invariant, and that invariant's name."""
    for seed in range(first, first + count):
        report = simulate(seed, rule)
        if report.violation is not None:
            return seed, report.violation.name
    return None


def catch(rule: str) -> tuple[str, tuple[int, str] | None]:
    """For the pool: a broken rule, and what caught it."""
    return rule, first_caught(rule, 0, BROKEN_SEEDS)


def run_broken() -> dict[str, tuple[int, str] | None]:
    """Every broken rule, and what caught it."""
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(pool.map(catch, BROKEN))


def run_seeds(first: int, count: int) -> tuple[dict[int, str], Counter[str], Counter[str]]:
    """Violations by seed, and how often each fault and each kind of change occurred."""
    violations: dict[int, str] = {}
    counts: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for seed, violation, faults, changes in pool.map(run_seed, range(first, first + count), chunksize=4):
            counts += faults
            rows += changes
            if violation is not None:
                violations[seed] = violation
                sys.stderr.write(f"seed {seed}: {violation}\n  repeat it with: {repeat_command(seed)}\n")
    return violations, counts, rows


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
    options = asked.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of texts is part of a run
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606  # itself
    if options.one is not None:
        report = simulate(options.one)
        sys.stdout.write(
            "\n".join(line[:400] for line in report.history) + f"\n{dict(report.counts)}\n{report.violation or 'no violation'}\n"
        )
        leave(report.violation is not None)
    if options.broken or options.rule:
        caught = dict([catch(options.rule)]) if options.rule else run_broken()
        for rule, by in caught.items():
            sys.stdout.write(f"{rule:40} {'NOT CAUGHT' if by is None else f'seed {by[0]:3}: {by[1]}'}\n")
        leave(None in caught.values())
    violations, counts, rows = run_seeds(options.first, options.seeds)
    for name, number in (counts + rows).most_common():
        sys.stdout.write(f"{number:9} {name}\n")
    sys.stdout.write(f"{options.seeds} runs, {len(violations)} with a violation\n")
    leave(bool(violations))


if __name__ == "__main__":
    main()
