"""Questions: asked again until somebody answers, answered by one or by all, with large bodies; and how a task stands."""

from __future__ import annotations

import msgspec
import pytest
from scripted import scripted

from agentexecutor.bus import BusError, NoAnswer, TaskLost, connect
from agentexecutor.bus.blobs import store_body
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_RE, encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import NOBODY

pytestmark = pytest.mark.anyio

T1 = TaskName("me", "t1")
TASKS = v.TasksView(tasks=[v.TaskLine(task="me.t1", state="running", at="2026-01-01T00:00:00Z")], waiting=3)
ADA = v.AgentView(name="ada", capabilities=["a"], capacity=2, free=1, labels={}, running=[], seen_s=0.5)


def unserved(subtasks: int, *tasks: str, capability: str = "a") -> v.UnservedLine:
    return v.UnservedLine(
        capability=capability, labels={"zone": "eu"}, subtasks=subtasks, oldest_s=float(subtasks), reason="no offer", tasks=list(tasks)
    )


async def test_tasks_and_agents(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.bodies = {"tasks": encode(TASKS), "agents": encode(v.AgentsView(agents=[ADA]))}
        assert await bus.tasks(["running"], owner="me", limit=5) == TASKS
        assert await bus.agents() == [ADA]
        assert coordinator.asked == [("tasks", NOBODY, m.Ask(states=["running"], owner="me", limit=5)), ("agents", NOBODY, m.Ask())]


async def test_a_question_is_asked_again(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.silent = 1
        coordinator.bodies = {"tasks": encode(TASKS)}
        assert await bus.tasks() == TASKS
        assert len(coordinator.asked) == 2


async def test_without_a_coordinator_there_is_no_answer(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus:
        with pytest.raises(NoAnswer, match="agentexecutor coordinator"):
            await bus.ask("tasks", timeout_s=0.1)
        assert bus._questions._open == {}


async def test_an_answer_may_be_an_error(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.error = m.ErrorInfo(code="lost", message="not here")
        with pytest.raises(BusError, match="not here") as raised:
            await bus.ask("tasks")
        assert raised.value.fields["error"] == coordinator.error


async def test_a_large_answer_comes_by_reference(server: EmbeddedServer) -> None:
    agents = [msgspec.structs.replace(ADA, name=f"ada-{number}") for number in range(5000)]
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        ref = await store_body(coordinator.connection, NOBODY, encode(v.AgentsView(agents=agents)))
        coordinator.silent = 1

        async def by_reference(message: object) -> None:
            id = message.headers["Ae-Id"]  # type: ignore[attr-defined]
            answer = m.Answer(re=id, coordinator="other", body_blob=ref)
            await coordinator.connection.publish(
                coordinator.subjects.to("me", "answer", NOBODY), encode(answer), {**headers("answer"), H_RE: id}
            )

        await coordinator.connection.subscribe(coordinator.subjects.all_asks("agents"), by_reference)
        await coordinator.settle()
        assert await bus.agents() == agents


async def test_unserved_demand_is_gathered_from_all_coordinators(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url, "one") as one, scripted(server.url, "two") as two:
        one.of = two.of = 2
        two.silent = 1
        one.bodies = {"unserved": encode(v.UnservedView(unserved=[unserved(1, "me.t1"), unserved(1, "me.t2", capability="b")]))}
        two.bodies = {"unserved": encode(v.UnservedView(unserved=[unserved(2, "me.t3", "me.t4")]))}
        assert await bus.unserved() == [
            msgspec.structs.replace(unserved(3, "me.t1", "me.t3", "me.t4"), oldest_s=2.0),
            unserved(1, "me.t2", capability="b"),
        ]


async def test_the_coordinators_that_answer_are_enough(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentexecutor.bus.client.ALL_ANSWER_S", 0.3)
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.of = 2
        coordinator.bodies = {"unserved": encode(v.UnservedView(unserved=[unserved(1, "me.t1")]))}
        assert await bus.unserved() == [unserved(1, "me.t1")]
        assert len(coordinator.asked) == 1, "an answer is no reason to ask again"
        coordinator.silent = 1
        with pytest.raises(NoAnswer):
            await bus.unserved()


async def test_how_a_task_stands(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = bus.task("me.t1")
        assert (await task.state()).state == "unknown"
        with pytest.raises(TaskLost):
            await task.view()
        coordinator.views[T1] = v.TaskView(task="me.t1", state="running", trace_id="cd" * 16)
        assert await task.view() == coordinator.views[T1]
        assert task.trace_id == "cd" * 16


async def test_an_answer_to_somebody_else_s_question_is_not_taken(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, connect(server.url, name="me") as same_name, scripted(server.url) as coordinator:
        coordinator.bodies = {"tasks": encode(TASKS), "agents": encode(v.AgentsView(agents=[ADA]))}
        assert await bus.tasks() == TASKS
        assert await same_name.agents() == [ADA]
