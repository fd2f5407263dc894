"""Work that needs large bodies read or stored on its way, without knowing how that is done.

An errand is a generator: it yields what it needs (a BlobRef: this body, please; bytes: store this; a function: call it where it does not hold up the
loop) and is sent what came of it. Whoever writes errands stays free of I/O; `Errands` runs them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import anyio
import msgspec

from agentexecutor.bus.blobs import load_body, store_body
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errors import ApiError, BusClosed, StoreTimeout
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.messages import BlobRef
from agentexecutor.schemas.names import TaskName

__all__ = ["PASSING", "BodyCache", "Errands"]

T = TypeVar("T")
Need = BlobRef | bytes | Callable[[], Any]

PASSING = (ApiError, StoreTimeout, BusClosed)
"""The bus does not do its part right now: the errand cannot go on, and is not to blame."""
UNFIT = (AgentExecutorError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What is thrown into an errand: the body is gone, or is not what it should be."""


class BodyCache:
    """The bodies that were read last, by digest: the shares of one large input are cut from one read. `limit`: bytes of all together."""

    def __init__(self, limit: int = 32 * 1024 * 1024) -> None:
        self._limit = limit
        self._size = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, digest: str) -> bytes | None:
        """The body, when it is here."""
        body = self._bodies.get(digest)
        if body is not None:
            self._bodies.move_to_end(digest)
        return body

    def put(self, digest: str, body: bytes) -> None:
        """Keep it as long as there is room."""
        if len(body) > self._limit or digest in self._bodies:
            return
        self._bodies[digest] = body
        self._size += len(body)
        while self._size > self._limit:
            _, oldest = self._bodies.popitem(last=False)
            self._size -= len(oldest)


class Errands:
    """Runs errands for one process that may read the streams (a coordinator)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cache = BodyCache()

    async def run(self, task: TaskName, errand: Generator[Need, Any, T]) -> T:
        """Do what `errand` needs until it is done. Raises ApiError, StoreTimeout and the like when the bus does not do its part."""
        try:
            need = next(errand)
            while True:
                try:
                    came = await self._do(task, need)
                except PASSING:
                    errand.close()
                    raise
                except UNFIT as error:
                    need = errand.throw(error)
                else:
                    need = errand.send(came)
        except StopIteration as stop:
            done: T = stop.value
            return done

    async def _do(self, task: TaskName, need: Need) -> Any:
        if isinstance(need, BlobRef):
            return await self._read(task, need)
        if isinstance(need, bytes):
            return await store_body(self._connection, task, need)
        return await anyio.to_thread.run_sync(need)

    async def _read(self, task: TaskName, ref: BlobRef) -> bytes:
        body = self._cache.get(ref.digest)
        if body is None:
            body = await load_body(self._connection, task, ref)
            self._cache.put(ref.digest, body)
        return body
