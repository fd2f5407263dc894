"""The agent under test as a process: started once, watched until it ends, what it prints to stderr kept, ended by force if need be. Knows no wire."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import Process, TaskGroup

from agentexecutor.bus.ends import how_it_ended
from agentexecutor.console.exits import UsageError

__all__ = ["AgentProcess"]

STDERR_KEPT = 4000
KILL_S = 5.0
READ_S = 1.0
"""So long what it last printed may take, when something that it has started keeps its stderr open."""


@dataclass
class AgentProcess:
    """One process of the agent."""

    command: Sequence[str]
    group: TaskGroup
    may_end: bool = False
    """Something has told it to end."""
    left: bool = False
    """It has ended though nothing had told it to."""
    _process: Process | None = None
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _stderr: bytes = b""
    _read: anyio.Event = field(default_factory=anyio.Event)

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start it, with this besides in its environment. Raises UsageError when there is no way to."""
        try:
            self._process = await anyio.open_process(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"{self.command[0]!r} cannot be started: {error.strerror or error}.",
                hint="If it is a script, name what runs it: agentexecutor conformance -- python3 agent.py",
            ) from error
        self.group.start_soon(self._read_stderr, self._process)
        self.group.start_soon(self._watch, self._process)

    async def until_it_leaves(self, play: Callable[[], Awaitable[None]]) -> None:
        """Await `play`; it is broken off when the process ends though nothing has told it to: then it has `left`."""
        with self._scope:
            await play()

    async def _watch(self, process: Process) -> None:
        await process.wait()
        if not self.may_end:
            self.left = True
            self._scope.cancel()

    async def _read_stderr(self, process: Process) -> None:
        if process.stderr is not None:
            with suppress(anyio.ClosedResourceError):
                async for chunk in process.stderr:
                    self._stderr = (self._stderr + chunk)[-STDERR_KEPT:]
        self._read.set()

    @property
    def stderr(self) -> str:
        """The end of what it has printed."""
        return self._stderr.decode(errors="replace").strip()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def end(self) -> str:
        """How it ended, in words; nothing while it runs."""
        return "" if self.code is None else f"it ended with {how_it_ended(self.code)}"

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.may_end = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def ended(self, within: float) -> int | None:
        """Its exit code; None when it does not end."""
        with anyio.move_on_after(within):
            return None if self._process is None else await self._process.wait()
        return None

    async def kill(self) -> None:
        """Whatever it does: SIGTERM, then SIGKILL, to all that it has started. What it has printed is read."""
        self.may_end = True
        if self._process is None:
            return
        with anyio.CancelScope(shield=True):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                if await self.ended(KILL_S) is not None:
                    break
            with anyio.move_on_after(READ_S):
                await self._read.wait()
