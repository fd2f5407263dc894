"""The knowledge updater (知识更新器): makes what was taught an entry that is found, and what was wrong for the question one that is not."""

from __future__ import annotations

from examples.customer_service import library
from examples.customer_service.kit import box
from examples.customer_service.shapes import Lesson

__all__ = ["agent"]

agent = box("knowledge-updater")


@agent.capability("knowledge.update", estimate_s=0.005)
def update(lesson: Lesson | None) -> int | None:
    """The entry; none without a lesson."""
    return None if lesson is None else library.activate(lesson)
