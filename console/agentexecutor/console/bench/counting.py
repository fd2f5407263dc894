"""Which messages a task is made of: heard by a connection that subscribes to every subject that can name the bench's own tasks.

Only while a few tasks are counted, not while rates are measured: who listens to everything slows everything down. The subjects come from
the table of the wire (`agentexecutor.schemas.channels`), so what is new there is counted too. What it does not hear: the server's
acknowledgements, leases, the streams' own traffic.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection
from agentexecutor.console.bench.figures import CALL_TO_ALL
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.channels import channels
from agentexecutor.schemas.codec import H_TYPE, decode
from agentexecutor.schemas.errors import DecodeFailed

__all__ = ["Counts", "counting", "subjects_of"]


class Counts:
    """What was heard: channel → messages, and offers apart. `seconds`: for how long."""

    def __init__(self, owner: str) -> None:
        self.messages: Counter[str] = Counter()
        self.offers = 0
        self._owner = owner
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    async def heard(self, channel: str, message: Msg) -> None:
        if channel == CALL_TO_ALL and not self._is_ours(message):
            return
        self.messages[channel] += 1

    async def heard_offer(self, _message: Msg) -> None:
        self.offers += 1

    def _is_ours(self, message: Msg) -> bool:
        """A call to all does not name its task in the subject."""
        with suppress(DecodeFailed):
            call = decode((message.headers or {}).get(H_TYPE), message.data)
            return isinstance(call, m.Call) and call.task.startswith(f"{self._owner}.")
        return False


def subjects_of(prefix: str, owner: str, capability: str) -> dict[str, str]:
    """Channel → what to subscribe to for the tasks of one owner, which ask for one capability."""
    known = {"owner": owner, "capability": capability}
    return {
        channel.name: re.sub(r"\{(\w+)\}", lambda word: known.get(word[1], "*"), channel.address)
        for channel in channels(prefix)
        if ("{owner}" in channel.address or channel.name == CALL_TO_ALL) and "server" not in channel.kind.by
    }


@asynccontextmanager
async def counting(connection: Connection, owner: str, capability: str) -> AsyncIterator[Counts]:
    """Count while the block runs, and until what was sent in it has come."""
    counts = Counts(owner)
    listening = [
        await connection.subscribe(subject, partial(counts.heard, name))
        for name, subject in subjects_of(connection.prefix, owner, capability).items()
    ]
    listening.append(await connection.subscribe(connection.subjects.all_offers(), counts.heard_offer))
    await connection.nats.flush()
    try:
        yield counts
        await connection.nats.flush()
    finally:
        for subscription in listening:
            with suppress(Exception):
                await subscription.drain()  # type: ignore[no-untyped-call]
