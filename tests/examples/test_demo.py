"""The demo, for real: real tweets, six agent processes, a failed attempt, a killed coordinator; and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentexecutor.console.demo.share import STARTER
from agentexecutor.schemas.views import TaskView

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
SHOW = {"task", "state", "plan_version", "result", "error", "trace_id", "subtasks"}
LONG = 240
"""Seconds after which something hangs."""


def environment() -> dict[str, str]:
    """Without this machine's bus and traces; the name of another peer must do no harm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_"))}
    return kept | {"AGENTEXECUTOR_NAME": "A1", "AGENTEXECUTOR_NATS_URL": "nats://127.0.0.1:1"}


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    ran = subprocess.run([PROGRAM, "demo", "--json"], env=environment(), capture_output=True, text=True, timeout=LONG, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    (line,) = ran.stdout.splitlines()
    return dict(json.loads(line))


def test_it_learns(shown: dict[str, Any]) -> None:
    assert shown["accuracy"] >= 0.72
    assert shown["baseline"] == pytest.approx(0.43, abs=0.01)
    assert shown["result"]["accuracy"] == shown["accuracy"]
    assert set(shown["result"]["per_class"]) == {"negative", "neutral", "positive"}


def test_it_ends_with_the_show_object(shown: dict[str, Any]) -> None:
    assert set(shown) >= SHOW
    view = msgspec.json.decode(json.dumps(shown), type=TaskView)
    assert (view.state, view.error, view.plan_version) == ("completed", None, 1)
    assert list(view.subtasks)[:4] == ["load", "features", "train", "evaluate"]
    assert {subtask.state for subtask in view.subtasks.values()} == {"completed"}
    for name, subtask in view.subtasks.items():
        if name != "features":  # shared out: its shares were awarded, not itself
            assert subtask.attempts[-1].agent == subtask.agent
            won = [bid for bid in subtask.bids if bid.won]
            assert [bid.agent for bid in won] == [attempt.agent for attempt in subtask.attempts]
            assert all(bid.reason for bid in subtask.bids)


def test_large_results_travel_by_reference(shown: dict[str, Any]) -> None:
    for name in ("load", "features", "train"):
        assert shown["subtasks"][name]["result_blob"]["bytes"] > 256 * 1024


def test_shares_are_in_proportion_to_the_capacities(shown: dict[str, Any]) -> None:
    small, large = shown["result"]["shares"]
    assert abs(large - 2 * small) <= 2
    assert small + large == shown["result"]["trained_on"] == 29_794
    assert [shown["subtasks"][name]["agent"] for name in ("features-1", "features-2")] == ["A1", "A2"]
    assert {bid["source"] for bid in shown["subtasks"]["features-1"]["bids"]} == {"call"}


def test_an_attempt_fails_and_another_agent_gets_the_work(shown: dict[str, Any]) -> None:
    first, second = shown["subtasks"]["train"]["attempts"]
    assert (first["state"], second["state"]) == ("failed", "completed")
    assert "on purpose" in first["error"]["message"]
    assert first["epoch"] < second["epoch"]
    assert {first["agent"], second["agent"]} == {"trainer-1", "trainer-2"}


def test_the_log_names_the_killed_coordinator_and_the_one_that_went_on(shown: dict[str, Any]) -> None:
    killed, *others = shown["coordinators"]
    assert killed == STARTER
    assert others
    assert all(records > 0 for records in shown["coordinators"].values())


def test_nats_has_no_meaning_for_the_demo() -> None:
    ran = subprocess.run([PROGRAM, "demo", "--nats", "nats://127.0.0.1:4222"], capture_output=True, text=True, timeout=LONG, check=False)
    assert ran.returncode == 2
    assert "--nats has no meaning" in ran.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_stopped_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    kept = environment() | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([PROGRAM, "demo"], env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "loader" in line:
                break
        started = processes_below(tmp_path)
        running.send_signal(number)
        assert running.wait(LONG) == code
    assert len(started) >= 1
    assert processes_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def processes_below(folder: Path) -> list[int]:
    """Living processes whose environment names the folder: all that the demo started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            named = f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if named:
            found.append(int(process.name))
    return found
