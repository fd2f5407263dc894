"""Submitting: what is stored, where, in which bytes; what is refused before anything leaves; bodies by reference; a full queue."""

from __future__ import annotations

import anyio
import msgspec
import pytest
from scripted import Scripted, scripted
from traces import recorded

from agentexecutor.bus import NameRefused, PlanRefused, StoreTimeout, TaskRefused, connect
from agentexecutor.bus import telemetry as t
from agentexecutor.bus.blobs import load_body
from agentexecutor.bus.client import own_name
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Plan, Subtask
from agentexecutor.schemas.references import Ref

pytestmark = pytest.mark.anyio


def submit_of(coordinator: Scripted, number: int = -1) -> m.Submit:
    message = decode("submit", coordinator.submits[number][2])
    assert isinstance(message, m.Submit)
    return message


async def test_a_submit_is_stored_when_no_coordinator_is_up(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus:
        task = await bus.submit("text.classify", {"texts": ["a"]}, id="t1")
        assert task.name == "me.t1"
        log = TaskLog(bus.connection)
        assert await log.submit_waits(TaskName("me", "t1"))
        assert await log.waiting() == 1


async def test_what_travels_is_what_was_said(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        await bus.submit(
            "text.classify",
            {"texts": ["a"]},
            id="t1",
            priority=5,
            deadline_s=30,
            retries=1,
            timeout_s=4,
            labels={"b": "2", "a": "1"},
            award="cheapest",
            auction="call",
            tailored=True,
            critics={"you"},
        )
        await coordinator.until(lambda: coordinator.submits)
        task, made, _ = coordinator.submits[0]
        assert task == ("me", "t1")
        assert made["Ae-Type"] == "submit"
        assert len(made["Ae-Id"]) >= 16
        assert submit_of(coordinator) == m.Submit(
            capability="text.classify",
            input=msgspec.Raw(b'{"texts":["a"]}'),
            priority=5,
            deadline_s=30,
            retries=1,
            timeout_s=4,
            labels={"a": "1", "b": "2"},
            award="cheapest",
            auction="call",
            tailored=True,
            critics=["you"],
        )


async def test_the_class_is_that_of_the_priority(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus:
        heard: list[str] = []

        async def came(message: object) -> None:
            heard.append(message.subject)  # type: ignore[attr-defined]

        await bus.connection.subscribe(bus.connection.subjects.all_submits(), came)
        for priority in (1, 0, -1):
            await bus.submit("a", id=f"p{priority}", priority=priority)
        assert heard == ["ae.v1.submit.me.high.p1", "ae.v1.submit.me.normal.p0", "ae.v1.submit.me.low.p-1"]


async def test_the_same_content_has_the_same_bytes(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        await bus.submit("a", {"x": 1, "y": {2, 3, 1}}, labels={"a": "1", "b": "2"}, critics=["p", "q"])
        await bus.submit("a", {"y": {3, 1, 2}, "x": 1}, labels={"b": "2", "a": "1"}, critics=["q", "p"])
        await coordinator.until(lambda: len(coordinator.submits) == 2)
        (first, _, one), (second, _, other) = coordinator.submits
        assert one == other
        assert first != second, "an id that is not given is random"


@pytest.mark.parametrize(
    ("what", "input", "options", "error"),
    [
        ("no capability", {}, {}, NameRefused),
        ("a", {}, {"id": "with.dot"}, NameRefused),
        ("a", {}, {"id": "mit leerzeichen"}, NameRefused),
        ("a", ["no object"], {}, PlanRefused),
        ("a", {"x": object()}, {}, PlanRefused),
        ("a", {"x": Ref("nobody")}, {}, PlanRefused),
        ("a", {}, {"auction": "english"}, TaskRefused),
        ("a", {}, {"priority": 10**9}, TaskRefused),
        ("a", {}, {"retries": -1}, TaskRefused),
        ("a", {}, {"labels": {"zone": 1}}, TaskRefused),
        (Plan(), None, {}, PlanRefused),
        (Plan({"a": Subtask("x", {"b": Ref("b")}), "b": Subtask("x", {"a": Ref("a")})}), None, {}, PlanRefused),
        (Plan({"a": Subtask("x", [1])}), None, {}, PlanRefused),
        (Plan({"a": Subtask("x")}), {"x": 1}, {}, PlanRefused),
    ],
)
async def test_what_cannot_be_submitted_never_leaves(
    server: EmbeddedServer, what: str | Plan, input: object, options: dict[str, object], error: type[Exception]
) -> None:
    async with connect(server.url, name="me") as bus:
        with pytest.raises(error):
            await bus.submit(what, input, **options)  # type: ignore[arg-type]  # wrong on purpose
        assert await TaskLog(bus.connection).waiting() == 0


@pytest.mark.parametrize("size", [300_000, 10_000_000])
async def test_a_large_input_goes_by_reference(server: EmbeddedServer, size: int) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        text = "ä" * (size // 2)
        await bus.submit("a", {"text": text}, id="t1")
        await coordinator.until(lambda: coordinator.submits)
        submit = submit_of(coordinator)
        assert submit.input == m.EMPTY
        assert submit.input_blob is not None
        body = await load_body(bus.connection, TaskName("me", "t1"), submit.input_blob)
        assert msgspec.json.decode(body) == {"text": text}


async def test_a_large_input_inside_a_plan_goes_by_reference_and_says_what_it_waits_for(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        plan = Plan({"load": Subtask("x"), "first": Subtask("x")})
        plan.add("big", Subtask("y", {"rows": Ref("load/rows"), "text": "x" * 300_000}, after=["first"], retries=1))
        await bus.submit(plan, id="t1")
        await coordinator.until(lambda: coordinator.submits)
        submit = submit_of(coordinator)
        assert submit.plan is not None
        big = submit.plan.subtasks["big"]
        assert (big.after, big.input, big.retries) == (["first", "load"], m.EMPTY, 1)
        assert big.input_blob is not None
        body = await load_body(bus.connection, TaskName("me", "t1"), big.input_blob)
        assert msgspec.json.decode(body)["rows"] == {"$ref": "load/rows"}


async def test_a_plan_of_10_000_subtasks_goes_by_reference(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        plan = Plan({f"s{number}": Subtask("text.classify", {"n": number}) for number in range(10_000)})
        await bus.submit(plan, id="t1")
        await coordinator.until(lambda: coordinator.submits)
        submit = submit_of(coordinator)
        assert submit.plan is None
        assert submit.plan_blob is not None
        body = await load_body(bus.connection, TaskName("me", "t1"), submit.plan_blob)
        assert msgspec.json.decode(body, type=m.PlanSpec) == plan.spec()


async def limit_submits(connection: Connection, messages: int) -> None:
    config = (await connection.api("STREAM.INFO.AE_SUBMITS", {}))["config"]
    await connection.api("STREAM.UPDATE.AE_SUBMITS", {**config, "max_msgs": messages})


async def test_a_submit_waits_while_the_queue_is_full(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus:
        await bus.submit("a", id="t1")
        await limit_submits(bus.connection, 1)
        with pytest.raises(StoreTimeout):
            await bus.submit("a", id="t2", store_timeout_s=0.5)
        async with anyio.create_task_group() as group:
            group.start_soon(limit_submits, bus.connection, 2)
            task = await bus.submit("a", id="t3", store_timeout_s=20)
        assert task.name == "me.t3"


def test_the_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_NAME", "somebody")
    assert own_name() == "somebody"
    monkeypatch.delenv("AGENTEXECUTOR_NAME")
    monkeypatch.setattr("getpass.getuser", lambda: "jo.doe")
    monkeypatch.setattr("socket.gethostname", lambda: "host.example.org")
    assert own_name() == "jo-doe-host-example-org"


async def test_the_submit_s_span_is_the_root_of_the_task_s_trace(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        with recorded() as spans:
            task = await bus.submit("text.classify", {"texts": []}, id="t1")
            await bus.submit(Plan({"a": Subtask("x")}), id="t2")
            with t.span(t.SPAN_EXECUTE, "outer", parent=None) as outer:
                inner = await bus.submit("a", id="t3")
        await coordinator.until(lambda: len(coordinator.submits) == 3)
        first, second, third, _ = spans.get_finished_spans()
        assert [span.name for span in (first, second, third)] == ["submit text.classify", "submit plan", "submit a"]
        assert first.kind.name == "PRODUCER"
        assert first.attributes is not None
        assert first.attributes["ae.task"] == "me.t1"
        assert first.attributes["messaging.destination.template"] == "ae.v1.submit.me.{class}.{task}"
        assert first.attributes["messaging.message.id"] == coordinator.submits[0][1]["Ae-Id"]
        assert task.trace_id == f"{first.context.trace_id:032x}"
        assert coordinator.submits[0][1]["traceparent"].startswith(f"00-{task.trace_id}-{first.context.span_id:016x}-")
        assert inner.trace_id == f"{outer.get_span_context().trace_id:032x}", "inside a trace it goes on"


async def test_without_a_trace_nothing_is_invented(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        await coordinator.until(lambda: coordinator.submits)
        assert "traceparent" not in coordinator.submits[0][1]
        assert task.trace_id is None
