"""A task's events from its log: the records so far by question, then those that the server republishes, joined by sequence; progress in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from nats.aio.msg import Msg

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_TYPE, decode_as, decode_record
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName

if TYPE_CHECKING:
    from agentexecutor.bus.client import Bus
    from agentexecutor.bus.connection import Connection

__all__ = ["Applied", "events_of", "follow_events", "until_applied"]

POLL_S = 10.0
"""Without any news for so long the log is asked again, in case the last record was missed."""
TEXT_LIMIT = 2000


class Applied:
    """The ids of inputs that records have answered since this began to listen."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.news = anyio.Event()

    def has(self, id: str) -> bool:
        return id in self.ids

    def add(self, ids: list[str]) -> None:
        self.ids.update(ids)
        self.news.set()
        self.news = anyio.Event()


@asynccontextmanager
async def until_applied(connection: Connection, task: TaskName) -> AsyncIterator[Applied]:
    """Listen to a task's records for the ids that they answer."""
    applied = Applied()

    async def came(message: Msg) -> None:
        with suppress(DecodeFailed):
            if H_TYPE in (message.headers or {}):
                record = decode_record(message.data)
                applied.add(record.applied)

    subscription = await connection.subscribe(connection.subjects.watch(task), came)
    try:
        yield applied
    finally:
        with anyio.CancelScope(shield=True), suppress(Exception):
            await subscription.unsubscribe()


async def follow_events(bus: Bus, task: TaskName) -> AsyncIterator[v.Event]:
    """All events of a task from the first on, without gap or double; ends with the task's own end."""
    connection = bus.connection
    send, receive = anyio.create_memory_object_stream[tuple[int, v.Event | None]](float("inf"))

    async def record_came(message: Msg) -> None:
        await send.send((int((message.headers or {}).get("Nats-Sequence", "0")), None))

    async def progress_came(message: Msg) -> None:
        with suppress(DecodeFailed, ValueError):
            peer, _ = connection.subjects.parse_progress(message.subject)
            await send.send((0, _progress(task, peer, decode_as(m.Progress, message.data))))

    subscriptions = [
        await connection.subscribe(connection.subjects.watch(task), record_came),
        await connection.subscribe(connection.subjects.all_progress(task), progress_came),
    ]
    try:
        last = 0
        while True:
            async for entry in _entries(bus, task, last):
                last = max(last, entry.seq)
                for event in events_of(task, entry):
                    yield event
                    if event.subtask is None and event.kind in ("completed", "failed", "cancelled"):
                        return
            news = False
            while not news:
                seq, progress = await _next(receive)
                if progress is not None:
                    yield progress
                else:
                    news = seq == 0 or seq > last
    finally:
        with anyio.CancelScope(shield=True):
            for subscription in subscriptions:
                with suppress(Exception):
                    await subscription.unsubscribe()
        send.close()
        receive.close()


async def _next(receive: Any) -> tuple[int, v.Event | None]:
    """The next news; sequence 0 without an event when there was none for a while."""
    with anyio.move_on_after(POLL_S):
        news: tuple[int, v.Event | None] = await receive.receive()
        return news
    return 0, None


async def _entries(bus: Bus, task: TaskName, after: int) -> AsyncIterator[r.LogEntry]:
    """The log after a sequence, page by page."""
    while True:
        answer = await bus.ask("task", task, m.Ask(what="log", after=after))
        body = bytes(answer.body) if answer.body_blob is None else await bus.fetch(task, answer.body_blob)
        for raw in msgspec.json.decode(body, type=_Page).records:
            entry = msgspec.json.decode(raw, type=_Entry)
            after = max(after, entry.seq)
            yield r.LogEntry(seq=entry.seq, time=entry.time, record=decode_record(entry.record))
        if answer.next is None:
            return
        after = max(after, answer.next)


class _Page(msgspec.Struct):
    records: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    seq: int
    time: str
    record: msgspec.Raw


def _progress(task: TaskName, peer: str, progress: m.Progress) -> v.Event:
    data = msgspec.to_builtins(progress)
    for known in ("subtask", "epoch", "at", "boot"):
        data.pop(known, None)
    return v.Event(time=progress.at, task=str(task), kind="progress", subtask=progress.subtask, agent=peer, epoch=progress.epoch, data=data)


def events_of(task: TaskName, entry: r.LogEntry) -> list[v.Event]:
    """One event for each thing that a record says, in its order."""
    events: list[v.Event] = []
    for change in entry.record.changes:
        kind = str(change.__struct_config__.tag)
        data = _data(change)
        data["coordinator"] = entry.record.coordinator
        subtasks = _subtasks(change)
        for subtask in subtasks:
            own = (
                {**data, "capability": change.add[subtask].capability} if isinstance(change, r.Planned) and subtask in change.add else data
            )
            events.append(
                v.Event(
                    time=entry.time,
                    task=str(task),
                    kind=kind,
                    subtask=subtask,
                    agent=getattr(change, "agent", None) or None,
                    epoch=getattr(change, "epoch", None) or None,
                    seq=entry.seq,
                    data=own,
                )
            )
    return events


def _subtasks(change: r.Change) -> list[str | None]:
    """Whom an event is about; None for the task itself."""
    if isinstance(change, r.Ready | r.Superseded):
        return list(change.subtasks)
    if isinstance(change, r.Cancelled):
        return [None] if change.subtasks is None else list(change.subtasks)
    return [getattr(change, "subtask", None)]


def _data(change: r.Change) -> dict[str, Any]:
    """What a kind adds, as plain JSON; large texts are left out."""
    if isinstance(change, r.Submitted):
        return {"priority": change.submit.priority, "capability": change.submit.capability, "deadline_s": change.submit.deadline_s}
    if isinstance(change, r.Planned):
        subtasks = {name: {"capability": spec.capability, "after": spec.after} for name, spec in change.add.items()}
        return {"version": change.version, "cause": change.cause, "parent": change.parent, "subtasks": subtasks, "shares": change.shares}
    if isinstance(change, r.Completed):
        size = change.result_blob.bytes if change.result_blob is not None else len(bytes(change.result))
        return {"took_s": change.took_s, "bytes": size, "usage": change.usage}
    data: dict[str, Any] = msgspec.to_builtins(change)
    for known in ("kind", "subtask", "subtasks", "agent", "epoch", "boot"):
        data.pop(known, None)
    return data
