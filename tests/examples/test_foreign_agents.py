"""The agents in other languages on a real bus, with a real coordinator: results, failures, cancels, feedback, and the end in good order."""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from foreign import built, environment, tool, wired
from peers import Place, coordinating
from programs import killed

from agentexecutor.bus import TaskCancelled, TaskFailed, connect
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas.plans import Feedback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process

    from agentexecutor.bus.client import Bus
    from agentexecutor.bus.server import EmbeddedServer
    from agentexecutor.bus.task import Task

pytestmark = pytest.mark.anyio

PATIENCE_S = 200


@pytest.fixture(params=["node", "c"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "node":
        return [tool("node"), str(request.getfixturevalue("node") / "agent.mjs")]
    return [str(built(tmp_path, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))]


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with coordinating(Place(server.url), settings=Settings()), connect(server.url, name="me") as made:
        with anyio.fail_after(PATIENCE_S):
            yield made


@asynccontextmanager
async def running(command: list[str], bus: Bus) -> AsyncIterator[Process]:
    """The agent, from its first offer on; it ends with 0 on SIGTERM."""
    offered = anyio.Event()

    async def heard(_message: object) -> None:
        offered.set()

    await bus.connection.subscribe(bus.connection.subjects.offer("foreign"), heard)
    await bus.connection.nats.flush()
    env = environment(bus.connection.url, "foreign", AGENTEXECUTOR_CAPABILITY="work")
    async with killed(await anyio.open_process(command, env=env, stdout=None, stderr=None)) as agent:
        with anyio.fail_after(PATIENCE_S):
            await offered.wait()
        yield agent
        agent.terminate()
        assert await agent.wait() == 0


async def work(bus: Bus, **input: Any) -> Any:
    return await bus.run("work", input, retries=0)


class Story:
    """What happened to a task so far: progress is told only while it happens."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._news = anyio.Event()

    async def follow(self, task: Task) -> None:
        async for event in task.events():
            self._events.append(event)
            self._news.set()
            self._news = anyio.Event()

    async def has(self, kind: str, **found: Any) -> Any:
        """The first event of this kind whose data holds this, once it is there."""
        while True:
            for event in self._events:
                if event.kind == kind and found.items() <= event.data.items():
                    return event
            await self._news.wait()


async def heard(task: Task, kind: str) -> None:
    """Wait for a record of this kind."""
    async with aclosing(task.events()) as events:
        async for event in events:
            if event.kind == kind:
                return


async def test_many_tasks(bus: Bus, server: EmbeddedServer, command: list[str]) -> None:
    async with running(command, bus):
        results: dict[int, Any] = {}

        async def one(number: int) -> None:
            results[number] = await work(bus, do="echo", value=[number, "ü" * number])

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        assert results == {number: [number, "ü" * number] for number in range(100)}
        assert await work(bus, do="steps", steps=["load", "fit"], seconds=0.05) == ["load", "fit"]
        assert await work(bus, do="echo", value="x" * 600_000) == "x" * 600_000
        with pytest.raises(TaskFailed, match="out of paper"):
            await work(bus, do="fail", message="out of paper", retryable=False)
        with pytest.raises(TaskFailed, match="echo"):
            await work(bus, do="dance")


async def test_cancelled_work_gives_its_slot_back(bus: Bus, server: EmbeddedServer, command: list[str]) -> None:
    async with running(command, bus):
        for _ in range(6):  # more than it takes at once
            task = await bus.submit("work", {"do": "wait"})
            await heard(task, "accepted")
            await task.cancel()
            with pytest.raises(TaskCancelled):
                await task.result()
        assert await work(bus, do="echo", value=1) == 1


async def test_it_answers_feedback_from_before_the_award_and_after(bus: Bus, server: EmbeddedServer, command: list[str]) -> None:
    task = await bus.submit("work", {"do": "wait"})
    await task.feedback(Feedback(text="use bigrams"))
    story = Story()
    async with anyio.create_task_group() as group:
        group.start_soon(story.follow, task)
        await story.has("submitted")
        async with running(command, bus):
            for text in ("use bigrams", "and trigrams"):
                if text == "and trigrams":
                    await task.feedback(Feedback(text=text))
                said = await story.has("feedback", text=text)
                answer = await story.has("progress", feedback=said.data["id"])
                assert (answer.agent, answer.subtask, answer.data["text"][:6]) == ("foreign", "main", "noted:")
            await task.cancel()
            await story.has("cancelled")


async def test_what_it_holds_when_it_leaves_goes_to_another(bus: Bus, server: EmbeddedServer, command: list[str]) -> None:
    story = Story()
    async with anyio.create_task_group() as group:
        async with running(command, bus):
            task = await bus.submit("work", {"do": "wait"}, retries=0)
            group.start_soon(story.follow, task)
            await story.has("accepted")
        back = await story.has("failed")
        assert (back.data["outcome"], back.data["error"]["details"]["cause"]) == ("retry", "released"), "it uses up no try"
        async with running(command, bus):
            await story.has("awarded", attempt=2)
            await task.cancel()
            await story.has("cancelled")


def test_what_may_not_stand_in_a_subject_is_refused_at_the_start(command: list[str]) -> None:
    for name, capability, rule in [
        ("web.1", "work", '"web.1" is no name: 1 to 64 of A-Z a-z 0-9 _ -'),
        ("a b.c", "work", '"a b.c" is no name: 1 to 64 of A-Z a-z 0-9 _ -'),
        ("x" * 65, "work", "is no name: 1 to 64 of A-Z a-z 0-9 _ -"),
        ("web-1", "a..b", " is no "),
        ("web-1", "a." * 64 + "a", "128 characters"),
    ]:
        env = environment("nats://127.0.0.1:1", name, AGENTEXECUTOR_CAPABILITY=capability)
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
        assert rule in ran.stderr


async def test_without_a_server_it_says_so_once_and_ends_on_sigterm(command: list[str]) -> None:
    env = environment("nats://127.0.0.1:1", "foreign")
    async with killed(await anyio.open_process(command, env=env)) as agent:
        assert agent.stderr is not None
        with anyio.fail_after(30):
            said = await agent.stderr.receive()
            await anyio.sleep(1)  # it has tried again
            agent.terminate()
            assert await agent.wait() in (0, -signal.SIGTERM)
            said += b"".join([more async for more in agent.stderr])
    assert re.fullmatch(rb"no server at nats://127\.0\.0\.1:1\b.*, trying again\n", said)


async def test_it_works_as_soon_as_there_is_a_server(bus: Bus, server: EmbeddedServer, command: list[str]) -> None:
    async with wired(server.url) as wire:
        wire.cut()
        env = environment(wire.url, "foreign", AGENTEXECUTOR_CAPABILITY="work")
        async with killed(await anyio.open_process(command, env=env)) as agent:
            assert agent.stderr is not None
            with anyio.fail_after(30):
                assert b", trying again" in await agent.stderr.receive()
            wire.mend()
            assert await work(bus, do="echo", value=1) == 1
            agent.terminate()
            assert await agent.wait() == 0
