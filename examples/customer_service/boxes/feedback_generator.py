"""The feedback generator (反馈生成器): what the customer is asked after an answer, and what yes and no will mean."""

from __future__ import annotations

from examples.customer_service.kit import box
from examples.customer_service.shapes import Answer, Intent, Question

__all__ = ["agent"]

agent = box("feedback-generator")
CHAT = frozenset({"ai", "botprofile", "conversations", "emotion", "gossip", "greetings", "humor", "psychology"})
"""Topics after which the question would be strange; the customer may say yes or no all the same."""


@agent.capability("feedback.ask", estimate_s=0.002)
async def ask(answer: Answer, intent: Intent) -> Question:
    """One question; an answer that offers a person means the same as an unhappy customer when it is taken up."""
    if answer.offer == "person":
        return Question("Shall I ask a colleague? (yes, no)", yes="unhappy", no="content")
    if answer.offer is None:
        return Question("", yes="content", no="content")
    if answer.source == "knowledge" and intent.name in CHAT:
        return Question("", yes="content", no="unhappy")
    return Question("Did that help? (yes, no, person)", yes="content", no="unhappy")
