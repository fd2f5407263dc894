"""examples/customer_service as processes: every box and a coordinator is killed while it holds work of a conversation, and the conversation goes on."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from io import StringIO
from pathlib import Path

import anyio
import pytest
from examples.customer_service import desk
from examples.customer_service.crew import COORDINATORS, Crew, CrewFailed, crew
from examples.customer_service.files import VARIABLE
from examples.customer_service.roles import ROLES
from examples.customer_service.setting_up import set_up
from examples.customer_service.story import STORY, StoryError, play
from examples.customer_service.talk import Conversation, Reply
from rich.console import Console

from agentexecutor.bus import Bus, connect, embedded_server
from agentexecutor.console import lifeline

pytestmark = pytest.mark.anyio

LONG = 300
README = Path(__file__).parents[2] / "examples" / "customer_service" / "README.md"


async def kill_at_work(bus: Bus, group: Crew, names: set[str], task: str) -> None:
    """The named agents stand still, so none can end what it is awarded; each is killed once it holds work of the task."""
    left = set(names)
    async with aclosing(bus.task(task).events()) as events:
        async for event in events:
            if event.kind == "awarded" and event.agent in left:
                left.remove(event.agent)
                group.kill(event.agent)
            if not left:
                return
    raise AssertionError(f"The task has ended, and these held nothing of it: {left}")


async def killing(bus: Bus, group: Crew, conversation: Conversation, names: set[str], talk: asyncio.Task[Reply]) -> Reply:
    """The reply of what is being said while these agents are killed at their work."""
    while conversation.task is None:
        await anyio.sleep(0.01)  # it is submitted in a moment
    await kill_at_work(bus, group, names, conversation.task)
    return await talk


async def test_every_box_dies_once_in_one_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("AGENTEXECUTOR_SETTINGS", "lost_after_s=120,heartbeat_s=80")  # who stands still shall get work all the same
    set_up(all_of_it=True)
    with anyio.fail_after(LONG):
        async with embedded_server() as server, connect(server.url, name="customers") as bus, crew(bus) as group:
            printed = StringIO()
            heard = await play(bus, group, STORY.splitlines(), Console(file=printed, highlight=False, soft_wrap=True).print)
            told_in_the_story(heard)
            the_readme_shows(printed.getvalue())
            with pytest.raises(StoryError, match="Line 1"):
                await play(bus, group, ["nothing"], lambda _line: None)
            with pytest.raises(StoryError, match="nobody"):
                await play(bus, group, ["# a line with [/] in it", "kill: nobody"], Console(file=printed).print)
            assert "a line with [/] in it" in printed.getvalue()
            before = dict(group.deaths)
            conversation = Conversation(bus)
            first = {"service", "dialogue", "understanding", "recogniser", "intent-matcher"}
            first |= {"knowledge-matcher", "knowledge-base", "reasoner", "response", "feedback-generator"}
            for name in first:
                group.freeze(name)
            reply = await killing(bus, group, conversation, first, asyncio.create_task(conversation.say("how do I pair my new headset")))
            assert reply.source == "nothing"
            assert (await conversation.say("yes")).waits
            rest = {"feedback-manager", "knowledge-store", "knowledge-updater"}
            for name in rest:
                group.freeze(name)
            (request,) = await desk.waiting(bus)
            await desk.answer(bus, request, "Hold its button until it blinks.")
            reply = await conversation.wait()
            assert reply.text == "A colleague says: Hold its button until it blinks."
            task = conversation.task
            assert task is not None
            await conversation.say("yes")
            await kill_at_work(bus, group, rest, task)
            assert (await bus.task(task).result())["helped"] is True
            orders = {"query-engine", "cache", "database"}
            for name in orders:
                group.freeze(name)
            reply = await killing(bus, group, conversation, orders, asyncio.create_task(conversation.say("where is my order #1042")))
            assert "Order 1042" in reply.text
            group.kill(COORDINATORS[0])
            assert "Order 1042" in (await conversation.say("what did I pay for it")).text
            assert (await conversation.say("how do i pair a new headset")).found == "Hold its button until it blinks."
            await conversation.done()
            killed = {name for name, deaths in group.deaths.items() if deaths > before.get(name, 0)}
            assert killed == {COORDINATORS[0], *(role.name for role in ROLES)}
    assert all(process.returncode is not None for process in group.running.values())


def told_in_the_story(heard: dict[str, list[Reply]]) -> None:
    """Ada needs a person, and what he says is Alan's answer at once; a killed dialogue engine does not make the service forget her order."""
    ada, alan = heard["Ada"], heard["Alan"]
    assert ada[3].waits
    assert ada[4].text.startswith("A colleague says: Hold the power button")
    assert "Order 1042" in ada[6].text
    assert "euros" in ada[7].text
    assert alan[0].found == ada[4].text.removeprefix("A colleague says: ")
    assert alan[2].source == "nothing"


def the_readme_shows(printed: str) -> None:
    """All that the story prints, but for times, traces and the names of tasks."""

    def without_chance(text: str) -> str:
        traceless = re.sub(r"(The trace of \w+'s conversation:).*", r"\1", text)
        return re.sub(r"[\d,]+ ms\b", "? ms", re.sub(r"customers\.[0-9a-f]+", "customers.?", traceless))

    assert without_chance(printed) in without_chance(README.read_text(encoding="utf-8")), (
        "examples/customer_service/README.md shows another story"
    )


async def test_a_box_that_cannot_start_is_told_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "logs").mkdir()
    with (
        lifeline.held() as line,
        anyio.fail_after(LONG),
        pytest.raises(CrewFailed, match=r"(?s)nobody ended with code 2.*There is no module"),
    ):
        await Crew("nats://127.0.0.1:1", line).keep("nobody", ["agent", "examples.customer_service.nothing:agent"])
