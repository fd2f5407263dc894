"""The client outlives what a stranger's bytes do to its parser."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from agentexecutor.bus import embedded_server
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.robust import Arrived
from agentexecutor.schemas.codec import H_EXPECTED

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio


async def test_headers_that_look_like_the_end_of_their_line(server: EmbeddedServer) -> None:
    """Read as a size, the payload would be waited for: a connection that hears nothing any more."""
    heard: list[bytes] = []
    done = anyio.Event()

    async def hear(message: Msg) -> None:
        heard.append(message.data)
        if message.data == b"after":
            done.set()

    async with open_connection(server.url, name="me") as connection:
        await connection.subscribe("strange", hear)
        await connection.nats.flush()
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(b'CONNECT {"verbose":false,"headers":true}\r\n')
            await stream.send(b"HPUB strange 4 16\r\n\r\n\r\n123456789012\r\nPUB strange 5\r\nafter\r\n")
            with anyio.fail_after(60):
                await done.wait()
    assert heard == [b"123456789012", b"after"]


class Spy:
    """A transport that remembers what was written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.written = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.written += data
        self._transport.write(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.written += b"".join(lines)
        self._transport.writelines(lines)


async def test_a_flush_says_that_the_server_has_what_was_sent_before(server: EmbeddedServer) -> None:
    """The client's own PING overtakes what waits to be sent: the PONG would say nothing about a subscription."""

    async def hear(_message: Msg) -> None: ...

    async with open_connection(server.url, name="me") as connection:
        spy: Any = Spy(connection.nats._transport)
        connection.nats._transport = spy
        await connection.subscribe("strange", hear)
        await connection.publish("anything", b"x", {})
        await connection.nats.flush()
        order = [spy.written.index(word) for word in (b"SUB strange", b"PUB anything", b"PING\r\n")]
        assert order == sorted(order)


async def until_away(connection: Connection) -> None:
    with anyio.fail_after(60):
        while connection.connected:
            await anyio.sleep(0.01)


async def test_what_waits_for_its_turn_keeps_the_session_in_which_it_came(server: EmbeddedServer) -> None:
    """After a power cut its number may be another message's: acknowledged later, it would take that one away."""
    sessions, go_on, done = list[int](), anyio.Event(), anyio.Event()

    async def hear(message: Msg) -> None:
        await go_on.wait()
        assert isinstance(message, Arrived)
        sessions.append(message.session)
        if message.data == b"new":
            done.set()

    async with open_connection(server.url, name="me") as connection:
        await connection.subscribe("strange", hear)
        for _ in range(2):
            await connection.publish("strange", b"old", {})
        await connection.nats.flush()
        connection.nats.sockets += 1  # as a reconnect does
        await connection.publish("strange", b"new", {})
        await connection.nats.flush()
        go_on.set()
        with anyio.fail_after(60):
            await done.wait()
    assert sessions == [1, 1, 2]


async def test_after_a_reconnect_the_session_is_another_one_before_anything_can_be_sent() -> None:
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(embedded_server())
        async with open_connection(server.url, name="me") as connection:
            before = connection.session
            await first.aclose()
            await until_away(connection)
            async with embedded_server(port=server.port):
                with anyio.fail_after(60):
                    while not connection.connected:
                        await anyio.lowlevel.checkpoint()
                assert connection.session > before


async def test_what_was_meant_for_the_session_before_is_not_sent_after_a_reconnect() -> None:
    """Acknowledgements, and appends behind a number: what they speak of may be something else by then."""
    heard: list[str] = []
    done = anyio.Event()

    async def hear(message: Msg) -> None:
        heard.append(message.subject)
        if message.subject == "last":
            done.set()

    async with AsyncExitStack() as first:
        server = await first.enter_async_context(embedded_server())
        async with open_connection(server.url, name="me") as connection:
            for subject in ("$JS.ACK.>", "plain", "fenced", "last"):
                await connection.subscribe(subject, hear)
            await first.aclose()
            await until_away(connection)
            await connection.publish("$JS.ACK.stream.consumer.1.7.1.1.0", b"+ACK", {})
            await connection.publish("plain", f"\r\n{H_EXPECTED}: 7\r\n".encode(), {"A": "b"})
            await connection.publish("fenced", b"x", {"A": "b", H_EXPECTED: "7"})
            await connection.publish("last", b"x", {})
            async with embedded_server(port=server.port):
                with anyio.fail_after(60):
                    await done.wait()
    assert heard == ["plain", "last"]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})])
@pytest.mark.parametrize("is_away", [False, True])
async def test_who_leaves_with_a_socket_that_is_gone_leaves_nothing_behind(is_away: bool) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(embedded_server())
        async with open_connection(server.url, name="me") as connection:
            client = connection.nats
            if is_away:
                await first.aclose()
                await until_away(connection)
            else:
                transport: Any = client._transport
                transport._io_writer.transport.abort()
            await connection.publish("anything", b"x", {})
        await anyio.wait_all_tasks_blocked()
        assert asyncio.all_tasks() == before
        assert client.is_closed


async def test_a_closed_client_connects_no_more(server: EmbeddedServer) -> None:
    """A try to reconnect whose cancel was swallowed ends with the next."""
    async with open_connection(server.url, name="me") as connection:
        client = connection.nats
    with pytest.raises(asyncio.CancelledError):
        await client._select_next_server()
    assert not client.is_connected


async def test_who_leaves_a_server_that_is_silent_waits_a_little_and_is_gone(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentexecutor.bus.connection.LEAVE_S", 0.2)
    before = asyncio.all_tasks()
    async with open_connection(server.url, name="me") as connection:
        os.killpg(server.pid, signal.SIGSTOP)
        await connection.publish("anything", b"x", {})
    os.killpg(server.pid, signal.SIGKILL)
    await anyio.wait_all_tasks_blocked()
    assert asyncio.all_tasks() == before
    assert caplog.messages == []


async def test_tries_to_reconnect_leave_no_socket_open() -> None:
    """A server that starts may accept and hang up before it has greeted."""
    tried = anyio.Semaphore(0)

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send_eof()
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
        tried.release()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    hostile = f"nats://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610  # no database here
    async with listener, anyio.create_task_group() as group, AsyncExitStack() as first:
        group.start_soon(listener.serve, hang_up)
        with warnings.catch_warnings(record=True) as warned, anyio.fail_after(60):
            warnings.simplefilter("always", ResourceWarning)
            server = await first.enter_async_context(embedded_server())
            async with open_connection(f"{hostile},{server.url}", name="me") as connection:
                await first.aclose()
                for _ in range(5):
                    await tried.acquire()
                async with embedded_server(port=server.port):
                    while not connection.connected:
                        await anyio.sleep(0.01)
            gc.collect()
        group.cancel_scope.cancel()
    assert not [str(one.message) for one in warned if issubclass(one.category, ResourceWarning)]
