"""Bodies whose task is gone: their chunks are purged once they are older than a task is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import BLOBS, stream_name
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["sweep_bodies"]


async def sweep_bodies(connection: Connection, log: TaskLog, mine: Callable[[int], bool], *, before: float) -> int:
    """Purge the bodies of tasks without a log whose newest chunk was stored before `before` (seconds since 1970).

    Only tasks of shards that are `mine`. Gives the number of tasks whose bodies went. Raises ApiError.
    """
    stream = stream_name(BLOBS, connection.prefix)
    swept = 0
    async for task in _tasks(connection, stream):
        shard = shard_of(task, connection.shards)
        if not mine(shard) or await log.last(shard, task) is not None:
            continue
        newest = await log.last_of(BLOBS, connection.subjects.all_blobs(task))
        if newest is not None and newest.stamp < before:
            await connection.api(f"STREAM.PURGE.{stream}", {"filter": connection.subjects.all_blobs(task)})
            swept += 1
    return swept


async def _tasks(connection: Connection, stream: str) -> AsyncIterator[TaskName]:
    """Every task that has bodies, once."""
    seen: set[TaskName] = set()
    offset = 0
    while True:
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": connection.subjects.all_blobs(), "offset": offset})
        found: dict[str, int] = info["state"].get("subjects") or {}
        for subject in found:
            task = connection.subjects.parse_blob(subject)
            if task not in seen:
                seen.add(task)
                yield task
        offset += len(found)
        if not found or offset >= int(info.get("total", 0)):
            return
