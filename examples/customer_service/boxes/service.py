"""The customer-facing agent (客服代理): makes the plan of a turn and each next version of it, and hands over what a person of the staff answers."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
from examples.customer_service.kit import box
from examples.customer_service.planning import Told, next_version
from examples.customer_service.shapes import Word
from examples.customer_service.texts import LONGEST

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("service")


@agent.capability("service.plan", estimate_s=0.002)
async def plan(ctx: Context, **told: Any) -> dict[str, Any]:
    """What is to be done next, as a difference to the plan."""
    return next_version(ctx.task, msgspec.convert(told, Told))


@agent.capability("service.wait", estimate_s=1)
async def wait(ctx: Context, seconds: float, away: list[str], time: int) -> int:
    """Somebody is away: a moment's patience, then the plan is made again."""
    ctx.progress(text=f"{', '.join(away)} is away")
    await anyio.sleep(seconds)
    return time


@agent.capability("service.person", estimate_s=0.002)
async def person(ctx: Context) -> Word:
    """Runs once a person has said something: that is the answer."""
    said = [given for given in ctx.feedback_now() if given.text.strip()]
    for given in said[-1:]:
        ctx.progress(text=f"{given.sender} has answered", feedback=given)
        return Word(given.text.strip()[:LONGEST], given.sender)
    return Word("", "")
