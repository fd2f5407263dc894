"""The server's time as a coordinator reckons it: a monotonic clock plus an offset learnt from server stamps.

Owns the offset. Must not know what a stamp stood on, nor read a clock: both clocks are passed in.
"""

from __future__ import annotations

__all__ = ["Clock"]

WINDOW_S = 60.0
"""An offset counts for one to two windows, so that a server whose clock is set back is followed."""


class Clock:
    """Seconds since 1970 by the server's clock.

    A stamp can only be late, never early: the offset is the largest of (stamp - monotonic time of its arrival) that was seen lately. Only
    stamps of messages that were just sent may be learnt (a message that waited an hour in a stream would put the clock back by an hour).
    """

    def __init__(self, monotonic: float, wall: float) -> None:
        self._guess = wall - monotonic
        self._best: float | None = None
        self._before: float | None = None
        self._since = monotonic
        self.offset = self._guess

    def learn(self, monotonic: float, stamp: float) -> None:
        """A message with the server's `stamp` arrived at `monotonic`, just after it was sent."""
        offset = stamp - monotonic
        if monotonic - self._since > WINDOW_S:
            self._before, self._best, self._since = self._best, None, monotonic
        self._best = offset if self._best is None else max(self._best, offset)
        self.offset = self._best if self._before is None else max(self._best, self._before)

    def now(self, monotonic: float) -> float:
        """The server's time at `monotonic`; the local wall clock's before anything was learnt."""
        return monotonic + self.offset
