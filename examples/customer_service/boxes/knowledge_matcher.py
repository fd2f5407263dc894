"""The knowledge matcher (知识匹配器): how alike the customer's question is to those that the knowledge base finds for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from examples.customer_service import library
from examples.customer_service.kit import box
from examples.customer_service.learning import compared
from examples.customer_service.shapes import Candidate, Understood
from examples.customer_service.texts import Likeness

from agentexecutor.agents import Context

__all__ = ["agent"]

KEPT = 10


@contextmanager
def learnt() -> Iterator[Likeness]:
    """How rare each word is, from the questions that the knowledge base has."""
    yield Likeness(library.questions())


agent = box("knowledge-matcher", learnt)


@agent.capability("knowledge.match", estimate_s=0.03)
async def match(ctx: Context, understood: Understood) -> list[Candidate]:
    """The most alike entries, best first; the same question word for word comes before all others."""
    alike: Likeness = ctx.state
    asked = await ctx.submit("knowledge.search", {"text": understood.text})
    found: list[Candidate] = await asked.result(list[Candidate])
    return compared(understood.text, found, alike)[:KEPT]
