"""Leases and members as messages: followed, written with a fence, read from the leader (docs/protocol.md section 10).

Who may take or renew what, and when, is not decided here (`agentexecutor.coordinator.leases`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.follow import Followed, follow
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import DecodeFailed

__all__ = ["LeaseStream"]

LeaseSeen = Callable[[int, m.Lease | None, int], None]
MemberSeen = Callable[[str, m.Member, float], None]


class LeaseStream:
    """The leases of all shards, written in the name of this connection's peer and `boot`. `log` must be running."""

    def __init__(self, connection: Connection, log: TaskLog, boot: str) -> None:
        self._connection = connection
        self._log = log
        self._boot = boot

    @asynccontextmanager
    async def followed(self, lease_seen: LeaseSeen, member_seen: MemberSeen) -> AsyncIterator[None]:
        """While the block runs: (shard, lease or None when something else stands there, sequence), and (peer, member, server's stamp)."""
        subjects = self._connection.subjects

        async def lease_came(followed: Followed) -> None:
            number = subjects.last_token(followed.subject)
            if number.isdecimal() and int(number) < self._connection.shards:
                lease_seen(int(number), _lease(followed.headers.get(H_TYPE), followed.payload), followed.seq)

        async def member_came(followed: Followed) -> None:
            try:
                member = decode(followed.headers.get(H_TYPE), followed.payload)
            except DecodeFailed:
                return
            if isinstance(member, m.Member):
                member_seen(subjects.last_token(followed.subject), member, followed.stamp)

        async with (
            follow(self._connection, LEASE, subjects.all_leases(), lease_came),
            follow(self._connection, LEASE, subjects.all_members(), member_came),
        ):
            yield

    async def write(self, shard: int, holder: str, *, expected: int) -> int:
        """Append a lease (an empty holder: a release) when the last sequence is `expected`; gives the new one. Raises AppendUnknown."""
        lease = m.Lease(holder=holder, boot=self._boot)
        return await self._log.append_to(self._connection.subjects.lease(shard), encode(lease), headers("lease"), expected=expected)

    async def read(self, shard: int) -> tuple[int | None, m.Lease | None]:
        """The last sequence of a shard's subject (None: empty) and the lease there, by the leader's word. Raises ApiError."""
        last = await self._log.last_of(LEASE, self._connection.subjects.lease(shard))
        if last is None:
            return None, None
        return last.seq, None if last.payload is None else _lease("lease", last.payload)

    async def beat(self, *, leaving: bool) -> None:
        """Say that this process could coordinate, or that it is leaving."""
        member = m.Member(boot=self._boot, leaving=leaving)
        await self._connection.publish(self._connection.subjects.member(self._connection.name), encode(member), headers("member"))


def _lease(kind: str | None, payload: bytes) -> m.Lease | None:
    try:
        lease = decode(kind, payload)
    except DecodeFailed:
        return None
    return lease if isinstance(lease, m.Lease) else None
