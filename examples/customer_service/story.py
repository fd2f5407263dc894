"""The scripted mode: lines that are played as customers, the staff, and misfortune. Prints the conversation as it would be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
from examples.customer_service import desk
from examples.customer_service.crew import Crew
from examples.customer_service.talk import Conversation, Reply
from rich.markup import escape

from agentexecutor.bus import Bus
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["STORY", "play"]

STORY = """\
# Ada has a problem, and is not easily content
Ada: Hello
Ada: My laptop's screen is totally black
Ada: no
Ada: no
staff: Hold the power button for 20 seconds, then start it with the charger plugged in.
Ada: yes
# orders: the number is remembered by the conversation, not by a process
Ada: Where is my order #1042?
kill: dialogue
Ada: and what did I pay for it?
Ada: thanks
# Alan has the same problem, in his own words
Alan: my laptop screen stays totally black
Alan: yes
Alan: Who wrote the Odyssey?
Alan: no thanks
"""
ANSWER_S = 120.0
UNTRACED = "not recorded (set OTEL_EXPORTER_OTLP_ENDPOINT)"


class StoryError(AgentExecutorError):
    """A line of a script cannot be played."""


async def play(bus: Bus, crew: Crew, script: Iterable[str], say: Callable[[str], None]) -> dict[str, list[Reply]]:
    """Play a script; gives the replies by customer. Raises StoryError, TimeoutError when an answer does not come."""
    customers: dict[str, Conversation] = {}
    heard: dict[str, list[Reply]] = {}
    waits: Conversation | None = None
    for number, line in enumerate((line.strip() for line in script), 1):
        who, colon, text = line.partition(":")
        if not line or line.startswith("#"):
            say(f"[bold]{escape(line.lstrip('# '))}[/]" if line else "")
            continue
        if not colon:
            raise StoryError(
                f"Line {number} of the script says nothing: {line!r}.", hint="Write `Name: text`, `staff: text` or `kill: agent`."
            )
        who, text = who.strip(), text.strip()
        if who == "kill":
            if text not in crew.running:
                raise StoryError(f"Line {number} of the script kills {text!r}.", hint=f"There are {', '.join(crew.running)}.")
            crew.kill(text)
            say(f"[yellow]>>> kill -9 {text}[/]")
            continue
        if who == "staff":
            await _answer(bus, text, say)
            if waits is None:
                raise StoryError(f"Nobody waits for the staff in line {number}.", hint="Have a customer say `person` first.")
            conversation, who = waits, next(name for name, one in customers.items() if one is waits)
            with anyio.fail_after(ANSWER_S):
                reply = await conversation.wait()
        else:
            conversation = customers.setdefault(who, Conversation(bus))
            say(escape(f"{who:>8}: {text}"))
            with anyio.fail_after(ANSWER_S):
                reply = await conversation.say(text)
        heard.setdefault(who, []).append(reply)
        _tell(reply, say)
        waits = conversation if reply.waits else None
    for who, conversation in customers.items():
        await conversation.done()
        say(f"[dim]The trace of {escape(who)}'s conversation: {conversation.trace_id or UNTRACED}[/]")
    return heard


async def _answer(bus: Bus, text: str, say: Callable[[str], None]) -> None:
    request = (await desk.waiting(bus, bus.name))[-1:]
    for one in request:
        say(f"[dim]   staff reads: {escape(await desk.told(bus, one))}[/]")
        say(f"[magenta]   staff: {escape(text)}[/]")
        await desk.answer(bus, one, text)


def _tell(reply: Reply, say: Callable[[str], None]) -> None:
    say(f"[cyan] service: {escape(reply.text)}[/]")
    if reply.question:
        say(f"[cyan]          {reply.question}[/]  [dim]{reply.source}, {1000 * reply.took_s:.0f} ms[/]")
