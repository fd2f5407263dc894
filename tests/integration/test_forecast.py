"""Forecasts on the real bus: what is told of a plan, what is refused, that nothing is kept, and whether it then happens like that."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from peers import a_place, client, coordinating
from peers import agent as scripted_agent

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus, EmbeddedServer, NoAnswer, PlanRefused, TaskRefused, blocking, connect, embedded_server
from agentexecutor.bus.streams import BLOBS, LOG, SUBMITS, stream_name
from agentexecutor.coordinator.forecast import make_forecast
from agentexecutor.schemas import Forecast, ForecastLine, Plan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode_as, encode, headers
from agentexecutor.schemas.subjects import NOBODY

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedServer]:
    """One for all tests of this file."""
    async with embedded_server() as running:
        yield running


def worker(name: str, capacity: int = 1, **seconds: float) -> Agent:
    """An agent whose capabilities take just as long as it says."""
    agent = Agent(name, capacity=capacity)
    for capability, work_s in seconds.items():

        async def work(x: Any = None, work_s: float = work_s) -> list[str]:
            await anyio.sleep(work_s)
            return [name]

        agent.capability(capability, estimate_s=work_s)(work)
    return agent


@asynccontextmanager
async def serving(server: EmbeddedServer, *agents: Agent) -> AsyncIterator[Bus]:
    """Agents on a bus of their own, of which the first alone coordinates; all of them are heard."""
    async with a_place(server.url) as place, connect(server.url, name="me", prefix=place.prefix) as bus, AsyncExitStack() as stack:
        for number, agent in enumerate(agents):
            await stack.enter_async_context(agent.serve(bus, coordinate=number == 0))
        with anyio.fail_after(60):
            while len(await bus.agents()) < len(agents):
                await anyio.sleep(0.02)
        yield bus


def order(lines: list[ForecastLine]) -> list[tuple[str, str | None]]:
    return [(line.name, line.agent) for line in lines]


PLAN = Plan(
    {
        "first": Subtask("work", {}, priority=1),
        "second": Subtask("work", {}),
        "third": Subtask("work", {}, after=["first"]),
        "fourth": Subtask("work", {}),
        "sum": Subtask("add", {"x": [1]}, after=["first", "second", "third", "fourth"]),
    }
)


async def test_it_happens_as_foretold(server: EmbeddedServer, measured: Callable[[str], None]) -> None:
    async with serving(server, worker("quick", work=0.2), worker("slow", work=1.2), worker("adder", add=0.2)) as bus:
        forecast = await bus.plan(PLAN, auction="standing")
        assert order(forecast.subtasks) == [
            ("first", "quick"),
            ("second", "slow"),
            ("fourth", "quick"),
            ("third", "quick"),
            ("sum", "adder"),
        ]
        assert [line.start_s for line in forecast.subtasks] == [0.0, 0.0, 0.2, 0.4, 1.2]
        printed = json.loads(str(forecast))
        assert printed["subtasks"][0]["agent"] == "quick"
        assert printed["plan"]["subtasks"]["sum"]["input"]["x"] == [1]
        started = anyio.current_time()
        task = await bus.submit(PLAN, auction="standing")
        awards = [(event.subtask, event.agent) async for event in task.events() if event.kind == "awarded"]
        took = anyio.current_time() - started
        assert awards == order(forecast.subtasks)
        assert forecast.finish_s is not None
        measured(f"forecast {forecast.finish_s:.2f} s, took {took:.2f} s, ratio {took / forecast.finish_s:.2f}")


async def test_shares_go_as_foretold(server: EmbeddedServer) -> None:
    plan = Plan({"s": Subtask("work", {"x": list(range(6))}, split=Split(over="x", merge="join"))})
    async with serving(server, worker("one", work=0.1), worker("two", capacity=2, work=0.1), worker("joiner", join=0.1)) as bus:
        forecast = await bus.plan(plan, auction="standing")
        assert sorted(order(forecast.subtasks)) == [("s-1", "one"), ("s-2", "two"), ("s-merge", "joiner")]
        task = await bus.submit(plan, auction="standing")
        awards = [(event.subtask, event.agent) async for event in task.events() if event.kind == "awarded"]
        assert sorted(awards) == sorted(order(forecast.subtasks))


async def test_nothing_is_executed_and_nothing_is_kept(server: EmbeddedServer) -> None:
    ran: list[str] = []
    agent = Agent("worker")

    @agent.capability("work", estimate_s=1.0, cost=2.0)
    async def work() -> None:
        ran.append("work")

    async with serving(server, agent) as bus:
        forecast = await bus.plan("work")
        (line,) = forecast.subtasks
        assert (line.name, line.capability, line.agent, line.start_s, line.finish_s, line.cost) == ("main", "work", "worker", 0.0, 1.0, 2.0)
        assert (forecast.finish_s, forecast.cost, forecast.unserved) == (1.0, 2.0, [])
        for stream in (SUBMITS, LOG, BLOBS):
            info = await bus.connection.api(f"STREAM.INFO.{stream_name(stream, bus.connection.prefix)}", {})
            assert (info["state"]["messages"], info["state"]["last_seq"]) == (0, 0), stream
        assert (await bus.tasks()).tasks == []
        assert ran == []
        await bus.run(forecast.plan)
        assert ran == ["work"], "the plan that was told can be submitted"


async def test_what_nobody_serves_is_told_with_the_reason(server: EmbeddedServer) -> None:
    async with serving(server, worker("a", work=0.1)) as bus:
        plan = Plan(
            {"sing": Subtask("sing", {}), "then": Subtask("work", {}, after=["sing"]), "eu": Subtask("work", {}, labels={"zone": "eu"})}
        )
        forecast = await bus.plan(plan)
        assert [(line.name, line.agent, line.reason) for line in forecast.subtasks] == [
            ("sing", None, "no agent offers sing"),
            ("then", None, "waits for sing"),
            ("eu", None, "none of the 1 agents that offer it fits: labels (1)"),
        ]
        assert (forecast.finish_s, forecast.unserved) == (None, ["sing", "work"])


async def test_what_cannot_run_is_refused(server: EmbeddedServer) -> None:
    async with serving(server, worker("a", work=0.1)) as bus:
        forecast = await bus.plan(Plan({"a": Subtask("work", {}), "b": Subtask("work", {}, after=["a"])}))
        edited = dict(forecast.plan.subtasks)
        edited["a"] = msgspec.structs.replace(edited["a"], after=["b"])
        cycle = m.PlanSpec(subtasks=edited)
        for command in (bus.plan, bus.submit):
            with pytest.raises(PlanRefused, match="cycle: a -> b -> a") as refused:
                await command(cycle)
            assert refused.value.fields["path"] == ["a", "b", "a"]
        with pytest.raises(PlanRefused, match="no award policy 'nonsense'"):
            await bus.plan("work", award="nonsense")
        with pytest.raises(TaskRefused, match="priority"):
            await bus.plan("work", priority=10**9)
        with pytest.raises(TypeError, match="prio"):
            await bus.plan("work", prio=1)


async def test_a_coordinator_refuses_what_a_client_did_not_check(server: EmbeddedServer) -> None:
    async with a_place(server.url) as place, coordinating(place), scripted_agent(place, "a1", "work"), client(place) as me:
        await me.until_agents(1)
        cycle = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="work", after=["a"])})
        gone = m.BlobRef(digest="0" * 64, bytes=3, chunks=1)
        for submit, said, details in (
            (m.Submit(plan=cycle), "cycle: a -> a", {"path": ["a", "a"]}),
            (m.Submit(goal="be happy"), "be happy", {"path": []}),
            (m.Submit(plan_blob=gone), "is gone", {}),
            (None, "A forecast needs a submit", {}),
        ):
            error = (await me.ask("forecast", submit=submit)).error
            assert error.code == "input"
            assert said in error.message
            assert error.details == details
        stored = await me.put(NOBODY, m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="work")}))
        answer = await me.ask("forecast", submit=m.Submit(plan_blob=stored))
        assert [line.agent for line in decode_as(Forecast, answer.body).subtasks] == ["a1"]


async def test_large_inputs_and_large_plans(server: EmbeddedServer) -> None:
    async with serving(server, worker("a", capacity=1000, work=0.001)) as bus:
        text = "x" * 300_000
        forecast = await bus.plan("work", {"x": text})
        assert bytes(forecast.plan.subtasks["main"].input) == encode({"x": text}), "with the input, so that it can be submitted"
        assert await bus.run(forecast.plan) == ["a"]
        wide = Plan({f"s{number}": Subtask("work", {"x": "y" * 100}) for number in range(3000)})
        forecast = await bus.plan(wide)
        assert len(encode(forecast)) > 500_000
        assert {line.agent for line in forecast.subtasks} == {"a"}
        assert forecast.plan == wide.spec()


async def test_a_long_forecast_is_made_once_and_holds_nothing_up(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    go_on = threading.Event()

    def slow(*arguments: Any) -> Any:
        made.append(arguments)
        assert go_on.wait(20)
        return make_forecast(*arguments)

    monkeypatch.setattr("agentexecutor.coordinator.errands.make_forecast", slow)
    async with a_place(server.url) as place, coordinating(place) as coordinator, scripted_agent(place, "a1", "work"), client(place) as me:
        await me.until_agents(1)
        question = encode(m.Ask(submit=m.Submit(capability="work")))
        for _ in range(3):
            await me.connection.publish(me.subjects.ask("me", "forecast"), question, headers("ask", id="again"))
        heard = coordinator.counters["questions"]
        await me.ask("tasks")
        assert coordinator.counters["questions"] > heard, "others are answered meanwhile"
        go_on.set()
        answer = await me.expect("answer", re="again")
        assert decode_as(Forecast, answer.body).subtasks[0].agent == "a1"
        await me.ask("tasks")
        assert (len(made), me.count("answer")) == (1, 0)


async def test_without_a_coordinator_nobody_knows(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentexecutor.bus.client.FORECAST_S", 0.2)
    async with a_place(server.url) as place, connect(server.url, name="me", prefix=place.prefix) as bus:
        with pytest.raises(NoAnswer, match="agentexecutor coordinator"):
            await bus.plan("work")


async def test_programs_without_asyncio(server: EmbeddedServer) -> None:
    async with serving(server, worker("a", work=0.1)) as bus:

        def program() -> Forecast:
            with blocking.connect(server.url, name="you", prefix=bus.connection.prefix) as other:
                return other.plan("work", priority=3)

        assert await anyio.to_thread.run_sync(program) == await bus.plan("work")
