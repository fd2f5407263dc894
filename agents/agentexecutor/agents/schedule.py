"""The seed's P_i = F(C_i, Q_i, T_j): an agent's schedule from its capacity, its queue and the subtask. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from agentexecutor.schemas.messages import Step

__all__ = ["expected_wait", "schedule"]


def schedule(steps: Iterable[tuple[str, float]], queue_s: float = 0.0) -> list[Step]:
    """Steps (name, seconds of work) one after another, beginning when the queue before them is done.

    T_j, the time of the subtask, is the sum of its steps' times t_ik (seed, section 4.2.4).
    """
    made: list[Step] = []
    start = max(0.0, queue_s)
    for name, duration in steps:
        made.append(Step(name=name, start_s=round(start, 6), duration_s=max(0.0, duration)))
        start += max(0.0, duration)
    return made


def expected_wait(capacity: int, running: Iterable[float], queued: Iterable[float]) -> float:
    """Seconds until one more subtask could start: nothing while a slot is free.

    `running`: seconds that each running subtask still needs; `queued`: seconds of work of each that waits. Each queued one takes the slot that
    becomes free first (list scheduling, Graham 1969).
    """
    slots = [max(0.0, left) for left in running]
    slots += [0.0] * (capacity - len(slots))
    heapq.heapify(slots)
    for work in queued:
        heapq.heapreplace(slots, slots[0] + max(0.0, work))
    return slots[0] if slots else 0.0
