"""Many seeds without a violation; rules broken on purpose are caught; a seed repeats its run.

`make simulate SEEDS=N` looks at more seeds, and prints how often each fault, change and row of the tables occurred.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from broken import BROKEN
from simulate import run_seeds
from truth import row_name
from world import KINDS

from agentexecutor.coordinator.states import CLAIMS, SUBTASK, TASK

SIMULATE = Path(__file__).with_name("simulate.py")
SEEDS, AT_ONCE = int(os.environ.get("AE_SEEDS", "2000")), 100
FIRSTS = range(0, SEEDS, AT_ONCE)
FAULTS = (
    *(f"fault {kind}" for kind in KINDS),
    *("messages lost", "messages doubled", "late", "deliveries lost", "publishes lost", "sent twice", "requests lost", "answers lost"),
    *("acknowledgements lost", "redelivered", "appends refused", "memory emptied"),
)
SEVERAL = ("recorded part", "recorded in parts")

happened: Counter[str] = Counter()
searched: set[int] = set()


@pytest.mark.parametrize("first", FIRSTS)
def test_no_invariant_is_hurt(first: int) -> None:
    violations, counts = run_seeds(first, AT_ONCE)
    happened.update(counts)
    searched.add(first)
    assert violations == {}, "each with the command that repeats it above"


def test_every_fault_and_every_row_of_the_tables_occurred(measured: Callable[[str], None]) -> None:
    if searched != set(FIRSTS):
        pytest.skip("counts only after the whole search")
    counted = ", ".join(f"{happened[name]} {name.removeprefix('fault ')}" for name in FAULTS)
    measured(f"{SEEDS} simulated runs: {counted}")
    rows = {row_name(name, key) for name, table in (("subtask", SUBTASK), ("task", TASK), ("claim", CLAIMS)) for key in table}
    assert sorted(row for row in rows if not happened[row]) == []
    assert [name for name in (*FAULTS, *SEVERAL) if not happened[name]] == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SIMULATE), *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = run("--one", "5"), run("--one", "5")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout) > 10_000
    assert first.stdout == second.stdout


@pytest.fixture(scope="module")
def caught() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What becomes of each broken rule; as many are tried at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {rule: pool.submit(run, "--rule", rule) for rule in sorted(BROKEN)}


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_a_broken_rule_is_caught(caught: dict[str, Future[subprocess.CompletedProcess[str]]], rule: str) -> None:
    ran = caught[rule].result()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "seed" in ran.stdout
