"""Tasks from submit to result, as any client would do them, and what is left of them afterwards."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from msgspec import Raw

from agentexecutor.bus.client import Bus
from agentexecutor.bus.errors import BusError, TaskCancelled, TaskError, TaskFailed, TaskTimeout
from agentexecutor.bus.streams import BLOBS, LOG, PROGRESS, stream_name
from agentexecutor.schemas.names import TaskName, new_id

__all__ = ["AUTO", "Load", "forget", "settle"]

AUTO = "auto"
SETTLE_S = 2.0
"""What is under way when a run is stopped may end by itself for so long; then it is cancelled."""
CANCEL_S = 15.0


@dataclass
class Load:
    """The same task again and again. `wait_s`: after so long a task counts as not finished."""

    bus: Bus
    capability: str
    input: dict[str, Any]
    wait_s: float
    auction: str = AUTO
    stored: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Why → how many, since it began anew."""
    all_failed: int = 0
    open: set[str] = field(default_factory=set)
    """Ids of tasks that were submitted, or may have been, and have not ended."""
    submitted: int = 0

    @property
    def stored_median_ms(self) -> float | None:
        return round(1000 * statistics.median(self.stored), 3) if self.stored else None

    def again(self, auction: str) -> None:
        """From here on with this auction; what is measured begins anew."""
        self.auction = auction
        self.stored, self.failed = [], Counter()

    async def first(self) -> None:
        """One task, to see whether it works at all. Raises TaskError."""
        try:
            await self._task()
        except TaskError:
            self.all_failed += 1
            raise

    async def one(self, _place: int) -> bool:
        """One task; whether it completed."""
        try:
            await self._task()
        except TaskError as error:
            self.failed[_why(error)] += 1
            self.all_failed += 1
            return False
        return True

    async def _task(self) -> None:
        id = new_id()
        self.open.add(id)
        self.submitted += 1
        begun = time.perf_counter()
        task = await self.bus.submit(self.capability, self.input, id=id, auction=self.auction)  # type: ignore[arg-type]  # checked by the command
        self.stored.append(time.perf_counter() - begun)
        try:
            await task.result(Raw, timeout_s=self.wait_s)
        except TaskTimeout:
            raise
        except TaskError:
            self.open.discard(id)
            raise
        self.open.discard(id)


def _why(error: TaskError) -> str:
    """The error's code where the task failed; else how it ended for us."""
    if isinstance(error, TaskFailed):
        return str(getattr(error.fields.get("error"), "code", "failed"))
    return {TaskTimeout: "unfinished", TaskCancelled: "cancelled"}.get(type(error), "refused")


async def settle(bus: Bus, open: Iterable[str]) -> set[str]:
    """Wait a little for tasks that are under way, and cancel the others. Gives those that have not ended even so."""
    left = set(open)

    async def ends(id: str) -> None:
        with suppress(TaskError):
            await bus.task(str(TaskName(bus.name, id))).result(Raw)
        left.discard(id)

    async def cancel(id: str) -> None:
        with suppress(TaskError, BusError):
            await bus.task(str(TaskName(bus.name, id))).cancel("the bench was stopped")

    async def wait(limit_s: float) -> None:
        with anyio.move_on_after(limit_s):
            async with anyio.create_task_group() as group:
                for id in sorted(left):
                    group.start_soon(ends, id)

    await wait(SETTLE_S)
    with anyio.move_on_after(CANCEL_S):
        async with anyio.create_task_group() as group:
            for id in sorted(left):
                group.start_soon(cancel, id)
    await wait(CANCEL_S)
    return left


async def forget(bus: Bus) -> None:
    """Remove the logs, progress and bodies of all tasks of this peer, which has no other than the bench's, all ended. Raises BusError."""
    connection = bus.connection
    every = TaskName(bus.name, "*")
    subjects = connection.subjects
    for stream, subject in ((LOG, subjects.any_log(every)), (PROGRESS, subjects.all_progress(every)), (BLOBS, subjects.all_blobs(every))):
        await connection.api(f"STREAM.PURGE.{stream_name(stream, connection.prefix)}", {"filter": subject})
