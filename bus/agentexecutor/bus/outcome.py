"""What a client has been told about one task, shared by all its handles; and the waiting for more. Knows no bus and no questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from agentexecutor.schemas import messages as m

__all__ = ["Outcome"]


class Outcome:
    """How a task ended, as far as this peer was told. Lives as long as somebody holds a handle or waits."""

    def __init__(self) -> None:
        self.result: m.Result | None = None
        """The task's end, once it is known."""
        self.closed = False
        """The connection is gone: nothing will be told any more."""
        self._refusals: dict[str, m.ErrorInfo | None] = {}
        self._wakers: set[Callable[[], None]] = set()

    def ended(self, result: m.Result) -> None:
        """The task ended so. The first word counts: an ended task stays as it is."""
        if self.result is None:
            self.result = result
        self.wake()

    def expect(self, id: str) -> None:
        """Keep a refusal of the message with this Ae-Id; others were not sent from here."""
        self._refusals.setdefault(id)

    def refused(self, id: str, error: m.ErrorInfo) -> None:
        """A coordinator cannot use the message with this Ae-Id."""
        if id in self._refusals:
            self._refusals[id] = error
            self.wake()

    def refusal(self, id: str) -> m.ErrorInfo | None:
        """Why the message with this Ae-Id was refused; None when it was not."""
        return self._refusals.get(id)

    def forget(self, id: str) -> None:
        """Nobody waits for a refusal of this message any more."""
        self._refusals.pop(id, None)

    def close(self) -> None:
        """The connection ends: who waits shall know."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        for waker in list(self._wakers):
            waker()

    async def wait(self, seconds: float) -> None:
        """Until something is told, or for so long."""
        loop = asyncio.get_running_loop()
        news = loop.create_future()

        def tell() -> None:
            if not news.done():
                news.set_result(None)

        timer = loop.call_later(seconds, tell)
        try:
            with self.waking(tell):
                await news
        finally:
            timer.cancel()

    @contextmanager
    def waking(self, waker: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `waker` is called when something is told."""
        self._wakers.add(waker)
        try:
            yield
        finally:
            self._wakers.discard(waker)

    @contextmanager
    def interrupting(self) -> Iterator[anyio.CancelScope]:
        """A block that is left as soon as something is told; its scope says whether it was."""
        with anyio.CancelScope() as scope, self.waking(scope.cancel):
            yield scope
