"""What a task may use: every attempt that ends counts, however it ends, and what exceeds the budget ends the task, unless nothing is left to do."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from table import Table

from agentexecutor.coordinator.budgets import account
from agentexecutor.coordinator.inputs import FeedbackIn, RevisionIn, SetTimer, SplitIn, TimerIn
from agentexecutor.schemas import Plan, Replan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode, encode
from agentexecutor.schemas.errors import DecodeFailed

BROKE = m.ErrorInfo(code="handler", message="broke", retryable=True)


def pair(**options: Any) -> Plan:
    return Plan({"a": Subtask("one", retries=0, **options), "b": Subtask("two", after=["a"])})


def spend(table: Table, subtask: str, tokens: float, cls: type[m.Claim] = m.Failed) -> None:
    """An agent takes it, and ends it with so much used."""
    table.award(subtask)
    fields: Any = {"error": BROKE} if cls is m.Failed else {"result": Raw(b"1")}
    table.claim(cls, subtask, usage={"tokens": tokens}, **fields)


def exceeded(table: Table) -> str | None:
    """The limit for which the task has failed."""
    assert table.folded() == table.state
    error = table.state.error
    return None if error is None or error.code != "budget" else error.details["exceeded"]


def say(table: Table, verdict: Any, subtask: str | None = None, **more: Any) -> None:
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask=subtask, verdict=verdict, **more), table.id()))


@pytest.mark.parametrize("answer", ["skip", "retry", "another", "plan", "wait", "again"])
def test_an_attempt_that_fails_counts_whatever_answers_it(answer: Any) -> None:
    table = Table()
    options: Any = {"on_failure": "skip"} if answer == "skip" else {}
    retries = 5 if answer == "again" else 0
    policy = None if answer in ("skip", "again") else Replan(failed=answer)
    table.submit(
        Plan({"a": Subtask("one", retries=retries, **options), "b": Subtask("two", after=["a"])}), budget={"tokens": 100}, replan=policy
    )
    spend(table, "a", 5000)
    assert exceeded(table) == "tokens"
    assert table.state.error is not None
    assert table.state.error.details["spent"]["tokens"] == 5000
    assert table.states()["b"] == "cancelled"


@pytest.mark.parametrize("answer", ["plan", "wait"])
def test_children_of_an_attempt_that_exceeds_the_budget_end_with_the_task(answer: Any) -> None:
    table = Table()
    table.submit("work", retries=0, budget={"tokens": 100}, replan=Replan(failed=answer))
    table.award()
    table.claim(m.Accept)
    table.claim(m.Extend, call=1, child=m.SubtaskSpec(capability="kid"))
    table.claim(m.Failed, error=BROKE, usage={"tokens": 101.0})
    assert exceeded(table) == "tokens"


def test_a_child_that_fails_counts_too() -> None:
    table = Table()
    table.submit("work", budget={"tokens": 100})
    table.award()
    table.claim(m.Accept)
    table.claim(m.Extend, call=1, child=m.SubtaskSpec(capability="kid", retries=0))
    (kid,) = (name for name in table.states() if name != "main")
    spend(table, kid, 101)
    assert exceeded(table) == "tokens"


@pytest.mark.parametrize("plan", [Plan({"a": Subtask("one"), "b": Subtask("two")}), pair()], ids=["two results", "one result"])
def test_the_last_result_is_taken_also_when_it_costs_too_much(plan: Plan) -> None:
    table = Table()
    table.submit(plan, budget={"tokens": 100})
    spend(table, "a", 1, m.Done)
    spend(table, "b", 5000, m.Done)
    assert exceeded(table) is None
    assert (table.state.open, table.state.error) == (0, None)


def test_the_last_share_is_taken_like_any_other_last_result() -> None:
    table = Table()
    table.submit(Plan({"f": Subtask("c", {"rows": [1, 2]}, split=Split(over="rows", into=2))}), budget={"tokens": 100})
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    spend(table, "f-1", 50, m.Done)
    spend(table, "f-2", 51, m.Done)
    assert exceeded(table) is None
    assert table.states()["f"] == "running"


def test_the_account_tells_where_it_went() -> None:
    table = Table()
    table.submit(Plan({"a": Subtask("one"), "b": Subtask("two"), "c": Subtask("one", after=["b"])}), budget={"tokens": 100})
    spend(table, "a", 30, m.Done)
    spend(table, "b", 90, m.Done)
    assert table.state.error is not None
    by = table.state.error.details["by"]
    assert by["one"]["tokens"] == 30


def test_a_result_before_which_others_wait_is_not_the_last() -> None:
    table = Table()
    table.submit(pair(), budget={"tokens": 100})
    spend(table, "a", 101, m.Done)
    assert exceeded(table) == "tokens"


@pytest.mark.parametrize("cls", [m.Done, m.Failed])
def test_usage_is_a_number_of_0_or_more(cls: type[m.Claim]) -> None:
    fields: Any = {"error": BROKE} if cls is m.Failed else {}
    claim: Any = cls
    claim = claim(subtask="main", epoch=1, boot="b", usage={"tokens": -1.0}, **fields)
    with pytest.raises(DecodeFailed, match="usage"):
        decode("failed" if cls is m.Failed else "done", encode(claim))


@pytest.mark.parametrize("name", ["subtasks", "replans", "seconds"])
@pytest.mark.parametrize("cls", [m.Done, m.Failed])
def test_what_is_counted_here_is_not_reported_by_others(name: str, cls: type[m.Claim]) -> None:
    table = Table()
    table.submit("work", budget={"subtasks": 10})
    table.award()
    fields: Any = {"error": BROKE} if cls is m.Failed else {}
    table.claim(cls, usage={name: 50.0}, **fields)
    assert table.last.refusal is not None
    assert name in table.last.refusal.message
    assert table.states()["main"] == "awarded"
    table.done(usage={"tokens": 50.0})
    assert table.state.state == "completed"


def thinking(**options: Any) -> Table:
    """a is done, b ready, and a planner asked: three subtasks made."""
    table = Table()
    table.submit(Plan({"a": Subtask("a"), "b": Subtask("b")}), replan=Replan(message="plan"), **options)
    table.run("a")
    say(table, None, text="think")
    assert account(table.state)["subtasks"] == 3
    return table


@pytest.mark.parametrize(("limit", "makes"), [(4, 3), (5, 5)])
def test_a_planner_that_begins_anew_is_counted(limit: int, makes: int) -> None:
    table = thinking(budget={"subtasks": limit})
    say(table, "revise", "a")
    assert account(table.state)["subtasks"] == makes
    assert exceeded(table) == (None if makes == 5 else "subtasks")


def test_a_new_version_without_room_fails_the_task_with_the_account() -> None:
    table = Table()
    table.submit(pair(), budget={"subtasks": 2}, replan=Replan(failed="retry"))
    table.award("a")
    table.fail("a")
    assert exceeded(table) == "subtasks"


def test_a_version_too_many_fails_the_task_with_the_account() -> None:
    table = Table()
    table.submit(pair(), budget={"replans": 1}, replan=Replan(failed="retry", repeats=0))
    for _ in range(2):
        table.award("a")
        table.fail("a")
    assert exceeded(table) == "replans"


@pytest.mark.parametrize("budget", [{"subtasks": 2}, {"replans": 0}])
def test_no_planner_is_asked_for_what_there_is_no_budget_for(budget: dict[str, float]) -> None:
    table = Table()
    table.submit(pair(), budget=budget, replan=Replan(failed="plan"))
    table.award("a")
    table.fail("a")
    assert exceeded(table) == next(iter(budget))
    assert "plan-1" not in table.states()


def test_a_planner_may_not_make_more_than_there_is_room_for() -> None:
    table = thinking(budget={"subtasks": 4})
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    specs = {name: m.SubtaskSpec(capability=name) for name in "xy"}
    table.put(RevisionIn("plan-1", table.state.subtasks["plan-1"].epoch, r.Revision(add=specs)))
    whys = table.state.subtasks["plan-1"].whys
    assert whys is not None
    assert (whys[-1].trigger, table.state.plan_version) == ("nonsense", 1)
    assert "there may be 1 more" in whys[-1].text


def test_a_child_too_many_fails_the_task() -> None:
    table = Table()
    table.submit("work", budget={"subtasks": 2})
    table.award()
    for call in (1, 2):
        table.claim(m.Extend, call=call, child=m.SubtaskSpec(capability="kid"))
    assert exceeded(table) == "subtasks"
    assert table.state.made == 2


def test_shares_too_many_fail_the_task() -> None:
    table = Table()
    table.submit(Plan({"f": Subtask("c", {"rows": [1, 2]}, split=Split(over="rows", into=2))}), budget={"subtasks": 2})
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    assert exceeded(table) == "subtasks"
    assert table.state.made == 1


def test_work_that_is_stopped_has_used_its_seconds() -> None:
    table = Table()
    table.submit(Plan({"a": Subtask("a"), "b": Subtask("b", after=["a"])}), budget={"seconds": 10})
    table.run("a")
    table.award("b")
    table.claim(m.Accept, "b")
    table.now += 7
    say(table, "revise", "a")
    assert table.states() == {"a": "ready", "b": "blocked"}
    assert account(table.state)["seconds"] == pytest.approx(7)
    table.award("a")
    table.claim(m.Accept, "a")
    table.put(TimerIn("budget"))
    assert [timer.due for timer in table.of(SetTimer)] == [pytest.approx(table.now + 3)]
    assert exceeded(table) is None


@pytest.mark.parametrize("name", ["subtasks", "replans"])
def test_a_goal_without_room_for_a_plan_is_refused(name: str) -> None:
    table = Table()
    table.put_goal(budget={name: 0})
    assert table.last.refusal is not None
    assert (table.last.refusal.code, name in table.last.refusal.message) == ("input", True)


def test_versions_that_others_made_meanwhile_count() -> None:
    table = thinking(budget={"replans": 1})
    table.award("plan-1", agent="p")
    say(table, "revise", "a")
    assert (table.state.plan_version, table.states()["plan-1"]) == (2, "ready"), "it begins anew"
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    table.put(RevisionIn("plan-1", table.state.subtasks["plan-1"].epoch, r.Revision(add={"x": m.SubtaskSpec(capability="x")})))
    assert (exceeded(table), table.state.plan_version) == ("replans", 2)
