"""What is set aside for a call of the model, by the log alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from agentexecutor.agents.autogpt.purse import LEAST_TOKENS, Grant, Purse
from agentexecutor.agents.autogpt.settings import ModelSettings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.names import TaskName

SETTINGS = ModelSettings("m", price_in=1.0, price_out=2.0, max_tokens=4000)


def spec(capability: str = "llm.ask", **input: Any) -> m.SubtaskSpec:
    return m.SubtaskSpec(capability=capability, input=Raw(encode(input)), retries=5)


class Told:
    """A purse, and the log that it is told."""

    def __init__(self, budget: dict[str, float], goal: str | None = None) -> None:
        self.purse = Purse(TaskName.parse("me.t"), SETTINGS)
        self.epoch = 0
        self.say(r.Submitted(submit=m.Submit(budget=budget, goal=goal), digest="", at=0.0))

    def say(self, *changes: r.Change) -> dict[tuple[str, int], Grant]:
        return self.purse.apply(r.Record(coordinator="c", at="2026-01-01T00:00:00Z", changes=list(changes)))

    def plan(self, **add: m.SubtaskSpec) -> None:
        self.say(r.Planned(add=add), r.Ready(subtasks=list(add)))

    def award(self, name: str) -> dict[str, float]:
        self.epoch += 1
        (grant,) = self.say(r.Awarded(subtask=name, epoch=self.epoch, agent="a", boot="b")).values()
        return grant.left

    def accept(self, name: str) -> None:
        self.say(r.Accepted(subtask=name, epoch=self.epoch))

    def fails(self, name: str, cause: str | None = None, **usage: float) -> None:
        error = m.ErrorInfo(code="handler", message="no", details={} if cause is None else {"cause": cause})
        self.say(r.FailedChange(subtask=name, epoch=self.epoch, error=error, outcome="retry", usage=usage))


def test_calls_that_run_and_wait_share_what_is_left() -> None:
    told = Told({"tokens": 6000})
    told.plan(**{f"a{number}": spec() for number in range(20)}, other=spec("files.read"))
    grants = [told.award(f"a{number}")["tokens"] for number in range(20)]
    assert grants == pytest.approx([300.0] * 20)


def test_what_is_not_used_goes_to_the_others() -> None:
    told = Told({"tokens": 6000})
    told.plan(**{f"a{number}": spec() for number in range(4)})
    assert told.award("a0")["tokens"] == 1500
    told.accept("a0")
    told.say(r.Completed(subtask="a0", epoch=1, agent="a", usage={"tokens": 300}))
    assert told.award("a1")["tokens"] == 1900


def test_a_call_gets_no_more_than_it_can_use_and_those_that_come_later_find_something() -> None:
    told = Told({"tokens": 50_000, "money": 1.0})
    told.plan(one=spec("llm.chat", messages=[{"role": "user", "content": "x" * 370}], max_tokens=2000))
    first = told.award("one")
    assert first == {"tokens": pytest.approx(2110, abs=10), "money": pytest.approx(0.00411, abs=0.0001)}
    told.say(r.Planned(version=1, cause="extend", add={"two": spec()}), r.Ready(subtasks=["two"]))
    assert told.award("two")["tokens"] > 4000


def test_when_it_is_too_little_for_all_the_first_are_paid() -> None:
    told = Told({"tokens": 1000})
    told.plan(**{f"a{number}": spec(instruction="x" * 400) for number in range(20)})
    grants = [told.award(f"a{number}")["tokens"] for number in range(20)]
    assert grants[0] > LEAST_TOKENS + 100
    assert sum(grants) <= 1000
    assert grants[-1] == 0


def test_results_that_an_input_refers_to_are_part_of_the_prompt() -> None:
    told = Told({"tokens": 100_000})
    told.plan(read=spec("files.read"), **{f"a{number}": spec(data={"$ref": "read"}) for number in range(200)})
    told.say(r.Awarded(subtask="read", epoch=99, agent="a", boot="b"), r.Accepted(subtask="read", epoch=99))
    told.say(r.Completed(subtask="read", epoch=99, agent="a", result=Raw(b'"' + b"x" * 40_000 + b'"')))
    assert told.award("a0")["tokens"] > 10_000


def test_what_a_lost_call_may_have_used_stays_set_aside_but_not_what_was_never_begun() -> None:
    told = Told({"tokens": 6000})
    told.plan(a=spec(), b=spec())
    assert told.award("a")["tokens"] == 3000
    told.fails("a", "accept-timeout")
    assert told.award("a")["tokens"] == 3000, "nobody has begun"
    told.accept("a")
    told.fails("a", "lost")
    assert told.award("a")["tokens"] == 1500
    told.accept("a")
    told.fails("a", tokens=100)
    assert told.award("a")["tokens"] == (6000 - 3000 - 100) / 2, "it has told what it used"
    told.accept("a")
    told.say(r.Cancelled(subtasks=["a"]))
    assert told.award("b")["tokens"] == pytest.approx(1450)


def test_steps_of_a_plan_leave_something_to_the_planner() -> None:
    told = Told({"tokens": 4000}, goal="g")
    told.plan(a=spec(), b=spec())
    assert told.award("a")["tokens"] == 1500
    told.accept("a")
    told.say(r.Completed(subtask="a", epoch=1, agent="a", usage={"tokens": 1500}))
    assert told.award("b")["tokens"] == 1500


def test_only_tokens_and_money_limit_a_call() -> None:
    assert not Told({"replans": 3}).purse.limited
    assert Told({"money": 3}).purse.limited
