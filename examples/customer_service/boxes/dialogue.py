"""The dialogue engine (对话引擎): opens a turn with what was said before, and writes its answer down. All of it is in the diary, nothing in this process."""

from __future__ import annotations

from examples.customer_service import diary
from examples.customer_service.kit import box
from examples.customer_service.shapes import Answer, Intent, Turn
from examples.customer_service.texts import LONGEST

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("dialogue")
READ = 4 * LONGEST
"""Characters that are handed on; what is longer is cut off here, and whoever understands it tells the customer."""


@agent.capability("dialogue.open", estimate_s=0.004)
def open_turn(ctx: Context, conversation: str, text: str) -> Turn:
    """The turn with the last ones before it."""
    read = text[:READ].encode(errors="replace").decode()
    return Turn(conversation=conversation, text=read, earlier=diary.open_turn(ctx.task, conversation, read))


@agent.capability("dialogue.note", estimate_s=0.004)
def note(ctx: Context, intent: Intent, answer: Answer) -> bool:
    """The turn's answer is written down."""
    diary.close_turn(ctx.task, intent.name, intent.order, answer.text)
    return True
