"""The blocking client: the same methods, from a thread without an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec
import pytest
from scripted import Scripted, scripted

from agentexecutor.bus import NoBus, TaskFailed, TaskTimeout, blocking
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def serve(coordinator: Scripted) -> None:
    """Complete every task with its own input, fail those that ask for it."""
    served = 0
    while True:
        await coordinator.until(lambda: len(coordinator.submits) > served)  # noqa: B023 - awaited before the next round
        task, _, payload = coordinator.submits[served]
        served += 1
        submit = msgspec.json.decode(payload, type=m.Submit)
        await coordinator.append(task, r.Submitted(submit=m.Submit(capability="a"), digest="d", at=1.0))
        if submit.capability == "fail":
            error = m.ErrorInfo(code="handler", message="as asked")
            await coordinator.end(task, r.FailedChange(error=error), state="failed")
            await coordinator.say(task.owner, task, m.Result(task=str(task), state="failed", error=error))
        elif submit.capability == "echo":
            await coordinator.end(task, r.Completed(result=submit.input))
            await coordinator.say(task.owner, task, m.Result(task=str(task), state="completed", result=submit.input))


async def in_a_thread(server: EmbeddedServer, work: Callable[[blocking.Bus], T]) -> T:
    def program() -> T:
        with blocking.connect(server.url, name="me") as bus:
            return work(bus)

    async with scripted(server.url) as coordinator, anyio.create_task_group() as group:
        coordinator.bodies = {
            "tasks": encode(v.TasksView(tasks=[])),
            "agents": encode(v.AgentsView(agents=[])),
            "unserved": encode(v.UnservedView(unserved=[])),
        }
        coordinator.states[TaskName("me", "t1")] = v.StateView(state="completed")
        coordinator.views[TaskName("me", "t1")] = v.TaskView(task="me.t1", state="completed")
        group.start_soon(serve, coordinator)
        result = await anyio.to_thread.run_sync(program)
        group.cancel_scope.cancel()
    return result


async def test_run_and_result(server: EmbeddedServer) -> None:
    def work(bus: blocking.Bus) -> tuple[object, dict[str, int]]:
        return bus.run("echo", {"x": 1}), bus.submit("echo", {"x": 2}, id="t1").result(dict[str, int], timeout_s=20)

    assert await in_a_thread(server, work) == ({"x": 1}, {"x": 2})


async def test_errors_come_out_as_they_are(server: EmbeddedServer) -> None:
    def work(bus: blocking.Bus) -> None:
        with pytest.raises(TaskFailed, match="as asked"):
            bus.run("fail")
        with pytest.raises(TaskTimeout):
            bus.submit("nobody").result(timeout_s=0.05)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await in_a_thread(server, work)


async def test_events(server: EmbeddedServer) -> None:
    def work(bus: blocking.Bus) -> tuple[list[str], str]:
        task = bus.submit("echo", id="t1")
        kinds = [event.kind for event in task.events()]
        first = ""
        for event in bus.task("me.t1").events():
            first = event.kind
            break
        return kinds, first

    assert await in_a_thread(server, work) == (["submitted", "completed"], "submitted")


async def test_looking_and_acting(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentexecutor.bus.task.NOTED_S", 0.05)

    def work(bus: blocking.Bus) -> None:
        task = bus.task("me.t1")
        assert (bus.name, task.name, task.trace_id, repr(task)) == ("me", "me.t1", None, "<Task me.t1>")
        assert task.state().state == "completed"
        assert task.view().task == "me.t1"
        task.feedback(Feedback(text="x"))
        task.cancel("enough")
        assert (bus.tasks().tasks, bus.agents(), bus.unserved()) == ([], [], [])
        name = TaskName("me", "t1")
        assert bus.fetch(name, bus.put(name, b"abc")) == b"abc"

    await in_a_thread(server, work)


def test_no_server_is_told_at_once() -> None:
    with pytest.raises(NoBus, match="agentexecutor up"), blocking.connect("nats://127.0.0.1:1", name="me"):
        pass
