"""The feedback manager (反馈管理): keeps what the customer thought of an answer. Its subtask waits for the customer's word, as others wait for a manager's."""

from __future__ import annotations

from examples.customer_service import diary
from examples.customer_service.kit import box
from examples.customer_service.shapes import Answer, Kept

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("feedback-manager")


@agent.capability("feedback.keep", estimate_s=0.005)
def keep(ctx: Context, answer: Answer, unhappy: list[int]) -> Kept:
    """`unhappy`: entries that the customer has turned down before this answer. A customer who went on to something else has said nothing."""
    said = next((given for given in reversed(ctx.feedback_now()) if given.verdict == "accept"), None)
    helped = True if said is not None and said.text and answer.offer == "help" else None
    for entry in unhappy:
        diary.keep_opinion(f"{ctx.key} {entry}", ctx.task, "", entry, helped=False)
    diary.keep_opinion(ctx.key, ctx.task, "" if said is None else said.text, answer.entry, helped=helped)
    return Kept(helped, "" if said is None else said.text)
