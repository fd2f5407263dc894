"""The ready queue: demand that waits for an agent, by pool (capability, labels, agents that never get it). Pure.

Nine awards of ten go to the highest priority (of those the longest waiting), the tenth to whoever has waited longest: what is urgent passes by
whatever waits, and nothing waits for ever, however much that is urgent keeps coming.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from msgspec import Struct, field

from agentexecutor.coordinator.inputs import Demand, Key

__all__ = ["OLDEST_EVERY", "Pool", "ReadyQueue", "Wanted", "pool_of"]

Pool = tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]
"""Capability, sorted labels, sorted names of those that never get it: all that stand in one pool fit the same agents."""

OLDEST_EVERY = 10
"""Every so-manyth award of a pool goes to the one that has waited longest."""
STALE = 64


def pool_of(demand: Demand) -> Pool:
    """The pool in which a demand waits."""
    return demand.capability, tuple(sorted(demand.labels.items())), tuple(sorted(demand.never))


class Wanted(Struct):
    """A ready subtask that waits. `rounds`: calls that nobody answered with a bid; `number`: which of its entries in the heaps counts."""

    key: Key
    demand: Demand
    since: float
    pool: Pool
    calling: bool = False
    rounds: int = 0
    number: int = field(default=0)


Entry = tuple[int, float, int, Key]
"""In a heap: priority (smaller first; always 0 where only age counts), since, number, key."""


class _Queue(Struct):
    """One pool: the same subtasks by priority and by age. An entry whose subtask is gone, calls, or stands in with a newer number is skipped."""

    urgent: list[Entry] = field(default_factory=list)
    oldest: list[Entry] = field(default_factory=list)
    size: int = 0
    awards: int = 0


class ReadyQueue:
    """All that waits."""

    def __init__(self) -> None:
        self.wanted: dict[Key, Wanted] = {}
        self._pools: dict[Pool, _Queue] = {}
        self._count = 0

    def add(self, now: float, key: Key, demand: Demand) -> Wanted:
        """Put a subtask into its queue; one that waits there unchanged keeps its place."""
        there = self.wanted.get(key)
        if there is not None and there.demand == demand:
            return there
        since = now if there is None else there.since
        if there is not None:
            self.remove(key)
        pool = pool_of(demand)
        wanted = self.wanted[key] = Wanted(key, demand, since, pool)
        self._pools.setdefault(pool, _Queue()).size += 1
        self.put_back(wanted)
        return wanted

    def put_back(self, wanted: Wanted) -> None:
        """Into its place in the queue (again)."""
        self._count += 1
        wanted.number = self._count
        wanted.calling = False
        queue = self._pools[wanted.pool]
        for heap, first in ((queue.urgent, -wanted.demand.priority), (queue.oldest, 0)):
            heapq.heappush(heap, (first, wanted.since, wanted.number, wanted.key))
            if len(heap) > 2 * queue.size + STALE:
                heap[:] = [entry for entry in heap if self._counts(entry)]
                heapq.heapify(heap)

    def first(self, pool: Pool) -> Wanted | None:
        """The one that is served next. It stays in its place until it is removed, or calls for bids."""
        queue = self._pools.get(pool)
        if queue is None:
            return None
        heap = queue.oldest if queue.awards % OLDEST_EVERY == OLDEST_EVERY - 1 else queue.urgent
        while heap:
            if self._counts(heap[0]):
                return self.wanted[heap[0][-1]]
            heapq.heappop(heap)
        return None

    def served(self, pool: Pool) -> None:
        """The first of the pool has got its award, or its call."""
        queue = self._pools.get(pool)
        if queue is not None:
            queue.awards += 1

    def _counts(self, entry: Entry) -> bool:
        _, _, number, key = entry
        wanted = self.wanted.get(key)
        return wanted is not None and wanted.number == number and not wanted.calling

    def remove(self, key: Key) -> Wanted | None:
        """Not wanted any more."""
        wanted = self.wanted.pop(key, None)
        if wanted is not None:
            queue = self._pools[wanted.pool]
            queue.size -= 1
            if queue.size == 0:
                del self._pools[wanted.pool]
        return wanted

    def of_capability(self, capability: str) -> Iterator[Pool]:
        """Pools in which something waits for the capability."""
        return (pool for pool in list(self._pools) if pool[0] == capability)
