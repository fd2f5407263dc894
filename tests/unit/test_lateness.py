"""When work will end, by what was said about it last; and that what will be late leaves its agent before the deadline."""

from __future__ import annotations

from typing import Any

import pytest
from table import START, Table

from agentexecutor.coordinator.inputs import NeedProgress, ProgressIn, SetTimer, TimerIn
from agentexecutor.coordinator.lateness import expected_end
from agentexecutor.schemas import Replan
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r

SCHEDULE = [
    m.Step(name="load", duration_s=10.0),
    m.Step(name="fit", start_s=10.0, duration_s=30.0),
    m.Step(name="save", start_s=40.0, duration_s=5.0),
]


def running(deadline_s: float = 60.0, schedule: list[m.Step] | None = None, **replan: Any) -> Table:
    """A subtask that began at START."""
    table = Table()
    table.submit("work", deadline_s=deadline_s, retries=3, replan=Replan(**(replan or {"late": "retry"})))
    table.award()
    table.claim(m.Accept, schedule=schedule or [])
    return table


def said(at: float, **more: Any) -> ProgressIn:
    return ProgressIn("main", 1, at=START + at, late=True, **more)


@pytest.mark.parametrize(
    ("schedule", "progress", "now", "end"),
    [
        (SCHEDULE, None, 0.0, 45.0),
        (SCHEDULE, None, 50.0, 55.0),  # overdue for 5 s: as long again
        (SCHEDULE, said(20.0, fraction=0.25), 20.0, 80.0),
        (SCHEDULE, said(20.0, fraction=0.25), 30.0, 80.0),
        (SCHEDULE, said(20.0, fraction=0.25), 90.0, 100.0),
        (SCHEDULE, said(10.0, step="fit"), 20.0, 45.0),
        (SCHEDULE, said(5.0, step="fit"), 20.0, 40.0),  # earlier than promised
        (SCHEDULE, said(20.0, step="fit"), 20.0, 90.0),  # twice as slow as promised: 60 and 10 s more
        (SCHEDULE, said(30.0, step="fit", since=START + 10.0), 30.0, 45.0),  # it said so again
        (SCHEDULE, said(0.0, step="load"), 14.0, 18.0 + 1.8 * 35.0),  # overdue for 4 s: 18 s in the place of 10
        (SCHEDULE, said(20.0, step="fit", fraction=0.5), 20.0, 40.0),
        (SCHEDULE, said(40.0, step="save"), 48.0, 51.0),
        (SCHEDULE, said(20.0, step="nothing known"), 20.0, 45.0),
        (SCHEDULE, said(20.0, queued=True), 20.0, 65.0),
        (SCHEDULE, said(20.0, step="fit", schedule=[m.Step(name="fit", duration_s=2.0)]), 20.0, 22.0),
        ([], said(20.0, fraction=0.0), 20.0, None),
        ([], None, 20.0, None),
    ],
)
def test_the_end_is_expected_by_fraction_then_step_then_schedule(
    schedule: list[m.Step], progress: ProgressIn | None, now: float, end: float | None
) -> None:
    table = running(schedule=schedule)
    expected = expected_end(table.state.subtasks["main"], progress, START + now)
    assert expected == (None if end is None else pytest.approx(START + end, abs=0.001))


def test_a_promise_counts_as_its_agent_has_kept_others() -> None:
    table = running(schedule=SCHEDULE)
    subtask = table.state.subtasks["main"]
    subtask.bids = [r.ScoredBid(agent="a1", boot="b1", epoch=1, won=True, queue_s=5.0, estimate_s=10.0, factor=4.0)]
    assert expected_end(subtask, None, START) == START + 180.0
    subtask.schedule = []
    assert expected_end(subtask, None, START) == START + 60.0


def test_what_will_be_late_leaves_its_agent_and_is_told_once() -> None:
    table = running(schedule=SCHEDULE)
    assert [timer.due for timer in table.of(SetTimer) if timer.kind == "late"] == [table.now]
    table.put(TimerIn("late", "main", 1))
    assert table.of(NeedProgress) == [NeedProgress("main", 1, START, late=True)]
    table.put(said(5.0, fraction=0.5))
    (timer,) = table.of(SetTimer)
    assert (timer.kind, timer.due) == ("late", START + 15), "in time: looked at again after a quarter of the time that is left"
    table.now = START + 15
    table.put(said(14.0, fraction=0.2))
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
        table.put(ProgressIn("main", 1, at=START + 50, fraction=0.1, late=True))
        assert table.states()["main"] == "running"
