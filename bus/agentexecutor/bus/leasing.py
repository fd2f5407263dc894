"""Leases and members as messages: followed, written with a fence, read from the leader (docs/protocol.md section 10).

Who may take or renew what, and when, is not decided here (`agentexecutor.coordinator.leases`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.follow import Followed, follow
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import DecodeFailed

__all__ = ["LeaseStream"]

M = TypeVar("M", bound=m.Message)
LeaseSeen = Callable[[int, m.Lease | None, int], None]
MemberSeen = Callable[[str, m.Member, float], None]
StartSeen = Callable[[float], None]
Unusable = Callable[[str, str, bytes], None]


class LeaseStream:
    """The leases of all shards, written in the name of this connection's peer and `boot`; `log` reads them."""

    def __init__(self, connection: Connection, log: TaskLog, boot: str) -> None:
        self._connection = connection
        self._log = log
        self._boot = boot

    @asynccontextmanager
    async def followed(
        self, lease_seen: LeaseSeen, member_seen: MemberSeen, start_seen: StartSeen, unusable: Unusable
    ) -> AsyncIterator[None]:
        """While the block runs: (shard, lease or None when something else stands there, sequence), and (peer, member, server's stamp).

        `start_seen`: the server's stamp of the stream's mark. `unusable` is told what is none of them: the subject, what it should be, and the payload.
        """
        subjects = self._connection.subjects
        shards = {str(number): number for number in range(self._connection.shards)}

        async def lease_came(followed: Followed) -> None:
            if followed.subject == subjects.start():
                start_seen(followed.stamp)
                return
            shard = shards.get(subjects.last_token(followed.subject))
            lease = _read(m.Lease, followed.headers.get(H_TYPE), followed.payload)
            if shard is None or lease is None:
                unusable(followed.subject, "lease", followed.payload)
            if shard is not None:
                lease_seen(shard, lease, followed.seq)

        async def member_came(followed: Followed) -> None:
            member = _read(m.Member, followed.headers.get(H_TYPE), followed.payload)
            if member is None:
                unusable(followed.subject, "member", followed.payload)
            else:
                member_seen(subjects.last_token(followed.subject), member, followed.stamp)

        async with (
            follow(self._connection, LEASE, subjects.all_leases(), lease_came),
            follow(self._connection, LEASE, subjects.all_members(), member_came),
        ):
            yield

    async def write(self, shard: int, holder: str, *, expected: int) -> int:
        """Append a lease (an empty holder: a release) when the last sequence is `expected`; gives the new one. Raises AppendUnknown, ApiError.

        The first of a shard is also the first sign that the stream may have been emptied: then its mark is made anew, which all who follow it hear.
        """
        if expected == 0:
            await self._log.started()
        lease = m.Lease(holder=holder, boot=self._boot)
        return await self._log.append_to(self._connection.subjects.lease(shard), encode(lease), headers("lease"), expected=expected)

    async def read(self, shard: int) -> tuple[int | None, m.Lease | None]:
        """The last sequence of a shard's subject (None: empty) and the lease there, by the leader's word. Raises ApiError."""
        last = await self._log.last_of(LEASE, self._connection.subjects.lease(shard))
        if last is None:
            return None, None
        return last.seq, None if last.payload is None else _read(m.Lease, "lease", last.payload)

    async def beat(self, *, leaving: bool) -> None:
        """Say that this process could coordinate, or that it is leaving."""
        member = m.Member(boot=self._boot, leaving=leaving)
        await self._connection.publish(self._connection.subjects.member(self._connection.name), encode(member), headers("member"))


def _read(wanted: type[M], kind: str | None, payload: bytes) -> M | None:
    try:
        message = decode(kind, payload)
    except DecodeFailed:
        return None
    return message if isinstance(message, wanted) else None
