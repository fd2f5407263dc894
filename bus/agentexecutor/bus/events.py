"""A task's events as they come: the log page by page by question, then the records that the server republishes, progress in between.

Both sources hold the same records; they are joined by sequence, so nothing is told twice. A republished record names the sequence before
its own (Nats-Last-Sequence): where that was not told, something was missed, and the log is asked again (docs/protocol.md section 8).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus.errors import ApiError, BusClosed, BusError
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.outcome import Outcome
from agentexecutor.bus.queries import NoAnswer
from agentexecutor.bus.story import Story, progress_event
from agentexecutor.bus.watch import listening
from agentexecutor.schemas import large
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_TYPE, RawEntry, decode, decode_as, decode_record, from_rfc3339
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.views import Event

if TYPE_CHECKING:
    from agentexecutor.bus.client import Bus
    from agentexecutor.bus.connection import Connection

__all__ = ["follow_events", "log_entries", "read_log"]

SILENCES_S = (2.0, 5.0, 15.0, 30.0, 60.0)
"""After so long without a record the log is asked, in case the last ones were missed."""
H_SEQUENCE = "Nats-Sequence"
H_BEFORE = "Nats-Last-Sequence"
H_STAMP = "Nats-Time-Stamp"


class Heard(NamedTuple):
    """A message of the log as the server republishes it. `before`: the sequence of the one before; `payload` None: it is no record."""

    seq: int
    before: int
    time: str
    payload: bytes | None


async def follow_events(bus: Bus, task: TaskName, outcome: Outcome, look: Callable[[], Awaitable[None]]) -> AsyncGenerator[Event, None]:
    """All events of a task from the first on, without gap or double; ends with the task's own end.

    `look` is awaited whenever the log holds nothing: it raises when there will never be anything.
    """
    story = Story(task)
    answers = _Answers(bus, task, story)
    asked_for = 0
    async with _live(bus.connection, task, outcome) as live:
        while not story.ended:
            async for event in _past(bus, task, story, answers, live):
                yield event
            if story.position == 0:
                await look()
            while not story.ended and (item := await live.next()) is not None:
                if isinstance(item, Event):
                    if answers.new(item):
                        yield item
                elif item.before > story.position and item.seq > asked_for:
                    asked_for = item.seq
                    live.put_back(item)
                    break
                else:
                    told = [event for entry in await _entries(bus, task, item) for event in story.tell(entry)]
                    for event in (*_last_words(story, answers, live), *told):
                        yield event
                    story.skip(item.seq)


async def _past(bus: Bus, task: TaskName, story: Story, answers: _Answers, live: _Live) -> AsyncIterator[Event]:
    """What the log holds and was not told yet; with the task's end, what was heard of its progress comes before it."""
    async for entry in log_entries(bus, task, story.position):
        told = [*story.tell(entry)]
        for event in (*answers.until(from_rfc3339(entry.time)), *_last_words(story, answers, live), *told):
            yield event
        await answers.look(entry)
    for event in answers.until(math.inf) if not story.ended else ():
        yield event


def _last_words(story: Story, answers: _Answers, live: _Live) -> Iterator[Event]:
    """When the task has ended: what agents had said that was not told yet. It is told before the end."""
    if story.ended:
        yield from answers.until(math.inf)
        yield from filter(answers.new, live.progress_left())


class _Live:
    """What comes while we listen, in order."""

    def __init__(self, connection: Connection, task: TaskName) -> None:
        self._connection = connection
        self._task = task
        self._items: deque[Heard | Event] = deque()
        self._woken = False
        self._news = asyncio.Event()
        self._silences = 0

    async def next(self) -> Heard | Event | None:
        """The next that comes; None when the log has to be asked: it was silent for long, or something was told elsewhere."""
        if not self._items and not self._woken:
            with anyio.move_on_after(SILENCES_S[min(self._silences, len(SILENCES_S) - 1)]):
                await self._news.wait()
        self._news.clear()
        if self._items:
            self._silences = 0
            return self._items.popleft()
        self._woken = False
        self._silences += 1
        return None

    def progress_left(self) -> list[Event]:
        """The progress that was heard and not told yet."""
        return [item for item in self._items if isinstance(item, Event)]

    def put_back(self, item: Heard) -> None:
        self._items.appendleft(item)

    def wake(self) -> None:
        self._woken = True
        self._news.set()

    async def heard(self, message: Msg) -> None:
        got = message.headers or {}
        with suppress(KeyError, ValueError):
            item = Heard(int(got[H_SEQUENCE]), int(got[H_BEFORE]), got[H_STAMP], message.data if H_TYPE in got else None)
            self._items.append(item)
            self._news.set()

    async def progress(self, message: Msg) -> None:
        with suppress(DecodeFailed, ValueError):
            progress = decode((message.headers or {}).get(H_TYPE), message.data)
            agent, _ = self._connection.subjects.parse_progress(message.subject)
            if isinstance(progress, m.Progress):
                self._items.append(progress_event(self._task, agent, progress))
                self._news.set()


class _Answers:
    """What agents did with the feedback that the log holds: it is kept with the progress, for a day, and joined by the server's stamps."""

    def __init__(self, bus: Bus, task: TaskName, story: Story) -> None:
        self._bus = bus
        self._task = task
        self._story = story
        self._found: deque[tuple[float, m.Progress]] = deque()
        self._told: set[tuple[int | None, str, str]] = set()

    async def look(self, entry: r.LogEntry) -> None:
        """Look for the answers to a record's feedback; without rights on the progress, or an answer, there are none."""
        if self._found or not any(isinstance(change, r.FeedbackGiven) for change in entry.record.changes):
            return
        with suppress(ApiError):
            for stamp, payload in await TaskLog(self._bus.connection).answers(self._task, from_rfc3339(entry.time)):
                with suppress(DecodeFailed):
                    progress = decode("progress", payload)
                    if isinstance(progress, m.Progress) and progress.feedback is not None:
                        self._found.append((stamp, progress))

    def until(self, stamp: float) -> Iterator[Event]:
        """Those that were given before `stamp`."""
        while self._found and self._found[0][0] <= stamp:
            _, progress = self._found.popleft()
            event = progress_event(self._task, self._story.agent_of(progress.subtask, progress.epoch), progress)
            if self.new(event):
                yield event

    def new(self, event: Event) -> bool:
        """Whether an answer, or any other progress, has not been told yet; from now on an answer has."""
        if "feedback" not in event.data:
            return True
        key = (event.epoch, event.time, event.data["feedback"])
        if key in self._told:
            return False
        self._told.add(key)
        return True


@asynccontextmanager
async def _live(connection: Connection, task: TaskName, outcome: Outcome) -> AsyncIterator[_Live]:
    live = _Live(connection, task)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening(connection, connection.subjects.watch(task), live.heard))
        await stack.enter_async_context(listening(connection, connection.subjects.all_progress(task), live.progress))
        stack.enter_context(outcome.waking(live.wake))
        yield live


class _Page(msgspec.Struct):
    records: list[RawEntry]


async def log_entries(bus: Bus, task: TaskName, after: int = 0) -> AsyncGenerator[r.LogEntry, None]:
    """The log after a sequence, with what its records refer to, page by page, however long nobody answers."""
    start: int | None = after
    while start is not None:
        try:
            answer = await bus.ask("task", task, m.Ask(what="log", after=start))
            body = await bus.body(task, answer.body, answer.body_blob)
        except NoAnswer:
            continue
        for stored in _usable(decode_as(_Page, body).records):
            for entry in await _unfolded(bus, task, stored):
                yield entry
        start = answer.next


async def read_log(bus: Bus, task: TaskName) -> list[r.LogEntry]:
    """A task's whole log so far, with what its records refer to."""
    return [entry async for entry in log_entries(bus, task, 0)]


async def _entries(bus: Bus, task: TaskName, item: Heard) -> list[r.LogEntry]:
    """A republished message as entries; none when it is no record."""
    try:
        record = None if item.payload is None else decode_record(item.payload)
    except DecodeFailed:
        return []
    return [] if record is None else await _unfolded(bus, task, r.LogEntry(seq=item.seq, time=item.time, record=record))


async def _unfolded(bus: Bus, task: TaskName, entry: r.LogEntry) -> list[r.LogEntry]:
    """An entry with what it refers to; the last one of a task after all those that it holds as its history."""
    record = entry.record
    history = record.history
    if record.history_blob is not None:
        history = _usable(decode_as(list[RawEntry], await _insist(bus, task, record.history_blob, b"[]")))
    own = replace(entry, record=replace(record, history=[], history_blob=None)) if history else entry
    return [await _whole(bus, task, one) for one in (*history, own)]


def _usable(entries: list[RawEntry]) -> list[r.LogEntry]:
    """Entries decoded; one that cannot be read is left out."""
    usable = []
    for entry in entries:
        with suppress(DecodeFailed):
            usable.append(entry.decoded())
    return usable


async def _whole(bus: Bus, task: TaskName, entry: r.LogEntry) -> r.LogEntry:
    """The entry with all that large changes name by reference."""
    changes = entry.record.changes
    for index, change in enumerate(changes):
        if named := large.references(change):
            bodies = {name: await _insist(bus, task, ref, b"{}") for name, ref in named.items()}
            changes = [*changes[:index], large.put_back(change, bodies), *changes[index + 1 :]]
    return entry if changes is entry.record.changes else replace(entry, record=replace(entry.record, changes=changes))


async def _insist(bus: Bus, task: TaskName, ref: m.BlobRef, gone: bytes) -> bytes:
    """A body, however long nobody answers; `gone` when it is not there any more."""
    while True:
        try:
            return await bus.fetch(task, ref)
        except NoAnswer:
            continue
        except BusClosed:
            raise
        except BusError:
            return gone
