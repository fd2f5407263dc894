"""Runs scenarios against an agent, one after another, each with a process of its own, on one embedded server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.server import embedded_server
from agentexecutor.console.conformance.scenarios import Scenario
from agentexecutor.console.conformance.stage import Broken, Late, on_stage

__all__ = ["Verdict", "play"]

MOST_S = 120.0
"""No scenario takes longer, whatever the agent does."""
BUS_LOGGER = "agentexecutor.bus"
BACK_S = 30.0
"""So long the kit waits to be connected again."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a scenario went. `messages`: what was wrong with messages besides, each once; `stderr`: the end of what the agent printed.

    `late`: something did not come in time though the agent ran, which on a slow machine need not be its fault.
    """

    scenario: str
    passed: bool
    expected: str
    seen: str = ""
    messages: list[str] = []
    stderr: str = ""
    late: bool = False


async def play(command: Sequence[str], scenarios: Sequence[Scenario], patience: float) -> AsyncIterator[Verdict]:
    """The verdict of each scenario, as it falls. Raises BusError when the server does not start."""
    async with _a_server() as server, open_connection(server.url, name="conformance") as connection:
        for scenario in scenarios:
            async with on_stage(connection, command, patience, partial(_restart, server, connection)) as stage:
                expected, seen, late = scenario.expected, "", False
                try:
                    with anyio.fail_after(MOST_S * patience):
                        await stage.play(scenario.play)
                except Broken as broken:
                    expected, seen, late = broken.expected, broken.seen, isinstance(broken, Late)
                except TimeoutError:
                    expected, seen, late = f"an end within {MOST_S * patience:g} s", "it went on", stage.process.code is None
            yield Verdict(
                scenario=scenario.name,
                passed=not seen and not stage.problems,
                expected=expected,
                seen=seen,
                messages=list(dict.fromkeys(stage.problems)),
                stderr=stage.process.stderr if seen or stage.problems else "",
                late=late,
            )


class _Restarting:
    """An embedded server that can be ended and started again where it was."""

    def __init__(self, store: str, group: TaskGroup) -> None:
        self.url = ""
        self._store = store
        self._group = group
        self._port = 0
        self._scope = anyio.CancelScope()
        self._down = anyio.Event()

    async def start(self) -> None:
        self._scope, self._down = anyio.CancelScope(), anyio.Event()
        self.url = await self._group.start(self._serve)

    async def _serve(self, *, task_status: TaskStatus[str]) -> None:
        try:
            with self._scope:
                async with embedded_server(self._store, self._port) as server:
                    self._port = server.port
                    task_status.started(server.url)
                    await anyio.sleep_forever()
        finally:
            self._down.set()

    async def restart(self, away_s: float) -> None:
        self._scope.cancel()
        await self._down.wait()
        await anyio.sleep(away_s)
        await self.start()


@contextmanager
def _our_own_doing() -> Iterator[None]:
    """The bus's warnings are not told; its errors are."""
    logger = logging.getLogger(BUS_LOGGER)

    def told(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    logger.addFilter(told)
    try:
        yield
    finally:
        logger.removeFilter(told)


async def _restart(server: _Restarting, connection: Connection, away_s: float) -> None:
    """End the server, start it again after so many seconds, and wait until the kit is connected.

    That the connection is away is not told then. Not broken off when the agent ends meanwhile: the next scenario needs it.
    """
    back = anyio.Event()

    async def connected() -> None:
        back.set()

    forget = connection.on_reconnect(connected)
    try:
        with anyio.CancelScope(shield=True), _our_own_doing():
            await server.restart(away_s)
            with anyio.move_on_after(BACK_S):
                await back.wait()
    finally:
        forget()


@asynccontextmanager
async def _a_server() -> AsyncIterator[_Restarting]:
    async with anyio.TemporaryDirectory(prefix="agentexecutor-") as store, anyio.create_task_group() as group:
        server = _Restarting(store, group)
        await server.start()
        yield server
        group.cancel_scope.cancel()
