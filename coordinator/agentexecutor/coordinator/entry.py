"""What a coordinator holds in memory: the tasks that it moves forward, and a short account of those that have ended.

Owns `Entry` (one task) and `Tasks` (all of them). Knows neither the machine nor the bus; `Waiting.inbound` is carried, never looked into.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Raw

from agentexecutor.coordinator.inputs import ClaimIn, Input, LostIn, TimerIn
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.states import TaskStateName
from agentexecutor.schemas.names import TaskName

if TYPE_CHECKING:
    from agentexecutor.bus.consumers import Inbound

__all__ = ["Ended", "Entry", "Question", "Tasks", "Twice", "Waiting"]

Question = Callable[[TaskState | None], Awaitable[None]]
"""Something to be answered from a task's state, or from the fact that its log leads to none."""

REMEMBERED = 20_000
"""So many ended tasks are remembered, so that late claims are answered without a read."""


@dataclass(slots=True)
class Waiting:
    """An input that waits for its turn. `inbound`: the stored message that brought it, acknowledged once it is answered; None for our own.

    `looked`: the log was read after it came, so a state that is still too old for it will not get better.
    """

    input: Input
    inbound: Inbound | None = None
    looked: bool = False


@dataclass(slots=True)
class Entry:
    """One task. `state` None: not loaded. `busy`: a worker has it, or it stands in the queue for one.

    `history` holds its stored records as encoded LogEntries, for the last record.
    """

    name: TaskName
    shard: int
    state: TaskState | None = None
    inputs: deque[Waiting] = field(default_factory=deque)
    soft: list[Waiting] = field(default_factory=list)
    """Accepts that wait for company (or for the timer); not acknowledged."""
    soft_due: bool = False
    questions: list[Question] = field(default_factory=list)
    """What is to be answered from the state as it is stored."""
    history: list[Raw] = field(default_factory=list)
    busy: bool = False
    told: bool = False
    """Market and timers know of it."""
    fenced: bool = False
    """We have appended to it: whoever held it before will be refused."""
    gone: bool = False
    """Let go: nothing of it may be recorded, sent or acknowledged here any more."""
    senseless: str = ""
    """Why its log leads to no state."""
    still_until: float = 0.0
    """So long it is not even tried to read that log again; monotonic seconds."""

    @property
    def idle(self) -> bool:
        """Nothing waits for a worker."""
        return not (self.busy or self.inputs or self.questions)

    def clear(self) -> None:
        """Drop what waits. What was not acknowledged comes again by itself."""
        self.inputs.clear()
        self.soft.clear()
        self.questions.clear()
        self.soft_due = False

    def claims_first(self) -> None:
        """What agents said goes before what follows from their silence: it may have come while that waited."""
        silence = [waiting for waiting in self.inputs if isinstance(waiting.input, LostIn | TimerIn)]
        if silence and any(isinstance(waiting.input, ClaimIn) for waiting in self.inputs):
            said = [waiting for waiting in self.inputs if not isinstance(waiting.input, LostIn | TimerIn)]
            self.inputs = deque(said + silence)

    def unload(self) -> None:
        """Throw the state away; it is read from the log again before the next turn."""
        self.state = None
        self.history = []


class Ended(NamedTuple):
    """What is remembered of an ended task. `at`: monotonic seconds."""

    shard: int
    state: TaskStateName
    epochs: int
    at: float


class Tasks:
    """The tasks in memory by name, and the last ended ones."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._entries: dict[TaskName, Entry] = {}
        self._parked: set[TaskName] = set()
        self._turn = 0
        self._ended: OrderedDict[TaskName, Ended] = OrderedDict()
        self._remembered = remembered

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, name: TaskName) -> Entry | None:
        """The task, when it is in memory."""
        return self._entries.get(name)

    def open(self, name: TaskName, shard: int) -> Entry:
        """The task; a new entry, not loaded, when it is not in memory."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = Entry(name, shard)
            self._ended.pop(name, None)
        return entry

    @property
    def active(self) -> int:
        """How many are in memory with their state, or will be."""
        return len(self._entries) - len(self._parked)

    def park(self, entry: Entry) -> None:
        """Nobody can serve it now: its state leaves memory, until something comes for it."""
        entry.unload()
        self._parked.add(entry.name)

    def unpark(self, entry: Entry) -> None:
        """Its state is loaded."""
        self._parked.discard(entry.name)

    def some(self, count: int) -> list[Entry]:
        """The next `count` tasks with a state, in turn."""
        names = list(islice(self._entries, self._turn, self._turn + count))
        self._turn = self._turn + count if len(names) == count else 0
        return [entry for name in names if (entry := self._entries[name]).state is not None]

    def of_shard(self, shard: int) -> list[Entry]:
        """All tasks in memory of one shard."""
        return [entry for entry in self._entries.values() if entry.shard == shard]

    def drop(self, entry: Entry) -> None:
        """Out of memory; the log has it."""
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
            self._parked.discard(entry.name)

    def end(self, entry: Entry, state: TaskState, at: float) -> None:
        """The task's last record is stored: remember the little that late claims need."""
        self.drop(entry)
        self._ended[entry.name] = Ended(entry.shard, state.state, state.epochs, at)
        self._ended.move_to_end(entry.name)
        while len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    def ended(self, name: TaskName) -> Ended | None:
        """What is remembered of a task that has ended."""
        return self._ended.get(name)

    def forget_shard(self, shard: int) -> None:
        """Others write this shard now: what is remembered of its ended tasks counts no more."""
        for name in [name for name, ended in self._ended.items() if ended.shard == shard]:
            del self._ended[name]


class Twice:
    """Tells when the same is said again after a while: once is a message that crossed another, twice is a fact."""

    def __init__(self, apart_s: float) -> None:
        self._apart_s = apart_s
        self._said: OrderedDict[Hashable, float] = OrderedDict()

    def said(self, now: float, what: Hashable) -> bool:
        """True when `what` was said at least `apart_s` ago (and then counts as said now)."""
        while self._said and next(iter(self._said.values())) < now - 10 * self._apart_s:
            self._said.popitem(last=False)
        before = self._said.get(what)
        if before is not None and now - before < self._apart_s:
            return False
        self._said[what] = now
        self._said.move_to_end(what)
        return before is not None
