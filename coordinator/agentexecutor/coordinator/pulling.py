"""When submits are pulled again: before the server gives a pull up, and before nothing is outstanding. What is let in is decided by `admission`."""

from __future__ import annotations

from collections.abc import Mapping

from agentexecutor.coordinator.admission import Admission

__all__ = ["Pulling"]

FEW = 64
"""A class of a shard is asked for again when no more than so many submits are outstanding there."""
AGAIN_S = 4.0
"""Below the five seconds after which the server gives a pull up."""


class Pulling:
    """Remembers what was asked for. `limit`: open tasks that are admitted."""

    def __init__(self, limit: int) -> None:
        self._admission = Admission(limit)
        self._asked_at: dict[tuple[int, str], float] = {}

    def due(self, now: float, open_tasks: int, outstanding: Mapping[tuple[int, str], int]) -> list[tuple[int, str, int]]:
        """What to pull now (shard, class, batch); `now`: monotonic seconds, `outstanding`: by shard and class."""
        room = self._admission.room(open_tasks, sum(outstanding.values()))
        counted = {at: asked if asked > FEW and now < self._asked_at.get(at, 0.0) + AGAIN_S else 0 for at, asked in outstanding.items()}
        pulls = self._admission.shares(room, sorted({shard for shard, _ in outstanding}), counted)
        for shard, klass, _ in pulls:
            self._asked_at[shard, klass] = now
        return pulls
