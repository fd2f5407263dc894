"""Letting submits in: urgent ones first while room is short, and the lowest still moves."""

from __future__ import annotations

from collections import Counter

import pytest

from agentexecutor.coordinator.admission import BATCH, Admission
from agentexecutor.schemas.subjects import CLASSES


def test_room_counts_what_is_open_and_what_was_asked_for() -> None:
    admission = Admission(100)
    assert admission.room(60, 30) == 10
    assert admission.room(90, 30) == 0


PLACES = [(shard, klass) for shard in range(16) for klass in CLASSES]
NOTHING = dict.fromkeys(PLACES, 0)


def test_with_ample_room_every_class_of_every_shard_is_asked() -> None:
    assert sorted(Admission(1).shares(20_000, NOTHING, {})) == sorted((place, BATCH) for place in PLACES)


def test_what_is_outstanding_is_not_asked_for_again() -> None:
    pulls = Admission(1).shares(20_000, {(0, "high"): 5, (0, "normal"): 0, (0, "low"): 0}, {})
    assert [klass for (_, klass), _ in pulls] == ["normal", "low"]


def test_where_nothing_is_known_to_wait_one_is_asked_for() -> None:
    assert sorted(Admission(1).shares(1_000, NOTHING, {})) == sorted((place, 1) for place in PLACES)


def test_little_room_goes_by_weight_and_all_move() -> None:
    total = dict.fromkeys(CLASSES, 0)
    admission = Admission(1)
    for _ in range(100):
        for (_, klass), batch in admission.shares(24, NOTHING, dict.fromkeys(PLACES, 1_000)):
            total[klass] += batch
    assert sum(total.values()) == 2_400
    assert total["high"] > 8 * total["normal"]
    assert total["normal"] > 8 * total["low"]
    assert total["low"] > 20


@pytest.mark.parametrize("only", CLASSES)
def test_what_one_class_does_not_use_another_gets(only: str) -> None:
    backlog = {place: 1_000 * (place[1] == only) for place in PLACES}
    pulls = Admission(1).shares(1_000, NOTHING, backlog)
    assert sum(batch for _, batch in pulls) == 1_000
    assert sum(batch for (_, klass), batch in pulls if klass != only) == 32, "one of each shard, to see whether there is anything"


def test_no_more_is_asked_for_than_waits() -> None:
    backlog = {place: place[0] for place in PLACES}
    pulls = dict(Admission(1).shares(3_000, NOTHING, backlog))
    assert pulls == {place: max(1, place[0]) for place in PLACES}


def test_every_place_gets_its_turn_when_room_is_shorter_than_places() -> None:
    admission = Admission(1)
    served = {place for _ in range(6_000) for place, _ in admission.shares(1, NOTHING, dict.fromkeys(PLACES, 10))}
    assert served == set(PLACES)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 40])
def test_with_less_room_than_places_every_place_is_looked_at_and_half_the_looks_are_for_the_highest_class(room: int) -> None:
    admission = Admission(1)
    looked = Counter(place for _ in range(500) for place, _ in admission.shares(room, NOTHING, {}))
    assert set(looked) == set(PLACES)
    high = sum(count for (_, klass), count in looked.items() if klass == "high")
    assert 0.4 < high / looked.total() < 0.6


def test_no_more_is_asked_for_than_there_is_room() -> None:
    admission = Admission(1)
    for room in (*range(1, 200), *range(200, 1, -1)):
        for waiting in (0, 1, 7, 1_000):
            pulls = admission.shares(room, NOTHING, dict.fromkeys(PLACES[::2], waiting))
            assert sum(batch for _, batch in pulls) <= room


def test_no_room_no_pull() -> None:
    assert Admission(1).shares(0, {(0, "high"): 0}, {(0, "high"): 9}) == []
    assert Admission(1).shares(10, {}, {}) == []
