"""What a coordinator answers, what it tells OpenTelemetry, and what it tidies up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw
from nats.aio.msg import Msg
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from peers import QUICK, Place, agent, client, coordinating

from agentexecutor.bus import telemetry as t
from agentexecutor.bus.answering import Asked
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import BLOBS, stream_name
from agentexecutor.bus.sweeping import sweep_bodies
from agentexecutor.coordinator.shell import questions
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import NOBODY

pytestmark = pytest.mark.anyio


async def test_a_task_is_answered_by_its_holder_alone(place: Place) -> None:
    async with coordinating(place, "one"), coordinating(place, "two"), client(place) as me:
        await me.until_held({"one": 8, "two": 8})
        for n in range(10):
            answer = await me.ask("task", TaskName("me", f"t{n}"))
            assert (answer.of, msgspec.json.decode(answer.body)["state"]) == (2, "unknown")
        await me.connection.publish(me.subjects.ask("me", "unserved"), encode(m.Ask()), headers("ask", id="both"))
        assert {(await me.expect("answer", re="both")).coordinator for _ in range(2)} == {"one", "two"}
        assert me.count("answer") == 0, "each question about a task was answered once"


async def test_the_log_as_it_grows(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        first = msgspec.json.decode((await me.ask("task", task, what="log")).body, type=v.LogView).records
        assert [type(change).__name__ for entry in first for change in entry.record.changes] == ["Submitted", "Planned", "Ready", "Awarded"]
        await a1.done(award)
        await me.result(task)
        rest = msgspec.json.decode((await me.ask("task", task, what="log", after=first[-1].seq)).body, type=v.LogView).records
        assert [type(change).__name__ for entry in rest for change in entry.record.changes] == ["Accepted", "Completed", "Completed"]
        whole = msgspec.json.decode((await me.ask("task", task, what="log")).body, type=v.LogView).records
        assert [entry.seq for entry in whole] == [first[-1].seq, rest[-1].seq]
        assert not any(entry.record.history for entry in whole)


async def test_tasks_newest_first(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo", capacity=9) as a1, client(place) as me, client(place, "you") as you:
        for n, priority in enumerate((0, 5, -3)):
            await me.submit(f"t{n}", capability="echo", priority=priority)
            await a1.accept(await a1.award())
        other = await you.submit("t9", capability="echo")
        await a1.done(await a1.award())
        await you.result(other)

        async def names(**question: Any) -> list[tuple[str, str, int]]:
            body = msgspec.json.decode((await me.ask("tasks", **question)).body, type=v.TasksView)
            return [(line.task, line.state, line.priority) for line in body.tasks]

        assert (await names(limit=1))[0] == ("you.t9", "completed", 0)
        assert sorted(await names(owner="me")) == [("me.t0", "running", 0), ("me.t1", "running", 5), ("me.t2", "running", -3)]
        assert await names(states=["completed"]) == [("you.t9", "completed", 0)]


async def test_the_newest_tasks_are_read_from_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many tasks, only as many as it takes; and the list is the same."""
    heads, read = TaskLog.heads, list[int]()

    def noted(log: TaskLog, shard: int | None = None, *, since: int = 0) -> AsyncIterator[Any]:
        read.append(since)
        return heads(log, shard, since=since)

    async with coordinating(place) as coordinator, client(place) as me, client(place, "you") as you:
        await me.until_held({"coord": 16})
        tasks = [await you.submit("first", capability="sing")]
        tasks += [await me.submit(f"t{n}", capability="sing") for n in range(20)]
        for task in tasks:
            await me.until(task, lambda view: view.subtasks["main"].state == "parked")
        monkeypatch.setattr(TaskLog, "heads", noted)

        async def listed(**question: Any) -> tuple[list[str], int, int]:
            """The tasks, how often the log was read, and whether as a whole at last."""
            read.clear()
            body = msgspec.json.decode((await me.ask("tasks", **question)).body, type=v.TasksView)
            return [line.task for line in body.tasks], len(read), read[-1]

        monkeypatch.setattr(questions, "LOOK_BACK", 1000)
        (everything, times, whole) = await listed(limit=50)
        assert (sorted(everything), times, whole) == (sorted(map(str, tasks)), 1, 0)
        monkeypatch.setattr(questions, "LOOK_BACK", 3)
        newest, times, since = await listed(limit=1)
        assert (newest, times) == (everything[:1], 1)
        assert since > 0
        newest, times, since = await listed(limit=5)
        assert (newest, since > 0) == (everything[:5], True)
        oldest, times, since = await listed(owner="you", limit=1)
        assert (oldest, since) == (["you.first"], 0)
        assert times > 2
        assert (await listed(states=["completed"]))[0] == []
        assert coordinator.counters["faults"] == 0


async def test_submits_that_wait_are_counted(place: Place) -> None:
    async with coordinating(place, settings=dataclasses.replace(QUICK, open_tasks=0)), client(place) as me:
        for n in range(3):
            await me.submit(f"t{n}", capability="echo")
        body = msgspec.json.decode((await me.ask("tasks")).body, type=v.TasksView)
        assert (body.tasks, body.waiting) == ([], 3)
        assert (await me.view(TaskName("me", "t1"))).state == "waiting"


async def test_agents_and_unserved(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo", capacity=3, labels={"zone": "eu"}) as a1, client(place) as me:
        await me.until_agents(1)
        await me.submit("t1", capability="echo", labels={"zone": "us"})
        await me.submit("t2", capability="sing")
        task = await me.submit("t3", capability="echo")
        await a1.accept(await a1.award())
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        view = await me.until(TaskName("me", "t2"), lambda view: view.subtasks["main"].state == "parked")
        assert view.state == "running"
        (seen,) = await me.agents()
        assert (seen.name, seen.capabilities, seen.capacity, seen.free, seen.labels) == ("a1", ["echo"], 3, 2, {"zone": "eu"})
        lines = msgspec.json.decode((await me.ask("unserved")).body, type=v.UnservedView).unserved
        assert sorted((line.capability, line.tasks[0]) for line in lines) == [("echo", "me.t1"), ("sing", "me.t2")]


async def test_a_look_at_all_tasks_that_takes_long_is_done_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits asks again and again; the coordinator must not begin anew each time."""
    heads, begun, go_on = TaskLog.heads, 0, anyio.Event()

    async def slow(log: TaskLog, shard: int | None = None, *, since: int = 0) -> AsyncIterator[Any]:
        nonlocal begun
        begun += shard is None
        if shard is None:
            await go_on.wait()
        async for head in heads(log, shard, since=since):
            yield head

    async with coordinating(place) as coordinator, client(place) as me:
        await me.until_held({"coord": 16})
        monkeypatch.setattr(TaskLog, "heads", slow)
        subject, heard = me.subjects.ask("me", "tasks"), anyio.Event()
        answer = coordinator._questions.answer

        async def noted(asked: Asked) -> None:
            if asked.kind == "agents":
                heard.set()
            await answer(asked)

        monkeypatch.setattr(coordinator._questions, "answer", noted)
        for _ in range(5):
            await me.connection.publish(subject, encode(m.Ask()), headers("ask", id="one-and-the-same"))
        await me.connection.publish(me.subjects.ask("me", "agents"), encode(m.Ask()), headers("ask"))
        await heard.wait()
        go_on.set()
        assert (await me.expect("answer", re="one-and-the-same")).error is None
        assert (begun, me.count("answer")) == (1, 1), "of the agents"


async def test_a_question_that_is_asked_no_more_is_dropped_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    line, go_on, worked = questions._OneByOne(), anyio.Event(), list[str]()

    async def work(asked: Asked) -> None:
        await go_on.wait()
        worked.append(asked.id)

    def question(id: str) -> Asked:
        return Asked(kind="tasks", task=NOBODY, ask=m.Ask(), id=id, peer="me")

    async with anyio.create_task_group() as group:
        for id in ("first", "gone"):
            group.start_soon(line.answer, question(id), work)
        await anyio.wait_all_tasks_blocked()
        monkeypatch.setattr(questions, "FORGOTTEN_S", -1.0)
        go_on.set()
    assert worked == ["first"]
    monkeypatch.undo()
    await line.answer(question("gone"), work)
    assert worked == ["first", "gone"]


async def test_a_body_that_is_not_there(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        answer = await me.ask("blob", TaskName("me", "t1"), digest="0" * 64)
        assert answer.error.code == "lost"


async def test_questions_that_cannot_be_read(place: Place) -> None:
    async with coordinating(place) as coordinator, client(place) as me:
        subject = me.subjects.ask("me", "tasks")
        await me.connection.publish(subject, b"no json", headers("ask"))
        await me.connection.publish(subject, b"{}", {})
        await me.connection.publish(subject, encode(m.Ask()), headers("ask", id="x" * 65))
        await me.ask("tasks")
        assert coordinator.counters["messages undecodable"] == 3


async def test_a_bid_on_a_subject_of_another_shape_is_counted(place: Place) -> None:
    async with coordinating(place) as coordinator:
        await coordinator._hearing.bid_came(Msg(_client=coordinator._connection.nats, subject=f"{place.prefix}.bid.a1.x.me", data=b"{}"))
        assert (coordinator.counters["messages undecodable"], coordinator.counters["bids"]) == (1, 0)


async def test_bodies_of_tasks_that_are_gone_are_swept(place: Place) -> None:
    async with coordinating(place) as coordinator, client(place) as me:
        kept = await me.submit("kept", capability="nobody.does")
        for task in (kept, TaskName("me", "gone")):
            ref = await me.put(task, "x" * 300_000)
        await me.until_state(kept, "running")
        for task in (kept, TaskName("me", "never-was")):
            assert (await me.state(task)).keep_s == QUICK.keep_s != v.StateView(state="").keep_s
        await me.until_held({"coord": 16})
        await coordinator._sweep()
        assert coordinator.counters["bodies swept"] == 0, "they are young"
        await anyio.sleep(0.05)
        then = coordinator._clock.now(time.monotonic())
        await anyio.sleep(0.05)
        await me.put(TaskName("me", "young"), "x" * 300_000)
        log = TaskLog(me.connection)
        assert await sweep_bodies(me.connection, log, lambda shard: shard < 0, before=then) == 0, "others look after them"
        assert await sweep_bodies(me.connection, log, lambda _: True, before=then) == 1
        assert await me.fetch(TaskName("me", "young"), ref) == "x" * 300_000
        assert await me.fetch(kept, ref) == "x" * 300_000
        assert (await me.ask("blob", TaskName("me", "gone"), digest=ref.digest)).error.code == "lost"


async def test_bodies_of_no_task_are_swept_one_by_one(place: Place) -> None:
    """What belongs to questions, such as a forecast's: a new one does not keep the old."""
    async with client(place) as me:
        old = await me.put(NOBODY, "old")
        stored = await TaskLog(me.connection).last_of(BLOBS, me.subjects.all_blobs(NOBODY, old.digest))
        assert stored is not None
        new = await me.put(NOBODY, "new")
        assert await sweep_bodies(me.connection, TaskLog(me.connection), lambda _: True, before=stored.stamp + 1e-6) == 1
        async with coordinating(place):
            assert await me.fetch(NOBODY, new) == "new"
            assert (await me.ask("blob", NOBODY, digest=old.digest)).error.code == "lost"


async def test_a_large_answer_is_stored_once_for_who_asks_again(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        names = [f"s{n}-{'x' * 50}" for n in range(2000)]
        task = await me.submit("t1", plan=m.PlanSpec(subtasks={name: m.SubtaskSpec(capability="nobody.does") for name in names}))
        await me.until_state(task, "running")
        refs = [(await me.ask("task", task, what="view")).body_blob.digest for _ in range(5)]
        assert len(set(refs)) < 5, "it is the same for most of them"
        for one in set(refs):
            asked = {"subjects_filter": me.subjects.all_blobs(task, one)}
            info = await me.connection.api(f"STREAM.INFO.{stream_name(BLOBS, place.prefix)}", asked)
            assert set(info["state"]["subjects"].values()) == {1}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    t.use(provider)
    yield exporter
    t.use()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_spans_of_a_task(place: Place, spans: InMemorySpanExporter) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        root = t.start_span(t.SPAN_SUBMIT, "echo", parent=None)
        root.end()
        task = await me.submit("t1", capability="echo", trace=t.inject(root))
        first, first_headers = await a1.award_with_headers()
        await a1.failed(first)
        second, second_headers = await a1.award_with_headers()
        await a1.done(second)
        _, result_headers = await me.expect_with_headers("result")
        assert (await me.state(task)).trace_id == t.trace_id_of(t.inject(root))
    found = {span.name: [other for other in spans.get_finished_spans() if other.name == span.name] for span in spans.get_finished_spans()}
    assert set(found) == {"submit echo", "plan", "auction echo", "deliver"}
    context = root.get_span_context()
    for span in (*found["plan"], *found["auction echo"], *found["deliver"]):
        assert span.context.trace_id == context.trace_id
        assert span.parent is not None
        assert span.parent.span_id == context.span_id
        assert attributes(span)[t.ATTR_TASK] == "me.t1"
    one, two = found["auction echo"]
    assert [attributes(span)[t.ATTR_EPOCH] for span in (one, two)] == [1, 2]
    assert [link.context.span_id for link in two.links] == [one.context.span_id]
    (bid,) = [event for event in one.events if event.name == t.EVENT_BID]
    assert bid.attributes is not None
    assert (bid.attributes[t.ATTR_BID_AGENT], bid.attributes[t.ATTR_BID_WON]) == ("a1", True)
    for award_headers, span in ((first_headers, one), (second_headers, two), (result_headers, found["deliver"][0])):
        assert award_headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"


async def test_a_submit_without_context_begins_a_trace(place: Place, spans: InMemorySpanExporter) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo", input=Raw(b"{}"))
        await a1.done(await a1.award())
        await me.result(task)
        trace_id = (await me.state(task)).trace_id
    (root,) = [span for span in spans.get_finished_spans() if span.name == "submit echo"]
    assert f"{root.context.trace_id:032x}" == trace_id


async def test_without_spans_the_context_goes_on(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
        await me.submit("t1", capability="echo", trace=given)
        award, made = await a1.award_with_headers()
        assert {name: made[name] for name in given} == given
        await a1.done(award)
        _, made = await me.expect_with_headers("result")
        assert {name: made[name] for name in given} == given
