"""The programs as process 1 of a container, started as the image starts them: the kernel gives such a process no signal that it does not ask for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from programs import killed

from agentexecutor.bus import EmbeddedServer, connect

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests/chaos/worker.py"
LONG_S = 120.0
"""After so long something hangs."""


def entrypoint() -> list[str]:
    """What the image starts, from this environment."""
    (program,) = json.loads(re.search(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1])  # type: ignore[index]
    return [str(Path(sysconfig.get_path("scripts")) / program)]


@pytest.fixture(scope="session")
def unshare() -> list[str]:
    """Starts a program as the first process of a namespace of its own, as engines do."""
    found = shutil.which("unshare") or "unshare"
    command = [found, *(["--user", "--map-root-user"] if os.geteuid() else []), "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no process can be made the first of a namespace here: {getattr(error, 'stderr', '') or error}")
    return command


class First:
    """A program that is process 1, with what it has written so far."""

    def __init__(self, outer: anyio.abc.Process) -> None:
        self._outer = outer
        self.written = ""

    def send(self, number: int) -> None:
        """From outside, as an engine does."""
        (inner,) = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        os.kill(int(inner), number)

    async def says(self, text: str) -> None:
        """Wait until it has written this."""
        assert self._outer.stdout is not None
        with anyio.fail_after(LONG_S):
            while text not in self.written:
                self.written += (await self._outer.stdout.receive()).decode()

    async def ends(self) -> int:
        with anyio.fail_after(LONG_S):
            return await self._outer.wait()


@asynccontextmanager
async def first(command: Sequence[str], environment: dict[str, str]) -> AsyncIterator[First]:
    process = await anyio.open_process(command, env=environment, stderr=subprocess.STDOUT, cwd=ROOT)
    async with killed(process):
        yield First(process)


async def test_an_agent_finishes_what_runs(server: EmbeddedServer, unshare: list[str], tmp_path: Path) -> None:
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    environment = {**os.environ, "AGENTEXECUTOR_NATS_URL": server.url, "AGENTEXECUTOR_NAME": "first", "CHAOS_EFFECTS": str(effects)}
    command = [*unshare, *entrypoint(), "agent", f"{WORKER}:agent", "--name", "first"]
    async with first(command, environment) as program, connect(server.url, name="me") as bus:
        await program.says("Stop with Ctrl-C")
        task = await bus.submit("chaos.held", {"gate": str(gate)})
        async for event in task.events():
            if event.kind == "accepted":
                break
        program.send(signal.SIGTERM)
        await program.says("what runs is finished or given back")
        gate.touch()
        code = await program.ends()
    assert code == 0
    assert gate.with_name("gate.over").exists()
    assert json.loads(effects.read_text())["pid"] == 1
    async with coordinating(server.url), connect(server.url, name="me") as bus:
        result = bus.task(task.name)
        assert await result.result(str, timeout_s=LONG_S) == "let go"
        assert [attempt.state for attempt in (await result.view()).subtasks["main"].attempts] == ["completed"]


async def test_a_coordinator_gives_its_leases_back(server: EmbeddedServer, unshare: list[str]) -> None:
    environment = {**os.environ, "AGENTEXECUTOR_NATS_URL": server.url}
    async with first([*unshare, *entrypoint(), "coordinator"], environment) as program:
        await program.says("Stop with Ctrl-C")
        program.send(signal.SIGTERM)
        assert await program.ends() == 0


@asynccontextmanager
async def coordinating(url: str) -> AsyncIterator[None]:
    """The agent coordinated too, and is gone."""
    command = [sys.executable, "-c", "from agentexecutor.console.main import main; main()", "coordinator", "--nats", url]
    async with await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
