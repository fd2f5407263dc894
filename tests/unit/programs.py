"""The project's commands as processes of their own, with an environment of their own, for tests that end them one way or another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.to_thread import run_sync

__all__ = ["LONG", "Program", "Programs", "killed", "programs"]

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
LONG = 120
"""Seconds after which something hangs."""


@asynccontextmanager
async def killed(process: Process) -> AsyncIterator[Process]:
    """A process of which nothing is left after the block; one that still ran would be waited for when the block fails."""
    async with process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


@dataclass
class Program:
    """A process that stays. `ready`: what it said when it was."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    errors: Path

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self.errors.read_text(encoding="utf-8")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LONG)

    async def stop(self) -> int:
        """Ask it to end, and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await run_sync(self.process.wait, LONG)


class Programs:
    """Starts commands on one bus. Output goes to files of `folder`, so that no pipe fills."""

    def __init__(self, url: str, folder: Path, environment: dict[str, str], stack: AsyncExitStack) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_"))}
        self.environment = {**kept, "AGENTEXECUTOR_NATS_URL": url, "AGENTEXECUTOR_NAME": "tester", **environment}
        self._folder = folder
        self._stack = stack
        self._count = 0

    async def start(self, *arguments: str, **environment: str) -> Program:
        """A command that stays until it is stopped, once it has said that it is ready."""
        program = await self._start([PROGRAM, *arguments, "--json"], environment)
        line = await run_sync(program.process.stdout.readline)  # type: ignore[union-attr]  # it is a pipe
        assert line, f"{arguments} ended with {program.process.wait(LONG)}: {program.said}"
        program.ready = json.loads(line)
        return program

    async def begin(self, *command: str, **environment: str) -> Program:
        """A process that says nothing when it is ready."""
        return await self._start(list(command), environment)

    async def run(self, *arguments: str, **environment: str) -> tuple[Any, str]:
        """A command that ends by itself, well: the last object that it printed, and what it wrote to stderr."""
        program = await self._start([PROGRAM, *arguments, "--json"], environment)
        out, _ = await run_sync(program.process.communicate, None, LONG)
        assert program.process.returncode == 0, program.said
        return json.loads(out.splitlines()[-1]) if out else None, program.said

    async def _start(self, command: list[str], environment: dict[str, str]) -> Program:
        self._count += 1
        errors = self._folder / f"{self._count}.err"
        with errors.open("w") as written:
            process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=written,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        program = Program(process, {}, errors)
        self._stack.push_async_callback(self._clean, program)
        return program

    async def _clean(self, program: Program) -> None:
        if program.process.poll() is None:
            program.process.kill()
        with anyio.CancelScope(shield=True):
            await run_sync(program.process.communicate, None, LONG)


@asynccontextmanager
async def programs(url: str, folder: Path, **environment: str) -> AsyncIterator[Programs]:
    """Commands on this bus with these variables; none outlives the block."""
    async with AsyncExitStack() as stack:
        yield Programs(url, folder, environment, stack)
