"""Handlers that end in ways that are hard to tell: nothing of it may keep a task open for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentexecutor.agents import Agent, ChildFailed, Context, Fail, Retry
from agentexecutor.bus import TaskFailed, connect
from agentexecutor.schemas import Plan, PlanRefused, Ref, Subtask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentexecutor.bus import Bus, EmbeddedServer

pytestmark = pytest.mark.anyio

agent = Agent("worker", capacity=4)


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as connected:
        yield connected


RAISED: dict[str, Callable[[], BaseException]] = {
    "large message": lambda: Fail("x" * 300_000),
    "large details": lambda: Fail("too much", text="x" * 10_000_000, number=7),
    "message that is no text": lambda: Fail(b"\xff"),  # type: ignore[arg-type]
    "lone surrogate": lambda: ValueError("a \ud800 b"),
    "large exception": lambda: ValueError("x" * 10_000_000),
    "cancelled from inside": asyncio.CancelledError,
    "exit": lambda: SystemExit(2),
    "retry yesterday": lambda: Retry("again", after_s=-1),
}
SCHEDULES = {"negative schedule": [("fit", -1.0)], "endless schedule": [("step", 1.0)] * 20_000}


@agent.capability("end")
async def end(ctx: Context, how: str) -> str:
    if how in RAISED:
        raised = RAISED[how]()
        raise raised
    if how in SCHEDULES:
        await ctx.schedule(*SCHEDULES[how])
    ctx.progress(0.5, "x" * 10_000_000)
    return "told"


@agent.capability("nan")
async def give_nan() -> dict[str, Any]:
    return {"losses": [1.0, float("nan")]}


ENDS = [
    ("large message", r"xxx \.\.\. \(300000 characters\)"),
    ("large details", "too much"),
    ("message that is no text", r"b'\\xff'"),
    ("lone surrogate", r"a \\ud800 b"),
    ("large exception", r"\(10000012 characters\)"),
    ("cancelled from inside", "raised CancelledError"),
    ("exit", "SystemExit: 2"),
    ("retry yesterday", "0 or more"),
    ("negative schedule", "This is no schedule"),
    ("endless schedule", "This is no schedule"),
]


async def test_whatever_a_handler_ends_with_ends_the_task(bus: Bus) -> None:
    async with agent.serve(bus):
        for how, message in ENDS:
            with pytest.raises(TaskFailed, match=message) as failed:
                await bus.run("end", {"how": how}, retries=0)
            if how == "large details":
                assert failed.value.error.details["text"] == "(10000002 bytes, left out)"
                assert failed.value.error.details["number"] == 7
        with pytest.raises(TaskFailed, match="holds nan"):
            await bus.run("nan", retries=0)
        with pytest.raises(PlanRefused, match="holds inf"):
            await bus.run("end", {"how": float("inf")})
        assert await bus.run("end", {"how": "large progress"}) == "told", "progress that cannot be sent is lost, nothing else"


async def test_large_bodies_of_children_and_results_travel_by_reference(bus: Bus) -> None:
    parent = Agent("parent", capacity=2)

    @parent.capability("parent")
    async def outer(ctx: Context, size: int) -> int:
        child = await ctx.submit("double", {"text": "é" * size})
        return len(await child.result(str))

    @parent.capability("double")
    async def double(text: str) -> str:
        return text * 2

    async with parent.serve(bus):
        for size in (150_000, 5_000_000):
            assert await bus.run("parent", {"size": size}) == 2 * size
            plan = Plan({"first": Subtask("double", {"text": "é" * size}), "second": Subtask("double", {"text": Ref("first")})})
            assert len(await bus.run(plan, type=str)) == 4 * size


async def test_a_child_that_no_coordinator_takes_fails(bus: Bus) -> None:
    parent = Agent("parent")

    @parent.capability("parent")
    async def outer(ctx: Context) -> str:
        child = await ctx.submit("double", {"text": Ref("nobody")})
        try:
            return str(await child.result(str))
        except ChildFailed as error:
            return str(error)

    async with parent.serve(bus):
        assert "'nobody'" in await bus.run("parent", type=str)
