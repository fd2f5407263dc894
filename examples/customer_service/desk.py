"""The staff's side: which turns wait for a person, and their answers. The same is done by ``agentexecutor feedback`` on the command line."""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple

from agentexecutor.bus import Bus
from agentexecutor.schemas import Feedback

__all__ = ["Request", "answer", "told", "waiting"]

ASKED = "service.person"
MOST = 200


class Request(NamedTuple):
    """A turn that waits for a person: its task, the subtask that waits, and when it was submitted."""

    task: str
    subtask: str
    at: str


async def waiting(bus: Bus, owner: str | None = None) -> list[Request]:
    """All that waits for a person, the oldest first; `owner`: of these customers only."""
    found: list[Request] = []
    for line in reversed((await bus.tasks(states=["waiting"], owner=owner, limit=MOST)).tasks):
        view = await bus.task(line.task).view()
        asked = [name for name, subtask in view.subtasks.items() if subtask.capability == ASKED and subtask.state == "approval"]
        found += [Request(line.task, name, line.at) for name in asked]
    return found


async def told(bus: Bus, request: Request) -> str:
    """What the person is told: what the customer asks, what was answered, and how to answer."""
    async with aclosing(bus.task(request.task).events()) as events:
        async for event in events:
            if event.kind == "asked" and event.subtask == request.subtask:
                return str(event.data.get("text", ""))
    return ""  # it has ended meanwhile


async def answer(bus: Bus, request: Request, text: str) -> None:
    """A person's answer; the customer hears it, and the knowledge base learns it."""
    await bus.task(request.task).feedback(Feedback("revise", text, request.subtask))
