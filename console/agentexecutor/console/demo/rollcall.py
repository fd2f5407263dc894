"""Waiting until the demo's stage is set: all agents offer something, and all coordinators hold their part of the shards. Event by event, no polling."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.follow import Followed, follow
from agentexecutor.bus.streams import LEASE, OFFERS
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, decode
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

__all__ = ["RollCall", "calling"]


class RollCall:
    """Who is there, as the bus's own streams tell it. `told` hears the name of each agent when its first offer comes."""

    def __init__(self, connection: Connection, told: Callable[[str], None] = lambda _name: None) -> None:
        self.agents: list[str] = []
        self.holders: dict[int, str] = {}
        """Shard → the coordinator that holds it."""
        self._connection = connection
        self._told = told
        self._news = anyio.Event()

    async def offer_came(self, followed: Followed) -> None:
        """An agent's standing offer."""
        name = self._connection.subjects.last_token(followed.subject)
        if name not in self.agents:
            self.agents.append(name)
            self._told(name)
            self._tell()

    async def lease_came(self, followed: Followed) -> None:
        """A shard was taken, held on to, or given up."""
        if followed.subject == self._connection.subjects.start():
            return
        with suppress(DecodeFailed):
            lease = decode(followed.headers.get(H_TYPE), followed.payload)
            shard = int(self._connection.subjects.last_token(followed.subject))
            holder = lease.holder if isinstance(lease, m.Lease) else ""
            if self.holders.get(shard) != holder:
                self.holders[shard] = holder
                self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def all_there(self, agents: list[str]) -> None:
        """Wait until all of them have offered something."""
        while not set(agents) <= set(self.agents):
            await self._news.wait()

    async def all_share(self, coordinators: list[str]) -> None:
        """Wait until every shard is held, and every coordinator holds its part: shards over coordinators, rounded down or up."""
        while not self._shared(coordinators):
            await self._news.wait()

    def _shared(self, coordinators: list[str]) -> bool:
        held = Counter(self.holders.values())
        least, rest = divmod(self._connection.shards, len(coordinators))
        allowed = {least, least + 1} if rest else {least}
        return (
            held.total() == self._connection.shards
            and set(held) <= set(coordinators)
            and all(held[name] in allowed for name in coordinators)
        )

    def task_held_by(self, coordinator: str, owner: str) -> str:
        """An id for a task of `owner` that this coordinator will hold."""
        while True:
            task = TaskName(owner, f"tweets-{new_id(5)}")
            if self.holders.get(shard_of(task, self._connection.shards)) == coordinator:
                return task.id


@asynccontextmanager
async def calling(connection: Connection, told: Callable[[str], None]) -> AsyncIterator[RollCall]:
    """Follow offers and leases while the block runs."""
    roll = RollCall(connection, told)
    subjects = connection.subjects
    offers = follow(connection, OFFERS, subjects.all_offers(), roll.offer_came)
    leases = follow(connection, LEASE, subjects.all_leases(), roll.lease_came)
    async with offers, leases:
        yield roll
