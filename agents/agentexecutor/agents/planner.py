"""An agent that plans without a model, by the schemas of what is on offer: ``agentexecutor agent agentexecutor.agents.planner:agent``.

What it does is written in docs/protocol.md, section 11, and done in `agentexecutor.coordinator.chaining`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.errors import Fail
from agentexecutor.coordinator.briefing import Briefing
from agentexecutor.coordinator.chaining import next_plan
from agentexecutor.coordinator.errors import Unplannable
from agentexecutor.schemas.codec import decode_as, encode

__all__ = ["agent"]

agent = Agent("planner", capacity=4)


@agent.capability("plan", estimate_s=0.01)
def plan(
    goal: str | None,
    input: dict[str, Any],
    why: list[dict[str, Any]],
    errors: list[str],
    version: int,
    plan: dict[str, Any],
    feedback: list[dict[str, Any]],
    offers: list[dict[str, Any]],
    spent: dict[str, float],
    left: dict[str, float],
    deadline: str | None,
    **_more: Any,
) -> dict[str, Any]:
    """The next version of the plan, as a difference."""
    told = encode(
        {
            "goal": goal,
            "input": input,
            "why": why,
            "errors": errors,
            "version": version,
            "plan": plan,
            "feedback": feedback,
            "offers": offers,
            "spent": spent,
            "left": left,
            "deadline": deadline,
        }
    )
    try:
        revision = next_plan(decode_as(Briefing, told))
    except Unplannable as error:
        raise Fail(str(error), **error.fields) from error
    answer: dict[str, Any] = msgspec.json.decode(encode(revision))
    return answer
