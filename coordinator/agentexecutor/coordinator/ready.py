"""The ready queue: demand that waits for an agent, by pool (capability and labels), ordered by priority with ageing. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from msgspec import Struct, field

from agentexecutor.coordinator.inputs import Demand, Key

__all__ = ["Pool", "ReadyQueue", "Wanted"]

Pool = tuple[str, tuple[tuple[str, str], ...]]
"""Capability and sorted labels: all that stand in one pool fit the same agents."""


class Wanted(Struct):
    """A ready subtask that waits. `order`: smaller is served first; `rounds`: calls that nobody answered with a bid."""

    key: Key
    demand: Demand
    since: float
    order: float
    pool: Pool
    calling: bool = False
    rounds: int = 0
    number: int = field(default=0)


class ReadyQueue:
    """All that waits. Removing is lazy: a heap entry whose number is not the wanted's own is skipped."""

    def __init__(self, ageing_s: float) -> None:
        self.wanted: dict[Key, Wanted] = {}
        self.pools: dict[Pool, list[tuple[float, int, Key]]] = {}
        self.sizes: dict[Pool, int] = {}
        self._ageing_s = ageing_s
        self._count = 0

    def add(self, now: float, key: Key, demand: Demand) -> Wanted:
        """Put a subtask into its queue; one that waits there unchanged keeps its place.

        Waiting `ageing_s` is worth one step of priority, for all alike, so the order does not change while they wait.
        """
        there = self.wanted.get(key)
        if there is not None and there.demand == demand:
            return there
        since = now if there is None else there.since
        if there is not None:
            self.remove(key)
        pool = demand.capability, tuple(sorted(demand.labels.items()))
        wanted = Wanted(key, demand, since, since - demand.priority * self._ageing_s, pool)
        self.wanted[key] = wanted
        self.sizes[pool] = self.sizes.get(pool, 0) + 1
        self.put_back(wanted)
        return wanted

    def put_back(self, wanted: Wanted) -> None:
        """Into its place in the queue (again)."""
        self._count += 1
        wanted.number = self._count
        wanted.calling = False
        heapq.heappush(self.pools.setdefault(wanted.pool, []), (wanted.order, wanted.number, wanted.key))

    def first(self, pool: Pool) -> Wanted | None:
        """Take the one that is served next out of its queue (it stays wanted)."""
        heap = self.pools.get(pool)
        while heap:
            _, number, key = heapq.heappop(heap)
            wanted = self.wanted.get(key)
            if wanted is not None and wanted.number == number and not wanted.calling:
                return wanted
        self.pools.pop(pool, None)
        return None

    def remove(self, key: Key) -> Wanted | None:
        """Not wanted any more."""
        wanted = self.wanted.pop(key, None)
        if wanted is not None:
            self.sizes[wanted.pool] -= 1
            if self.sizes[wanted.pool] == 0:
                del self.sizes[wanted.pool]
                self.pools.pop(wanted.pool, None)
        return wanted

    def of_capability(self, capability: str) -> Iterator[Pool]:
        """Pools in which something waits for the capability."""
        return (pool for pool in list(self.sizes) if pool[0] == capability)
