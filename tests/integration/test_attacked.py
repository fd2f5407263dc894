"""A running system whose log, streams and consumers are attacked: it says what is missing, what can go on goes on, and new tasks complete."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from peers import QUICK, Peer, Place, ScriptedAgent, agent, client, coordinating

from agentexecutor.bus import StoreTimeout, log
from agentexecutor.bus.errors import ApiError
from agentexecutor.bus.leasing import LeaseStream
from agentexecutor.bus.log import StoredRecord
from agentexecutor.bus.streams import BLOBS, INBOX, LEASE, LOG, OFFERS, PROGRESS, SUBMITS
from agentexecutor.coordinator.shell import coordinator as shell
from agentexecutor.coordinator.shell import driving
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode_record, encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.references import Ref, encode_input
from agentexecutor.schemas.subjects import shard_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio

PATIENT = dataclasses.replace(QUICK, accept_timeout_s=60.0, lost_after_s=60.0)
"""Nobody is taken for lost while a stream is full."""
PLAN = m.PlanSpec(
    subtasks={
        "a": m.SubtaskSpec(capability="echo"),
        "b": m.SubtaskSpec(capability="echo", input=encode_input({"x": Ref("a")})),
    }
)


@pytest.fixture
def place(server: EmbeddedServer) -> Place:
    return Place(server.url)


@pytest.fixture
async def me(place: Place) -> AsyncIterator[Peer]:
    async with client(place) as peer:
        yield peer


async def run_one(me: Peer, worker: ScriptedAgent, id: str) -> None:
    """An ordinary task comes to its result."""
    await finish(me, worker, await me.submit(id, capability="echo"))


async def finish(me: Peer, worker: ScriptedAgent, task: TaskName) -> None:
    """Its award is worked off, and its result comes."""
    name = str(task)
    award = await worker.expect("award", lambda award: award.task == name)
    await worker.accept(award)
    await worker.done(award, name)
    assert msgspec.json.decode((await me.result(task)).result) == name


async def start_one(me: Peer, worker: ScriptedAgent, id: str) -> tuple[TaskName, m.Award]:
    """A task whose agent has accepted it."""
    task = await me.submit(id, capability="echo")
    award = await worker.expect("award", lambda award: award.task == str(task))
    await worker.accept(award)
    await me.until(task, lambda view: view.subtasks["main"].state == "running")
    return task, award


async def log_of(me: Peer, task: TaskName) -> list[int]:
    """The sequences of the task's records, oldest first."""
    found: list[int] = []
    subject = me.subjects.log(shard_of(task, me.connection.shards), task)
    while True:
        try:
            answer = await me.connection.api(f"STREAM.MSG.GET.{LOG}", {"next_by_subj": subject, "seq": (found or [0])[-1] + 1})
        except Exception:  # there is no next one
            return found
        found.append(int(answer["message"]["seq"]))


async def update(me: Peer, name: str, **changed: Any) -> None:
    """Change settings of a stream."""
    config = (await me.connection.api(f"STREAM.INFO.{name}", {}))["config"]
    await me.connection.api(f"STREAM.UPDATE.{name}", {**config, **changed})


GAPS = {
    ("planned", None): "Subtask 'a' of task me.torn is unknown",
    ("completed", "a"): "Subtask 'b' of task me.torn is blocked",
    ("accepted", "b"): None,
}
"""The change whose record is gone → why the task stands still; None: it goes on from what is left."""


@pytest.mark.parametrize("gap", list(GAPS), ids=lambda gap: gap[0])
async def test_a_log_with_a_gap(place: Place, me: Peer, caplog: pytest.LogCaptureFixture, gap: tuple[str, str | None]) -> None:
    """A record is gone: when what is left leads to no state the task stands still and is named, else it goes on; all others go on."""
    async with agent(place, "worker", "echo", capacity=10) as worker:
        async with coordinating(place):
            task = await me.submit("torn", plan=PLAN)
            first = await worker.award("a")
            await worker.accept(first)
            await worker.done(first, 1)
            second = await worker.award("b")
            await worker.accept(second)
            await me.until(task, lambda view: view.subtasks["b"].state == "running")
            other, award = await start_one(me, worker, "whole")
        await me.connection.api(f"STREAM.MSG.DELETE.{LOG}", {"seq": await record_of(me, task, *gap)})
        async with coordinating(place) as coordinator:
            await worker.done(award, 1)
            assert bytes((await me.result(other)).result) == b"1"
            await run_one(me, worker, "new")
            why = GAPS[gap]
            if why is None:
                await worker.done(second, 2)
                assert (await me.result(task)).state == "completed"
            else:
                assert why in (await me.expect_error("task", task)).message
                assert f"Task {task} stands still" in caplog.text
            assert coordinator.counters["logs senseless"] == (why is not None)
            assert coordinator.counters["faults"] == 0


async def record_of(me: Peer, task: TaskName, kind: str, subtask: str | None) -> int:
    """The sequence of the first record with such a change."""
    stored = await log.TaskLog(me.connection).read(shard_of(task, me.connection.shards), task)
    for record in stored:
        for change in decode_record(record.payload or b"").changes:
            if type(change).__struct_config__.tag == kind and subtask in (None, getattr(change, "subtask", None)):
                return record.seq
    raise AssertionError(f"no record of {task} has {kind} {subtask}")


@pytest.mark.parametrize("kind", [None, "record", "no-such-type"])
async def test_what_nobody_knows_in_a_log(place: Place, me: Peer, kind: str | None) -> None:
    """A change of a later version, or a message without Ae-Type, moves the head and nothing else."""
    async with agent(place, "worker", "echo", capacity=10) as worker:
        async with coordinating(place):
            task, award = await start_one(me, worker, "t1")
        subject = me.subjects.log(shard_of(task, me.connection.shards), task)
        strange = b'{"at":"2026-01-01T00:00:00Z","coordinator":"x","changes":[{"kind":"from-the-future","x":1}]}'
        await me.connection.store(subject, strange, {} if kind is None else headers(kind))
        async with coordinating(place) as coordinator:
            await worker.done(award, 1)
            assert bytes((await me.result(task)).result) == b"1"
            assert coordinator.counters["faults"] == 0
            await run_one(me, worker, "new")


SENSELESS = (
    b'{"at":"2026-01-01T00:00:00Z","coordinator":"x","changes":[{"kind":"ready","subtasks":["main"]}]}',
    b'{"at":"2026-01-01T00:00:00Z","coordinator":"x","changes":[{"kind":"completed","subtask":"no-such"}]}',
    b'{"at":"2026-01-01T00:00:00Z","coordinator":"x","changes":[{"kind":"completed","of":"no-such"}]}',
    b'{"at":"yesterday","coordinator":"x","changes":[{"kind":"held"}]}',
)
"""Records of known kinds that lead to no state."""


@pytest.mark.parametrize("forged", SENSELESS)
async def test_a_log_that_makes_no_sense(
    place: Place, me: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, forged: bytes
) -> None:
    """Its task stands still: that is told once, who asks is told why, it is not read again and again, and its shard goes on."""
    monkeypatch.setattr(driving, "STILL_S", 600.0)
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place) as coordinator:
        task, award = await start_one(me, worker, "forged")
        shard = shard_of(task, me.connection.shards)
        reads: list[TaskName] = []
        read = coordinator._log.read

        async def noted(shard: int, name: TaskName) -> list[StoredRecord]:
            reads.append(name)
            return await read(shard, name)

        monkeypatch.setattr(coordinator._log, "read", noted)
        seq = await me.connection.store(me.subjects.log(shard, task), forged, headers("record"))
        await worker.done(award, 1)
        answer = await me.expect_error("task", task, what="view")
        assert f"Record {seq} of task {task} cannot be applied" in answer.message
        for number in range(300):
            await me.claim("feedback", task, m.FeedbackClaim(text=str(number)))
        assert (await me.expect_error("task", task)).message == answer.message
        same = next(f"t{number}" for number in range(1000) if shard_of(TaskName("me", f"t{number}"), me.connection.shards) == shard)
        await run_one(me, worker, same)
        await me.until_held({"coord": me.connection.shards})
        entry = coordinator._tasks.get(task)
        assert entry is not None
        assert (list(entry.inputs), entry.soft, entry.questions, entry.state) == ([], [], [], None), "nothing piles up"
        assert reads.count(task) == 1
        told = [record for record in caplog.records if str(task) in record.getMessage() and record.levelname == "ERROR"]
        assert len(told) == 1
        assert f"`nats stream rmm {LOG} {seq}`" in told[0].getMessage()
        assert coordinator.counters["logs senseless"] == 1
        assert coordinator.counters["faults"] == 0


async def test_a_log_that_makes_sense_again(place: Place, me: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who removes the forged record and asks for the task has it go on."""
    monkeypatch.setattr(driving, "STILL_S", 0.1)
    async with agent(place, "worker", "echo", capacity=10) as worker:
        async with coordinating(place):
            task, award = await start_one(me, worker, "forged")
        subject = me.subjects.log(shard_of(task, me.connection.shards), task)
        seq = await me.connection.store(subject, SENSELESS[0], headers("record"))
        async with coordinating(place) as coordinator:
            await me.expect_error("task", task)
            await me.connection.api(f"STREAM.MSG.DELETE.{LOG}", {"seq": seq})
            await me.until_no_error("task", task)
            await worker.done(award, 1)
            assert bytes((await me.result(task)).result) == b"1"
            assert coordinator.counters["logs senseless"] == 1
            assert coordinator.counters["faults"] == 0


async def test_stored_messages_without_a_type(place: Place, me: Peer) -> None:
    async with agent(place, "worker", "echo") as worker, coordinating(place) as coordinator:
        await run_one(me, worker, "before")
        for subject in ("from.x.done.me.t1", "submit.me.normal.t2"):
            await me.connection.store(f"{place.prefix}.{subject}", b"+OK", {})
        await run_one(me, worker, "after")
        with anyio.fail_after(60):
            while coordinator.counters["messages untyped"] < 2:
                await anyio.sleep(0.02)
        assert coordinator.counters["faults"] == 0


async def test_what_stands_where_no_task_has_its_log(place: Place, me: Peer) -> None:
    """Who asks for all tasks is told of those that are, and nobody moves the others."""
    async with agent(place, "worker", "echo"), coordinating(place) as coordinator:
        task = TaskName("me", "t1")
        wrong = (shard_of(task, me.connection.shards) + 1) % me.connection.shards
        for subject in ("task.x.me.t1", "task.1", "task.01.me.t1", f"task.{wrong}.me.t1", "task.1.a.b.c"):
            await me.connection.store(f"{place.prefix}.{subject}", b"{}", headers("record"))
        await me.submit("t1", capability="nobody-can")
        await me.until(task, lambda view: bool(view.subtasks))
        answer = await me.ask("tasks")
        assert [line["task"] for line in msgspec.json.decode(answer.body)["tasks"]] == ["me.t1"]
        assert coordinator.counters["faults"] == 0


async def test_nonsense_for_leases_and_members(place: Place, me: Peer) -> None:
    """It is counted and kept as all else that cannot be used; lease.01 is nobody's."""
    async with agent(place, "worker", "echo") as worker, coordinating(place) as coordinator:
        await me.until_held({"coord": me.connection.shards})
        lease = encode(m.Lease(holder="stranger", boot="b"))
        nonsense = (
            *(("lease.01", "lease", lease), ("lease.99", "lease", lease), ("lease.\u0661", "lease", lease), ("lease.2", "lease", b"{")),
            *(("lease.3", "member", b"{}"), ("member.x", "member", b"[]"), ("member.y", "lease", lease)),
        )
        for subject, kind, payload in nonsense:
            await me.connection.store(f"{place.prefix}.{subject}", payload, headers(kind))
        with anyio.fail_after(60):
            while coordinator.counters["messages undecodable"] < len(nonsense):
                await anyio.sleep(0.02)
        assert {subject for subject, _, _ in coordinator.unusable} == {f"{place.prefix}.{subject}" for subject, _, _ in nonsense}
        await me.until_held({"coord": me.connection.shards})
        await run_one(me, worker, "new")
        assert coordinator.counters["faults"] == 0


async def test_leases_that_cannot_be_read_are_told_once(
    place: Place, me: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LeaseStream.read
    tried: list[int] = []

    async def silent_at_first(stream: LeaseStream, shard: int) -> tuple[int | None, m.Lease | None]:
        tried.append(shard)
        if len(tried) <= 2 * me.connection.shards:
            raise ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")
        return await read(stream, shard)

    monkeypatch.setattr(LeaseStream, "read", silent_at_first)
    async with coordinating(place):
        await me.until_held({"coord": me.connection.shards})
    assert len(tried) >= 2 * me.connection.shards
    assert sum("A lease could not be looked after" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("stream", [LOG, INBOX, SUBMITS, LEASE, OFFERS, PROGRESS, BLOBS])
async def test_a_stream_deleted_under_a_running_system(
    place: Place, me: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """Who misses it makes it anew and says so; nobody connects or is started again, and new tasks complete."""
    large = "x" * 300_000
    if stream == PROGRESS:
        monkeypatch.setattr(shell, "LEVELS_S", 0.5)  # nobody misses it, but it is looked after
    async with (
        agent(place, "worker", "echo", capacity=10) as worker,
        coordinating(place, "first") as first,
        coordinating(place, "second") as second,
    ):
        await me.until_held({"first": 8, "second": 8})
        await run_one(me, worker, "before")
        await me.connection.api(f"STREAM.DELETE.{stream}", {})
        async with anyio.create_task_group() as group:
            group.start_soon(worker.work, lambda award: award.task)
            for number in range(20):
                task = TaskName("me", f"after-{number}")
                body = await me.put(task, {"text": large}) if stream == BLOBS else None
                await me.submit(task.id, capability="echo", input_blob=body)
                assert msgspec.json.decode((await me.result(task)).result) == str(task)
            group.cancel_scope.cancel()
        with anyio.fail_after(60):
            while not (told := [message for message in caplog.messages if "gone and have been made anew" in message]):
                await anyio.sleep(0.02)
        assert all(message.endswith(f": {stream}.") for message in told)
        await me.until_held({"first": 8, "second": 8})
        assert first.counters["faults"] == second.counters["faults"] == 0


async def test_a_lost_log_gives_no_number_of_an_award_again(place: Place, me: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same task is submitted again while its agent still runs the award that no log knows any more."""
    monkeypatch.setattr(log, "RESTART_S", 0.01)
    monkeypatch.setattr(shell, "LEVELS_S", 0.5)  # so often it is looked whether a stream was lost
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place):
        task, before = await start_one(me, worker, "again")
        await me.connection.api(f"STREAM.DELETE.{LOG}", {})
        await me.until_state(task, "unknown")
        await me.submit("again", capability="echo")
        after = await worker.award()
        assert (after.task, after.subtask) == (before.task, before.subtask)
        assert after.epoch > before.epoch
        await worker.accept(after)
        await worker.done(after, 2)
        assert bytes((await me.result(task)).result) == b"2"


async def test_consumers_deleted_under_a_running_system(place: Place, me: Peer) -> None:
    async with agent(place, "worker", "echo") as worker, coordinating(place) as coordinator:
        await run_one(me, worker, "before")
        for stream in (INBOX, SUBMITS, LEASE, OFFERS):
            names = (await me.connection.api(f"CONSUMER.NAMES.{stream}", {}))["consumers"]
            assert names
            for name in names:
                await me.connection.api(f"CONSUMER.DELETE.{stream}.{name}", {})
        for number in range(5):
            await run_one(me, worker, f"after-{number}")
        assert coordinator.counters["faults"] == 0


async def test_a_full_log(place: Place, me: Peer) -> None:
    """The log takes no record: what runs waits, and goes on when there is room again."""
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place, settings=QUICK) as coordinator:
        task, award = await start_one(me, worker, "running")
        await update(me, LOG, max_bytes=1)
        await worker.done(award, 1)
        waiting = await me.submit("waiting", capability="echo")
        with anyio.fail_after(60):
            while coordinator.counters["appends unknown"] < 4:
                await anyio.sleep(0.02)
        await update(me, LOG, max_bytes=-1)
        assert bytes((await me.result(task)).result) == b"1", "nothing is lost"
        await finish(me, worker, waiting)
        assert coordinator.counters["faults"] == 0


async def test_full_submits(place: Place, me: Peer) -> None:
    """The client is told; what was taken before is done, and new ones are taken when there is room again."""
    big = encode(m.Submit(goal="x" * 2000))
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place) as coordinator:
        kept, award = await start_one(me, worker, "kept")
        await update(me, SUBMITS, max_bytes=1000)
        with pytest.raises(StoreTimeout, match="maximum bytes exceeded"):
            await me.connection.store(me.subjects.submit(TaskName("me", "big"), "normal"), big, headers("submit"), timeout_s=0.5)
        await worker.done(award, 1)
        assert bytes((await me.result(kept)).result) == b"1"
        await update(me, SUBMITS, max_bytes=4 << 30)
        await run_one(me, worker, "new")
        assert coordinator.counters["faults"] == 0


async def until_told(caplog: pytest.LogCaptureFixture, subject: str) -> None:
    """Wait until whoever sends something on such a subject has been refused and has said so."""
    with anyio.fail_after(60):
        while not any(f"The stream for {subject}" in message and "is full" in message for message in caplog.messages):
            await anyio.sleep(0.02)


async def test_a_full_inbox(place: Place, me: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """A claim waits at its agent until there is room; new tasks are given out meanwhile."""
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place, settings=PATIENT) as coordinator:
        task, award = await start_one(me, worker, "done")
        await update(me, INBOX, max_bytes=1)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.done, award, 1)
            await until_told(caplog, f"{place.prefix}.from.worker.done.")
            await me.submit("waiting", capability="echo")
            other = await worker.expect("award", lambda award: award.task == "me.waiting")
            assert me.count("result") == 0
            await update(me, INBOX, max_bytes=4 << 30)
        assert bytes((await me.result(task)).result) == b"1", "nothing is lost"
        await worker.accept(other)
        await worker.done(other, 2)
        assert bytes((await me.result(TaskName("me", "waiting"))).result) == b"2"
        assert coordinator.counters["faults"] == 0


async def test_full_bodies(place: Place, me: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """A result that has to be stored by reference waits for room; what is small goes on."""
    large = "x" * 270_000
    async with agent(place, "worker", "echo", capacity=10) as worker, coordinating(place, settings=PATIENT) as coordinator:
        task, award = await start_one(me, worker, "large")
        await update(me, BLOBS, max_bytes=1)
        await worker.done(award, large)
        await until_told(caplog, f"{place.prefix}.blob.me.large.")
        await run_one(me, worker, "small")
        await update(me, BLOBS, max_bytes=-1)
        assert await me.value(task, await me.result(task), "result") == large, "nothing is lost"
        assert coordinator.counters["faults"] == 0
