"""Processes of ours that a command starts beside itself (the demo's agents, the bench's): never left behind. Knows not what they do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from agentexecutor.console import lifeline

__all__ = ["PROGRAM", "Process", "Processes", "processes"]

STOP_S = 5.0
LINES_SHOWN = 15
PROGRAM = "from agentexecutor.console.main import main; main()"
"""The command line for ``python -c``, also where the script `agentexecutor` is not on the path."""


@dataclass
class Process:
    """A started process and where its log is."""

    process: anyio.abc.Process
    log: Path

    async def ended(self) -> tuple[int, str]:
        """Wait for its end: the exit code, and the last lines of its log."""
        code = await self.process.wait()
        return code, "\n".join(self.log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])


@dataclass
class Processes:
    """What was started. Made by `processes`."""

    environment: Mapping[str, str]
    line: int
    started: list[Process] = field(default_factory=list)

    async def start(self, command: Sequence[str], log: Path) -> Process:
        """Start one; what it prints goes into `log`."""
        with log.open("wb") as written:
            process = await anyio.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=self.environment,
                pass_fds=(self.line,),
                start_new_session=True,  # Ctrl-C is for the starter alone, which stops them in good order
            )
        self.started.append(Process(process, log))
        return self.started[-1]


@asynccontextmanager
async def processes(url: str, more: Mapping[str, str] | None = None) -> AsyncIterator[Processes]:
    """Where processes are started that use the bus at `url`; `more` is put into their environment, unless ours says otherwise.

    When the block ends they stop in good order, after some seconds by force; when an error ends it, by force at once. When this process is
    killed they stop too, if they call `lifeline.hold_on`.
    """
    with lifeline.held() as line:
        kept = {name: value for name, value in os.environ.items() if name != "AGENTEXECUTOR_NAME"}
        named = {"AGENTEXECUTOR_NATS_URL": url, lifeline.VARIABLE: str(line)}
        made = Processes({**(more or {}), **kept, **named}, line)
        try:
            yield made
            await _stop(process.process for process in made.started)
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process.process for process in made.started)


async def _stop(started: Iterable[anyio.abc.Process]) -> None:
    """Ask all to stop, and give them a while for it."""
    running = [process for process in started if process.returncode is None]
    for process in running:
        with suppress(ProcessLookupError):
            process.terminate()
    with anyio.move_on_after(STOP_S):
        for process in running:
            await process.wait()


async def _end(started: Iterable[anyio.abc.Process]) -> None:
    """No process is left."""
    for process in started:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        await process.aclose()
