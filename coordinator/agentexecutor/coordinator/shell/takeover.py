"""What a shard's new holder does first: every open task is loaded and gets `held` into its log, so that a holder who wakes up late is refused (3)."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import cast

import anyio
from anyio.abc import TaskGroup

from agentexecutor.bus import exporting, telemetry
from agentexecutor.bus.errands import Errands
from agentexecutor.bus.log import StoredRecord, TaskLog
from agentexecutor.coordinator import errands
from agentexecutor.coordinator.entry import Entry
from agentexecutor.coordinator.shell.insisting import Insist
from agentexecutor.coordinator.spans import Spans
from agentexecutor.coordinator.states import ENDED
from agentexecutor.coordinator.turns import Desk
from agentexecutor.coordinator.untold import Untold
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName

__all__ = ["TakeOver"]

logger = logging.getLogger("agentexecutor.coordinator")

FINDERS = 2
"""In so many shards at a time open tasks are looked for."""
LOADERS = 16


class TakeOver:
    """Finds the open tasks of a shard. `hold` is awaited for each, no more than `LOADERS` at a time."""

    def __init__(
        self, log: TaskLog, errands: Errands, desk: Desk, spans: Spans, hold: Callable[[Entry], Awaitable[None]], insist: Insist
    ) -> None:
        self._log = log
        self._errands = errands
        self._desk = desk
        self._spans = spans
        self._hold = hold
        self._insist = insist
        self._finding = anyio.Semaphore(FINDERS)

    async def of(self, number: int, *, orphaned: bool) -> None:
        """Take a shard's tasks over. `orphaned`: who held it before fell silent."""
        room = anyio.Semaphore(LOADERS)
        async with anyio.create_task_group() as group, self._finding:
            await self._insist(partial(self._find, number, group, room, orphaned=orphaned))

    async def _hold_one(self, entry: Entry, room: anyio.Semaphore) -> None:
        await self._hold(entry)
        room.release()

    async def _find(self, number: int, group: TaskGroup, room: anyio.Semaphore, *, orphaned: bool) -> None:
        tells = telemetry.recording() and orphaned
        untold = Untold(self._desk.clock.now(time.monotonic()), exporting.delay_s()) if tells else None
        async with aclosing(cast("AsyncGenerator[tuple[TaskName, int, StoredRecord]]", self._log.heads(number))) as heads:
            async for task, _, head in heads:
                if untold is not None:
                    untold.head(head.stamp, task)
                known = self._desk.tasks.get(task)
                if head.state not in ENDED and not (known is not None and known.fenced):
                    await room.acquire()
                    group.start_soon(self._hold_one, self._desk.tasks.open(task, number), room)

        if untold is not None:
            await self._tell_again(number, untold)

    async def _tell_again(self, number: int, untold: Untold) -> None:
        """Who held the shard before may not have sent its last spans. What cannot be read now is a gap in a trace."""
        for task in untold.tasks():
            try:
                loaded = await self._errands.run(task, errands.load(task, number, await self._log.read(number, task)))
            except AgentExecutorError as error:
                logger.debug("The spans of task %s are not told again: %s", task, error)
                continue
            self._spans.retold(task, number, loaded.found, untold.since)
