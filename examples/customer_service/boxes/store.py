"""The knowledge store (知识存储器): keeps what a person has taught, before anything is made of it."""

from __future__ import annotations

from examples.customer_service import library
from examples.customer_service.kit import box
from examples.customer_service.shapes import Intent, Lesson, Understood, Word

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("knowledge-store")


@agent.capability("knowledge.store", estimate_s=0.005)
def store(ctx: Context, understood: Understood, intent: Intent, word: Word, wrong: list[int]) -> Lesson | None:
    """The lesson; none when there is no question or no answer to learn. A second attempt of the same work stores nothing twice."""
    if not word.text or understood.kind != "question" or intent.route != "knowledge":
        return None
    return library.keep_lesson(ctx.key, understood.text, word.text, intent.topic or "learnt", wrong)
