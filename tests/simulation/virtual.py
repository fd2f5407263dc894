"""Virtual time: an event loop that never waits, and processes on it that can be paused and killed.

The clock jumps to the next timer as soon as nothing is ready. Everything that runs belongs to a `Process` (by its context): a paused one runs nothing
until it is woken, a dead one never again, exactly where it stood; nothing of it is cleaned up, as after `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import random
import sys
import time
import warnings
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import anyio.to_thread

from agentexecutor.coordinator.policies import load_policies

__all__ = ["Process", "VirtualLoop", "current_process", "running"]

WORKERS = 16
"""Of a coordinator: a run starts many coordinators, and has twenty tasks."""
STEP_S = 1e-6
"""What a turn of the loop takes: nothing that waits for a moment can wait for ever."""
THREAD_S = 0.05
"""What work in a side thread takes at most."""
LONG_SLEEP_S = 1.5
EPOCH = 1_800_000_000.0
"""The server's time when a run begins, seconds since 1970."""
current_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


_policies = cache(load_policies)


class Process:
    """A process. `skew_s`: what its wall clock is ahead of the server's; `boot_s`: where its monotonic clock began."""

    def __init__(self, name: str, loop: VirtualLoop, *, skew_s: float = 0.0, boot_s: float = 0.0) -> None:
        self.name = name
        self.skew_s = skew_s
        self.boot_s = boot_s
        self.dead = False
        self.paused = False
        self.woke_at = 0.0
        """When it woke from its last long sleep, by the loop's clock."""
        self._slept_at = 0.0
        self._loop = loop
        self._held: list[Any] = []
        self.context = contextvars.copy_context()
        self.context.run(current_process.set, self)

    def start(self, main: Callable[[], Any]) -> None:
        """Run a coroutine function as the process's main program."""
        task = self._loop.create_task(main(), context=self.context)
        self._loop.keep(task)

    def hold(self, handle: Any) -> None:
        """What would run now runs when it is woken."""
        self._held.append(handle)

    def pause(self) -> None:
        """It sleeps: SIGSTOP, or a machine that is overloaded."""
        self.paused = True
        self._slept_at = self._loop.now

    def wake(self) -> None:
        """It goes on where it was; all its timers that are due ring at once."""
        self.paused = False
        if self._loop.now - self._slept_at > LONG_SLEEP_S:
            self.woke_at = self._loop.now
        held, self._held = self._held, []
        for handle in held:
            self._loop.ready(handle)

    def kill(self) -> None:
        """It is gone."""
        self.dead = True
        self._held.clear()


def _may_run(handle: Any) -> bool:
    process = handle._context.get(current_process) if handle._context is not None else None
    if process is None:
        return True
    if process.dead:
        return False
    if process.paused:
        process.hold(handle)
        return False
    return True


class _Handle(events.Handle):
    def _run(self) -> None:
        if _may_run(self):
            super()._run()


class _TimerHandle(events.TimerHandle):
    def _run(self) -> None:
        if _may_run(self):
            super()._run()


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._kept: set[Any] = set()
        self._timers = 0

    def time(self) -> float:
        return self.now

    def keep(self, task: Any) -> None:
        """Hold a task of a process, so that a killed one is not collected (and finished) by chance."""
        self._kept.add(task)

    def create_task(self, coro: Any, **options: Any) -> Any:
        task: Any = super().create_task(coro, **options)
        task._log_destroy_pending = False
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    def ready(self, handle: Any) -> None:
        """Run a handle that was held."""
        self._ready.append(handle)

    def _run_once(self) -> None:
        """One turn: when nothing is ready the clock jumps to the next timer."""
        ready, timers = self._ready, self._scheduled
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)[2]._scheduled = False
        if not ready:
            if not timers:
                raise RuntimeError("nothing will ever happen again")
            self.now = max(self.now, timers[0][0])
        self.now += STEP_S
        while timers and timers[0][0] <= self.now:
            _, _, timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _call_soon(self, callback: Any, args: Any, context: Any) -> Any:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]  # any arguments
        timer: Any = _TimerHandle(when, callback, args, self, context)
        self._timers += 1
        heapq.heappush(self._scheduled, (when, self._timers, timer))
        timer._scheduled = True
        return timer

    def _write_to_self(self) -> None:
        """There is no other thread."""


@contextmanager
def running(seed: int) -> Iterator[tuple[VirtualLoop, random.Random]]:
    """A loop under virtual time: clocks and random sources of everything that runs on it follow `seed`."""
    from agentexecutor.coordinator import market  # noqa: PLC0415
    from agentexecutor.coordinator.shell import coordinator, leasing  # noqa: PLC0415
    from agentexecutor.schemas import names  # noqa: PLC0415

    loop = VirtualLoop()
    drawn = random.Random(seed)

    def monotonic() -> float:
        process = current_process.get()
        return loop.now + (process.boot_s if process is not None else 0.0)

    def wall() -> float:
        process = current_process.get()
        return EPOCH + loop.now + (process.skew_s if process is not None else 0.0)

    def nanoseconds() -> int:
        return int(wall() * 1e9)

    names_random = random.Random(drawn.getrandbits(64))
    threads_random = random.Random(drawn.getrandbits(64))

    async def run_sync(need: Callable[[], Any]) -> Any:
        await asyncio.sleep(threads_random.uniform(0.0, THREAD_S))
        return need()

    with (
        mock.patch.object(time, "monotonic", monotonic),
        mock.patch.object(time, "time", wall),
        mock.patch.object(time, "time_ns", nanoseconds),
        mock.patch.object(names, "_random", names_random),
        mock.patch.object(anyio.to_thread, "run_sync", run_sync),  # a real thread ends when it likes
        mock.patch.object(leasing, "random", random.Random(drawn.getrandbits(64))),
        mock.patch.object(coordinator, "WORKERS", WORKERS),
        mock.patch.object(market, "load_policies", _policies),
        mock.patch.object(sys, "unraisablehook"),  # what was killed is not cleaned up, and complains when it is collected
        warnings.catch_warnings(category=RuntimeWarning, action="ignore"),
    ):
        try:
            yield loop, drawn
        finally:
            loop._kept.clear()
            loop._ready.clear()
            loop._scheduled.clear()
            gc.freeze()
