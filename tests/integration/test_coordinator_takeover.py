"""Several coordinators on a real server: shards are shared, a dead one's work goes on elsewhere, and the log decides who was right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw
from peers import QUICK, Place, agent, client, coordinating, killable

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.errors import ApiError, AppendUnknown
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.server import embedded_server
from agentexecutor.coordinator.entry import Entry
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.turns import Desk, Turn
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.references import Ref, encode_input
from agentexecutor.schemas.subjects import shard_of

pytestmark = pytest.mark.anyio

PLAN = m.PlanSpec(
    subtasks={
        "a": m.SubtaskSpec(capability="echo"),
        "b": m.SubtaskSpec(capability="echo", input=encode_input({"x": Ref("a")})),
        "c": m.SubtaskSpec(capability="echo", input=encode_input({"x": Ref("b")})),
    }
)


async def until(fits: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not fits():
            await anyio.sleep(0.02)


async def test_a_killed_coordinator_is_replaced(place: Place) -> None:
    async with client(place) as me, agent(place, "a1", "echo", capacity=100) as a1, coordinating(place, "survivor"):
        async with killable(place, "victim") as (_, victim):
            await me.until_held({"survivor": 8, "victim": 8})
            tasks = [await me.submit(f"t{n}", plan=PLAN) for n in range(32)]
            awards = [await a1.award("a") for _ in tasks]
            for award in awards:
                await a1.accept(award)
            for task in tasks:
                await me.until(task, lambda view: view.subtasks["a"].state == "running")
            moved = [task for task in tasks if (await me.story(task))[0][0] == "victim"]
            assert 0 < len(moved) < len(tasks)
            victim.cancel()
        await me.until_held({"survivor": 16})
        for task in moved:
            await me.until_story(task, lambda story: story[-1] == ("survivor", "held"))
        for award in awards:
            await a1.done(award, 1)
        async with anyio.create_task_group() as group:
            group.start_soon(a1.work, lambda award: msgspec.json.decode(award.input)["x"] + 1)
            for task in tasks:
                assert bytes((await me.result(task)).result) == b"3"
            group.cancel_scope.cancel()
        for task in tasks:
            kinds = [kind for _, kind in await me.story(task)]
            assert kinds.count("awarded") == 3, "nothing runs twice"


async def test_who_takes_more_shards_has_listened_all_the_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silence of an agent whose process coordinated too counts from its death on, not from when its shards are taken."""
    listened: list[float] = []
    monkeypatch.setattr(Market, "listen_again", lambda _market, now: listened.append(now))
    async with client(place) as me, coordinating(place, "survivor"):
        await me.until_held({"survivor": 16})
        async with coordinating(place, "other"):
            await me.until_held({"survivor": 8, "other": 8})
        before = len(listened)
        await me.until_held({"survivor": 16})
        assert len(listened) == before > 0


async def test_all_stopped_in_the_middle_of_a_plan(place: Place) -> None:
    async with client(place) as me, agent(place, "a1", "echo", capacity=2) as a1:
        async with killable(place, "first"):
            task = await me.submit("t1", plan=PLAN)
            award = await a1.award("a")
            await a1.accept(award)
            await me.until(task, lambda view: view.subtasks["a"].state == "running")
        await a1.done(award, 1)
        await me.claim("feedback", task, m.FeedbackClaim(text="go on"))
        async with coordinating(place, "second"):
            for name in ("b", "c"):
                following = await a1.award(name)
                await a1.done(following, msgspec.json.decode(following.input)["x"] + 1)
            assert bytes((await me.result(task)).result) == b"3"
            story = await me.story(task)
            assert [kind for _, kind in story].count("feedback") == 1
            assert {coordinator for coordinator, _ in story} == {"first", "second"}


async def test_shards_move_in_good_order(place: Place) -> None:
    """A second one joins and leaves under load: nothing is lost, nothing is taken by force."""
    async with (
        client(place) as me,
        agent(place, "a1", "echo", capacity=1000) as a1,
        coordinating(place, "first") as first,
        anyio.create_task_group() as group,
    ):
        group.start_soon(a1.work, lambda _: 1)
        tasks: list[TaskName] = []

        async def load() -> None:
            for n in range(400):
                tasks.append(await me.submit(f"t{n}", capability="echo"))
                await anyio.sleep(0.002)

        await me.until_held({"first": 16})
        async with anyio.create_task_group() as loading:
            loading.start_soon(load)
            async with coordinating(place, "second") as second:
                await me.until_held({"first": 8, "second": 8})
            await me.until_held({"first": 16})
        for task in tasks:
            assert (await me.state(task)).state in ("completed", "running", "waiting")
        with anyio.fail_after(60):
            for task in tasks:
                await me.result(task)
        assert first.counters["faults"] == second.counters["faults"] == 0
        group.cancel_scope.cancel()


async def test_a_foreign_message_in_the_log_moves_the_head(place: Place) -> None:
    """A peer can have the server's acknowledgement stored in a log: it is passed over, the task goes on."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo", capacity=9) as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        shard = shard_of(task, me.connection.shards)
        said = encode(m.FeedbackClaim(text="psst"))
        forged = a1.subjects.log(shard, task)
        await a1.connection.publish(a1.subjects.claim("a1", "feedback", task), said, headers("feedback-claim"), reply=forged)
        await a1.expect("feedback")
        await a1.done(award, 1)
        assert bytes((await me.result(task)).result) == b"1"
        assert coordinator.counters["appends unknown"] >= 1


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_without_an_answer(place: Place, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    """Rule 1: the log tells whether the record is there; it is neither lost nor written twice."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        append = coordinator._log.append
        silent = 2

        async def unanswered(shard: int, task: TaskName, payload: bytes, made: Headers, *, expected: int) -> int:
            nonlocal silent
            silent -= 1
            if silent >= 0:
                if stored:
                    await append(shard, task, payload, made, expected=expected)
                raise AppendUnknown("lost", refused=False, err_code=None)
            return await append(shard, task, payload, made, expected=expected)

        monkeypatch.setattr(coordinator._log, "append", unanswered)
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award(), 1)
        assert bytes((await me.result(task)).result) == b"1"
        assert coordinator.counters["appends unknown"] == 2
        kinds = [kind for _, kind in await me.story(task) if kind != "held"]
        assert kinds == ["submitted", "planned", "ready", "awarded", "accepted", "completed", "completed"]


async def test_half_a_turn_is_taken_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn's first record is stored, its second is not: nothing of it counts, and its inputs are decided on again."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        append = coordinator._log.append
        large = 0

        async def half(shard: int, task: TaskName, payload: bytes, made: Headers, *, expected: int) -> int:
            nonlocal large
            if large == 1:
                large = 2
                raise AppendUnknown("refused", refused=True, err_code=None)
            large += len(payload) > 200_000 and large == 0
            return await append(shard, task, payload, made, expected=expected)

        monkeypatch.setattr(coordinator._log, "append", half)
        result = "x" * 262_100
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award(), result)
        assert bytes((await me.result(task)).result) == f'"{result}"'.encode()
        plan = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="echo"), "b": m.SubtaskSpec(capability="echo", after=["a"])})
        large = 0
        task = await me.submit("t2", plan=plan)
        await a1.done(await a1.award("a"), result)
        await a1.done(await a1.award("b"), 2)
        assert bytes((await me.result(task)).result) == b"2"
        assert large == 2


async def test_a_late_holder_is_refused(place: Place) -> None:
    """A coordinator that believes in its lease for too long finds its appends refused, and acknowledges nothing."""
    async with client(place) as me, agent(place, "a1", "echo") as a1, killable(place, "late") as (late, scope):
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        shard = shard_of(task, me.connection.shards)
        state = late._tasks.get(task)
        assert state is not None
        assert state.state is not None
        head = state.state.head
        scope.cancel()
        async with coordinating(place, "new") as new:
            await a1.done(award, 1)
            await me.result(task)
            log = TaskLog(me.connection)
            with pytest.raises(AppendUnknown) as refused:
                await log.append(shard, task, b"{}", headers("record"), expected=head)
            assert refused.value.fields["refused"] is True
            assert new.counters["faults"] == 0


@pytest.mark.parametrize("answers", ["at once", "late"])
async def test_the_server_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str) -> None:
    """Two coordinators lose leases and offers with the server's memory, and find together again; also when nobody can make the streams at first."""

    asked = set[str]()

    async def no_answer(connection: Connection, **_: Any) -> int:
        asked.add(connection.name)
        raise ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")

    async with AsyncExitStack() as stack:
        async with embedded_server(tmp_path) as server:
            place, port = Place(server.url), server.port
            me = await stack.enter_async_context(client(place))
            a1 = await stack.enter_async_context(agent(place, "a1", "echo", capacity=20))
            both = [await stack.enter_async_context(coordinating(place, name)) for name in ("one", "two")]
            await me.until_held({"one": 8, "two": 8})
            tasks = [await me.submit(f"t{n}", capability="echo") for n in range(10)]
            awards = [await a1.award() for _ in tasks]
            for award in awards:
                await a1.accept(award)
            for task in tasks:
                await me.until(task, lambda view: view.subtasks["main"].state == "running")
        with monkeypatch.context() as patched:
            if answers == "late":
                patched.setattr("agentexecutor.bus.connection.ensure_streams", no_answer)
            await stack.enter_async_context(embedded_server(tmp_path, port))
            with anyio.fail_after(60):
                while answers == "late" and asked != {"me", "a1", "one", "two"}:
                    await anyio.sleep(0.02)
        for award in awards:
            await a1.done(award, 1)
        for task in tasks:
            assert bytes((await me.result(task)).result) == b"1"
            assert [kind for _, kind in await me.story(task)].count("awarded") == 1, "nobody was taken for lost"
        await me.until_held({"one": 8, "two": 8})
        assert [coordinator.counters["faults"] for coordinator in both] == [0, 0]


async def test_who_lost_its_lease_answers_no_claim_from_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may hold the shard by now, and the log may have been cut: the task need not have ended."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.done(award, 1)
        await me.result(task)
        posted = anyio.Event()
        monkeypatch.setattr(coordinator, "_remembers", lambda _shard: False)  # the lease itself stays, else nothing might be delivered
        monkeypatch.setattr(coordinator._driver, "post", lambda *_: posted.set())
        before = coordinator.counters["inputs without effect"]
        await a1.done(award, 1)
        with anyio.fail_after(60):
            await posted.wait()
        assert coordinator.counters["inputs without effect"] == before, "nor is it acknowledged"


async def test_a_fault_stops_nothing(place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody has foreseen is logged, counted, and tried again; here once in a task's turn and once in taking up a shard."""
    heads, turn = TaskLog.heads, Desk.turn
    broken = {"heads": True, "turn": True}

    def heads_broken_once(log: TaskLog, shard: int | None = None, *, since: int = 0) -> Any:
        if broken.pop("heads", False):
            raise RuntimeError("heads")
        return heads(log, shard, since=since)

    def turn_broken_once(desk: Desk, entry: Entry, monotonic: float) -> Turn:
        if entry.inputs and broken.pop("turn", False):
            raise RuntimeError("turn")
        return turn(desk, entry, monotonic)

    monkeypatch.setattr(TaskLog, "heads", heads_broken_once)
    monkeypatch.setattr(Desk, "turn", turn_broken_once)
    monkeypatch.setattr("agentexecutor.coordinator.shell.driving.FAULT_S", 0.1)
    monkeypatch.setattr("agentexecutor.bus.consumers.ACK_WAIT_S", 1)
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award(), 1)
        assert bytes((await me.result(task)).result) == b"1"
        assert coordinator.counters["faults"] == 2
        assert "RuntimeError: turn" in caplog.text
        assert "RuntimeError: heads" in caplog.text


async def test_after_a_restart_of_the_server_all_is_loaded_again_and_no_epoch_is_given_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def restarted_ms(_log: TaskLog) -> int:
        return 5000

    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        monkeypatch.setattr(TaskLog, "restarted_ms", restarted_ms)
        await coordinator._reconnected()
        await me.until_story(task, lambda story: ("coord", "held") in story)
        await a1.claim("release", task, m.Release(subtask="main", epoch=award.epoch, boot=award.boot, reason="busy"))
        again = await a1.award()
        assert (award.epoch, again.epoch) == (1, 5000)
        await a1.done(again, 1)
        assert bytes((await me.result(task)).result) == b"1"


async def test_parked_tasks_leave_memory(place: Place) -> None:
    small = dataclasses.replace(QUICK, open_tasks=200, accept_timeout_s=30.0)
    async with coordinating(place, settings=small) as coordinator, client(place) as me:
        tasks = [await me.submit(f"t{n}", capability="later", input=Raw(b'{"n":%d}' % n)) for n in range(300)]
        await until(lambda: coordinator._tasks.active <= 100 and len(coordinator._tasks) == 300)
        async with agent(place, "a1", "later", capacity=100) as a1, anyio.create_task_group() as group:
            group.start_soon(a1.work, lambda award: msgspec.json.decode(award.input)["n"])
            for n, task in enumerate(tasks):
                result: Any = await me.result(task)
                assert msgspec.json.decode(result.result) == n
            group.cancel_scope.cancel()
