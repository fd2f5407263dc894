"""A queue of one event loop, for what is put and taken thousands of times a second."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Jobs"]

T = TypeVar("T")


class Jobs(Generic[T]):
    """First in, first out, without a limit.

    asyncio's own asks for the running loop each time: on Python 3.11 a system call.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[T] = deque()
        self._idle: list[asyncio.Future[None]] = []

    def put(self, job: T) -> None:
        """Have one of those who wait take it."""
        self._jobs.append(job)
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    async def get(self) -> T:
        """The next job, when there is one."""
        while not self._jobs:
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle
        return self._jobs.popleft()
