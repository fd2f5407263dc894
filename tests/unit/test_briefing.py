"""A planner's answer against what is on offer."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw
from table import Table

from agentexecutor.agents import Agent
from agentexecutor.coordinator.briefing import OfferLine, brief, check_offers
from agentexecutor.coordinator.inputs import FeedbackIn
from agentexecutor.schemas import PlanRefused, Replan
from agentexecutor.schemas import messages as m

agent = Agent("worker")


@agent.capability("count")
def count(texts: list[str], n: int = 1) -> int:
    return len(texts) * n


PLAIN = {
    "type": "object",
    "properties": {"texts": {"type": "array"}, "n": {"type": "integer"}},
    "required": ["texts"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("takes", [PLAIN, agent.handlers["count"].offered().takes], ids=["plain", "as handlers have it"])
@pytest.mark.parametrize(
    ("input", "problem"),
    [
        (b'{"texts":["a"],"n":2}', None),
        (b'{"texts":{"$ref":"load"}}', None),
        (b'{"n":2}', "The input of 's' lacks 'texts'."),
        (b'{"texts":[],"m":2}', "'s' takes no 'm'; it takes texts, n."),
        (b'{"texts":"a"}', "'texts' in the input of 's' is no array."),
        (b'{"texts":[],"n":true}', "'n' in the input of 's' is no integer."),
    ],
)
def test_an_input_must_fit_what_its_offer_takes(takes: dict[str, object], input: bytes, problem: str | None) -> None:
    add = {"s": m.SubtaskSpec(capability="count", input=Raw(input))}
    offers = [OfferLine(name="count", agents=1, free=1, takes=takes)]
    if problem is None:
        check_offers(add, offers)
        return
    with pytest.raises(PlanRefused) as refused:
        check_offers(add, offers)
    assert refused.value.message == problem


@pytest.mark.parametrize("required", [True, 3, None, "texts", [{}, 7]])
def test_what_an_offer_says_wrongly_is_passed_over(required: object) -> None:
    offers = [OfferLine(name="count", agents=1, free=1, takes={"type": "object", "required": required})]
    check_offers({"s": m.SubtaskSpec(capability="count", input=Raw(b'{"n":2}'))}, offers)


def test_a_planner_is_told_what_was_said_spent_and_left() -> None:
    table = Table()
    table.submit("work", budget={"tokens": 100, "subtasks": 7}, replan=Replan(message="plan"))
    table.award()
    table.put(FeedbackIn("me", m.FeedbackClaim(text="think", data=Raw(b'{"limit":5}')), table.id()))
    table.fail(usage={"tokens": 30.0}, took_s=2.0)
    told = msgspec.json.decode(brief(table.state, table.state.subtasks["plan-1"], []))
    assert told["spent"] == {"subtasks": 2, "replans": 0, "tokens": 30.0, "seconds": 2.0}
    assert told["left"] == {"tokens": 70.0, "subtasks": 5, "replans": 10}
    assert [(given["text"], given["data"]) for given in told["feedback"]] == [("think", {"limit": 5})]
