"""The terminal chat. Type what a customer would; `/staff TEXT` answers as the staff would, `/kill AGENT` kills a box in mid-conversation."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread
from examples.customer_service import desk
from examples.customer_service.crew import Crew
from examples.customer_service.talk import Conversation, Reply
from rich.markup import escape

from agentexecutor.bus import Bus
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["chat", "typed"]

HELP = "/staff TEXT answers as a person of the staff, /kill AGENT kills a process, /agents names them, /quit or Ctrl-D ends."


async def typed() -> AsyncIterator[str]:
    """Lines from the terminal, until its end."""
    while True:
        print("> ", end="", flush=True)
        line = await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            return
        yield line.rstrip("\n")


async def chat(bus: Bus, crew: Crew, lines: AsyncIterator[str], say: Callable[[str], None]) -> None:
    """Talk until the lines end."""
    say(f"Ask about a computer or an order (#1001 to #1200), or just chat. {HELP}")
    async with Conversation(bus) as conversation, anyio.create_task_group() as group:
        async for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word in ("/quit", "/exit"):
                break
            with _telling_errors(say):
                if word == "/agents":
                    say(", ".join(crew.running))
                elif word == "/kill" and rest:
                    say(_kill(crew, rest.strip()))
                elif word == "/staff":
                    await _staff(bus, rest.strip(), say)
                elif word.startswith("/"):
                    say(HELP)
                else:
                    await _say(conversation, line, say, group)
        group.cancel_scope.cancel()


@contextmanager
def _telling_errors(say: Callable[[str], None]) -> Iterator[None]:
    """What goes wrong is a line of the chat, not its end."""
    try:
        yield
    except AgentExecutorError as error:
        say(f"[red]{escape(str(error))}[/]")


async def _say(conversation: Conversation, line: str, say: Callable[[str], None], group: anyio.abc.TaskGroup) -> None:
    reply = await conversation.say(line)
    _tell(reply, say)
    if reply.waits:
        say("[dim]/staff TEXT answers in the colleague's place; you can go on meanwhile.[/]")
        group.start_soon(_later, conversation.part(), say)


async def _later(waiting: Conversation, say: Callable[[str], None]) -> None:
    """The colleague's answer, whenever it comes; the customer may speak of something else meanwhile."""
    with _telling_errors(say):
        async with waiting:
            reply = await waiting.wait()
            say(f"\n[cyan]{escape(reply.text)}[/]")


async def _staff(bus: Bus, text: str, say: Callable[[str], None]) -> None:
    requests = await desk.waiting(bus)
    if not requests:
        say("Nobody waits for the staff.")
    elif not text:
        for request in requests:
            say(f"{request.task}: {escape(await desk.told(bus, request))}")
    else:
        await desk.answer(bus, requests[0], text)


def _kill(crew: Crew, name: str) -> str:
    if name not in crew.running:
        return f"There is no {escape(repr(name))}. There are {', '.join(crew.running)}."
    crew.kill(name)
    return f"{name} is killed; it is started again, and what it held is done again."


def _tell(reply: Reply, say: Callable[[str], None]) -> None:
    say(f"[cyan]{escape(reply.text)}[/]" + (f"\n[cyan]{reply.question}[/]" if reply.question else ""))
