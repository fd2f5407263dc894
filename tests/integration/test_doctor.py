"""What `doctor` finds on a bus that is not as it should be."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import anyio
import msgspec
import pytest
from peers import Peer, Place, client, coordinating

from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.server import EmbeddedServer, find_server
from agentexecutor.bus.streams import BLOBS, INBOX, LEASE, LOG, SUBMITS
from agentexecutor.console import checks
from agentexecutor.console.checks import Check, all_checks, no_bus

pytestmark = pytest.mark.anyio


async def checked(url: str) -> dict[str, Check]:
    return {check.check: check async for check in all_checks(url)}


async def test_a_bus_that_nobody_has_used_has_no_streams(server: EmbeddedServer) -> None:
    found = await checked(server.url)
    assert found["bus"].ok
    assert found["JetStream"].ok
    assert not found["streams"].ok
    assert "AE_SUBMITS" in found["streams"].found
    assert "agentexecutor up" in found["streams"].todo
    assert not {"coordinators", "agents", "demand"} & set(found), "nobody is asked who cannot answer"
    async with open_connection(server.url, name="looker", make_streams=False) as connection:
        info = await connection.api("INFO", {})
    assert info["streams"] == 0, "looking makes nothing"


async def test_a_bus_without_coordinators(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="maker"):
        pass
    found = await checked(server.url)
    assert found["streams"].ok
    assert "16 shards, 1 replica," in found["streams"].found
    assert found["clock"].ok
    assert not found["coordinators"].ok
    assert "agentexecutor coordinator" in found["coordinators"].todo
    assert "demand" not in found


async def test_a_stream_with_another_setting_is_named_with_both(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="maker") as connection:
        await connection.api(f"STREAM.DELETE.{LEASE}", {})
        subjects = [connection.subjects.all_leases(), connection.subjects.all_members()]
        await connection.api(f"STREAM.CREATE.{LEASE}", {"name": LEASE, "subjects": subjects, "storage": "file", "max_msgs_per_subject": 1})
    found = await checked(server.url)
    assert not found["streams"].ok
    for word in (LEASE, "storage", "file", "memory"):
        assert word in found["streams"].found
    assert not no_bus(list(found.values()))


async def test_a_stream_that_is_missing_is_named(server: EmbeddedServer) -> None:
    async with open_connection(server.url, name="maker") as connection:
        await connection.api(f"STREAM.DELETE.{BLOBS}", {})
    assert (await checked(server.url))["streams"].found == f"missing: {BLOBS}"


async def test_what_a_stream_does_not_store_is_told(server: EmbeddedServer) -> None:
    """And what doctor sends to find out leaves nothing behind."""
    place = Place(server.url)
    async with coordinating(place) as coordinator, client(place) as me:
        assert (await checked(server.url))["storage"] == Check(
            check="storage", ok=True, found="AE_SUBMITS, AE_INBOX, AE_LOG store what is sent"
        )
        with anyio.fail_after(60):
            while [await left(me, stream) for stream in (SUBMITS, INBOX, LOG)] != [0, 0, 0]:
                await anyio.sleep(0.05)
        assert msgspec.json.decode((await me.ask("tasks")).body)["tasks"] == []
        config = (await me.connection.api(f"STREAM.INFO.{LOG}", {}))["config"]
        await me.connection.api(f"STREAM.UPDATE.{LOG}", {**config, "max_bytes": 1})
        storage = (await checked(server.url))["storage"]
        assert (storage.ok, storage.found) == (False, "AE_LOG: maximum bytes exceeded")
        assert coordinator.counters["faults"] == 0


async def left(me: Peer, stream: str) -> int:
    messages: int = (await me.connection.api(f"STREAM.INFO.{stream}", {}))["state"]["messages"]
    return messages


async def test_a_clock_that_is_off_is_told(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_connection(server.url, name="maker") as connection:
        assert (await checks._clock(connection)).ok
        really = time.time
        monkeypatch.setattr(time, "time", lambda: really() - 60)
        check = await checks._clock(connection)
    assert not check.ok
    assert check.found.startswith("+60.0 s")
    assert "NTP" in check.todo


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def plain_nats() -> Iterator[str]:
    """A NATS server without JetStream."""
    port = _free_port()
    with subprocess.Popen([str(find_server()), "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("Server is ready" in line for line in process.stderr)
        yield f"nats://127.0.0.1:{port}"
        process.terminate()


async def test_a_server_without_jetstream_is_told(plain_nats: str) -> None:
    found = await checked(plain_nats)
    assert found["bus"].ok
    assert not found["JetStream"].ok
    assert "-js" in found["JetStream"].todo


async def test_a_server_that_is_too_old_is_told() -> None:
    """Its greeting is all that is needed of it."""
    greeting = b'INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"headers":true,"jetstream":true}\r\n'

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.send(greeting)
            with anyio.move_on_after(5):
                async for said in client:
                    if b"PING" in said:
                        await client.send(b"PONG\r\n")

    port = _free_port()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        found = await checked(f"nats://127.0.0.1:{port}")
        group.cancel_scope.cancel()
    assert not found["server version"].ok
    assert "2.9.10" in found["server version"].found
    assert "2.12" in found["server version"].todo
