"""Letting submits in: urgent ones first while room is short, and the lowest still moves."""

from __future__ import annotations

from agentexecutor.coordinator.admission import BATCH, Admission
from agentexecutor.schemas.subjects import CLASSES


def test_room_counts_what_is_open_and_what_was_asked_for() -> None:
    admission = Admission(100)
    assert admission.room(60, 30) == 10
    assert admission.room(90, 30) == 0


def test_with_ample_room_every_class_of_every_shard_is_asked() -> None:
    pulls = Admission(1).shares(20_000, [0, 3], {})
    assert sorted(pulls) == sorted((shard, klass, BATCH) for shard in (0, 3) for klass in CLASSES)


def test_what_is_outstanding_is_not_asked_for_again() -> None:
    pulls = Admission(1).shares(20_000, [0], {(0, "high"): 5})
    assert [klass for _, klass, _ in pulls] == ["normal", "low"]


def test_short_room_goes_by_weight_and_all_move() -> None:
    total = dict.fromkeys(CLASSES, 0)
    admission = Admission(1)
    for _ in range(10):
        for _, klass, batch in admission.shares(24, [0, 1], {}):
            total[klass] += batch
    assert total["high"] > total["normal"] > total["low"] > 0


def test_every_shard_gets_its_turn_when_room_is_shorter_than_shards() -> None:
    admission = Admission(1)
    served = {shard for _ in range(16) for shard, klass, _ in admission.shares(1, list(range(16)), {}) if klass == "normal"}
    assert served == set(range(16))


def test_no_room_no_pull() -> None:
    assert Admission(1).shares(0, [0], {}) == []
    assert Admission(1).shares(10, [], {}) == []
