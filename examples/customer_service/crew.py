"""All boxes and two coordinators as processes of their own, started again when they die, as systemd or Kubernetes would. None is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
from examples.customer_service.files import VARIABLE, folder
from examples.customer_service.roles import ROLES

from agentexecutor.bus import Bus
from agentexecutor.console import lifeline
from agentexecutor.console.demo.rollcall import calling
from agentexecutor.console.exits import Exit
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["COORDINATORS", "Crew", "CrewFailed", "crew"]

COORDINATORS = ("coordinator-1", "coordinator-2")
ROOT = Path(__file__).parents[2]
PROGRAM = "from agentexecutor.console.lifeline import hold_on; hold_on(); from agentexecutor.console.main import main; main()"
"""The command line; it ends when the process that started it is gone."""
START_S = 180.0
STOP_S = 5.0
AGAIN_S = 0.2
SHORT_LIFE_S = 1.0
SHORT_LIVES = 5
LINES_SHOWN = 15


class CrewFailed(AgentExecutorError):
    """A process cannot be started, or not all are ready in time."""


class Crew:
    """The running processes by name. `deaths`: how often each has died."""

    def __init__(self, url: str, line: int) -> None:
        self.running: dict[str, anyio.abc.Process] = {}
        self.deaths: dict[str, int] = {}
        self.logs = folder() / "logs"
        self._line = line
        self._environment = os.environ | {
            "AGENTEXECUTOR_NATS_URL": url,
            VARIABLE: str(folder().absolute()),
            lifeline.VARIABLE: str(line),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._stopping = False

    def kill(self, name: str) -> None:
        """``kill -9``: no goodbye."""
        self.running[name].kill()

    def freeze(self, name: str) -> None:
        """Stop it where it stands, as a machine that swaps does; only `kill` helps."""
        self.running[name].send_signal(signal.SIGSTOP)

    async def keep(self, name: str, arguments: list[str]) -> None:
        """Run a process, and again whenever it dies. Raises CrewFailed when it does so at once, several times."""
        short = 0
        while not self._stopping:
            begun = anyio.current_time()
            process = self.running[name] = await self._start(name, arguments)
            code = await process.wait()
            if self._stopping:
                return
            self.deaths[name] = self.deaths.get(name, 0) + 1
            short = short + 1 if anyio.current_time() - begun < SHORT_LIFE_S else 0
            if short >= SHORT_LIVES or code == Exit.USAGE:
                raise CrewFailed(f"{name} ended with code {code}. Its last lines:\n{self._last_lines(name)}", code=code)
            await anyio.sleep(AGAIN_S)

    async def _start(self, name: str, arguments: list[str]) -> anyio.abc.Process:
        with (self.logs / f"{name}.log").open("ab") as log:
            return await anyio.open_process(
                [sys.executable, "-c", PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environment,
                pass_fds=(self._line,),
                start_new_session=True,  # Ctrl-C is for the starter alone, which stops them in good order
            )

    def _last_lines(self, name: str) -> str:
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-LINES_SHOWN:])

    async def stop(self) -> None:
        """Ask all to stop, and after some seconds no more."""
        self._stopping = True
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        with anyio.move_on_after(STOP_S):
            for process in self.running.values():
                await process.wait()
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def crew(bus: Bus) -> AsyncIterator[Crew]:
    """Start everybody on the bus's server and wait until all boxes offer what they do. Raises CrewFailed."""
    with lifeline.held() as line:
        group = Crew(bus.connection.url, line)
        group.logs.mkdir(parents=True, exist_ok=True)
        async with anyio.create_task_group() as tasks:
            try:
                for name in COORDINATORS:
                    tasks.start_soon(group.keep, name, ["coordinator"])
                for role in ROLES:
                    tasks.start_soon(group.keep, role.name, ["agent", role.where, "--name", role.name, "--no-coordinate"])
                await _all_there(bus)
                yield group
            finally:
                with anyio.CancelScope(shield=True):
                    await group.stop()
                tasks.cancel_scope.cancel()


async def _all_there(bus: Bus) -> None:
    names = [role.name for role in ROLES]
    async with calling(bus.connection, lambda _name: None) as roll:
        try:
            with anyio.fail_after(START_S):
                await roll.all_there(names)
        except TimeoutError:
            missing = ", ".join(name for name in names if name not in roll.agents)
            raise CrewFailed(f"After {START_S:g} s this is still missing: {missing}.", hint="Is the machine very busy?") from None
