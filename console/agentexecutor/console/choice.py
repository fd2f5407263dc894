"""Which planner a goal is given to, when several are on the bus."""

from __future__ import annotations

from msgspec.structs import replace

from agentexecutor.agents.autogpt import MODEL_PLANNER
from agentexecutor.bus.client import Bus
from agentexecutor.bus.errors import BusError
from agentexecutor.schemas.messages import Ask, Replan
from agentexecutor.schemas.views import AgentsView

__all__ = ["with_best_planner", "with_planner"]

LOOK_S = 2.0
"""Nobody may coordinate yet: then the task waits, and the planner that needs no model is as good as any."""
MODEL_TIMEOUT_S = 600.0
"""A planner that asks a model, perhaps more than once, may take so long for one attempt."""


def with_planner(policy: Replan | None, capability: str) -> Replan:
    """The policy, with this planner."""
    policy = policy or Replan()
    default = Replan().planner_timeout_s
    timeout_s = MODEL_TIMEOUT_S if capability == MODEL_PLANNER and policy.planner_timeout_s == default else policy.planner_timeout_s
    return replace(policy, planner=capability, planner_timeout_s=timeout_s)


async def with_best_planner(bus: Bus, policy: Replan | None) -> Replan | None:
    """The planner that asks a model when one is on offer, which somebody has started on purpose; else what the policy says."""
    if policy is not None and policy.planner != Replan().planner:
        return policy
    try:
        agents = (await bus.ask_body(AgentsView, "agents", None, Ask(), timeout_s=LOOK_S)).agents
    except BusError:
        return policy
    if any(MODEL_PLANNER in agent.capabilities for agent in agents):
        return with_planner(policy, MODEL_PLANNER)
    return policy
