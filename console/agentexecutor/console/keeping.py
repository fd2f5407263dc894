"""The NATS server of `up` when it dies: started again on the same port and store, unless it does nothing else but die. Knows nothing of who uses it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from agentexecutor.bus.errors import BusError
from agentexecutor.bus.server import EmbeddedServer, embedded_server

__all__ = ["kept_server"]

logger = logging.getLogger("agentexecutor.console")

MOST_ENDS = 3
WITHIN_S = 10.0
"""So many ends within that time are too many: something is wrong that no new start mends."""


@asynccontextmanager
async def kept_server(store: Path, port: int, *, sync: str | None) -> AsyncIterator[EmbeddedServer]:
    """`embedded_server` that is started again whenever it ends before the block does; whoever is connected connects again by themselves.

    Gives the first of them; the next has the same port and store. Raises BusError, also out of the block: when the server does not start, and
    when it ends too often.
    """
    async with anyio.create_task_group() as group:
        yield await group.start(_keep, store, port, sync)
        group.cancel_scope.cancel()


async def _keep(store: Path, port: int, sync: str | None, *, task_status: TaskStatus[EmbeddedServer]) -> None:
    ends: deque[float] = deque(maxlen=MOST_ENDS)
    while True:
        async with embedded_server(store, port, sync=sync) as server:
            if not ends:
                task_status.started(server)
                port = server.port
            code = await server.ended()
        ends.append(time.monotonic())
        log = server.store / "nats-server.log"
        if len(ends) == MOST_ENDS and ends[-1] - ends[0] < WITHIN_S:
            raise BusError(
                f"nats-server ended {MOST_ENDS} times within {WITHIN_S:g} s, the last time with exit code {code}.",
                hint=f"{log} may say why; what was stored is there again when `agentexecutor up` is started the next time.",
                code=code,
            )
        logger.warning("nats-server has ended with exit code %d (%s may say why); it is started again at %s.", code, log, server.url)
