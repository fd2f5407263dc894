"""Waiting for a result: told, asked for, submitted again, refused, lost, by reference; after reconnects, for tasks of others, without leaks."""

from __future__ import annotations

import gc
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from scripted import scripted

from agentexecutor.bus import BusClosed, BusError, TaskCancelled, TaskFailed, TaskLost, TaskRefused, TaskTimeout, connect, embedded_server
from agentexecutor.bus import task as tasks
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.errors import TaskError
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName

pytestmark = pytest.mark.anyio

T1 = TaskName("me", "t1")
NEVER = (3600.0,)


def done(value: Any, task: TaskName = T1) -> m.Result:
    return m.Result(task=str(task), state="completed", result=msgspec.Raw(encode(value)))


@pytest.fixture
def asks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question comes right after the submit, the others soon after."""
    monkeypatch.setattr(tasks, "ASK_AFTER_S", (0.0, 0.05))


@pytest.fixture
def never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ASK_AFTER_S", NEVER)


@pytest.mark.usefixtures("never_asks")
async def test_the_result_is_told_and_converted(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        await coordinator.say("me", T1, done({"n": 3}))
        assert await task.result() == {"n": 3}
        assert await task.result(dict[str, int]) == {"n": 3}
        with pytest.raises(DecodeFailed, match="int"):
            await task.result(int)
        assert await bus.task("me.t1").result() == {"n": 3}, "handles of one task share what was told"
        assert coordinator.asked == []


@pytest.mark.usefixtures("never_asks")
async def test_a_result_that_comes_before_the_acknowledgement_counts(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:

        async def at_once() -> None:
            await coordinator.until(lambda: coordinator.submits)
            await coordinator.say("me", T1, done(1))

        async with anyio.create_task_group() as group:
            group.start_soon(at_once)
            assert await bus.run("a", type=int, id="t1") == 1


@pytest.mark.usefixtures("never_asks")
async def test_a_child_s_result_is_not_the_task_s(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        child = m.Result(task="me.t1", subtask="main", call=1, state="completed", result=msgspec.Raw(b"1"))
        await coordinator.say("me", T1, child)
        await coordinator.say("me", T1, done(2))
        assert await task.result() == 2


@pytest.mark.parametrize(
    ("end", "error", "field", "value"),
    [
        (
            m.Result(task="me.t1", state="failed", error=m.ErrorInfo(code="handler", message="broken", details={"x": 1})),
            TaskFailed,
            "error",
            m.ErrorInfo(code="handler", message="broken", details={"x": 1}),
        ),
        (
            m.Result(task="me.t1", state="cancelled", error=m.ErrorInfo(code="cancelled", message="enough")),
            TaskCancelled,
            "reason",
            "enough",
        ),
    ],
)
@pytest.mark.usefixtures("never_asks")
async def test_an_end_that_is_no_result_is_an_error(
    server: EmbeddedServer, end: m.Result, error: type[TaskError], field: str, value: object
) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        await coordinator.say("me", T1, end)
        with pytest.raises(error) as raised:
            await task.result()
        assert raised.value.fields[field] == value
        assert raised.value.fields["task"] == "me.t1"


@pytest.mark.usefixtures("asks_at_once")
async def test_a_lost_message_is_asked_for(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.silent = 1
        coordinator.states[T1] = v.StateView(state="completed", result=msgspec.Raw(b"[1]"), trace_id="ab" * 16)
        task = await bus.submit("a", id="t1")
        assert await task.result(list[int]) == [1]
        assert task.trace_id == "ab" * 16
        assert len(coordinator.submits) == 1


async def test_who_is_woken_while_it_asks_asks_again(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection came back just then: what was sent meanwhile is lost, and so may be the answer."""
    monkeypatch.setattr(tasks, "ASK_AFTER_S", (0.0, 3600.0))
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator, anyio.create_task_group() as group:
        coordinator.silent = 1
        coordinator.states[T1] = v.StateView(state="completed", result=msgspec.Raw(b"1"))
        task = await bus.submit("a", id="t1")

        async def wake() -> None:
            await coordinator.until(lambda: coordinator.asked)
            await bus.look_again()

        group.start_soon(wake)
        assert await task.result(int, timeout_s=60) == 1
        assert len(coordinator.asked) == 2


@pytest.mark.usefixtures("asks_at_once")
async def test_an_open_task_is_waited_for(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        coordinator.states[T1] = v.StateView(state="waiting")
        task = await bus.submit("a", id="t1")

        async def later() -> None:
            await coordinator.until(lambda: len(coordinator.asked) > 2)
            await coordinator.say("me", T1, done(1))

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            assert await task.result() == 1
        assert len(coordinator.submits) == 1


@pytest.mark.usefixtures("asks_at_once")
async def test_what_nobody_knows_is_submitted_again_as_it_was(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", {"x": 1}, id="t1")

        async def later() -> None:
            await coordinator.until(lambda: len(coordinator.submits) == 2)
            await coordinator.say("me", T1, done(1))

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            assert await task.result() == 1
        (first, first_headers, one), (second, second_headers, other) = coordinator.submits[:2]
        assert (first, first_headers["Ae-Id"], one) == (second, second_headers["Ae-Id"], other)


@pytest.mark.usefixtures("asks_at_once")
@pytest.mark.parametrize(("keep_s", "kept"), [(None, "7 days"), (3600, "3600 s")])
async def test_what_is_too_old_is_not_submitted_again(server: EmbeddedServer, keep_s: int | None, kept: str) -> None:
    """Half the time that its coordinator keeps ended tasks; one that does not say so keeps 7 days."""
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        unknown = v.StateView(state="unknown") if keep_s is None else v.StateView(state="unknown", keep_s=keep_s)
        coordinator.states[T1] = unknown
        task = await bus.submit("a", id="t1")
        assert task._submitted is not None
        half_s = (keep_s or 7 * 24 * 3600) / 2
        task._submitted = task._submitted._replace(at=time.monotonic() - half_s + 1000)
        await task._look()
        await coordinator.until(lambda: len(coordinator.submits) == 2)
        task._submitted = task._submitted._replace(at=time.monotonic() - half_s - 1)
        with pytest.raises(TaskLost, match=f"too old.*kept for {kept}"):
            await task.result()
        assert len(coordinator.submits) == 2


@pytest.mark.usefixtures("never_asks")
async def test_a_handle_by_name_asks_at_once_and_never_submits(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        with pytest.raises(TaskLost, match="Nobody knows"):
            await bus.task("me.t1").result()
        coordinator.states[T1] = v.StateView(state="completed", result=msgspec.Raw(b"7"))
        assert await bus.task("me.t1").result() == 7
        assert coordinator.submits == []


async def test_patience_runs_out(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus:
        task = await bus.submit("a", id="t1")
        with pytest.raises(TaskTimeout, match=r"within 0\.1 s"):
            await task.result(timeout_s=0.1)


@pytest.mark.usefixtures("never_asks")
async def test_only_the_refusal_of_one_s_own_submit_counts(server: EmbeddedServer) -> None:
    error = m.ErrorInfo(code="refused", message="exists with other content")
    async with connect(server.url, name="me") as bus, connect(server.url, name="me") as other, scripted(server.url) as coordinator:
        mine = await bus.submit("a", {"x": 1}, id="t1")
        theirs = await other.submit("a", {"x": 2}, id="t1")
        await coordinator.until(lambda: len(coordinator.submits) == 2)
        await coordinator.say("me", T1, m.Refused(task="me.t1", id=coordinator.submits[1][1]["Ae-Id"], error=error))
        await coordinator.say("me", T1, done("mine"))
        with pytest.raises(TaskRefused, match="other content") as raised:
            await theirs.result()
        assert raised.value.fields["error"] == error
        assert await mine.result() == "mine"


@pytest.mark.usefixtures("never_asks")
async def test_an_old_result_says_nothing_about_a_new_submit(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        first = await bus.submit("a", {"x": 1}, id="t1")
        await coordinator.say("me", T1, done(1))
        assert await first.result() == 1
        second = await bus.submit("a", {"x": 2}, id="t1")
        await coordinator.until(lambda: len(coordinator.submits) == 2)
        error = m.ErrorInfo(code="refused", message="exists with other content")
        await coordinator.say("me", T1, m.Refused(task="me.t1", id=coordinator.submits[1][1]["Ae-Id"], error=error))
        with pytest.raises(TaskRefused):
            await second.result()
        assert await first.result() == 1


@pytest.mark.usefixtures("never_asks")
async def test_several_clients_share_a_name(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as one, connect(server.url, name="me") as two, scripted(server.url) as coordinator:
        first = await one.submit("a", id="t1")
        second = await two.submit("a", id="t2")
        await coordinator.say("me", TaskName("me", "t2"), done(2, TaskName("me", "t2")))
        await coordinator.say("me", T1, done(1))
        assert (await first.result(), await second.result()) == (1, 2)


@pytest.mark.parametrize("size", [300_000, 10_000_000])
@pytest.mark.usefixtures("never_asks")
async def test_a_large_result_is_fetched(server: EmbeddedServer, size: int) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        text = "x" * size
        ref = await bus.put(T1, encode(text))
        coordinator.silent = 1
        await coordinator.say("me", T1, m.Result(task="me.t1", state="completed", result_blob=ref))
        assert await task.result(str) == text


async def test_a_body_that_is_gone_or_another_is_an_error(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url):
        with pytest.raises(BusError, match="gone"):
            await bus.fetch(T1, m.BlobRef(digest="0" * 64, bytes=3, chunks=1))
        ref = await bus.put(T1, b"abc")
        with pytest.raises(BusError, match="digest"):
            await bus.fetch(T1, m.BlobRef(digest=ref.digest, bytes=4, chunks=1))


@pytest.mark.usefixtures("never_asks")
async def test_nothing_is_kept_of_tasks_that_nobody_holds(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        kept = await bus.submit("a", id="kept")
        for number in range(20):
            await bus.submit("a", id=f"t{number}")
        waited = await bus.submit("a", id="t1")
        await coordinator.say("me", T1, done(1))
        assert await waited.result() == 1
        del waited
        gc.collect()
        assert list(bus._outcomes) == [kept.task_name]


@pytest.mark.usefixtures("never_asks")
async def test_the_end_of_somebody_else_s_task_is_noticed(server: EmbeddedServer) -> None:
    async with connect(server.url, name="you") as bus, scripted(server.url) as coordinator:
        coordinator.states[T1] = v.StateView(state="running")
        task = bus.task("me.t1")

        async def later() -> None:
            await coordinator.until(lambda: coordinator.asked)
            coordinator.states[T1] = v.StateView(state="completed", result=msgspec.Raw(b"5"))
            await coordinator.end(T1, r.Completed(result=msgspec.Raw(b"5")))

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            assert await task.result() == 5


@pytest.mark.usefixtures("never_asks")
async def test_what_cannot_be_used_stops_nothing(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        task = await bus.submit("a", id="t1")
        to, publish = coordinator.subjects.to, coordinator.connection.publish
        await publish(to("me", "result", T1), b"no json", headers("result"))
        await publish(to("me", "result", T1), b'{"task":"me.t1"}', headers("result"))
        await publish(to("me", "result", T1), b'{"task":"me.t1","state":7}', headers("result"))
        await publish(to("me", "result", T1), encode(done(0)), {})
        await publish(to("me", "result", T1), encode(done(0)), headers("newer-type"))
        await publish(to("me", "refused", T1), encode(done(0)), headers("result"))
        await publish(to("me", "answer", T1), b"no json", {**headers("answer"), "Ae-Re": "nobody-asked"})
        await coordinator.say("me", T1, done(1))
        assert await task.result() == 1
        assert bus.counters["undecodable"] == 3


async def test_handlers_hear_their_kind_until_they_are_taken_back(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, scripted(server.url) as coordinator:
        heard: list[tuple[TaskName, m.Message, str]] = []
        both = anyio.Event()

        async def came(task: TaskName, message: m.Message, made: dict[str, str]) -> None:
            heard.append((task, message, made["Ae-Type"]))
            if isinstance(message, m.Result):
                both.set()

        async def broken(_task: TaskName, _message: m.Message, _made: dict[str, str]) -> None:
            raise RuntimeError("a handler's own fault")

        remove = bus.on_message("cancel", came)
        bus.on_message("result", came)
        bus.on_message("result", broken)
        cancel = m.Cancel(task="me.t1", subtask="main", epoch=1)
        await coordinator.say("me", T1, cancel)
        await coordinator.say("me", T1, done(1))
        await both.wait()
        both = anyio.Event()
        remove()
        remove()
        await coordinator.say("me", T1, cancel)
        await coordinator.say("me", T1, done(2))
        await both.wait()
        assert heard == [(T1, cancel, "cancel"), (T1, done(1), "result"), (T1, done(2), "result")]


@pytest.mark.usefixtures("never_asks")
async def test_closing_tells_who_waits(server: EmbeddedServer) -> None:
    async with anyio.create_task_group() as group, connect(server.url, name="me") as bus:  # closed while the group still waits
        task = await bus.submit("a", id="t1")
        waiting = anyio.Event()

        async def wait() -> None:
            waiting.set()
            with pytest.raises(BusClosed):
                await task.result()

        group.start_soon(wait)
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()


async def test_errors_of_the_body_come_out_unwrapped(server: EmbeddedServer) -> None:
    with pytest.raises(KeyError):
        async with connect(server.url, name="me"):
            raise KeyError("x")


@pytest.mark.usefixtures("never_asks")
async def test_a_server_that_went_away_and_came_back(tmp_path: Path) -> None:
    """What was sent while we were away is lost: after a reconnect it is asked for at once."""
    async with AsyncExitStack() as second, AsyncExitStack() as first:
        running = await first.enter_async_context(embedded_server(tmp_path))
        async with connect(running.url, name="me") as bus:
            task = await bus.submit("a", id="t1")
            async with anyio.create_task_group() as group:
                got = anyio.Event()

                async def wait() -> None:
                    assert await task.result() == 9
                    got.set()

                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await first.aclose()
                await second.enter_async_context(embedded_server(tmp_path, port=running.port))
                async with scripted(running.url) as coordinator:
                    coordinator.states[T1] = v.StateView(state="completed", result=msgspec.Raw(b"9"))
                    await got.wait()
            assert await bus.submit("a", id="t2"), "the connection works as before"


async def test_a_peer_hears_only_its_own_name(server: EmbeddedServer) -> None:
    async with connect(server.url, name="me") as bus, open_connection(server.url, name="x") as other:
        heard = anyio.Event()

        async def came(_task: TaskName, message: m.Message, _made: dict[str, str]) -> None:
            assert message == done(1)
            heard.set()

        bus.on_message("result", came)
        await other.publish(other.subjects.to("me2", "result", T1), encode(done(0)), headers("result"))
        await other.publish(other.subjects.to("me", "result", T1), encode(done(1)), headers("result"))
        await heard.wait()
