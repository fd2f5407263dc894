"""The client against a real coordinator and a real agent: the whole way there and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from traces import recorded

from agentexecutor.agents import Agent, Context, Fail
from agentexecutor.bus import Bus, TaskCancelled, TaskFailed, TaskLost, TaskRefused, TaskTimeout, connect
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import Feedback, Plan, Subtask

pytestmark = pytest.mark.anyio

agent = Agent("worker", capacity=4)


@agent.capability("text.repeat")
async def repeat(text: str, times: int) -> str:
    return text * times


@agent.capability("text.length")
async def length(text: str) -> int:
    return len(text)


@agent.capability("never")
async def never(ctx: Context) -> None:
    ctx.progress(0.5, "half")
    await anyio.sleep_forever()


@agent.capability("broken")
async def broken() -> None:
    raise Fail("as asked")


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as connected, agent.serve(connected):
        yield connected


async def test_there_and_back(bus: Bus) -> None:
    assert await bus.run("text.repeat", {"text": "ab", "times": 2}, str) == "abab"
    with pytest.raises(TaskFailed, match="as asked") as raised:
        await bus.run("broken")
    assert raised.value.fields["error"].code == "handler"
    assert [one.name for one in await bus.agents()] == ["worker"]
    assert await bus.unserved() == []
    assert {line.state for line in (await bus.tasks(owner="me")).tasks} == {"completed", "failed"}


async def test_who_runs_a_task_may_lose_patience(bus: Bus) -> None:
    with pytest.raises(TaskTimeout, match="It goes on"):
        await bus.run("nver", wait_s=0.2)


async def test_a_plan_of_ten_thousand_subtasks(bus: Bus) -> None:
    many = Agent("many", capacity=500)

    @many.capability("count")
    async def count(n: int) -> int:
        return n

    @many.capability("add")
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    plan = Plan(result="total")
    plan.add("total", Subtask("add", {"numbers": [plan.add(f"n{number}", Subtask("count", {"n": number})) for number in range(9999)]}))
    async with many.serve(bus):
        task = await bus.submit(plan)
        assert await task.result(int) == sum(range(9999))
        assert len((await task.view()).subtasks) == 10_000


async def test_a_plan_with_large_bodies_on_its_way(bus: Bus) -> None:
    plan = Plan(result="count")
    big = plan.add("big", Subtask("text.repeat", {"text": "x" * 300_000, "times": 2}))
    plan.add("count", Subtask("text.length", {"text": big}))
    task = await bus.submit(plan, id="t1")
    assert await task.result(int, timeout_s=30) == 600_000
    view = await task.view()
    assert {name: subtask.state for name, subtask in view.subtasks.items()} == {"big": "completed", "count": "completed"}
    again = [(event.kind, event.subtask) async for event in bus.task("me.t1").events()]
    assert again[:4] == [("submitted", None), ("planned", None), ("ready", "big"), ("awarded", "big")]
    assert again[-1] == ("completed", None)
    assert len(again) == len(set(again))


async def test_events_feedback_and_cancel(bus: Bus) -> None:
    task = await bus.submit("never", id="t1")
    kinds: list[str] = []
    with anyio.fail_after(60):
        async for event in task.events():
            kinds.append(event.kind)
            if event.kind == "progress":
                await task.feedback(Feedback(text="hurry", subtask="main"))
            if event.kind == "feedback":
                await task.cancel("enough")
    assert kinds[:4] == ["submitted", "planned", "ready", "awarded"]
    assert kinds[-1] == "cancelled"
    assert {"progress", "feedback"} < set(kinds), "an accept that comes after the cancel is not on record"
    with pytest.raises(TaskCancelled, match="enough"):
        await task.result()
    with pytest.raises(TaskRefused, match="already"):
        await task.feedback(Feedback(text="too late"))


async def test_the_same_id_with_the_same_content_and_with_other(bus: Bus) -> None:
    first = await bus.submit("text.length", {"text": "abc"}, id="t1")
    assert await first.result() == 3
    assert await (await bus.submit("text.length", {"text": "abc"}, id="t1")).result() == 3
    other = await bus.submit("text.length", {"text": "other"}, id="t1")
    with pytest.raises(TaskRefused, match="other content"):
        await other.result()
    assert await first.result() == 3
    assert (await bus.task("me.t1").state()).state == "completed"
    with pytest.raises(TaskLost):
        await bus.task("me.t2").result()


async def test_one_trace_from_submit_to_result(bus: Bus) -> None:
    with recorded() as spans:
        task = await bus.submit("text.length", {"text": "abc"})
        assert await task.result(int) == 3
        assert (await task.view()).trace_id == task.trace_id
        found = {span.name: span for span in spans.get_finished_spans()}
    assert {"submit text.length", "plan", "auction text.length", "execute text.length", "deliver"} <= set(found)
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {task.trace_id}
    parent = found["execute text.length"].parent
    assert parent is not None
    assert parent.span_id == found["auction text.length"].context.span_id
