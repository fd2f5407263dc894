"""An agent's slots: so many subtasks run at once; the rest waits, the most urgent first. One that resumes after waiting for children goes before all."""

from __future__ import annotations

import heapq

import anyio

__all__ = ["Slots"]

Order = tuple[int, str]
FIRST: Order = (-(2**62), "")


class Slots:
    """Slots of one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: list[tuple[Order, int, anyio.Event]] = []
        self._number = 0

    @property
    def free(self) -> int:
        """Slots that nobody holds or waits for."""
        return self._free

    @property
    def queued(self) -> int:
        """So many wait for a slot."""
        return len(self._queue)

    async def take(self, order: Order) -> None:
        """Hold a slot, when it is one's turn."""
        if self._free > 0 and not self._queue:
            self._free -= 1
            return
        self._number += 1
        turn = anyio.Event()
        heapq.heappush(self._queue, (order, self._number, turn))
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give_back()
            else:
                self._queue = [waiting for waiting in self._queue if waiting[2] is not turn]
                heapq.heapify(self._queue)
            raise

    def give_back(self) -> None:
        """A slot is free: the first in the queue gets it."""
        if self._queue:
            heapq.heappop(self._queue)[2].set()
        else:
            self._free += 1

    async def take_again(self) -> None:
        """A slot for one that had given its own back."""
        await self.take(FIRST)
