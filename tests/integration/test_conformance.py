"""The conformance kit: a right agent passes every scenario, and for each scenario there is an agent that fails it by one mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentexecutor.console.conformance.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RAW = [sys.executable, str(Path(__file__).parent / "programs" / "wrong_agent.py")]


def conformance(*arguments: str, wrong: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code, and each scenario's verdict."""
    main = "from agentexecutor.console.main import main; main()"
    command = [sys.executable, "-c", main, "conformance", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"WRONG": wrong}, capture_output=True, text=True, timeout=500, check=False)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert verdicts, done.stderr
    return done.returncode, {verdict["scenario"]: verdict for verdict in verdicts}


@pytest.mark.parametrize("command", [[sys.executable, "examples/conformance.py"], RAW], ids=["python", "by hand"])
def test_a_right_agent_passes(command: list[str]) -> None:
    code, verdicts = conformance("--patience", "5", "--", *command)
    assert [verdict for verdict in verdicts.values() if not verdict["passed"]] == []
    assert (code, list(verdicts)) == (0, list(SCENARIOS))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_wrong_agent_fails(name: str) -> None:
    code, verdicts = conformance("--scenario", name, "--", *RAW, wrong=name)
    assert (code, verdicts[name]["passed"]) == (1, False)
    assert verdicts[name]["seen"] or verdicts[name]["messages"]


def test_messages_that_are_not_valid_fail_any_scenario() -> None:
    code, verdicts = conformance("--scenario", "accepts", "--", *RAW, wrong="messages")
    assert (code, verdicts["accepts"]["seen"]) == (1, "")
    assert "Ae-Id is '7'" in verdicts["accepts"]["messages"][0]
