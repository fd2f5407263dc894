"""Which submits are let in: class by class while there is room, so that what is urgent goes first and the lowest still moves. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agentexecutor.schemas.subjects import CLASSES

__all__ = ["WEIGHTS", "Admission", "Place"]

Place = tuple[int, str]
"""A shard and a class."""

WEIGHTS: Mapping[str, int] = {"high": 81, "normal": 9, "low": 1}
"""How little room is shared among the classes of which submits wait: nine of ten for the higher of two."""
BATCH = 256


class Admission:
    """Divides the room below the limit of open tasks among classes and shards."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._turns = dict.fromkeys(CLASSES, 0)
        """How often each class was given something."""
        self._looks = 0
        """How often only some of the places where nothing is known to wait were looked at; and so many of them of the highest class, and others."""
        self._looked_high = self._looked_rest = 0
        self._owed = dict.fromkeys(CLASSES, 0.0)
        """Of little room, what each class is still due: parts of a submit add up."""

    def room(self, open_tasks: int, outstanding: int) -> int:
        """How many submits may be asked for: what is open and what was asked for already counts."""
        return max(0, self.limit - open_tasks - outstanding)

    def shares(self, room: int, outstanding: Mapping[Place, int], backlog: Mapping[Place, int]) -> list[tuple[Place, int]]:
        """What to pull, where nothing is outstanding. `backlog`: what is known to wait in the stream.

        With ample room every place gets a full batch. Little room goes to where submits are known to wait, by weight; one submit each is asked
        for elsewhere, and if it comes, it tells how many more there are.
        """
        idle = [place for place, asked in outstanding.items() if not asked]
        if room >= len(outstanding) * BATCH:
            return [(place, BATCH) for place in idle]
        known = [place for place in idle if backlog.get(place)]
        given = dict.fromkeys(self._some(self._unknown(idle, backlog), -(-room // 2)), 1)
        for klass, part in self._parts(room - len(given), known, backlog).items():
            self._give(part, self._rotated(klass, known), backlog, given)
        return list(given.items())

    def _unknown(self, idle: list[Place], backlog: Mapping[Place, int]) -> list[Place]:
        """Where nothing is known to wait, high classes first."""
        unknown = [place for place in idle if not backlog.get(place)]
        return [place for klass in CLASSES for place in self._rotated(klass, unknown)]

    def _some(self, places: list[Place], count: int) -> list[Place]:
        """So many of them; when these are not all, then half of them of the highest class, and others the next time."""
        if count >= len(places):
            return places
        high = [place for place in places if place[1] == CLASSES[0]]
        rest = [place for place in places if place[1] != CLASSES[0]]
        urgent = min(len(high), (count + self._looks % 2) // 2)
        some = _from(high, self._looked_high, urgent) + _from(rest, self._looked_rest, count - urgent)
        self._looks += 1
        self._looked_high += urgent
        self._looked_rest += count - urgent
        return some

    def _rotated(self, klass: str, places: list[Place]) -> list[Place]:
        """Those of a class, another one first each time that the class was given something."""
        mine = [place for place in places if place[1] == klass]
        start = self._turns[klass] % len(mine) if mine else 0
        return mine[start:] + mine[:start]

    def _parts(self, room: int, known: list[Place], backlog: Mapping[Place, int]) -> dict[str, int]:
        """How many submits each class may bring: its weight's part, and what the classes above it leave over."""
        waiting = {klass: sum(backlog[place] for place in known if place[1] == klass) for klass in CLASSES}
        weights = sum(WEIGHTS[klass] for klass in CLASSES if waiting[klass])
        parts: dict[str, int] = {}
        left = room
        for klass in (klass for klass in CLASSES if waiting[klass]):
            self._owed[klass] = min(room, self._owed[klass] + room * WEIGHTS[klass] / weights)
            parts[klass] = min(int(self._owed[klass]), waiting[klass], left)
            self._owed[klass] -= parts[klass]
            left -= parts[klass]
        for klass, part in parts.items():
            more = min(left, waiting[klass] - part)
            parts[klass] += more
            left -= more
            self._turns[klass] += parts[klass] > 0
        return parts

    @staticmethod
    def _give(part: int, places: list[Place], backlog: Mapping[Place, int], given: dict[Place, int]) -> None:
        """Share a class's part out among its shards as evenly as what waits there allows."""
        for left, place in zip(range(len(places), 0, -1), sorted(places, key=lambda place: backlog[place]), strict=True):
            batch = min(backlog[place], -(-part // left), BATCH)
            if batch:
                given[place] = batch
                part -= batch


def _from(places: list[Place], start: int, count: int) -> list[Place]:
    """So many places, around from `start`."""
    at = start % len(places) if places else 0
    return (places[at:] + places[:at])[:count]
