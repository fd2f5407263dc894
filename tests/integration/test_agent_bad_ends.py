"""Handlers that end in ways that are hard to tell: nothing of it may keep a task open for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from agentexecutor.agents import Agent, AgentError, ChildFailed, Context, Fail, Retry
from agentexecutor.bus import TaskFailed, TaskRefused, connect, embedded_server
from agentexecutor.schemas import Feedback, Plan, PlanRefused, Ref, Subtask, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agentexecutor.bus import Bus, EmbeddedServer

pytestmark = pytest.mark.anyio

agent = Agent("worker", capacity=4)


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as connected:
        yield connected


class Unsayable(Exception):
    """It cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(BaseException):
    """Neither an Exception nor a cancel."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "large message": lambda: Fail("x" * 300_000),
    "large details": lambda: Fail("too much", text="x" * 10_000_000, number=7),
    "message that is no text": lambda: Fail(b"\xff"),  # type: ignore[arg-type]
    "lone surrogate": lambda: ValueError("a \ud800 b"),
    "large exception": lambda: ValueError("x" * 10_000_000),
    "cancelled from inside": asyncio.CancelledError,
    "exit": lambda: SystemExit(2),
    "no words": Unsayable,
    "no exception": lambda: Odd("odd"),
    "retry yesterday": lambda: Retry("again", after_s=-1),
}
SCHEDULES: dict[str, list[Any]] = {
    "negative schedule": [("fit", -1.0)],
    "endless schedule": [("step", 1.0)] * 20_000,
    "schedule of text": [("fit", "1")],
    "long names": [("\ud800" * 300_000, 1.0)] * 10,
}


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
    ("large exception", r"\(10000000 characters\)"),
    ("cancelled from inside", "raised CancelledError"),
    ("exit", "SystemExit: 2"),
    ("no words", "Unsayable: a Unsayable that cannot say what it is"),
    ("no exception", "Odd: odd"),
    ("retry yesterday", "0 or more"),
    ("negative schedule", r"\('fit', -1.0\) is no step"),
    ("schedule of text", "is no step"),
    ("endless schedule", "20000 steps is too long"),
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
        assert await bus.run("end", {"how": "long names"}) == "told"
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


@pytest.mark.parametrize(("options", "message"), [({}, "'nobody'"), ({"award": "by-beauty"}, "no award policy 'by-beauty'")])
async def test_a_child_that_no_coordinator_takes_fails(bus: Bus, options: dict[str, Any], message: str) -> None:
    parent = Agent("parent")

    @parent.capability("parent")
    async def outer(ctx: Context) -> str:
        child = await ctx.submit("double", {"text": "a" if options else Ref("nobody")}, **options)
        try:
            return str(await child.result(str))
        except ChildFailed as error:
            return str(error)

    async with parent.serve(bus):
        assert message in await bus.run("parent", type=str)


@pytest.mark.parametrize(
    "wrong", [{"capacity": 2_000_000}, {"capacity": 1.5}, {"capacity": 0}, {"labels": {1: 2}}, {"labels": {"x": "x" * 2_000_000}}]
)
async def test_an_agent_that_no_coordinator_could_hear_says_so(bus: Bus, wrong: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match=r"capacity|labels|offers"):
        async with _offering(wrong).serve(bus):
            pass


def _offering(wrong: dict[str, Any]) -> Agent:
    made = Agent("wrong", **wrong)
    made.capability("c")(lambda: None)
    return made


def test_estimates_and_costs_are_numbers() -> None:
    for wrong in ({"estimate_s": -1}, {"estimate_s": float("nan")}, {"cost": "much"}):
        with pytest.raises(AgentError, match="It is a number"):
            Agent("wrong").capability("c", **wrong)


@pytest.mark.parametrize("size", [300_000, 10_000_000])
async def test_what_cannot_travel_by_reference_is_refused_with_its_name(bus: Bus, size: int) -> None:
    async with agent.serve(bus):
        task = await bus.submit("end", {"how": "large progress"})
        with pytest.raises(TooLarge, match=r"The feedback has \d+ bytes, more than 262144"):
            await task.feedback(Feedback(text="x" * size))
        with pytest.raises(TooLarge, match="The feedback"):
            await task.feedback(Feedback(data=["x" * size]))
        with pytest.raises(TooLarge, match="The cancel"):
            await bus.task("me.another").cancel("x" * size)
        with pytest.raises(TooLarge, match=r"most of them .* the labels"):
            await bus.submit("end", {"how": "x"}, labels={"x": "x" * size})
        with pytest.raises(TooLarge, match=r"most of them .* the critics"):
            await bus.submit("end", {"how": "x"}, critics=["x" * size])
        with pytest.raises(PlanRefused, match="The feedback cannot be sent"):
            await task.feedback(Feedback(text="\ud800"))
        with pytest.raises(TaskRefused, match="cannot be submitted"):
            await bus.submit("end", {"how": "x"}, labels={"x": "\ud800"})
        assert await task.result(str) == "told"


async def test_agents_go_on_after_an_outage(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as first:
        port, url = first.port, first.url
        bus_context = connect(url, name="me")
        bus = await bus_context.__aenter__()
        go, all_ready, ready = anyio.Event(), anyio.Event(), 0
        worker = Agent("worker", capacity=4)

        @worker.capability("wait")
        async def wait(n: int) -> str:
            nonlocal ready
            await go.wait()
            ready += 1
            if ready == 4:
                all_ready.set()
            return str(n) * 300_000

        serving = worker.serve(bus)
        await serving.__aenter__()
        tasks = [await bus.submit("wait", {"n": n}) for n in range(4)]
        for task in tasks:
            while (found := (await task.view()).subtasks.get("main")) is None or found.state != "running":  # none while its submit waits
                await anyio.sleep(0.05)
    go.set()  # the results are ready while the server is away
    await all_ready.wait()
    async with embedded_server(tmp_path, port=port):
        for n, task in enumerate(tasks):
            assert await task.result(str, timeout_s=60) == str(n) * 300_000
            assert len((await task.view()).subtasks["main"].attempts) == 1
        await serving.__aexit__(None, None, None)
        await bus_context.__aexit__(None, None, None)
