"""Bodies whose task is gone: their chunks are purged once they are older than a task is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import BLOBS, stream_name
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import NOBODY, shard_of

__all__ = ["sweep_bodies"]


async def sweep_bodies(connection: Connection, log: TaskLog, mine: Callable[[int], bool], *, before: float) -> int:
    """Purge the bodies of tasks without a log whose newest chunk was stored before `before` (seconds since 1970).

    Bodies that belong to no task (questions and their answers) go one by one. Only of shards that are `mine`. Gives how many went, those of a task
    taken for one. Raises ApiError.
    """
    stream = stream_name(BLOBS, connection.prefix)
    swept = 0
    async for task, bodies in _bodies(connection, stream):
        shard = shard_of(task, connection.shards)
        if not mine(shard) or await log.last(shard, task) is not None:
            continue
        newest = await log.last_of(BLOBS, bodies)
        if newest is not None and newest.stamp < before:
            await connection.api(f"STREAM.PURGE.{stream}", {"filter": bodies})
            swept += 1
    return swept


async def _bodies(connection: Connection, stream: str) -> AsyncIterator[tuple[TaskName, str]]:
    """What is swept together, once: the task and the subject of all of it."""
    subjects = connection.subjects
    seen: set[str] = set()
    offset = 0
    while True:
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects.all_blobs(), "offset": offset})
        found: dict[str, int] = info["state"].get("subjects") or {}
        for subject in found:
            task, digest = subjects.parse_blob(subject)
            bodies = subjects.all_blobs(task, digest) if task == NOBODY else subjects.all_blobs(task)
            if bodies not in seen:
                seen.add(bodies)
                yield task, bodies
        offset += len(found)
        if not found or offset >= int(info.get("total", 0)):
            return
