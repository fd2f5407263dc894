"""When and how submits are pulled: again before the server gives a pull up, and before nothing is outstanding. What is let in is decided by `admission`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agentexecutor.coordinator.admission import Admission, Place

__all__ = ["Pull", "Pulling"]

BATCH = 64
FEW = 32
"""With ample room a class of a shard is asked for again when no more than so many submits are outstanding there."""
EXPIRES_S = 5.0
AGAIN_S = 4.0
SHORT_S = 0.5
"""With little room a pull is given up soon: what one class does not use another can have."""


class Pull(NamedTuple):
    """Ask for up to `batch` submits of a class of a shard; the server gives the pull up after `expires_s`."""

    shard: int
    klass: str
    batch: int
    expires_s: float


class Pulling:
    """Remembers what was asked for. `limit`: open tasks that are admitted."""

    def __init__(self, limit: int) -> None:
        self._admission = Admission(limit)
        self._asked_at: dict[Place, float] = {}
        self._enough: dict[Place, int] = {}

    def due(self, now: float, open_tasks: int, outstanding: Mapping[Place, int], backlog: Mapping[Place, int]) -> list[Pull]:
        """What to pull now; `now`: monotonic seconds, `outstanding` and `backlog` (what is known to wait in the stream): by shard and class."""
        room = self._admission.room(open_tasks, sum(outstanding.values()))
        counted = {
            at: 0 if asked <= self._enough.get(at, 0) or now >= self._asked_at.get(at, now) + AGAIN_S else asked
            for at, asked in outstanding.items()
        }
        pulls = []
        for place, batch in self._admission.shares(room, counted, backlog):
            ample = batch >= BATCH
            self._asked_at[place] = now
            self._enough[place] = FEW if ample else 0
            soon = 1 < batch < BATCH or room < len(outstanding)
            pulls.append(Pull(*place, min(batch, BATCH), SHORT_S if soon else EXPIRES_S))
        return pulls
