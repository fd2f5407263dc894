"""Which tasks' spans the holder of a shard may not have sent before it fell silent: those of the log's last seconds (docs/adr/0014). Pure."""

from __future__ import annotations

from collections import deque

from agentexecutor.schemas.names import TaskName

__all__ = ["UNTOLD_S", "Untold"]

UNTOLD_S = 5.0
"""Seconds before the last record in which something may not have been sent, besides those that spans wait for company: the collector has its time."""
AT_MOST = 1000
"""So many tasks, the last, are told again for one shard: a collector must not be flooded."""


class Untold:
    """Fed with the heads of all tasks of a shard, oldest first.

    `taken`: since when it is ours, seconds since 1970 by the server's clock. `delay_s`: how long spans wait for company.
    """

    def __init__(self, taken: float, delay_s: float) -> None:
        self._taken = taken
        self._window_s = UNTOLD_S + delay_s
        self._last: float | None = None
        self._recent: deque[tuple[float, TaskName]] = deque(maxlen=AT_MOST)

    def head(self, stamp: float, task: TaskName) -> None:
        """The last record of a task, by the server's stamp."""
        if stamp < self._taken:  # else it is ours already
            self._last = stamp if self._last is None else max(self._last, stamp)
        self._recent.append((stamp, task))
        while self._recent and self._recent[0][0] < self.since:
            self._recent.popleft()

    @property
    def since(self) -> float:
        """What was recorded from then on is told again."""
        return (self._taken if self._last is None else self._last) - self._window_s

    def tasks(self) -> list[TaskName]:
        """Those with something that may not have been told."""
        since = self.since
        return [task for stamp, task in self._recent if stamp >= since]
