"""A task's events: history and what comes live joined by sequence; gaps, pages, the last record with its history, progress, the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg
from scripted import Scripted, scripted

from agentexecutor.bus import TaskLost, TaskRefused, connect, events
from agentexecutor.bus.blobs import store_body
from agentexecutor.bus.client import Bus
from agentexecutor.bus.events import _Live
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.bus.task import Task
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName

pytestmark = pytest.mark.anyio

T1 = TaskName("me", "t1")
SUBMITTED = r.Submitted(submit=m.Submit(capability="a", priority=2), digest="d", at=1.0)
PLANNED = r.Planned(add={"x": m.SubtaskSpec(capability="a"), "y": m.SubtaskSpec(capability="b", after=["x"])})
READY = r.Ready(subtasks=["x"])
AWARDED = r.Awarded(subtask="x", epoch=1, agent="ada", boot="b1", bids=[r.ScoredBid(agent="ada", boot="b1", won=True)])
ACCEPTED = r.Accepted(subtask="x", epoch=1, schedule=[m.Step(name="s", duration_s=1)])
DONE = r.Completed(subtask="x", epoch=1, agent="ada", result=msgspec.Raw(b"[1]"))
END = r.Completed(of="x")
STORY = ["submitted", "planned", "ready", "awarded", "accepted", "completed x", "completed"]


@pytest.fixture
async def me(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as bus:
        yield bus


@pytest.fixture
async def coordinator(server: EmbeddedServer) -> AsyncIterator[Scripted]:
    async with scripted(server.url) as made:
        yield made


def label(event: v.Event) -> str:
    return f"{event.kind} {event.subtask}" if event.kind in ("completed", "failed", "cancelled") and event.subtask else event.kind


async def told(task: Task) -> list[v.Event]:
    with anyio.fail_after(60):
        return [event async for event in task.events()]


async def test_the_history_first_then_what_comes_nothing_twice(me: Bus, coordinator: Scripted) -> None:
    await coordinator.append(T1, SUBMITTED, PLANNED, READY)
    await coordinator.append(T1, AWARDED)
    heard: list[v.Event] = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            heard.append(event)
            if event.kind == "awarded":
                await coordinator.append(T1, ACCEPTED)
            if event.kind == "accepted":
                await coordinator.append(T1, DONE)
            if event.kind == "completed" and event.subtask == "x":
                await coordinator.end(T1, END)
    assert [label(event) for event in heard] == STORY
    assert [event.seq for event in heard] == [1, 1, 1, 2, 3, 4, 5]
    assert {event.task for event in heard} == {"me.t1"}
    assert sum(kind == "task" and ask.what == "log" for kind, _, ask in coordinator.asked) == 1, "what comes live needs no question"


@pytest.mark.parametrize("by_reference", [False, True])
async def test_an_ended_task_is_one_record_with_its_history(me: Bus, coordinator: Scripted, by_reference: bool) -> None:
    await coordinator.append(T1, SUBMITTED, PLANNED, READY)
    await coordinator.append(T1, AWARDED, ACCEPTED, DONE)
    await coordinator.end(T1, END, by_reference=by_reference)
    first = await told(me.task("me.t1"))
    assert [label(event) for event in first] == STORY
    assert [event.seq for event in first] == [1, 1, 1, 2, 2, 2, 3]
    assert first == await told(me.task("me.t1"))


@pytest.mark.parametrize("by_reference", [False, True])
async def test_a_last_record_that_comes_live_tells_what_was_missed(
    me: Bus, coordinator: Scripted, monkeypatch: pytest.MonkeyPatch, by_reference: bool
) -> None:
    """Records 2 and 3 are not heard, and the log is gone before it can be asked: their story stands in the last record."""
    miss(monkeypatch, 2, 3)
    await coordinator.append(T1, SUBMITTED, PLANNED, READY)
    heard: list[v.Event] = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            heard.append(event)
            if event.kind == "ready":
                await coordinator.append(T1, AWARDED)
                await coordinator.append(T1, ACCEPTED, DONE)
                await coordinator.end(T1, END, by_reference=by_reference)
    assert [label(event) for event in heard] == STORY


def miss(monkeypatch: pytest.MonkeyPatch, *sequences: int) -> None:
    """Lose the live copies of these records."""
    heard = _Live.heard

    async def lossy(self: _Live, message: Msg) -> None:
        if int((message.headers or {})["Nats-Sequence"]) not in sequences:
            await heard(self, message)

    monkeypatch.setattr(_Live, "heard", lossy)


async def test_a_gap_is_seen_and_the_log_asked_again(me: Bus, coordinator: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    miss(monkeypatch, 2)
    monkeypatch.setattr(events, "SILENCES_S", (3600.0,))
    await coordinator.append(T1, SUBMITTED)
    heard: list[v.Event] = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            heard.append(event)
            if event.kind == "submitted":
                await coordinator.append(T1, PLANNED)
                await coordinator.append(T1, READY)
            if event.kind == "ready":
                await coordinator.append(T1, r.Cancelled(reason="enough"))
    assert [event.kind for event in heard] == ["submitted", "planned", "ready", "cancelled"]
    assert [event.seq for event in heard] == [1, 2, 3, 4]


async def test_what_was_missed_at_the_end_is_found_after_a_silence(me: Bus, coordinator: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    miss(monkeypatch, 2)
    monkeypatch.setattr(events, "SILENCES_S", (0.2,))
    await coordinator.append(T1, SUBMITTED)
    kinds = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            kinds.append(event.kind)
            if event.kind == "submitted":
                await coordinator.append(T1, r.FailedChange(error=m.ErrorInfo(code="deadline", message="too late")))
    assert kinds == ["submitted", "failed"]


async def test_the_log_is_read_page_by_page(me: Bus, coordinator: Scripted) -> None:
    coordinator.page_bytes = 1
    for number in range(1, 8):
        await coordinator.append(T1, r.Ready(subtasks=[f"s{number}"]))
    await coordinator.append(T1, r.Cancelled())
    heard = await told(me.task("me.t1"))
    assert [event.subtask for event in heard] == [*(f"s{number}" for number in range(1, 8)), None]
    assert len([ask for _, _, ask in coordinator.asked if ask.what == "log"]) > 7


async def test_every_change_and_every_subtask_is_an_event_of_its_own(me: Bus, coordinator: Scripted) -> None:
    await coordinator.append(
        T1, r.Ready(subtasks=["x", "y", "z"]), r.Cancelled(subtasks=["z", "y"], reason="why"), r.Cancelled(reason="all")
    )
    heard = await told(me.task("me.t1"))
    assert [(event.kind, event.subtask) for event in heard] == [
        ("ready", "x"),
        ("ready", "y"),
        ("ready", "z"),
        ("cancelled", "z"),
        ("cancelled", "y"),
        ("cancelled", None),
    ]
    assert heard[-1].data == {"reason": "all", "coordinator": "coord"}


async def test_a_large_plan_is_told_whole(me: Bus, coordinator: Scripted) -> None:
    ref = await store_body(coordinator.connection, T1, encode(PLANNED.add))
    await coordinator.append(T1, SUBMITTED, r.Planned(add_blob=ref), r.Cancelled())
    _, planned, _ = await told(me.task("me.t1"))
    assert planned.data["subtasks"] == {"x": {"capability": "a", "after": []}, "y": {"capability": "b", "after": ["x"]}}


async def test_a_later_reader_is_told_what_agents_did_with_feedback(me: Bus, coordinator: Scripted) -> None:
    async def tell(id: str, text: str) -> None:
        said = m.Progress(subtask="x", epoch=1, boot="b", at="2026-01-01T00:00:00Z", text=text, feedback=id or None)
        await me.connection.store(coordinator.subjects.progress("ada", T1), encode(said), headers("progress"))

    await coordinator.append(T1, SUBMITTED, PLANNED, READY, AWARDED, ACCEPTED)
    await tell("", "half")
    await coordinator.append(T1, r.FeedbackGiven(id="f1", sender="me", subtask="x", text="use bigrams"))
    await tell("f1", "bigrams it is")
    await coordinator.append(T1, r.FeedbackGiven(id="f2", sender="me", subtask="x", text="no, trigrams"))
    await tell("f2", "trigrams then")
    await coordinator.append(T1, DONE, END, state="completed")
    events = await told(me.task(str(T1)))
    assert [label(event) for event in events[5:]] == ["feedback", "progress", "feedback", "progress", "completed x", "completed"]
    assert [(event.agent, event.data["feedback"], event.data["text"]) for event in events if event.kind == "progress"] == [
        ("ada", "f1", "bigrams it is"),
        ("ada", "f2", "trigrams then"),
    ]


async def test_progress_comes_in_between(me: Bus, coordinator: Scripted) -> None:
    await coordinator.append(T1, SUBMITTED)
    progress = m.Progress(subtask="x", epoch=1, boot="b", at="2026-01-01T00:00:00Z", step="s", state="started", fraction=0.5, text="half")
    heard = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            heard.append(event)
            if event.kind == "submitted":
                publish = coordinator.connection.publish
                await publish(coordinator.subjects.progress("ada", T1), b"no json", headers("progress"))
                await publish(coordinator.subjects.progress("ada", T1), encode(progress), headers("progress"))
            if event.kind == "progress":
                await coordinator.append(T1, r.Cancelled())
    assert heard[1] == v.Event(
        time="2026-01-01T00:00:00Z",
        task="me.t1",
        kind="progress",
        subtask="x",
        agent="ada",
        epoch=1,
        seq=0,
        data={"step": "s", "state": "started", "fraction": 0.5, "text": "half"},
    )
    assert heard[2].kind == "cancelled"


@pytest.mark.parametrize("missed", [True, False], ids=["told by the log", "heard"])
async def test_progress_that_was_heard_is_told_before_the_end(
    me: Bus, coordinator: Scripted, monkeypatch: pytest.MonkeyPatch, *, missed: bool
) -> None:
    if missed:
        miss(monkeypatch, 2)
    monkeypatch.setattr(events, "SILENCES_S", (3600.0,))
    await coordinator.append(T1, SUBMITTED)
    progress = m.Progress(subtask="x", epoch=1, boot="b", at="2026-01-01T00:00:00Z", text="last words")
    kinds = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            kinds.append(event.kind)
            if event.kind == "submitted":
                await coordinator.append(T1, PLANNED)
                await coordinator.append(T1, r.Cancelled())
                await coordinator.connection.publish(coordinator.subjects.progress("ada", T1), encode(progress), headers("progress"))
                await coordinator.connection.nats.flush()
                await me.connection.nats.flush()
    assert kinds == ["submitted", "planned", "progress", "cancelled"]


async def test_messages_in_the_log_that_are_no_records_are_passed_over(me: Bus, coordinator: Scripted) -> None:
    await coordinator.append_raw(T1, b'{"stream":"AE_INBOX","seq":1}', {})
    await coordinator.append(T1, SUBMITTED)
    kinds = []
    with anyio.fail_after(60):
        async for event in me.task("me.t1").events():
            kinds.append(event.kind)
            if event.kind == "submitted":
                await coordinator.append_raw(T1, b'{"stream":"AE_INBOX","seq":2}', {})
                await coordinator.append_raw(T1, b"no json", headers("record"))
                await coordinator.append(T1, READY)
                await coordinator.append(T1, r.Cancelled())
    assert kinds == ["submitted", "ready", "cancelled"]
    assert len([ask for _, _, ask in coordinator.asked if ask.what == "log"]) == 1


@pytest.mark.usefixtures("coordinator")
async def test_a_task_that_nobody_knows_has_no_events(me: Bus) -> None:
    with pytest.raises(TaskLost):
        await told(me.task("me.t1"))


async def test_a_submit_in_the_queue_is_waited_for_and_a_lost_one_sent_again(me: Bus, coordinator: Scripted) -> None:
    task = await me.submit("a", id="t1")

    async def later() -> None:
        await coordinator.until(lambda: len(coordinator.submits) == 2)
        await coordinator.append(T1, SUBMITTED, r.Cancelled())

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        assert [event.kind for event in await told(task)] == ["submitted", "cancelled"]


async def test_a_refused_submit_has_no_events(me: Bus, coordinator: Scripted) -> None:
    task = await me.submit("a", id="t1")
    coordinator.states[T1] = v.StateView(state="waiting")

    async def refuse() -> None:
        await coordinator.until(lambda: coordinator.asked)
        error = m.ErrorInfo(code="input", message="no such policy")
        await coordinator.say("me", T1, m.Refused(task="me.t1", id=coordinator.submits[0][1]["Ae-Id"], error=error))

    async with anyio.create_task_group() as group:
        group.start_soon(refuse)
        with pytest.raises(TaskRefused, match="no such policy"):
            await told(task)


async def test_events_wait_for_a_coordinator(server: EmbeddedServer, me: Bus) -> None:
    task = await me.submit("a", id="t1")
    heard: list[v.Event] = []

    async def listen() -> None:
        heard.extend(await told(task))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        async with scripted(server.url) as coordinator:
            await coordinator.append(T1, SUBMITTED)
            await coordinator.until(lambda: coordinator.asked)
            await coordinator.append(T1, r.Cancelled())
    assert [event.kind for event in heard] == ["submitted", "cancelled"]


async def test_who_stops_listening_leaves_nothing_behind(me: Bus, coordinator: Scripted) -> None:
    await coordinator.append(T1, SUBMITTED)
    before = len(me.connection.nats._subs)
    async with aclosing(me.task("me.t1").events()) as heard:
        async for _ in heard:
            assert len(me.connection.nats._subs) == before + 2
            break
    assert len(me.connection.nats._subs) == before
