"""Cancel and feedback: what is stored, under whose name, and how one learns what became of it."""

from __future__ import annotations

import anyio
import msgspec
import pytest
from scripted import Scripted, scripted

from agentexecutor.bus import PlanRefused, TaskCancelled, TaskRefused, connect
from agentexecutor.bus import task as tasks
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback

pytestmark = pytest.mark.anyio

T1 = TaskName("me", "t1")
GIVEN = r.FeedbackGiven(id="x", sender="me")


async def note(coordinator: Scripted, *changes: r.Change) -> None:
    """Write a record that answers the next claim."""
    await coordinator.until(lambda: coordinator.claims)
    await coordinator.append(T1, *changes, applied=[coordinator.claims[-1][2]["Ae-Id"]])


async def test_feedback_is_stored_and_waited_for(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        group.start_soon(note, coordinator, GIVEN)
        with anyio.fail_after(60):
            await bus.task("me.t1").feedback(Feedback(verdict="revise", text="use bigrams", subtask="features", data={"n": 2}))
        ((kind, task, made, message),) = coordinator.claims
        assert (kind, task, made["Ae-Type"]) == ("feedback", T1, "feedback-claim")
        assert message == m.FeedbackClaim(subtask="features", verdict="revise", text="use bigrams", data=msgspec.Raw(b'{"n":2}'))


async def test_feedback_without_data_and_with_data_that_cannot_travel(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        with pytest.raises(PlanRefused, match="JSON"):
            await bus.task("me.t1").feedback(Feedback(data=object()))
        group.start_soon(note, coordinator, GIVEN)
        await bus.task("me.t1").feedback(Feedback(text="fine"))
        assert coordinator.claims[0][3] == m.FeedbackClaim(text="fine")


async def test_who_speaks_is_the_owner_or_who_is_named(server: EmbeddedServer) -> None:
    async with connect(server.url, name="console") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        senders: list[str] = []

        async def came(message: object) -> None:
            senders.append(message.subject.split(".")[3])  # type: ignore[attr-defined]

        await coordinator.connection.subscribe(coordinator.subjects.all_claims(), came)
        await coordinator.settle()
        for sender in (None, "critic"):
            coordinator.claims.clear()
            group.start_soon(note, coordinator, GIVEN)
            await bus.task("me.t1").feedback(Feedback(text="x"), sender=sender)
        assert senders == ["me", "critic"]


async def test_feedback_that_cannot_be_used_is_an_error(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        error = m.ErrorInfo(code="refused", message="Task me.t1 has completed already.")

        async def refuse() -> None:
            await coordinator.until(lambda: coordinator.claims)
            await coordinator.say("me", T1, m.Refused(task="me.t1", id="another", error=error))
            await coordinator.say("me", T1, m.Refused(task="me.t1", id=coordinator.claims[0][2]["Ae-Id"], error=error))

        group.start_soon(refuse)
        with pytest.raises(TaskRefused, match="completed already") as raised:
            await bus.task("me.t1").feedback(Feedback(text="x"))
        assert raised.value.fields["error"] == error


async def test_cancel_ends_the_task(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        task = await bus.submit("a", id="t1")
        group.start_soon(note, coordinator, r.Cancelled(reason="enough"))
        with anyio.fail_after(60):
            await task.cancel("enough")
        ((kind, _, made, message),) = coordinator.claims
        assert (kind, made["Ae-Type"], message) == ("cancel", "cancel-task", m.CancelTask(reason="enough"))
        end = m.Result(task="me.t1", state="cancelled", error=m.ErrorInfo(code="cancelled", message="enough"))
        await coordinator.say("me", T1, end)
        with pytest.raises(TaskCancelled, match="enough"):
            await task.result()


async def test_cancelling_what_has_ended_is_over_when_its_result_comes_again(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:

        async def tell() -> None:
            await coordinator.until(lambda: coordinator.claims)
            await coordinator.say("me", T1, m.Result(task="me.t1", state="completed", result=msgspec.Raw(b"1")))

        group.start_soon(tell)
        task = bus.task("me.t1")
        with anyio.fail_after(60):
            await task.cancel()
            assert await task.result() == 1
            await task.cancel()
        assert len(coordinator.claims) == 1, "what has ended is not cancelled"


async def test_without_a_coordinator_a_claim_is_stored_and_not_waited_for_long(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "NOTED_S", 0.05)
    async with connect(server.url, name="me") as bus:
        await bus.task("me.t1").cancel()
        state = (await bus.connection.api("STREAM.INFO.AE_INBOX", {}))["state"]
        assert state["messages"] == 1
