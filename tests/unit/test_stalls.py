"""Stalled is not lost: what counts as a sign, what was promised, and what happens then."""

from __future__ import annotations

from typing import Any

import pytest
from table import START, Table

from agentexecutor.coordinator.inbound import read_progress
from agentexecutor.coordinator.inputs import NeedProgress, ProgressIn, Send, SetTimer, Stalled, TimerIn
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import encode

SCHEDULE = [m.Step(name="load", start_s=0, duration_s=3), m.Step(name="fit", start_s=3, duration_s=30)]
SETTINGS = Settings()


def running(schedule: list[m.Step] | None = None, **options: Any) -> Table:
    table = Table()
    table.submit(**options)
    table.award()
    table.claim(m.Accept, schedule=SCHEDULE if schedule is None else schedule)
    return table


def timer(table: Table) -> float:
    """Seconds until the next look."""
    (found,) = [effect for effect in table.of(SetTimer) if effect.kind == "stall"]
    return found.due - table.now


def sign(table: Table, at: float | None = None, **fields: Any) -> Stalled:
    table.put(ProgressIn("main", 1, None if at is None else START + at, **fields))
    (stalled,) = table.of(Stalled)
    return stalled


def test_a_look_is_taken_when_twice_the_promise_has_passed() -> None:
    table = running()
    assert timer(table) == 66
    table.now += 66
    table.put(TimerIn("stall", "main", 1))
    assert table.of(NeedProgress) == [NeedProgress("main", 1, START)]


def test_who_promised_nothing_never_stalls() -> None:
    table = running([])
    assert [effect for effect in table.of(SetTimer) if effect.kind == "stall"] == []
    assert [effect for effect in pending(table.state, table.now, SETTINGS) if isinstance(effect, SetTimer)] == []


def test_no_sign_in_time_is_shown_as_stalled_and_looked_at_again() -> None:
    table = running()
    table.now += 70
    stalled = sign(table)
    assert (stalled.agent, stalled.epoch, stalled.since, stalled.allowed_s) == ("a1", 1, START, 66)
    assert timer(table) == SETTINGS.stall_min_s
    assert table.state.subtasks["main"].state == "running"
    table.now += 5
    assert sign(table, at=74).epoch == 0, "a sign ends it"


@pytest.mark.parametrize(("step", "allowed"), [("load", 6), ("fit", 60), ("other", 66), (None, 66)])
def test_the_step_that_is_under_way_says_how_long(step: str | None, allowed: float) -> None:
    table = running()
    table.now += 50
    assert sign(table, at=50, step=step).epoch == 0
    assert timer(table) == allowed
    table.now += allowed
    assert sign(table, at=50, step=step).epoch == 1


def test_a_revised_schedule_counts() -> None:
    table = running()
    table.now += 100
    assert sign(table, at=20, schedule=[m.Step(name="long", duration_s=500)]).epoch == 0
    assert timer(table) == 1000 - 80


def test_what_is_queued_or_waits_for_children_does_not_stall() -> None:
    table = running()
    table.now += 100
    assert sign(table, queued=True).epoch == 0
    table.claim(m.Extend, call=1, child=m.SubtaskSpec(capability="c"))
    table.put(TimerIn("stall", "main", 1))
    assert table.of(NeedProgress) == []
    assert timer(table) == SETTINGS.stall_min_s


def test_a_stalled_one_is_released_when_the_policy_says_so() -> None:
    table = running(on_stall="release", retries=1)
    table.now += 70
    table.put(ProgressIn("main", 1))
    assert [(effect.kind, effect.peer) for effect in table.of(Send)] == [("cancel", "a1")]
    subtask = table.state.subtasks["main"]
    assert (subtask.state, subtask.tries, subtask.attempts[0].state) == ("ready", 1, "stalled")
    table.now += 10
    table.award(agent="a2")
    table.claim(m.Accept, agent="a2", schedule=SCHEDULE)
    table.now += 70
    table.put(ProgressIn("main", 2))
    assert table.state.state == "failed"
    assert table.state.error is not None
    assert "stalled" in table.state.error.message


def test_a_late_answer_about_another_attempt_changes_nothing() -> None:
    table = running(on_stall="release")
    table.done()
    assert table.put(ProgressIn("main", 1)).effects == []
    assert table.put(TimerIn("stall", "main", 1)).effects == []


def test_the_last_sign_of_the_award_is_found_among_others() -> None:
    def said(**fields: Any) -> bytes:
        return encode(m.Progress(**{"subtask": "main", "epoch": 1, "boot": "b1", "at": "2026-01-01T00:00:00Z", **fields}))

    need = NeedProgress("main", 1, START)
    others = [
        (1.0, said(schedule=SCHEDULE)),
        (2.0, said(step="load", state="started")),
        (3.0, said(epoch=2)),
        (4.0, said(boot="b2")),
        (5.0, said(subtask="x")),
        (6.0, b"{"),
    ]
    found = read_progress(need, "b1", others, queued=False)
    known: dict[str, Any] = {"scheduled_at": 1.0, "began": ("load", 2.0), "first": (1.0, 0.0)}
    assert found == ProgressIn("main", 1, 2.0, "load", SCHEDULE, since=2.0, **known)
    again = [*others, (7.0, said(step="load", state="started", fraction=0.5)), (8.0, said(text="well"))]
    found = read_progress(need, "b1", again, queued=False)
    assert found == ProgressIn("main", 1, 8.0, "load", SCHEDULE, 0.5, since=2.0, fraction_at=7.0, **known)
    finished = [*again, (9.0, said(step="load", state="finished"))]
    assert read_progress(need, "b1", finished, queued=False) == ProgressIn("main", 1, 9.0, None, SCHEDULE, **known)
    revised = [*finished, (9.5, said(schedule=SCHEDULE))]
    found = read_progress(need, "b1", revised, queued=False, queued_at=0.5)
    assert found == ProgressIn("main", 1, 9.5, None, SCHEDULE, queued_at=0.5, scheduled_at=9.5, first=(1.0, 0.0))
    assert read_progress(need, "b1", [], queued=True) == ProgressIn("main", 1, queued=True)


def test_who_has_waited_is_silent_only_from_then_on() -> None:
    table = running()
    table.now += 70
    assert sign(table, queued_at=START + 60).epoch == 0
    assert timer(table) == 56
