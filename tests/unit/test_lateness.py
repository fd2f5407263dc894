"""When work will end, by what was said about it last; and that what will be late leaves its agent before the deadline."""

from __future__ import annotations

from typing import Any

import pytest
from table import START, Table

from agentexecutor.agents.schedule import schedule as make_schedule
from agentexecutor.coordinator.inbound import read_progress
from agentexecutor.coordinator.inputs import NeedProgress, ProgressIn, SetTimer, TimerIn
from agentexecutor.coordinator.lateness import expected_end
from agentexecutor.schemas import Replan
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode

SCHEDULE = make_schedule([("load", 10.0), ("fit", 30.0), ("save", 5.0)])


def running(deadline_s: float = 60.0, schedule: list[m.Step] | None = None, **replan: Any) -> Table:
    """A subtask that began at START."""
    table = Table()
    table.submit("work", deadline_s=deadline_s, retries=3, replan=Replan(**(replan or {"late": "retry"})))
    table.award()
    table.claim(m.Accept, schedule=schedule or [])
    return table


def heard(*signs: tuple[float, dict[str, Any]], queued: bool = False, queued_at: float | None = None) -> ProgressIn:
    """What is known after these signs of the agent, each with its time."""
    said = [(START + at, encode(m.Progress(subtask="main", epoch=1, boot="b1", at="2026-01-01T00:00:00Z", **sign))) for at, sign in signs]
    need = NeedProgress("main", 1, START, late=True)
    return read_progress(need, "b1", said, queued=queued, queued_at=None if queued_at is None else START + queued_at)


def begun(step: str) -> dict[str, Any]:
    return {"step": step, "state": "started"}


LOAD, FIT, SAVE = begun("load"), begun("fit"), begun("save")
PARALLEL = [m.Step(name="a", duration_s=10.0), m.Step(name="b", duration_s=10.0)]
ONE_NAME = [m.Step(name="row", start_s=float(n), duration_s=1.0) for n in range(10)]
QUEUED = [m.Step(name="a", start_s=60.0, duration_s=10.0), m.Step(name="b", start_s=70.0, duration_s=10.0)]
SHORT = make_schedule([("a", 10.0), ("b", 10.0)])


@pytest.mark.parametrize(
    ("schedule", "known", "now", "end"),
    [
        (SCHEDULE, heard(), 0.0, 45.0),
        (SCHEDULE, heard(), 50.0, 55.0),  # overdue for 5 s: as long again
        ([], heard((20.0, {"fraction": 0.0})), 20.0, None),
        ([], heard(), 20.0, None),
        # a fraction
        (SCHEDULE, heard((20.0, {"fraction": 0.25})), 20.0, 80.0),
        (SCHEDULE, heard((20.0, {"fraction": 0.25})), 30.0, 80.0),
        (SCHEDULE, heard((20.0, {"fraction": 0.25})), 90.0, 100.0),
        (SCHEDULE, heard((20.0, {**FIT, "fraction": 0.5})), 20.0, 40.0),
        (SCHEDULE, heard((60.0, {"text": "begun"}), (70.0, {"fraction": 0.5})), 70.0, 80.0),  # it had waited
        (SCHEDULE, heard((5.0, {"fraction": 0.5}), (5.001, {"fraction": 0.500001})), 6.0, 10.002),  # two at once tell no pace
        (SCHEDULE, heard((20.0, {"fraction": 0.5}), (30.0, {"text": "still at it"})), 30.0, 40.0),
        ([], heard((70.0, {"fraction": 0.5}), queued_at=60.0), 70.0, 80.0),
        (SCHEDULE, heard((9.0, {"fraction": 0.0}), (10.0, {"fraction": 0.5})), 18.0, 20.0),
        (SCHEDULE, heard((9.0, {"fraction": 0.0}), (10.0, {"fraction": 0.5})), 19.9, 20.0),
        (SHORT, heard((99.9, {"fraction": 0.01}), queued_at=100.0), 105.0, 119.9),  # it has just begun, whatever its offer said
        # a step
        (SCHEDULE, heard((10.0, FIT)), 20.0, 45.0),
        (SCHEDULE, heard((5.0, FIT)), 20.0, 40.0),  # earlier than promised
        (SCHEDULE, heard((0.0, LOAD), (20.0, FIT)), 20.0, 90.0),  # twice as slow as promised: 60 and 10 s more
        (SCHEDULE, heard((0.0, LOAD), (20.0, FIT), (21.0, {"text": "still at it"})), 21.0, 90.0),
        (SCHEDULE, heard((0.0, LOAD), (10.0, FIT), (30.0, FIT)), 30.0, 45.0),  # it said so again
        (SCHEDULE, heard((0.0, LOAD)), 14.0, 18.0 + 1.8 * 35.0),  # overdue for 4 s: 18 s in the place of 10
        (SCHEDULE, heard((40.0, SAVE)), 48.0, 51.0),
        (SCHEDULE, heard((20.0, begun("nothing known"))), 20.0, 45.0),
        (SCHEDULE, heard((20.0, {**FIT, "schedule": make_schedule([("fit", 2.0)])})), 20.0, 22.0),
        (PARALLEL, heard((0.0, begun("a"))), 5.0, 10.0),
        (ONE_NAME, heard(*[(float(n), begun("row")) for n in range(10)]), 9.0, 10.0),
        (SHORT, heard((0.0, begun("b")), (10.0, begun("a"))), 10.0, 30.0),  # in another order
        ([], heard((10.0, begun("a")), (100.0, {"schedule": make_schedule([("a", 20.0), ("b", 20.0)])})), 100.0, 140.0),
        # it began later than it was accepted, which is no slowness
        (SHORT, heard((60.0, begun("a")), (70.0, begun("b"))), 70.0, 80.0),
        (SHORT, heard((60.0, begun("a")), (70.0, {"step": "a", "state": "finished"})), 70.0, 80.0),
        (QUEUED, heard((60.0, begun("a"))), 65.0, 80.0),
        (QUEUED, heard(queued_at=59.0), 65.0, 80.0),
        ([], heard((60.0, {"schedule": SHORT})), 65.0, 80.0),
        (SHORT, heard(queued_at=59.0), 65.0, 79.0),
        (SHORT, heard(queued_at=111.0), 111.0, 131.0),  # by whoever has taken the task over
        (SHORT, heard((110.5, {"text": "begun"}), queued_at=111.0), 111.0, 130.5),
        # it waits
        (SCHEDULE, heard(queued=True), 20.0, 65.0),
        (QUEUED, heard(queued=True), 55.0, 80.0),
        (QUEUED, heard(queued=True), 65.0, 85.0),
    ],
)
def test_the_end_is_expected_by_fraction_then_step_then_schedule(
    schedule: list[m.Step], known: ProgressIn, now: float, end: float | None
) -> None:
    table = running(schedule=schedule)
    expected = expected_end(table.state.subtasks["main"], known, START + now)
    assert expected == (None if end is None else pytest.approx(START + end, abs=0.001))


def test_an_estimate_counts_as_its_agent_has_kept_others_and_what_was_made_for_this_work_as_it_is() -> None:
    table = running(schedule=SCHEDULE)
    subtask = table.state.subtasks["main"]
    subtask.bids = [r.ScoredBid(agent="a1", boot="b1", epoch=1, won=True, queue_s=5.0, estimate_s=10.0, factor=4.0)]
    assert expected_end(subtask, None, START) == START + 45.0
    subtask.schedule = []
    assert expected_end(subtask, None, START) == START + 5.0 + 40.0
    assert expected_end(subtask, heard(queued=True), START + 3.0) == START + 5.0 + 40.0
    assert expected_end(subtask, heard(queued=True), START + 30.0) == START + 30.0 + 40.0


def test_what_will_be_late_leaves_its_agent_and_is_told_once() -> None:
    table = running(schedule=SCHEDULE)
    assert [timer.due for timer in table.of(SetTimer) if timer.kind == "late"] == [table.now]
    table.put(TimerIn("late", "main", 1))
    assert table.of(NeedProgress) == [NeedProgress("main", 1, START, late=True)]
    table.put(heard((5.0, {"fraction": 0.5})))
    (timer,) = table.of(SetTimer)
    assert (timer.kind, timer.due) == ("late", START + 15), "in time: looked at again after a quarter of the time that is left"
    table.now = START + 15
    table.put(heard((14.0, {"fraction": 0.2})))
    assert [attempt.state for attempt in table.state.subtasks["main"].attempts] == ["late"]
    assert table.states()["main"] == "ready"
    table.award(agent="a2")
    table.claim(m.Accept, agent="a2", schedule=SCHEDULE)
    assert not any(timer.kind == "late" for timer in table.of(SetTimer))


@pytest.mark.parametrize("replan", [{"failed": "retry"}, {"late": "retry", "failed": "retry"}])
def test_nobody_looks_without_a_deadline_or_a_policy(replan: dict[str, Any]) -> None:
    table = Table()
    table.submit("work", deadline_s=None if "late" in replan else 60.0, replan=Replan(**replan))
    table.award()
    table.claim(m.Accept, schedule=SCHEDULE)
    assert not any(timer.kind == "late" for timer in table.of(SetTimer))
    if "late" not in replan:
        table.put(heard((50.0, {"fraction": 0.1})))
        assert table.states()["main"] == "running"
