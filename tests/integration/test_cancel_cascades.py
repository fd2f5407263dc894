"""A cancel ends all that is under its task, on every agent and at every depth; agents may clean up; whoever crosses it is told the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partialmethod
from typing import Any

import anyio
import pytest
from peers import Place, client

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import EmbeddedServer, Task, TaskCancelled, connect
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import Plan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what happens in another task or thread."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


class Works:
    """Handlers that never end by themselves, and what became of each."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.cancelled: set[str] = set()
        self.cleaned: set[str] = set()
        self.may_clean = asyncio.Event()

    async def wait(self, ctx: Context, *children: str) -> None:
        """Add the children and wait for them, or for ever; clean up when that is cancelled, which takes several steps."""
        self.began.append(ctx.subtask)
        try:
            for capability in children:
                await ctx.submit(capability)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.add(ctx.subtask)
            await self.may_clean.wait()
            await asyncio.sleep(0)
            self.cleaned.add(ctx.subtask)
            raise

    def agent(self, name: str, capacity: int = 16) -> Agent:
        agent = Agent(name, capacity=capacity)

        @agent.capability("share")
        async def share(ctx: Context, texts: list[str]) -> None:
            await self.wait(ctx)

        @agent.capability("top")
        async def top(ctx: Context) -> None:
            await self.wait(ctx, "middle", "nobody.does")

        @agent.capability("middle")
        async def middle(ctx: Context) -> None:
            await self.wait(ctx, "leaf", "leaf")

        @agent.capability("leaf")
        async def leaf(ctx: Context) -> None:
            await self.wait(ctx)

        return agent


DEEP = Plan(
    {
        "split": Subtask("share", {"texts": ["a", "b", "c", "d"]}, split=Split(over="texts", into=4, merge="merge")),
        "top": Subtask("top"),
        "unserved": Subtask("nobody.does"),
        "later": Subtask("leaf", after=["top"]),
    }
)
HANDLED = {"split-1", "split-2", "split-3", "split-4", "top", "top-1", "top-1-1", "top-1-2"}
REST = {"split", "split-merge", "top-2", "unserved", "later"}


@pytest.fixture
async def offers(server: EmbeddedServer) -> AsyncIterator[dict[str, m.Offer]]:
    """The last offer of each agent, as it comes by."""
    heard: dict[str, m.Offer] = {}
    async with client(Place(server.url), "looker") as looker:

        async def came(message: Any) -> None:
            offer = decode("offer", message.data)
            assert isinstance(offer, m.Offer)
            heard[looker.subjects.last_token(message.subject)] = offer

        await looker.connection.subscribe(looker.subjects.all_offers(), came)
        await looker.connection.nats.flush()
        yield heard


def named(offers: dict[str, m.Offer], task: str) -> Iterator[str]:
    """What the offers name of a task."""
    return (running.subtask for offer in offers.values() for running in offer.running if running.task == task)


async def kinds(task: Task) -> list[str]:
    return [event.kind async for event in task.events()]


async def test_a_cancel_reaches_every_depth(server: EmbeddedServer, offers: dict[str, m.Offer]) -> None:
    works = Works()
    async with connect(server.url, name="me") as bus, works.agent("left").serve(bus), works.agent("right").serve(bus):
        await until(lambda: len(offers) == 2)
        task = await bus.submit(DEEP, id="t1")
        await until(lambda: set(works.began) == HANDLED and set(named(offers, "me.t1")) == HANDLED)
        before = await task.view()
        assert {before.subtasks[name].agent for name in HANDLED} == {"left", "right"}
        await task.cancel("changed my mind")
        with pytest.raises(TaskCancelled, match="changed my mind"):
            await task.result(timeout_s=20)
        await until(lambda: works.cancelled == HANDLED)
        assert not works.cleaned, "they are still cleaning up, and are let do so"
        works.may_clean.set()
        await until(lambda: works.cleaned == HANDLED)
        await until(lambda: not list(named(offers, "me.t1")))
        view = await task.view()
        assert view.state == "cancelled"
        assert {name: subtask.state for name, subtask in view.subtasks.items()} == dict.fromkeys(HANDLED | REST, "cancelled")
        assert sorted(works.began) == sorted(HANDLED), "nothing began afterwards"
        assert (await kinds(task))[-1] == "cancelled"


async def test_who_does_not_end_within_the_grace_is_given_up(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cleans up for too long, one ignores every cancel, one blocks a thread: each gives its slot and its name in the offer back."""
    ending, leave = threading.Event(), asyncio.Event()
    began, ended = set[str](), set[str]()
    agent = Agent("worker", capacity=3)

    @agent.capability("cleans.for.ever")
    async def cleans(ctx: Context) -> None:
        began.add("cleans")
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                ended.add("cleans")

    @agent.capability("ignores")
    async def ignores(ctx: Context) -> str:
        began.add("ignores")
        while not leave.is_set():
            with suppress(asyncio.CancelledError):
                await leave.wait()
        ended.add("ignores")
        return "done after all"

    @agent.capability("blocks")
    def blocks(ctx: Context) -> str:
        began.add("blocks")
        ending.wait()
        ended.add("blocks")
        return str(ctx.cancelled)

    @agent.capability("quick")
    async def quick() -> str:
        return "quick"

    monkeypatch.setattr(Settings, "__init__", partialmethod(Settings.__init__, grace_s=0.5))
    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        try:
            names = ["cleans.for.ever", "ignores", "blocks"]
            task = await bus.submit(Plan({name.split(".")[0]: Subtask(name) for name in names}))
            await until(lambda: len(began) == 3)
            await task.cancel("enough")
            assert len(hosting.book.held) == 3, "they have their grace"
            assert hosting.slots.free == 0
            await until(lambda: not hosting.book.held)
            assert ended == {"cleans"}
            assert hosting.slots.free == 3
            assert [await bus.run("quick") for _ in range(3)] == ["quick"] * 3
        finally:
            ending.set()
            leave.set()
        await until(lambda: len(ended) == 3)
        assert hosting.slots.free == 3, "no slot is given back twice"
        assert (await task.view()).state == "cancelled"
        assert await bus.run("quick") == "quick"


async def test_a_cancelled_parent_waits_for_no_slot(server: EmbeddedServer) -> None:
    """It gave its slot back while it waited for children, and others have it now: it cleans up nevertheless."""
    agent = Agent("worker", capacity=1)
    took, cleaned, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent.capability("parent")
    async def parent(ctx: Context) -> None:
        children = [await ctx.submit("nobody.does") for _ in range(2)]
        try:
            await asyncio.gather(*(child.result() for child in children))
        finally:
            cleaned.set()

    @agent.capability("long")
    async def long() -> str:
        took.set()
        await leave.wait()
        return "long"

    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        task = await bus.submit("parent")
        await until(lambda: any(held.state == "waiting" for held in hosting.book.held.values()))
        other = await bus.submit("long")
        await took.wait()
        assert hosting.load().running == 1, "two results are waited for, one slot was given back"
        await task.cancel()
        with anyio.fail_after(20):
            await cleaned.wait()
        await until(lambda: [held.award.task for held in hosting.book.held.values()] == [other.name])
        leave.set()
        assert await other.result(timeout_s=20) == "long"
        assert hosting.slots.free == 1


async def test_a_blocking_handler_sees_that_it_is_cancelled(server: EmbeddedServer) -> None:
    """It keeps its slot until it has ended, which it may take its grace for."""
    agent = Agent("worker")
    began, cleaning, ending = threading.Event(), threading.Event(), threading.Event()

    @agent.capability("blocks")
    def blocks(ctx: Context) -> str:
        began.set()
        while not ctx.cancelled:
            ending.wait(0.01)
        cleaning.set()
        ending.wait()
        return "too late"

    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        task = await bus.submit("blocks")
        await until(began.is_set)
        await task.cancel()
        await until(cleaning.is_set)
        assert hosting.slots.free == 0
        ending.set()
        await until(lambda: hosting.slots.free == 1 and not hosting.book.held)
        with pytest.raises(TaskCancelled):
            await task.result(timeout_s=20)
