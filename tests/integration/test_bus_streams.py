"""Connection and streams: made, compared, one size check, durable sends that outlive the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from agentexecutor.bus import ReplicasRefused, StoreTimeout, StreamMismatch, embedded_server
from agentexecutor.bus.acks import Answer
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.errors import ApiError
from agentexecutor.bus.server import find_server
from agentexecutor.bus.streams import INBOX, PROGRESS, SECOND, SUBMITS, Streams, ensure_streams, stream_name, stream_settings
from agentexecutor.schemas import TooLarge
from agentexecutor.schemas.codec import headers
from agentexecutor.schemas.names import TaskName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio

TASK = TaskName("me", "t1")


async def test_streams_are_made_once_and_keep_their_shards(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me", shards=4) as connection:
        assert connection.shards == 4
        for wanted in stream_settings("ae.v1", 4, 1):
            config = (await connection.api(f"STREAM.INFO.{wanted['name']}", {}))["config"]
            assert config["subjects"] == wanted["subjects"]
    async with open_connection(server.url, name="you", shards=16) as connection:
        assert connection.shards == 4, "read from the stream, never from a setting"


async def test_another_setting_is_an_error_that_names_both(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as connection:
        config = (await connection.api("STREAM.INFO.AE_LOG", {}))["config"]
        await connection.api("STREAM.UPDATE.AE_LOG", {**config, "discard": "old"})
    with pytest.raises(StreamMismatch, match=r"AE_LOG has discard 'old'.*wants 'new'"):
        async with open_connection(server.url, name="me"):
            pytest.fail("it must not be taken")


@pytest.mark.parametrize("prefix", ["ae.v1", "blue.v1"])
async def test_limits_that_an_operator_sets_are_kept(server: EmbeddedServer, prefix: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "AE_SUBMITS": {"max_msgs": 200_000, "max_bytes": 1 << 30},
        "AE_INBOX": {"max_msgs": 1000, "max_bytes": 1 << 30},
        "AE_LOG": {"max_bytes": 1 << 30},
        "AE_PROGRESS": {"max_age": 3600 * SECOND, "max_bytes": -1},
        "AE_BLOBS": {"max_bytes": 1 << 30},
    }
    async with open_connection(server.url, name="operator", prefix=prefix) as connection:
        for stream, changed in changes.items():
            name = stream_name(stream, prefix)
            config = (await connection.api(f"STREAM.INFO.{name}", {}))["config"]
            await connection.api(f"STREAM.UPDATE.{name}", {**config, **changed})
    async with open_connection(server.url, name="me", prefix=prefix) as connection:
        for stream, changed in changes.items():
            config = (await connection.api(f"STREAM.INFO.{stream_name(stream, prefix)}", {}))["config"]
            assert {setting: config[setting] for setting in changed} == changed


async def test_replicas_that_an_operator_sets_are_kept(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server makes no replicas: what it says of its log is as if an operator had set three."""
    api = Connection.api

    async def three_of_the_log(connection: Connection, name: str, body: dict[str, Any], *, miss: bool = True) -> dict[str, Any]:
        answer = await api(connection, name, body, miss=miss)
        if name == "STREAM.INFO.AE_LOG":
            answer["config"]["num_replicas"] = 3
        return answer

    async with open_connection(server.url, name="first"):
        pass
    monkeypatch.setattr(Connection, "api", three_of_the_log)
    async with open_connection(server.url, name="me") as connection:
        assert (await connection.api("STREAM.INFO.AE_LOG", {}))["config"]["num_replicas"] == 3


async def test_replicas_are_read_from_the_environment(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server keeps no more than one: it refuses, so it was asked. tests/containers has three."""
    monkeypatch.setenv("AGENTEXECUTOR_REPLICAS", "3")
    with pytest.raises(ApiError, match="replicas > 1 not supported"):
        async with open_connection(server.url, name="me"):
            pass
    async with open_connection(server.url, name="me", replicas=1) as connection:
        assert (await connection.api("STREAM.INFO.AE_LOG", {}))["config"]["num_replicas"] == 1
    async with open_connection(server.url, name="me") as connection:
        assert connection.shards == 16, "streams that are there are taken as they are"


@pytest.mark.parametrize("said", ["0", "6", "three", "1.5", "³"])
async def test_a_number_of_replicas_that_cannot_be(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_REPLICAS", said)
    with pytest.raises(ReplicasRefused, match="1 to 5"):
        async with open_connection(server.url, name="me"):
            pass


async def test_two_prefixes_are_two_tenants(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as one, open_connection(server.url, name="me", prefix="blue.v1") as two:
        assert await one.store(one.subjects.submit(TASK, "normal"), b"{}", headers("submit")) == 1
        assert await two.store(two.subjects.submit(TASK, "normal"), b"{}", headers("submit")) == 1


async def test_without_a_stream_nothing_answers_a_store(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as connection:
        with pytest.raises(StoreTimeout, match="did not answer"):
            await connection.store("nobody.keeps.this", b"{}", headers("submit"), timeout_s=0.5)


async def test_sizes_are_checked_before_and_by_the_stream(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as connection:
        subject = connection.subjects.submit(TASK, "normal")
        with pytest.raises(TooLarge):
            await connection.publish("x", b"x" * connection.max_payload, headers("submit"))
        with pytest.raises(TooLarge):
            await connection.publish("x", b"x" * (connection.max_payload - 30), headers("submit"))
        with pytest.raises(TooLarge, match="exceeds maximum"):
            await connection.store(subject, b"x" * 400_000, headers("submit"), timeout_s=5)
        assert await connection.store(subject, b"{}", headers("submit")) == 1, "the connection lives on"


async def test_a_submit_of_an_unknown_class_is_stored_nowhere(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as connection:
        assert await connection.acknowledged(connection.subjects.submit(TASK, "urgent"), b"{}", headers("submit")) is None


async def test_a_full_stream_is_waited_for(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = anyio.Event()
    acknowledged = Connection.acknowledged

    async def noted(*arguments: Any, **options: Any) -> Answer | None:
        answer = await acknowledged(*arguments, **options)
        if answer is not None and "error" in answer:
            refused.set()
        return answer

    async with open_connection(server.url, name="me") as connection:
        config = (await connection.api("STREAM.INFO.AE_SUBMITS", {}))["config"]
        await connection.api("STREAM.UPDATE.AE_SUBMITS", {**config, "max_msgs": 1})
        await connection.store(connection.subjects.submit(TASK, "normal"), b"{}", headers("submit"))
        second = connection.subjects.submit(TaskName("me", "t2"), "normal")
        with pytest.raises(StoreTimeout, match="maximum messages"):
            await connection.store(second, b"{}", headers("submit"), timeout_s=0.6)
        async with anyio.create_task_group() as group:
            monkeypatch.setattr(Connection, "acknowledged", noted)
            group.start_soon(connection.store, second, b"{}", headers("submit"))
            await refused.wait()
            await connection.api("STREAM.PURGE.AE_SUBMITS", {})
        info = await connection.api("STREAM.INFO.AE_SUBMITS", {})
        assert info["state"]["messages"] == 1


async def test_a_store_outlives_a_server_that_goes_away(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as first:
        port = first.port
        manager = open_connection(first.url, name="me")
        connection = await manager.__aenter__()
    reconnected = anyio.Event()

    async def hook() -> None:
        reconnected.set()

    connection.on_reconnect(hook)
    async with anyio.create_task_group() as group:
        group.start_soon(connection.store, connection.subjects.submit(TASK, "normal"), b"{}", headers("submit"))
        await anyio.sleep(0.3)
        async with embedded_server(tmp_path, port=port):
            with anyio.fail_after(60):
                await reconnected.wait()
                while (await connection.api("STREAM.INFO.AE_SUBMITS", {}))["state"]["messages"] == 0:
                    await anyio.sleep(0.05)
            await manager.__aexit__(None, None, None)


async def test_streams_that_a_restart_lost_are_made_as_soon_as_the_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is back, but the first question after the reconnect stays without an answer."""
    made = False

    async def slow_once(connection: Connection, *, shards: int, replicas: int, make: bool = True) -> Streams:
        nonlocal made
        if not made:
            made = True
            raise ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")
        return await ensure_streams(connection, shards=shards, replicas=replicas, make=make)

    async with embedded_server(tmp_path) as first:
        manager = open_connection(first.url, name="me")
        connection = await manager.__aenter__()
    monkeypatch.setattr("agentexecutor.bus.connection.ensure_streams", slow_once)
    async with embedded_server(tmp_path, port=first.port):
        with anyio.fail_after(60):
            while not made or "AE_LEASE" not in (await connection.api("STREAM.NAMES", {}))["streams"]:
                await anyio.sleep(0.05)
        await manager.__aexit__(None, None, None)


def refusing_at_first(monkeypatch: pytest.MonkeyPatch, error: ApiError, times: int) -> None:
    """JetStream of a cluster whose leader has just gone, say."""
    api = Connection.api
    left = times

    async def refuse(connection: Connection, name: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        return await api(connection, name, body, **options)

    monkeypatch.setattr(Connection, "api", refuse)


NO_ANSWER = ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")
NO_LEADER = ApiError("JetStream refused.", code=503, err_code=10008, description="JetStream system temporarily unavailable")
NO_JETSTREAM = ApiError("JetStream does not answer.", code=503, err_code=0, description="no responders")


@pytest.mark.parametrize("error", [NO_ANSWER, NO_LEADER])
async def test_who_connects_while_a_cluster_elects_asks_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: ApiError
) -> None:
    refusing_at_first(monkeypatch, error, 2)
    async with open_connection(server.url, name="me") as connection:
        assert connection.shards == 16
    assert sum("it is tried again for 30 s" in message for message in caplog.messages) == 2


@pytest.mark.parametrize(("error", "patience_s"), [(NO_ANSWER, 0), (NO_JETSTREAM, 30)])
async def test_who_connects_is_told_when_waiting_is_of_no_use(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: ApiError, patience_s: float
) -> None:
    refusing_at_first(monkeypatch, error, 1)
    with pytest.raises(ApiError):
        async with open_connection(server.url, name="me", patience_s=patience_s):
            pytest.fail("it is not connected")
    assert not caplog.messages


@pytest.mark.parametrize(("deleted", "told"), [(["AE_LEASE", "AE_OFFERS"], 0), (["AE_LEASE", "AE_LOG"], 1)])
async def test_streams_in_files_that_a_restart_lost_are_named(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture, deleted: list[str], told: int
) -> None:
    """Those in memory are lost whenever a single server is started anew."""
    async with open_connection(server.url, name="me") as connection:
        for name in deleted:
            await connection.api(f"STREAM.DELETE.{name}", {})
        await connection.reconnected()
        lines = [message for message in caplog.messages if "what was in them is lost" in message]
        assert len(lines) == told
        assert all(name in line for name in deleted for line in lines)


async def test_streams_that_cannot_be_used_after_a_reconnect_are_told_in_one_line(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_connection(server.url, name="me") as connection:
        config = (await connection.api("STREAM.INFO.AE_LOG", {}))["config"]
        await connection.api("STREAM.UPDATE.AE_LOG", {**config, "discard": "old"})
        await connection.reconnected()
        told = [record for record in caplog.records if "AE_LOG" in record.getMessage()]
        assert [record.exc_info for record in told] == [None]
        assert "\n" not in told[0].getMessage()


async def test_a_callback_that_raises_does_not_end_its_subscription(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bytes] = []
    done = anyio.Event()

    async def callback(message: Msg) -> None:
        seen.append(message.data)
        if len(seen) == 2:
            done.set()
        raise ValueError(message.data)

    async with open_connection(server.url, name="me") as connection:
        await connection.subscribe("x", callback)
        await connection.publish("x", b"1", {})
        await connection.publish("x", b"2", {})
        with anyio.fail_after(60):
            await done.wait()
    assert "could not be handled" in caplog.text


async def test_the_api_tells_why_it_refuses(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="me") as connection:
        with pytest.raises(ApiError, match="stream not found") as raised:
            await connection.api("STREAM.INFO.NONE", {})
        assert raised.value.fields["err_code"] == 10059


@pytest.fixture
async def small_store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server that may keep so many bytes in files."""
    log, config = tmp_path / "log", tmp_path / "server.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{tmp_path}"\njetstream {{ store_dir: "{tmp_path}/js", max_file_store: {request.param} }}\n'
    )
    async with await anyio.open_process([str(find_server()), "-c", str(config), "-l", str(log)]) as process:
        try:
            with anyio.fail_after(60):
                while not (found := list(tmp_path.glob("*.ports"))) or not found[0].read_text():
                    await anyio.sleep(0.02)
            yield str(json.loads(found[0].read_text())["nats"][0])
        finally:
            process.terminate()


@pytest.mark.parametrize("small_store", ["100MB"], indirect=True)
async def test_a_disk_that_is_too_small_for_what_streams_reserve(small_store: str, caplog: pytest.LogCaptureFixture) -> None:
    """They get what there is, and it is said how to give them more."""
    async with open_connection(small_store, name="me") as connection:
        room = {name: (await connection.api(f"STREAM.INFO.{name}", {}))["config"]["max_bytes"] >> 20 for name in (SUBMITS, INBOX, PROGRESS)}
        assert room == {SUBMITS: 16, INBOX: 16, PROGRESS: 16}
        told = [message for message in caplog.messages if "nats stream edit" in message]
        assert len(told) == 3
        assert "Stream AE_SUBMITS has room for 16 MiB, not for 4096" in told[0]
        assert await connection.restore() == [], "and they are taken as they are"


@pytest.mark.parametrize("small_store", ["1MB"], indirect=True)
async def test_a_disk_without_any_room(small_store: str) -> None:
    with pytest.raises(ApiError, match=r"no room for stream AE_INBOX.*Free some of its disk"):
        async with open_connection(small_store, name="me"):
            pass
