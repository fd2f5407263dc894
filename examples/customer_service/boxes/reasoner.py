"""The knowledge reasoner (知识推理器): which entry answers the question, or that none is sure enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from examples.customer_service import library
from examples.customer_service.kit import box
from examples.customer_service.learning import Thresholds, choose
from examples.customer_service.shapes import Candidate, Choice, Intent

from agentexecutor.agents import Context

__all__ = ["agent"]


@contextmanager
def learnt() -> Iterator[Thresholds]:
    """How alike is alike enough, as it was learnt."""
    yield library.thresholds()


agent = box("reasoner", learnt)


@agent.capability("knowledge.reason", estimate_s=0.002)
async def reason(ctx: Context, candidates: list[Candidate], intent: Intent, tried: list[int]) -> Choice:
    """`tried`: entries that have not helped this customer."""
    choice = choose(candidates, tried, ctx.state, intent.topic)
    ctx.progress(text=choice.why)
    return choice
