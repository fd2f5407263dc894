"""A cancel ends all that is under its task, on every agent and at every depth; agents may clean up; whoever crosses it is told the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from msgspec import structs
from peers import Place, client

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import Bus, EmbeddedServer, Task, TaskCancelled, connect
from agentexecutor.schemas import Plan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode

pytestmark = pytest.mark.anyio

OPEN = ("blocked", "ready", "awarded", "running", "calling", "parked", "stalled")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what happens in another task or thread."""
    with anyio.fail_after(30):
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

    def agent(self, name: str, capacity: int = 8) -> Agent:
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
async def offers(server: EmbeddedServer) -> Any:
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
    async with connect(server.url, name="me") as bus, works.agent("left", 4).serve(bus), works.agent("right", 4).serve(bus):
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
