"""Timers of all tasks in one heap: what is due when. Knows no clock; times are monotonic seconds, passed in."""

from __future__ import annotations

import heapq
from collections.abc import Container
from typing import Final, Literal, NamedTuple

from agentexecutor.coordinator.inputs import TimerKind
from agentexecutor.schemas.names import TaskName

__all__ = ["SOFT", "Due", "Timers"]

SOFT: Final = "soft"
"""The shell's own kind: a soft accept has waited long enough for company. The other kinds are the machine's (`inputs.TimerKind`)."""

Kind = TimerKind | Literal["soft"]
_SLACK = 1024


class Due(NamedTuple):
    """A timer that has run out."""

    task: TaskName
    kind: Kind
    subtask: str | None
    epoch: int


class Timers:
    """One timer for each (task, kind, subtask); a later one replaces the earlier. Replaced and dropped ones are left in the heap and skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TaskName, Kind, str | None, int]] = []
        self._current: dict[TaskName, dict[tuple[Kind, str | None], int]] = {}
        self._number = 0
        self._live = 0

    def set(self, task: TaskName, kind: Kind, due: float, subtask: str | None = None, epoch: int = 0) -> None:
        """Wake at `due`."""
        self._number += 1
        mine = self._current.setdefault(task, {})
        self._live += (kind, subtask) not in mine
        mine[kind, subtask] = self._number
        heapq.heappush(self._heap, (due, self._number, task, kind, subtask, epoch))
        if len(self._heap) > 2 * self._live + _SLACK:
            self._heap = [entry for entry in self._heap if self._valid(entry)]
            heapq.heapify(self._heap)

    def shift(self, kinds: Container[Kind], by: float) -> None:
        """All timers of these kinds are due `by` seconds later (earlier when it is negative)."""
        self._heap = [(entry[0] + by, *entry[1:]) if entry[3] in kinds else entry for entry in self._heap]
        heapq.heapify(self._heap)

    def has(self, task: TaskName, kind: Kind, subtask: str | None = None) -> bool:
        """Whether such a timer runs."""
        return (kind, subtask) in self._current.get(task, {})

    def drop(self, task: TaskName) -> None:
        """Forget all timers of a task."""
        self._live -= len(self._current.pop(task, {}))

    def next_due(self) -> float | None:
        """When the next one is due; None when there is none."""
        while self._heap and not self._valid(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> list[Due]:
        """All that are due at `now`, earliest first; they are removed."""
        due: list[Due] = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._valid(entry):
                _, _, task, kind, subtask, epoch = entry
                mine = self._current[task]
                del mine[kind, subtask]
                self._live -= 1
                if not mine:
                    del self._current[task]
                due.append(Due(task, kind, subtask, epoch))
        return due

    def _valid(self, entry: tuple[float, int, TaskName, Kind, str | None, int]) -> bool:
        _, number, task, kind, subtask, _ = entry
        return self._current.get(task, {}).get((kind, subtask)) == number
