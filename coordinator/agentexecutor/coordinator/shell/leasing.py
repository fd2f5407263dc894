"""The shards that a coordinator holds, and the leases by which it holds them: what `Leases` says is done here.

Knows nothing of tasks; `match` is told to take up and drop what the leases give and take.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from agentexecutor.bus.complaints import Seldom
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.consumers import ShardConsumers
from agentexecutor.bus.errors import AppendUnknown, BusError
from agentexecutor.bus.leasing import LeaseStream
from agentexecutor.coordinator.leases import Beat, Confirm, GiveUp, LeaseAction, Leases
from agentexecutor.coordinator.shell.insisting import RETRY_S
from agentexecutor.schemas import messages as m

__all__ = ["LeaseKeeper", "Shard", "draw"]

logger = logging.getLogger("agentexecutor.coordinator")


@dataclasses.dataclass(slots=True)
class Shard:
    """A shard that is held. `consumers` None: nothing is delivered yet, or nothing any more. `busy`: tasks that a worker has or will have."""

    number: int
    scope: anyio.CancelScope = dataclasses.field(default_factory=anyio.CancelScope)
    consumers: ShardConsumers | None = None
    leaving: anyio.Event = dataclasses.field(default_factory=anyio.Event)
    quiet: anyio.Event = dataclasses.field(default_factory=anyio.Event)
    busy: int = 0


class LeaseKeeper:
    """Renews, takes and gives up leases. `shards`: those that are held, which `match` keeps like the leases; monotonic seconds are given to it."""

    def __init__(
        self, connection: Connection, leases: Leases, stream: LeaseStream, shards: dict[int, Shard], match: Callable[[float], None]
    ) -> None:
        self._connection = connection
        self._leases = leases
        self._stream = stream
        self._shards = shards
        self._match = match
        self._seldom = Seldom(logger)
        self._releasing: set[int] = set()
        self._changed = anyio.Event()
        self._leaving = False

    def seen(self, number: int, lease: m.Lease | None, seq: int) -> None:
        """What the stream of leases tells."""
        if self._leases.lease_seen(time.monotonic(), number, lease, seq):
            self.changed()

    def changed(self) -> None:
        """Have what is due looked at."""
        self._changed.set()

    def leave(self) -> None:
        """Give all up; `keep` returns when that is done."""
        self._leaving = True
        self._leases.leave(time.monotonic())
        self.changed()

    async def keep(self, group: TaskGroup) -> None:
        """Look after the leases until `leave` and the last shard is given up."""
        while True:
            now = time.monotonic()
            self._changed = anyio.Event()
            for action in self._leases.due(now, draw()):
                group.start_soon(self._act, action)
            self._match(now)
            if self._leaving and not self._shards and not self._leases.held(now):
                return
            with anyio.move_on_after(max(0.001, self._leases.next_due(now) - time.monotonic())):
                await self._changed.wait()

    async def _act(self, action: LeaseAction) -> None:
        now = time.monotonic()
        try:
            if isinstance(action, Beat):
                await self._stream.beat(leaving=self._leaving)
            elif isinstance(action, Confirm):
                seq, lease = await self._stream.read(action.shard)
                self._leases.confirmed(time.monotonic(), action.shard, seq, lease)
            elif isinstance(action, GiveUp):
                if not await self._give_up(action):
                    return
            else:
                seq = await self._stream.write(action.shard, self._connection.name, expected=action.expected)
                self._leases.won(now, action.shard, seq)
        except BusError as error:
            if not isinstance(error, AppendUnknown):
                if self._connection.connected:
                    self._seldom.tell("lease", "A lease could not be looked after: %s", error)
                await anyio.sleep(RETRY_S)
            if not isinstance(action, Beat):
                self._leases.lost(time.monotonic(), action.shard, None if isinstance(action, Confirm) else action.expected)
        self.changed()

    async def _give_up(self, action: GiveUp) -> bool:
        """First what is in flight, then the release. False: that is under way, and whoever ends it tells."""
        shard = self._shards.get(action.shard)
        if shard is not None:
            shard.leaving.set()
            return False
        if action.shard in self._releasing:
            return False
        self._releasing.add(action.shard)
        try:
            await self._stream.write(action.shard, "", expected=action.expected)
            self._leases.released(time.monotonic(), action.shard)
        finally:
            self._releasing.discard(action.shard)
        return True


def draw() -> int:
    return random.getrandbits(31)
