"""What agents say of themselves: offers, signs of life, bids. It goes to the market; who says again to run what no award backs is found out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.follow import Followed, Follower, follow
from agentexecutor.bus.streams import OFFERS
from agentexecutor.bus.watch import listening
from agentexecutor.coordinator.entry import Twice
from agentexecutor.coordinator.inbound import heard_of
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.shell.unusable import UnusableMessages
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.errors import NameRefused
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["Hearing"]

TWICE_S = 1.0
DEAF_S = 2.0
"""Offers, or the server's beats in their place, come every second."""

Stale = Callable[[str, TaskName, int, m.Running], None]


class Hearing:
    """Tells the market. `shards`: those that are held. `poll` (monotonic seconds) lets it work.

    `stale` is told who says again to run what no award of ours backs: the peer, task and shard.
    """

    def __init__(
        self,
        connection: Connection,
        market: Market,
        shards: Mapping[int, object],
        unusable: UnusableMessages,
        counters: Counter[str],
        poll: Callable[[float], None],
        stale: Stale,
    ) -> None:
        self._connection = connection
        self._subjects = connection.subjects
        self._market = market
        self._shards = shards
        self._unusable = unusable
        self._counters = counters
        self._poll = poll
        self._stale = stale
        self._twice = Twice(TWICE_S)
        self._offers: Follower | None = None

    def is_deaf(self, now: float) -> bool:
        """Whether nothing is heard of anybody, so that nobody is silent (3)."""
        return self._offers is None or now - self._offers.heard_at > DEAF_S

    @asynccontextmanager
    async def offers(self) -> AsyncIterator[None]:
        """Offers are heard while the block runs."""
        async with (
            follow(self._connection, OFFERS, self._subjects.all_offers(), self._offer_came) as self._offers,
            listening(self._connection, self._subjects.all_offers(), self._offer_said),
        ):
            self._market.listen_again(time.monotonic())
            yield

    async def _offer_came(self, followed: Followed) -> None:
        offer = self._unusable.decoded((m.Offer,), followed.subject, followed.headers, followed.payload)
        if offer is None:
            return
        now = time.monotonic()
        peer = self._subjects.last_token(followed.subject)
        self._market.offer(now, peer, offer)
        for running in self._market.awards.stale_running(now, peer):
            self._doubt(now, peer, running)
        self._poll(now)

    async def _offer_said(self, message: Msg) -> None:
        """An offer on its way to the stream. Its agent lives, also while the stream takes nothing, because its leader is gone."""
        heard = heard_of(message.data)
        if heard is not None:
            self._market.said(time.monotonic(), self._subjects.last_token(message.subject), heard.boot, heard.running)

    def _doubt(self, now: float, peer: str, running: m.Running) -> None:
        """An agent names what no award of ours backs. When it says so again, `stale` sees to it (2)."""
        try:
            task = TaskName.parse(running.task)
        except NameRefused:
            return
        number = shard_of(task, self._connection.shards)
        if number in self._shards and self._twice.said(now, (peer, running.task, running.subtask, running.epoch)):
            self._stale(peer, task, number, running)

    async def bid_came(self, message: Msg) -> None:
        now = time.monotonic()
        try:
            peer, _, _ = self._subjects.parse_bid(message.subject)
        except ValueError:
            self._unusable.no_valid(message.subject, "bid", message.data)
            return
        answer = self._unusable.decoded((m.Bid, m.Refusal), message.subject, message.headers, message.data)
        if isinstance(answer, m.Bid):
            self._market.bid(now, peer, answer)
        elif isinstance(answer, m.Refusal):
            self._market.refusal(now, peer, answer)
        else:
            return  # counted
        self._counters["bids"] += 1
        self._poll(now)
