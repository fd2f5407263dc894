"""Something done again and again, so many at a time, for so long or so often. Knows not what."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from agentexecutor.bus.errors import first_of
from agentexecutor.console.bench.figures import Figures, figures_of

__all__ = ["Drive"]

TELL_S = 0.1


@dataclass
class Drive:
    """`seconds` and `times`: whichever comes first; one of them at least. `tell` hears now and then that there is more."""

    in_flight: int
    seconds: float | None = None
    times: int | None = None
    tell: Callable[[Drive], None] = lambda _: None
    latencies: list[float] = field(default_factory=list)
    begun: float = 0.0
    ended: float | None = None
    _given: int = 0
    _told: float = 0.0

    @property
    def took_s(self) -> float:
        """So far, or in all."""
        return (self.ended or time.perf_counter()) - self.begun if self.begun else 0.0

    @property
    def figures(self) -> Figures:
        return figures_of(self.latencies, self.in_flight, self.took_s)

    async def run(self, one: Callable[[int], Awaitable[bool]]) -> None:
        """Do it. `one` gets the number of its place among those in flight, and says whether its time counts; its first error ends all.

        What is under way at the end is waited for.
        """
        self.begun = time.perf_counter()
        try:
            async with anyio.create_task_group() as group:
                for place in range(self.in_flight):
                    group.start_soon(self._work, one, place)
        except ExceptionGroup as group_of:
            raise first_of(group_of) from None
        finally:
            self.ended = time.perf_counter()

    async def _work(self, one: Callable[[int], Awaitable[bool]], place: int) -> None:
        while self._more():
            self._given += 1
            start = time.perf_counter()
            if await one(place):
                self.latencies.append(time.perf_counter() - start)
            if time.perf_counter() - self._told > TELL_S:
                self._told = time.perf_counter()
                self.tell(self)

    def _more(self) -> bool:
        return (self.times is None or self._given < self.times) and (self.seconds is None or self.took_s < self.seconds)
