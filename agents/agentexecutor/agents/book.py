"""What an agent holds: awards accepted and not ended, those that ended, and what a new award is to it (docs/protocol.md section 3). Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from agentexecutor.agents.schedule import expected_wait
from agentexecutor.schemas import messages as m

__all__ = ["Book", "Held", "LastClaim", "What"]

REMEMBERED = 10_000
QUEUE_FACTOR = 2
"""An agent queues up to so many times its capacity; beyond that it declines."""

Pair = tuple[str, str]


class What(Enum):
    """What an award that arrives is."""

    RUN = "new: run it"
    DROP = "for another life, old, or cancelled"
    AGAIN = "known: say the last claim again"
    DECLINE = "too much: decline it"


@dataclass(slots=True)
class LastClaim:
    """A claim as it was sent, to be sent again."""

    kind: str
    payload: bytes
    headers: dict[str, str]


@dataclass(slots=True, eq=False)
class Held:
    """An award in hand. `expected_s`: seconds of work that were promised; `started`: monotonic, None while queued."""

    award: m.Award
    expected_s: float = 0.0
    state: Literal["queued", "running", "waiting"] = "queued"
    started: float | None = None
    last: LastClaim | None = None
    host: Any = field(default=None, repr=False)
    """Whoever runs it."""

    @property
    def pair(self) -> Pair:
        return self.award.task, self.award.subtask

    @property
    def order(self) -> tuple[int, str]:
        """Larger priority first, then the earlier deadline."""
        return -self.award.priority, self.award.deadline or "9"


class Book:
    """All awards in hand by (task, subtask); the ended ones with their epoch and last claim, for a while."""

    def __init__(self, boot: str, capacity: int) -> None:
        self.boot = boot
        self.capacity = capacity
        self.held: dict[Pair, Held] = {}
        self._ended: OrderedDict[Pair, tuple[int, LastClaim | None]] = OrderedDict()
        self.draining = False

    def judge(self, award: m.Award) -> tuple[What, Held | None, LastClaim | None]:
        """What an award is: with the older one of the same subtask that it replaces, or the claim to be sent again."""
        pair = award.task, award.subtask
        held = self.held.get(pair)
        ended = self._ended.get(pair)
        if award.boot != self.boot or (held is not None and award.epoch < held.award.epoch):
            return What.DROP, None, None
        if ended is not None and award.epoch <= ended[0]:
            again = ended[1] if award.epoch == ended[0] else None
            return (What.AGAIN if again is not None else What.DROP), None, again
        if held is not None and award.epoch == held.award.epoch:
            return What.AGAIN, None, held.last
        if self.draining or self._full():
            return What.DECLINE, held, None
        return What.RUN, held, None

    def _full(self) -> bool:
        limit = QUEUE_FACTOR * self.capacity
        return len(self.held) >= limit and len(self.held) - self.waiting >= limit

    def take(self, held: Held) -> None:
        """It is accepted, and named in the offer from now on."""
        self.held[held.pair] = held

    def end(self, held: Held) -> None:
        """Its last claim is acknowledged (or it was cancelled): it is named no more."""
        if self.held.get(held.pair) is held:
            del self.held[held.pair]
        self._remember(held.pair, held.award.epoch, held.last)

    def cancelled(self, pair: Pair, epoch: int) -> Held | None:
        """An epoch and all lower ones are not wanted, and nothing more is said of them: the one to be stopped, if it is in hand."""
        held = self.held.get(pair)
        self._remember(pair, epoch, None)
        return held if held is not None and held.award.epoch <= epoch else None

    def _remember(self, pair: Pair, epoch: int, last: LastClaim | None) -> None:
        known = self._ended.get(pair)
        if known is None or epoch > known[0] or (epoch == known[0] and last is None):
            self._ended[pair] = epoch, last
            self._ended.move_to_end(pair)
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    @property
    def waiting(self) -> int:
        """Subtasks that wait for children and have given their slot back."""
        return sum(held.state == "waiting" for held in self.held.values())

    def running(self) -> list[m.Running]:
        """What the offer names."""
        return [
            m.Running(task=held.award.task, subtask=held.award.subtask, epoch=held.award.epoch, state=held.state)
            for held in list(self.held.values())
        ]

    def load(self, now: float) -> m.Load:
        """How busy the agent is; `now` is monotonic seconds."""
        held = list(self.held.values())
        running = [max(0.0, one.expected_s - (now - (one.started or now))) for one in held if one.state == "running"]
        queued = [one.expected_s for one in held if one.state == "queued"]
        return m.Load(running=len(running), queued=len(queued), queue_s=round(expected_wait(self.capacity, running, queued), 6))
