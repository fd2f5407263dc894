"""Questions as those who answer them hear them, and the answers' way back (docs/protocol.md section 7; `queries` is the side that asks)."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import NamedTuple

from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus.blobs import digest_of, load_chunk, store_body
from agentexecutor.bus.complaints import Complaints
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.watch import listening
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, H_RE, H_TYPE, INLINE_LIMIT, decode, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed
from agentexecutor.schemas.names import TaskName, check_name

__all__ = ["Answering", "Asked"]

logger = logging.getLogger("agentexecutor.bus")

KEPT = 100
KEPT_S = 30.0
"""So many bodies, for so long, are not stored again when the same is answered to another question."""
GROUP = "coordinators"
"""The queue group of those who share the questions that any one of them can answer."""


class Asked(NamedTuple):
    """A question that can be read. `id`: its Ae-Id."""

    peer: str
    kind: str
    task: TaskName
    id: str
    ask: m.Ask


class Answering:
    """Hears questions and sends answers, as the coordinator whose connection this is. `unreadable` is called for a question that cannot be read."""

    def __init__(self, connection: Connection, unreadable: Callable[[], None]) -> None:
        self._connection = connection
        self._unreadable = unreadable
        self._complaints = Complaints(logger)
        self._stored: OrderedDict[tuple[TaskName, str], tuple[float, m.BlobRef]] = OrderedDict()
        """The bodies of the last answers, and when each was stored (monotonic)."""

    @asynccontextmanager
    async def hearing(self, handler: Callable[[Asked], Awaitable[None]], *kinds: str, shared: bool = False) -> AsyncIterator[None]:
        """Have `handler` awaited for every question of these kinds while the block runs; `shared`: only one coordinator hears each."""

        async def heard(message: Msg) -> None:
            asked = self._read(message)
            if asked is not None:
                await handler(asked)

        async with AsyncExitStack() as stack:
            for kind in kinds:
                subject = self._connection.subjects.all_asks(kind)
                await stack.enter_async_context(listening(self._connection, subject, heard, queue=GROUP if shared else ""))
            yield

    def _read(self, message: Msg) -> Asked | None:
        made = message.headers or {}
        try:
            peer, kind, task = self._connection.subjects.parse_ask(message.subject)
            id = check_name("Ae-Id", made.get(H_ID, ""))
            ask = decode(made.get(H_TYPE), message.data)
            if not isinstance(ask, m.Ask):
                raise DecodeFailed("This is no question.", kind=made.get(H_TYPE), reason="Ae-Type")
        except (AgentExecutorError, ValueError) as error:
            self._unreadable()
            self._complaints.tell(message.subject, "A question on %s cannot be read: %s", message.subject, error)
            return None
        return Asked(peer, kind, task, id, ask)

    async def answer(self, asked: Asked, body: bytes | None, *, of: int, error: m.ErrorInfo | None = None, next: int | None = None) -> None:
        """Answer on the asker's own subject; a large body goes by reference. `of`: how many coordinators there are."""
        reply = m.Answer(re=asked.id, coordinator=self._connection.name, of=max(1, of), error=error, next=next)
        if body is not None and len(body) > INLINE_LIMIT:
            reply = replace(reply, body_blob=await self._store(asked.task, body))
        elif body is not None:
            reply = replace(reply, body=Raw(body))
        await self._send(asked, "answer", encode(reply))

    async def _store(self, task: TaskName, body: bytes) -> m.BlobRef:
        """Who watches asks for the same again and again: then it is there already."""
        key = task, await digest_of(body)
        at, ref = self._stored.get(key, (-inf, None))
        if ref is None or time.monotonic() > at + KEPT_S:
            self._stored[key] = time.monotonic(), (ref := await store_body(self._connection, task, body))
            self._stored.move_to_end(key)
            if len(self._stored) > KEPT:
                self._stored.popitem(last=False)
        return ref

    async def answer_chunk(self, asked: Asked, *, of: int) -> None:
        """Answer with a chunk of a body."""
        chunk = await load_chunk(self._connection, asked.task, asked.ask.digest, asked.ask.chunk)
        if chunk is None:
            gone = m.ErrorInfo(code="lost", message="This body is not stored (any more).")
            await self.answer(asked, None, of=of, error=gone)
        else:
            await self._send(asked, "chunk", chunk)

    async def _send(self, asked: Asked, kind: str, payload: bytes) -> None:
        made = headers(kind)
        made[H_RE] = asked.id
        await self._connection.publish(self._connection.subjects.to(asked.peer, "answer", asked.task), payload, made)
