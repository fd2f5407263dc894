"""Rules broken on purpose must be caught, and a seed must repeat its run. `make simulate SEEDS=N` looks for what is broken without purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken import BROKEN

SIMULATE = Path(__file__).with_name("simulate.py")


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


CAUGHT = {
    "fence off",
    "epoch ignored",
    "acknowledge before append",
    "unknown is taken for stored",
    "unknown is forgotten",
    "pending without timers",
    "pending without wants",
    "clients never ask",
    "lost agents keep their awards",
    "epochs begin anew",
    "history left out",
}


@pytest.mark.parametrize("rule", sorted(CAUGHT))
def test_a_broken_rule_is_caught(rule: str) -> None:
    assert rule in BROKEN
    ran = run("--rule", rule)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "seed" in ran.stdout
