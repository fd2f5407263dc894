"""Following a stream of last values (leases, members, offers): first the last message of every subject, then all that come."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.deliveries import delivery_of
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.streams import stream_name
from agentexecutor.schemas.names import new_id

__all__ = ["Followed", "Follower", "follow"]

SECOND = 1_000_000_000
BEAT_S = 1.0
MISSED_BEATS = 3


class Followed(NamedTuple):
    """A message of the stream. `stamp`: the server's, seconds since 1970."""

    subject: str
    payload: bytes
    headers: Headers
    seq: int
    stamp: float


class Follower:
    """One consumer without acknowledgements, made anew after a reconnect and when its beats stop."""

    def __init__(self, connection: Connection, stream: str, subject: str, callback: Callable[[Followed], Awaitable[None]]) -> None:
        self._connection = connection
        self._stream = stream_name(stream, connection.prefix)
        self._subject = subject
        self._callback = callback
        self._subscription: Any = None
        self._heard = 0.0
        self.heard_at = time.monotonic()
        """When something, or a sign that there was nothing, came last; monotonic seconds."""
        self._lock = anyio.Lock()

    async def start(self) -> None:
        """Make the consumer (anew): everything is told once more from the last values on."""
        async with self._lock:
            await self.stop()
            inbox = f"_INBOX.{new_id()}"
            self._subscription = await self._connection.subscribe(inbox, self._came)
            self._heard = time.monotonic()
            config = {
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subject": self._subject,
                "ack_policy": "none",
                "idle_heartbeat": int(BEAT_S * SECOND),
                "flow_control": True,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": 10 * SECOND,
            }
            await self._connection.api(f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config})

    async def stop(self) -> None:
        if self._subscription is not None:
            with suppress(Exception):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def _came(self, message: Msg) -> None:
        self._heard = self.heard_at = time.monotonic()
        headers = message.headers or {}
        if message.reply.startswith("$JS.ACK."):
            _, seq, stamp, _ = delivery_of(message.reply)
            await self._callback(Followed(message.subject, message.data, headers, seq, stamp))
            return
        answer_to = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if answer_to.startswith("$JS.FC."):
            await self._connection.publish(answer_to, b"", {})

    async def again(self) -> None:
        """Make it anew; when that fails the missing beats lead here again."""
        try:
            await self.start()
        except BusError as error:
            self._connection.seldom.tell("follow", "%s cannot be followed right now: %s", self._stream, error)

    async def watch(self) -> None:
        while True:
            await anyio.sleep(BEAT_S)
            if time.monotonic() - self._heard > MISSED_BEATS * BEAT_S and self._connection.connected:
                self._connection.miss()
                await self.again()


@asynccontextmanager
async def follow(
    connection: Connection, stream: str, subject: str, callback: Callable[[Followed], Awaitable[None]]
) -> AsyncIterator[Follower]:
    """Await `callback` for the last message of every subject that matches, then for all new ones, in order, while the block runs.

    After a reconnect the last messages come again. `stream` is a name of `agentexecutor.bus.streams`. Raises ApiError.
    """
    follower = Follower(connection, stream, subject, callback)
    forget = connection.on_reconnect(follower.again)
    try:
        await follower.start()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.watch)
            yield follower
            group.cancel_scope.cancel()
    finally:
        forget()
        with anyio.CancelScope(shield=True):
            await follower.stop()
