"""The log: fenced appends, reads, heads; consumers, followed streams and bodies by reference."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from agentexecutor.bus import BusError, embedded_server
from agentexecutor.bus.blobs import load_body, load_chunk, store_body
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.consumers import Inbound, ShardConsumers
from agentexecutor.bus.deliveries import delivery_of
from agentexecutor.bus.errors import ApiError, AppendUnknown
from agentexecutor.bus.follow import Followed, follow
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import OFFERS
from agentexecutor.schemas.codec import H_ROLLUP, H_STATE, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.messages import BlobRef
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import TaskStatus
    from nats.aio.msg import Msg

    from agentexecutor.bus import EmbeddedServer
    from agentexecutor.bus.connection import Connection

pytestmark = pytest.mark.anyio

TASK = TaskName("me", "t1")


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    async with open_connection(server.url, name="me") as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.01)


async def test_appends_are_fenced(connection: Connection) -> None:
    log = TaskLog(connection)
    first = await log.append(3, TASK, b"1", {**headers("record", id="id-1"), H_STATE: "running"}, expected=0)
    with pytest.raises(AppendUnknown) as refused:
        await log.append(3, TASK, b"x", headers("record"), expected=0)
    assert refused.value.fields["refused"]
    second = await log.append(3, TASK, b"2", headers("record"), expected=first)
    assert [(record.seq, record.payload) for record in await log.read(3, TASK)] == [(first, b"1"), (second, b"2")]
    last = await log.last(3, TASK)
    assert last is not None
    assert last.seq == second
    assert (await log.read(3, TASK))[0].id == "id-1"


async def test_of_racing_appends_one_wins(connection: Connection) -> None:
    log = TaskLog(connection)
    won: list[int] = []

    async def race(number: int) -> None:
        try:
            await log.append(3, TASK, b"%d" % number, headers("record"), expected=0)
        except AppendUnknown:
            return
        won.append(number)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(race, number)
    assert len(won) == 1


async def test_an_append_that_no_stream_takes_is_unknown(connection: Connection) -> None:
    with pytest.raises(AppendUnknown) as unknown:
        await TaskLog(connection).append_to("no.stream.takes.this", b"", {}, expected=0)
    assert not unknown.value.fields["refused"]


async def test_what_is_in_flight_when_the_connection_closes_is_unknown(server: EmbeddedServer) -> None:
    errors: list[AppendUnknown] = []

    async def append(connection: Connection) -> None:
        try:
            await TaskLog(connection).append_to("nobody.answers", b"", {}, expected=0)
        except AppendUnknown as error:
            errors.append(error)

    async with anyio.create_task_group() as group, open_connection(server.url, name="me") as connection:
        heard = anyio.Event()

        async def hear(_message: Msg) -> None:
            heard.set()

        await connection.subscribe("nobody.answers", hear)
        group.start_soon(append, connection)
        await heard.wait()
    assert [error.fields["refused"] for error in errors] == [False]


async def test_a_message_without_a_type_only_moves_the_head(connection: Connection) -> None:
    log = TaskLog(connection)
    await log.append(3, TASK, b"1", headers("record"), expected=0)
    await connection.store(connection.subjects.log(3, TASK), b'{"stream":"X","seq":1}', {})
    records = await log.read(3, TASK)
    assert [record.payload for record in records] == [b"1", None]
    assert await log.append(3, TASK, b"2", headers("record"), expected=records[-1].seq) > records[-1].seq


async def test_a_long_log_is_read_in_batches_and_pages(connection: Connection) -> None:
    log = TaskLog(connection)
    head = 0
    for number in range(600):
        head = await log.append(3, TASK, b"%03d" % number, headers("record"), expected=head)
    assert [record.payload for record in await log.read(3, TASK)] == [b"%03d" % number for number in range(600)]
    page, more = await log.read_after(TASK, 0, 30)
    assert (len(page), more) == (10, True)
    rest, more = await log.read_after(TASK, page[-1].seq, 1_000_000)
    assert (len(rest), more) == (590, False)


async def test_the_last_record_replaces_the_others_and_heads_tell_states(connection: Connection) -> None:
    log = TaskLog(connection)
    for number in range(30):
        task = TaskName("me", f"t{number}")
        head = await log.append(shard_of(task, connection.shards), task, b"1", {**headers("record"), H_STATE: "running"}, expected=0)
        if number % 3 == 0:
            last = {**headers("record"), H_STATE: "completed", H_ROLLUP: "sub"}
            await log.append(shard_of(task, connection.shards), task, b"2", last, expected=head)
    first = shard_of(TaskName("me", "t0"), connection.shards)
    assert [record.payload for record in await log.read(first, TaskName("me", "t0"))] == [b"2"]
    heads = {task.id: (shard, head.state) async for task, shard, head in log.heads()}
    shards = {f"t{n}": shard_of(TaskName("me", f"t{n}"), connection.shards) for n in range(30)}
    assert heads == {f"t{n}": (shards[f"t{n}"], "completed" if n % 3 == 0 else "running") for n in range(30)}
    assert {task.id async for task, _, _ in log.heads(first)} == {id for id, shard in shards.items() if shard == first}
    assert await log.read(0, TaskName("me", "unknown")) == []
    assert [head async for head in log.heads(connection.shards)] == [], "there is no such shard"
    assert (await connection.api("STREAM.INFO.AE_LOG", {}))["state"]["consumer_count"] == 0, "each would cost at every roll-up"


async def test_heads_of_tasks_that_end_meanwhile_are_passed_over(connection: Connection) -> None:
    """More than two batches, read while all that has not been read yet ends."""
    log = TaskLog(connection)
    tasks = [task for number in range(16 * 700) if shard_of(task := TaskName("me", f"t{number}"), connection.shards) == 0][:600]
    fences = [await log.append(0, task, b"1", {**headers("record"), H_STATE: "running"}, expected=0) for task in tasks]
    seen: list[tuple[TaskName, str]] = []
    async for task, _, head in log.heads(0):
        if not seen:
            for ended, fence in zip(tasks[100:], fences[100:], strict=True):
                last = {**headers("record"), H_STATE: "completed", H_ROLLUP: "sub"}
                await log.append(0, ended, b"2", last, expected=fence)
        seen.append((task, head.state))
    assert {task for task, state in seen if state == "running"} >= set(tasks[:100])


@pytest.mark.parametrize(("too_many", "lost"), [(1, 0), (0, 1)])
async def test_heads_that_do_not_come_are_not_waited_for(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, too_many: int, lost: int
) -> None:
    log = TaskLog(connection)
    for number in range(3):
        task = TaskName("me", f"t{number}")
        await log.append(shard_of(task, connection.shards), task, b"1", {**headers("record"), H_STATE: "running"}, expected=0)
    api = connection.api

    async def counts_others(name: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
        answer = await api(name, body, **more)
        if "CREATE" in name:
            answer["num_pending"] += too_many
        elif "INFO" in name:
            answer["delivered"]["consumer_seq"] += lost
        return answer

    monkeypatch.setattr(connection, "api", counts_others)
    with pytest.raises(BusError, match="1 heads") if lost else nullcontext():
        assert len([task async for task, _, _ in log.heads()]) == 3


async def test_a_pull_that_the_server_never_got_counts_for_a_while_only(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gets_lost(*_message: Any, **_more: Any) -> None:
        return

    async def nothing(_inbound: Inbound) -> None:
        return

    monkeypatch.setattr("agentexecutor.bus.consumers.GIVEN_UP_S", 0.05)
    consumers = ShardConsumers(connection, on_claim=nothing, on_submit=nothing)
    async with consumers.running():
        await consumers.open(3)
        with monkeypatch.context() as lost:
            lost.setattr(connection, "publish", gets_lost)
            await consumers.pull(3, "high", 7, expires_s=0.05)
        assert consumers.outstanding(3, "high") == 7
        with anyio.fail_after(60):
            while consumers.outstanding(3, "high"):
                await anyio.sleep(0.01)


async def test_a_consumer_that_is_gone_is_made_anew(connection: Connection) -> None:
    made = anyio.Event()

    async def submit(_inbound: Inbound) -> None:
        made.set()

    async def nothing(_inbound: Inbound) -> None:
        return

    consumers = ShardConsumers(connection, on_claim=nothing, on_submit=submit)
    shard = shard_of(TASK, connection.shards)
    async with consumers.running():
        await consumers.open(shard)
        await connection.api(f"CONSUMER.DELETE.AE_SUBMITS.submits-{shard}-high", {})
        await connection.store(connection.subjects.submit(TASK, "high"), b"{}", headers("submit"))
        with anyio.fail_after(60):
            while not made.is_set():
                await consumers.pull(shard, "high", 1, expires_s=0.2)
                await anyio.sleep(0.1)


async def test_claims_come_again_when_the_consumers_are_made_anew(connection: Connection) -> None:
    shard = shard_of(TASK, connection.shards)
    first: list[Inbound] = []
    second: list[Inbound] = []

    async def keep(inbound: Inbound) -> None:
        first.append(inbound)

    async def take(inbound: Inbound) -> None:
        second.append(inbound)
        await connection.publish(inbound.reply, b"+ACK", {})

    consumers = ShardConsumers(connection, on_claim=keep, on_submit=keep)
    other = ShardConsumers(connection, on_claim=take, on_submit=take)
    log = TaskLog(connection)
    async with consumers.running(), other.running():
        await consumers.open(shard)
        await connection.store(connection.subjects.claim("a1", "done", TASK), b"{}", headers("done"))
        await until(lambda: len(first) == 1)
        assert connection.subjects.parse_inbox(first[0].subject).peer == "a1"
        assert await log.inbox_has(shard, TASK, "a1")
        assert not await log.inbox_has(shard, TASK, "a2")
        await other.open(shard)
        await until(lambda: len(second) == 1)
        assert second[0].seq == first[0].seq
        with anyio.fail_after(60):
            while await log.inbox_has(shard, TASK, "a1"):
                await anyio.sleep(0.01)


async def test_submits_are_pulled_by_class(connection: Connection) -> None:
    shard = shard_of(TASK, connection.shards)
    got: list[str] = []

    async def submit(inbound: Inbound) -> None:
        got.append(connection.subjects.parse_new(inbound.subject)[1])
        await connection.publish(inbound.reply, b'-NAK {"delay":100000000}' if len(got) == 1 else b"+ACK", {})

    consumers = ShardConsumers(connection, on_claim=submit, on_submit=submit)
    async with consumers.running():
        await consumers.open(shard)
        for klass in ("low", "high"):
            await connection.store(connection.subjects.submit(TASK, klass), b"{}", headers("submit"))
        await consumers.pull(shard, "high", 5)
        assert consumers.outstanding(shard, "high") == 5
        await until(lambda: got == ["high", "high"])
        assert consumers.outstanding(shard, "high") == 3
        await consumers.pull(shard, "low", 1)
        await until(lambda: got == ["high", "high", "low"])
        assert consumers.outstanding(shard, "low") == 0
    assert await TaskLog(connection).waiting() == 0


async def serve(store: Path, port: int, stop: anyio.Event, *, task_status: TaskStatus[EmbeddedServer]) -> None:
    """A server in a task of its own, so that it can end before what is connected to it."""
    async with embedded_server(store, port) as running:
        task_status.started(running)
        await stop.wait()


async def test_followed_values_come_first_and_again_after_a_restart(tmp_path: Path) -> None:
    seen: list[str] = []

    async def came(followed: Followed) -> None:
        seen.append(f"{followed.subject.rpartition('.')[2]}{followed.payload.decode()}")

    async with anyio.create_task_group() as group:
        stop = anyio.Event()
        server: EmbeddedServer = await group.start(serve, tmp_path, 0, stop)
        async with open_connection(server.url, name="me") as connection:
            for value in (b"1", b"2"):
                await connection.store(connection.subjects.offer("a"), value, headers("offer"))
            async with follow(connection, OFFERS, connection.subjects.all_offers(), came):
                await connection.store(connection.subjects.offer("b"), b"1", headers("offer"))
                await until(lambda: seen == ["a2", "b1"])
                stop.set()
                await until(lambda: not connection.connected)
                again = anyio.Event()
                await group.start(serve, tmp_path, server.port, again)
                await connection.store(connection.subjects.offer("c"), b"1", headers("offer"))
                await until(lambda: seen[2:] == ["c1"])
            again.set()


async def test_who_cannot_follow_leaves_nothing_behind(connection: Connection) -> None:
    async def came(_followed: Followed) -> None:
        pytest.fail("there is nothing to follow")

    before = len(connection.nats._subs)
    for _ in range(3):
        with pytest.raises(ApiError):
            async with follow(connection, "AE_NONE", "x", came):
                pytest.fail("there is no such stream")
    assert len(connection.nats._subs) == before


async def test_a_stamp_is_read_from_both_forms_of_the_reply() -> None:
    short = "$JS.ACK.AE_INBOX.claims-1.1.42.7.1700000000500000000.0"
    long = "$JS.ACK._.hash.AE_INBOX.claims-1.1.42.7.1700000000500000000.0.x"
    assert delivery_of(short) == delivery_of(long) == (1, 42, 1_700_000_000.5, 0)


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 3_000_000])
async def test_bodies_go_there_and_back(connection: Connection, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    ref = await store_body(connection, TASK, body)
    assert ref.bytes == size
    assert ref.chunks == max(1, -(-size // 262_144))
    assert await load_body(connection, TASK, ref) == body


async def test_a_body_that_is_gone_or_wrong_is_a_plain_error(connection: Connection) -> None:
    ref = await store_body(connection, TASK, b"x" * 300_000)
    assert await load_chunk(connection, TASK, ref.digest, 9) is None
    with pytest.raises(BusError, match="gone"):
        await load_body(connection, TASK, BlobRef(digest="0" * 64, bytes=ref.bytes, chunks=2))
    with pytest.raises(BusError, match="digest"):
        await load_body(connection, TASK, BlobRef(digest=ref.digest, bytes=5, chunks=1))
    with pytest.raises(DecodeFailed, match="300000 bytes in 3 chunks is no body"):
        await load_body(connection, TASK, BlobRef(digest=ref.digest, bytes=ref.bytes, chunks=3))
