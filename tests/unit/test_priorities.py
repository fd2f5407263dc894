"""What is urgent passes by, and the lowest still moves: pulling and the ready queue together, in virtual time, with a pool that is too slow."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from statistics import median

import pytest
from msgspec.structs import replace

from agentexecutor.coordinator.inputs import Demand, Key
from agentexecutor.coordinator.pulling import Pulling
from agentexecutor.coordinator.ready import ReadyQueue
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import CLASSES, class_of

TICK_S = 0.25
SHARDS = 4
DEMAND = Demand(capability="c", labels={}, priority=0, policy=None, auction=None, tailored=False, prefer=None)


@dataclass
class Overload:
    """Submits wait in the stream, `limit` tasks may be in memory, and the pool takes `rate` of them a second."""

    limit: int
    rate: int
    now: float = 0.0
    most_open: int = 0
    stored: dict[tuple[int, str], deque[Key]] = field(default_factory=dict)
    asked: dict[tuple[int, str], list[tuple[float, int]]] = field(default_factory=dict)
    told: dict[tuple[int, str], int] = field(default_factory=dict)
    born: dict[Key, tuple[int, float]] = field(default_factory=dict)
    waits: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ready = ReadyQueue()
        self._pulling = Pulling(self.limit)
        places = [(shard, klass) for shard in range(SHARDS) for klass in CLASSES]
        self.stored = {place: deque() for place in places}
        self.asked = {place: [] for place in places}

    def submit(self, priority: int) -> None:
        key = Key(TaskName("me", f"t{len(self.born)}"), "main")
        self.born[key] = priority, self.now
        self.stored[len(self.born) % SHARDS, class_of(priority)].append(key)

    def tick(self) -> None:
        """A quarter of a second: old pulls are given up, new ones made, what they bring is queued, the pool takes its part."""
        self.asked = {at: [ask for ask in asks if ask[0] > self.now] for at, asks in self.asked.items()}
        outstanding = {at: sum(batch for _, batch in asks) for at, asks in self.asked.items()}
        for pull in self._pulling.due(self.now, len(self._ready.wanted), outstanding, self.told):
            self.asked[pull.shard, pull.klass].append((self.now + pull.expires_s, pull.batch))
        for at in self.stored:
            self._deliver(at)
        self.most_open = max(self.most_open, len(self._ready.wanted))
        for _ in range(int(self.rate * TICK_S)):
            self._serve()
        self.now += TICK_S

    def _deliver(self, at: tuple[int, str]) -> None:
        while self.stored[at] and self.asked[at]:
            expires, batch = self.asked[at].pop(0)
            if batch > 1:
                self.asked[at].insert(0, (expires, batch - 1))
            key = self.stored[at].popleft()
            self.told[at] = len(self.stored[at])
            self._ready.add(self.now, key, replace(DEMAND, priority=self.born[key][0]))

    def _serve(self) -> None:
        wanted = self._ready.first(("c", (), ()))
        if wanted is not None:
            self._ready.remove(wanted.key)
            self._ready.served(wanted.pool)
            priority, born = self.born[wanted.key]
            self.waits.setdefault(priority, []).append(self.now - born)


def submitted(overload: Overload, mix: dict[int, int], count: int) -> None:
    """So many tasks at once, priorities drawn by their weights."""
    for priority in random.Random(1).choices(list(mix), list(mix.values()), k=count):
        overload.submit(priority)


def until_served(overload: Overload) -> None:
    while sum(map(len, overload.waits.values())) < len(overload.born):
        overload.tick()


@pytest.mark.parametrize("limit", [40, 400, 4000])
def test_the_highest_waits_a_tenth_of_the_lowest(limit: int) -> None:
    """Whatever part of the load is in memory."""
    overload = Overload(limit=limit, rate=100)
    submitted(overload, {5: 2, 1: 8, 0: 60, -1: 20, -5: 10}, 10_000)
    until_served(overload)
    waits = {priority: median(seconds) for priority, seconds in overload.waits.items()}
    assert waits[5] <= waits[1] < waits[0] < waits[-1] <= waits[-5]
    assert 10 * waits[5] < waits[-5]
    assert 10 * waits[1] < waits[-5]
    assert overload.most_open <= limit


@pytest.mark.parametrize("limit", [100, 400])
def test_the_lowest_moves_while_more_that_is_urgent_comes_than_can_be_done(limit: int) -> None:
    overload = Overload(limit=limit, rate=100)
    submitted(overload, {0: 1, -5: 1}, 2_000)
    for _ in range(400):
        for _ in range(50):
            overload.submit(9)
        overload.tick()
    served = {priority: len(seconds) for priority, seconds in overload.waits.items()}
    everything = sum(served.values())
    assert everything > 0.95 * 100 * overload.now, "the pool is not idle"
    assert served[9] > 0.8 * everything
    assert served[0] > served[-5] > 0.005 * everything
    assert served[-5] < 1_000, "some of the lowest still wait"
