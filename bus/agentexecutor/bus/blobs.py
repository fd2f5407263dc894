"""Large bodies by reference: cut into chunks, stored, read back (docs/protocol.md section 5)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import anyio

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errors import NO_MESSAGE, ApiError, BusError, first_of
from agentexecutor.bus.streams import BLOBS, stream_name
from agentexecutor.schemas.codec import digest, headers
from agentexecutor.schemas.messages import BlobRef
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.references import CHUNK, check_ref

__all__ = ["chunks_of", "digest_of", "join", "load_body", "load_chunk", "store_body"]

PARALLEL = 8
LARGE = 4 << 20
"""Bytes: above it a digest takes longer than to hand it to a thread."""
Read = Callable[[int], Awaitable[bytes]]


def chunks_of(body: bytes) -> list[bytes]:
    """The body in pieces of at most 262,144 bytes."""
    return [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)] or [b""]


async def store_body(connection: Connection, task: TaskName, body: bytes, *, timeout_s: float | None = 60.0) -> BlobRef:
    """Store a body under a task and give its reference; the chunks are acknowledged when this returns.

    `timeout_s`: for each chunk, None: however long it takes. Raises StoreTimeout, StoreRefused.
    """
    name = await digest_of(body)
    chunks = chunks_of(body)
    limit = anyio.CapacityLimiter(PARALLEL)

    async def send(number: int, chunk: bytes) -> None:
        async with limit:
            await connection.store(connection.subjects.blob(task, name, number), chunk, headers("chunk"), timeout_s=timeout_s)

    await _all(send, chunks)
    return BlobRef(digest=name, bytes=len(body), chunks=len(chunks))


async def join(ref: BlobRef, read: Read) -> bytes:
    """Read all chunks of a body with `read` and check size and digest. Raises BusError, DecodeFailed (no body can be like that)."""
    check_ref(ref)
    chunks: dict[int, bytes] = {}
    limit = anyio.CapacityLimiter(PARALLEL)

    async def one(number: int, _: int) -> None:
        async with limit:
            chunks[number] = await read(number)

    await _all(one, range(ref.chunks))
    body = b"".join(chunks[number] for number in range(ref.chunks))
    if len(body) != ref.bytes or await digest_of(body) != ref.digest:
        raise BusError(
            f"A body of {ref.bytes} bytes does not have the digest that its reference names.",
            hint="It was stored wrongly; run the subtask again.",
            digest=ref.digest,
        )
    return body


async def digest_of(body: bytes) -> str:
    """The digest; of much, where it does not hold up the loop."""
    return await anyio.to_thread.run_sync(digest, body) if len(body) > LARGE else digest(body)


async def _all(work: Callable[[int, Any], Coroutine[Any, Any, None]], items: Iterable[Any]) -> None:
    """Do `work` for all items at once; the first error comes out by itself, not in a group."""
    try:
        async with anyio.create_task_group() as group:
            for number, item in enumerate(items):
                group.start_soon(work, number, item)
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None


async def load_body(connection: Connection, task: TaskName, ref: BlobRef) -> bytes:
    """A coordinator's way to read a body: from the stream. Raises BusError when it is gone."""

    async def read(number: int) -> bytes:
        chunk = await load_chunk(connection, task, ref.digest, number)
        if chunk is None:
            raise BusError(
                f"Chunk {number} of a body of task {task} is gone.", hint="Bodies are kept as long as their task.", digest=ref.digest
            )
        return chunk

    return await join(ref, read)


async def load_chunk(connection: Connection, task: TaskName, digest: str, chunk: int) -> bytes | None:
    """One chunk from the stream; None when it is not there."""
    subject = connection.subjects.blob(task, digest, chunk)
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream_name(BLOBS, connection.prefix)}", {"last_by_subj": subject})
    except ApiError as error:
        if error.fields["err_code"] == NO_MESSAGE:
            return None
        raise
    return base64.b64decode(answer["message"].get("data", ""))
