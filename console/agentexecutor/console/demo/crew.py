"""Who plays in the demo: its agents, each a process of its own. Knows who is started, not what they do."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import anyio.abc

from agentexecutor.console.processes import PROGRAM, Process, processes
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["CREW", "DemoFailed", "Member", "Worker", "crew"]

MODULE = "agentexecutor.console.demo.agents"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For arithmetic: every agent has a process of its own."""


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
    """A started member."""

    member: Member
    running: Process

    @property
    def process(self) -> anyio.abc.Process:
        return self.running.process

    @property
    def log(self) -> Path:
        return self.running.log

    async def ended(self) -> NoReturn:
        """Wait for the process's end, which nobody wants, and raise DemoFailed with the last lines of its log."""
        code, lines = await self.running.ended()
        raise DemoFailed(f"Agent {self.member.name} ended with code {code}. Its last lines:\n{lines}", code=code)


@asynccontextmanager
async def crew(url: str, folder: Path, members: tuple[Member, ...] = CREW) -> AsyncIterator[list[Worker]]:
    """Start the agents on the bus at `url`, their logs in `folder`; they end with the block, as `processes` says."""
    async with processes(url, ONE_THREAD) as starter:
        workers = []
        for member in members:
            command = [sys.executable, "-c", PROGRAM, "agent", f"{MODULE}:{member.agent}", "--name", member.name]
            workers.append(Worker(member, await starter.start(command, folder / f"agent-{member.name}.log")))
        yield workers
