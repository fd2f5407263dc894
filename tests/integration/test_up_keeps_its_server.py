"""`up` as a program whose nats-server is killed under it: it starts the server again, and gives up when that does not help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import LONG, ROOT, WORKER, Place, environment, program

PATIENT = """
from agentexecutor.console import keeping
from agentexecutor.console.main import main
keeping.WITHIN_S = 3600.0
main()
"""
"""The command where three ends are soon on a slow machine, too."""

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc for finding the server of a process")


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read what it logs up to the line that holds the text."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"it ended without {text!r}: {''.join(seen)}")


@pytest.mark.parametrize("whole", [False, True], ids=["the-server", "its-keeper"])
def test_a_server_that_is_killed_is_started_again(tmp_path: Path, *, whole: bool) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    with program("up", "--store", str(tmp_path / "store"), "--port", "0") as (up, started):
        bus = Place(started["nats"], tmp_path / "store", [])
        with program("agent", "worker:agent", "--no-coordinate", url=bus.url, cwd=tmp_path) as (worker, _):
            assert bus.run("submit", "listen", "{}", "--id", "before", "--no-wait").code == 0
            with bus.start("watch", "before", "--json") as watching:
                assert watching.stdout is not None
                assert any('"accepted"' in line for line in watching.stdout)
            keeper = child_of(up.pid)
            os.kill(keeper if whole else child_of(keeper), signal.SIGKILL)
            warning = wait_for(up, "nats-server has ended")
            assert "WARNING" in warning
            assert "exit code 137" in warning
            assert f"started again at {bus.url}." in warning
            wait_for(up, "Reconnected to")
            wait_for(worker, "Reconnected to")
            after = bus.run("submit", "echo", '{"text": "after"}', "--json")
            assert (after.code, after.object["result"]) == (0, "after"), after.err
            assert bus.run("feedback", "before", "--verdict", "accept", "--text", "go").code == 0
            before = bus.run("submit", "listen", "{}", "--id", "before", "--json")
            assert (before.code, before.object["result"]) == (0, "tester: accept: go"), before.err
            assert bus.run("tasks").code == 0


def test_a_server_that_does_nothing_but_die_ends_up(tmp_path: Path) -> None:
    up = subprocess.Popen(
        [sys.executable, "-c", PATIENT, "up", "--store", str(tmp_path / "store"), "--port", "0", "--json"],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        assert up.stdout.readline()
        for _ in range(2):
            os.kill(child_of(child_of(up.pid)), signal.SIGKILL)
            wait_for(up, "nats-server has ended")
            wait_for(up, "Reconnected to")
        os.kill(child_of(child_of(up.pid)), signal.SIGKILL)
        _, said = up.communicate(timeout=LONG)
    finally:
        if up.poll() is None:
            up.kill()
        up.communicate()
    assert up.returncode == 3
    assert "nats-server ended 3 times within" in said
    assert "Traceback" not in said
