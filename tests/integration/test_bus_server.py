"""The embedded server: starts, ends with its owner however that ends, and says why it does not start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from agentexecutor.bus import BusError, NoBus, ReplicasRefused, ServerTooOld, connect, embedded_server
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.server import find_server, server_version

pytestmark = pytest.mark.anyio

OWNER = """
import anyio
from agentexecutor.bus import embedded_server
async def main():
    async with embedded_server() as server:
        print(server.port, server.pid, server.store, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_temporary_store_is_removed_and_a_named_one_kept(tmp_path: Path) -> None:
    async with embedded_server() as server:
        assert answers(server.port)
        assert server.store.is_dir()
    assert not answers(server.port)
    assert not server.store.exists()
    async with embedded_server(tmp_path / "kept") as server, connect(server.url, name="me") as bus:
        await bus.submit("greet", {"name": "Ada"}, id="one")
    async with embedded_server(tmp_path / "kept") as server, open_connection(server.url, name="me") as connection:
        info = await connection.api("STREAM.INFO.AE_SUBMITS", {})
    assert info["state"]["messages"] == 1


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with embedded_server() as server:
        with pytest.raises(BusError, match=r"(?s)did not start.*in use"):
            async with embedded_server(port=server.port):
                pytest.fail("it must not start")


async def test_it_ends_when_the_body_raises() -> None:
    with pytest.raises(KeyError):
        async with embedded_server() as server:
            raise KeyError
    assert not answers(server.port)


async def test_nothing_stays_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        port, pid, store = owner.stdout.readline().split()
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    with anyio.fail_after(60):
        while answers(int(port)) or Path(f"/proc/{pid}").exists() or Path(store).exists():
            await anyio.sleep(0.02)


async def test_no_server_is_an_error_that_says_how_to_start_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NoBus, match="agentexecutor up") as raised:
        async with connect(url, name="me"):
            pytest.fail("there is none")
    assert raised.value.fields["url"] == url


async def test_of_several_servers_the_one_that_answers_is_taken() -> None:
    """Those that stay silent are tried for a while each, however they are shuffled."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        silent = ",".join(f"nats://127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two))
        async with embedded_server() as server:
            for _ in range(3):
                async with connect(f"{silent},{server.url}", name="me") as bus:
                    assert bus.connection.connected


async def test_a_wrong_number_of_replicas_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_REPLICAS", "many")
    async with embedded_server() as server:
        before = len(asyncio.all_tasks())
        with pytest.raises(ReplicasRefused):
            async with connect(server.url, name="me"):
                pytest.fail("it cannot be connected")
        assert len(asyncio.all_tasks()) == before


async def test_a_server_that_is_too_old_is_refused() -> None:
    info = (
        b'INFO {"server_id":"x","server_name":"x","version":"2.9.10","proto":1,"max_payload":1048576,"headers":true,"jetstream":true}\r\n'
    )

    async def old(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(info)
            try:
                while b"PING" not in await stream.receive():
                    pass
                await stream.send(b"PONG\r\n")
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # no database here
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, old)
        with pytest.raises(ServerTooOld, match=r"2\.9\.10.*2\.12"):
            async with connect(f"nats://127.0.0.1:{port}", name="me"):
                pytest.fail("it is too old")
        group.cancel_scope.cancel()
    await listener.aclose()


def test_the_binary_is_found_and_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_version(find_server()).startswith("2.")
    monkeypatch.setenv("AGENTEXECUTOR_NATS_SERVER", "/nowhere/nats-server")
    with pytest.raises(BusError, match="AGENTEXECUTOR_NATS_SERVER"):
        find_server()


@pytest.mark.parametrize(("sync", "known"), [(None, (120.0, False)), ("10s", (10.0, False)), ("always", (120.0, True))])
async def test_how_often_it_writes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str | None, known: tuple[float, bool]
) -> None:
    """By the server's own word, which it gives on a monitoring port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monitor = free.getsockname()[1]
    monitored = tmp_path / "nats-server"
    monitored.write_text(f'#!/bin/sh\nexec {find_server()} "$@" -m {monitor}\n')
    monitored.chmod(0o755)
    monkeypatch.setenv("AGENTEXECUTOR_NATS_SERVER", str(monitored))
    async with embedded_server(sync=sync):
        stream = await anyio.connect_tcp("127.0.0.1", monitor)
        async with stream:
            await stream.send(b"GET /jsz HTTP/1.0\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
    config = json.loads(answer.partition(b"\r\n\r\n")[2])["config"]
    assert (config["sync_interval"] / 1e9, config.get("sync_always", False)) == known
