"""The floor: what the server alone takes for a request with its reply, and for a fenced append to a stream that is stored as the tasks' log is.

Both go over our own connections and through our own code for appends, so what is left between them and a task is what AgentExecutor adds:
an auction, a log of two records at least, two work queues, an agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LOG, stream_name

__all__ = ["Appends", "Requests", "appends", "requests"]

ANSWER_S = 10.0
ANSWER = b'{"stream":"","seq":0}'
HOUR = 3600 * 1_000_000_000
ROOM = 256 << 20
"""Bytes that the stream may hold; the oldest go first."""


class Requests:
    """Requests by one connection, answered by the other: what a stream answers to a submit, without the stream."""

    def __init__(self, connection: Connection, subject: str, payload: bytes) -> None:
        self._connection = connection
        self._subject = subject
        self._payload = payload

    async def one(self, _place: int) -> bool:
        return await self._connection.acknowledged(self._subject, self._payload, {}, ANSWER_S) is not None


@asynccontextmanager
async def requests(connection: Connection, other: Connection, payload: bytes) -> AsyncIterator[Requests]:
    """`other` answers while the block runs."""
    subject = f"{connection.name}.request"

    async def answer(message: Msg) -> None:
        await message.respond(ANSWER)  # our own request: nobody else knows the subject

    subscription = await other.subscribe(subject, answer)
    await other.nats.flush()
    try:
        yield Requests(connection, subject, payload)
    finally:
        with suppress(Exception):
            await subscription.unsubscribe()


class Appends:
    """Fenced appends: each place has a subject, and expects what it appended last."""

    def __init__(self, connection: Connection, subject: str, payload: bytes) -> None:
        self._log = TaskLog(connection)
        self._subject = subject
        self._payload = payload
        self._last: dict[int, int] = {}

    async def one(self, place: int) -> bool:
        expected = self._last.get(place, 0)
        self._last[place] = await self._log.append_to(f"{self._subject}.{place}", self._payload, {}, expected=expected)
        return True


@asynccontextmanager
async def appends(connection: Connection, payload: bytes) -> AsyncIterator[Appends]:
    """A stream of its own, stored and replicated as the log is, removed at the end. Raises BusError when there can be none."""
    info = await connection.api(f"STREAM.INFO.{stream_name(LOG, connection.prefix)}", {})
    like = {setting: info["config"][setting] for setting in ("storage", "num_replicas")}
    name, subject = f"AE_BENCH_{connection.name}", f"{connection.name}.append"
    settings = {
        "name": name,
        "subjects": [f"{subject}.*"],
        "retention": "limits",
        "discard": "old",
        "max_age": HOUR,
        "max_bytes": ROOM,
        **like,
    }
    await connection.api(f"STREAM.CREATE.{name}", settings)
    try:
        yield Appends(connection, subject, payload)
    finally:
        with suppress(BusError):
            await connection.api(f"STREAM.DELETE.{name}", {})
