"""The demo's agents as processes of their own, started here and never left behind. Knows how to start and stop them, not what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.abc

from agentexecutor.console.demo import lifeline
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["CREW", "DemoFailed", "Member", "Worker", "crew"]

STOP_S = 5.0
LINES_SHOWN = 15
MODULE = "agentexecutor.console.demo.agents"
PROGRAM = "from agentexecutor.console.main import main; main()"
"""The command line, also where the script `agentexecutor` is not on the path."""


@dataclass(frozen=True)
class Member:
    """Who is started: an Agent of `agents`, and the name that its process gets on the bus."""

    name: str
    agent: str
    does: str


CREW = (
    Member("loader", "loader", "loads the tweets"),
    Member("A1", "a1", "counts features, capacity 5"),
    Member("A2", "a2", "counts features, capacity 10"),
    Member("trainer-1", "trainer", "merges and trains"),
    Member("trainer-2", "trainer", "merges and trains"),
    Member("evaluator", "evaluator", "scores on held-out tweets"),
)


class DemoFailed(AgentExecutorError):
    """The demo cannot go on: a process has ended, or does not get ready."""


@dataclass
class Worker:
    """A started process and where its log is."""

    member: Member
    process: anyio.abc.Process
    log: Path

    async def ended(self) -> NoReturn:
        """Wait for the process's end, which nobody wants, and raise DemoFailed with the last lines of its log."""
        code = await self.process.wait()
        lines = self.log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        raise DemoFailed(f"Agent {self.member.name} ended with code {code}. Its last lines:\n" + "\n".join(lines), code=code)


@asynccontextmanager
async def crew(url: str, folder: Path, members: tuple[Member, ...] = CREW) -> AsyncIterator[list[Worker]]:
    """Start the agents on the bus at `url`, their logs in `folder`.

    When the block ends they stop in good order, after some seconds by force; when an error ends it, by force at once.
    """
    with lifeline.held() as line:
        environment = _environment(url, line)
        workers: list[Worker] = []
        try:
            for member in members:
                workers.append(await _start(member, environment, line, folder))  # noqa: PERF401 - what was started before an error must be stopped
            yield workers
            await _stop(workers)
        finally:
            with anyio.CancelScope(shield=True):
                await _end(workers)


def _environment(url: str, line: int) -> dict[str, str]:
    """Ours, with the bus and the lifeline in it. One thread for arithmetic: every agent has a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "AGENTEXECUTOR_NAME"}
    named = {"AGENTEXECUTOR_NATS_URL": url, lifeline.VARIABLE: str(line)}
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | kept | named


async def _start(member: Member, environment: dict[str, str], line: int, folder: Path) -> Worker:
    command = [sys.executable, "-c", PROGRAM, "agent", f"{MODULE}:{member.agent}", "--name", member.name]
    log = folder / f"agent-{member.name}.log"
    with log.open("wb") as written:
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(line,),
            start_new_session=True,  # Ctrl-C is for the starter alone, which stops them in good order
        )
    return Worker(member, process, log)


async def _stop(workers: list[Worker]) -> None:
    """Ask all to stop, and give them a while for it."""
    running = [worker.process for worker in workers if worker.process.returncode is None]
    for process in running:
        with suppress(ProcessLookupError):
            process.terminate()
    with anyio.move_on_after(STOP_S):
        for process in running:
            await process.wait()


async def _end(workers: list[Worker]) -> None:
    """No process is left."""
    for worker in workers:
        if worker.process.returncode is None:
            with suppress(ProcessLookupError):
                worker.process.kill()
        await worker.process.wait()
        await worker.process.aclose()
