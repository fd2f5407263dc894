"""Which submits are let in: class by class while there is room, so that what is urgent goes first and the lowest still moves. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agentexecutor.schemas.subjects import CLASSES

__all__ = ["WEIGHTS", "Admission"]

WEIGHTS: Mapping[str, int] = {"high": 8, "normal": 3, "low": 1}
BATCH = 256


class Admission:
    """Divides the room below the limit of open tasks among classes and shards."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._turn = 0

    def room(self, open_tasks: int, outstanding: int) -> int:
        """How many submits may be asked for: what is open and what was asked for already counts."""
        return max(0, self.limit - open_tasks - outstanding)

    def shares(self, room: int, shards: list[int], outstanding: Mapping[tuple[int, str], int]) -> list[tuple[int, str, int]]:
        """What to pull: (shard, class, batch), for those of which nothing is outstanding. With ample room each gets a full batch.

        With little room classes are served by weight, and the shards in turn, so that each gets something in time.
        """
        if room <= 0 or not shards:
            return []
        idle = [(shard, klass) for klass in CLASSES for shard in shards if not outstanding.get((shard, klass))]
        if room >= len(shards) * len(CLASSES) * BATCH:
            return [(shard, klass, BATCH) for shard, klass in idle]
        self._turn += 1
        total = sum(WEIGHTS.values())
        pulls: list[tuple[int, str, int]] = []
        for klass in CLASSES:
            part = room * WEIGHTS[klass] / total
            waiting = [shard for shard, of in idle if of == klass]
            if not waiting:
                continue
            each, more = divmod(max(1, int(part)), len(waiting))
            for step in range(len(waiting)):
                shard = waiting[(step + self._turn) % len(waiting)]
                batch = min(BATCH, each + (1 if step < more else 0))
                if batch > 0:
                    pulls.append((shard, klass, batch))
        return pulls
