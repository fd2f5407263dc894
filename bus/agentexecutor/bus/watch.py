"""Listening to a subject for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection

__all__ = ["listening"]


@asynccontextmanager
async def listening(
    connection: Connection, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = ""
) -> AsyncIterator[None]:
    """Have `callback` awaited for each message of `subject` while the block runs; of those with the same `queue` one hears each."""
    subscription = await connection.subscribe(subject, callback, queue=queue)
    try:
        yield
    finally:
        # A connection that is closed or away has forgotten the subscription, or will.
        with anyio.CancelScope(shield=True), suppress(Exception):
            await subscription.unsubscribe()
