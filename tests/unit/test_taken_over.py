"""What a coordinator that takes over must time and send again, of all that a changing plan waits for."""

from __future__ import annotations

from typing import Any

import pytest
from table import Table

from agentexecutor.coordinator.inputs import FeedbackIn, Send, SetTimer
from agentexecutor.coordinator.machine import pending
from agentexecutor.schemas import Replan
from agentexecutor.schemas import messages as m


def timers(table: Table) -> dict[str, SetTimer]:
    """What is timed after the task was loaded, by kind."""
    return {effect.kind: effect for effect in pending(table.folded(), table.now, table.settings) if isinstance(effect, SetTimer)}


def running(**options: Any) -> Table:
    table = Table()
    table.submit("work", **options)
    table.award()
    table.claim(m.Accept, schedule=[m.Step(name="long", duration_s=30.0)])
    return table


def test_the_budget_of_seconds_goes_on() -> None:
    table = running(budget={"seconds": 10})
    began = table.now
    table.now += 4
    assert timers(table)["budget"].due == pytest.approx(began + 10)
    assert "budget" not in timers(running())


def test_lateness_is_looked_at_at_once() -> None:
    table = running(deadline_s=60.0, replan=Replan(late="another"))
    table.now += 4
    assert timers(table)["late"] == SetTimer("late", table.now, "main", 1)
    assert "late" not in timers(running(deadline_s=60.0))


def test_whom_nobody_fits_is_looked_at_again() -> None:
    table = Table()
    table.submit("work", replan=Replan(unserved="fail", unserved_s=5.0))
    table.now += 100
    assert timers(table)["unserved"] == SetTimer("unserved", table.now + 5, "main", 1)


def test_feedback_that_may_not_have_arrived_is_sent_again() -> None:
    table = running()
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask="main", text="faster"), table.id()))
    (again,) = (effect for effect in pending(table.folded(), table.now, table.settings) if isinstance(effect, Send))
    assert (again.peer, again.kind) == ("a1", "feedback")
    assert isinstance(again.message, m.FeedbackMessage)
    assert (again.message.text, again.message.epoch) == ("faster", 1)
    table.fail()
    table.award(agent="a2")
    table.claim(m.Accept, agent="a2")
    assert not any(isinstance(effect, Send) for effect in pending(table.folded(), table.now, table.settings)), "it came with the award"


def test_another_deadline_has_what_runs_looked_at_anew() -> None:
    table = running(replan=Replan(late="another"))
    assert not any(timer.kind == "late" for timer in table.of(SetTimer))
    table.put(FeedbackIn("me", m.FeedbackClaim(deadline_s=10.0), table.id()))
    assert {timer.kind for timer in table.of(SetTimer)} == {"task-deadline", "late"}
