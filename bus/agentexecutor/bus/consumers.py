"""The shard holder's consumers: claims are pushed, submits pulled class by class.

Who takes a shard deletes them and makes them anew.

Making them anew hands over at once what the holder before had not acknowledged; waiting for its time-out would take half a minute.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import anyio
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.deliveries import delivery_of
from agentexecutor.bus.errors import ApiError, BusError, first_of
from agentexecutor.bus.streams import INBOX, SUBMITS, stream_name
from agentexecutor.schemas.names import new_id
from agentexecutor.schemas.subjects import CLASSES

__all__ = ["Inbound", "ShardConsumers"]

SECOND = 1_000_000_000
BEAT_S = 1.0
MISSED_BEATS = 3
ACK_WAIT_S = 30
IN_FLIGHT = 50_000
NO_CONSUMER = 10014
NO_ANSWER = 408
ANSWER_S = 2.0
ELECTION_S = 10.0
"""A server waits so long at most before it wants to lead itself (nats-server: 4 to 9 s)."""
LOOK_S = 0.2
NOBODY_THERE = "503"
"""Status: no responders, so the consumer is gone."""
GIVEN_UP_S = 1.0
"""So long after a pull has expired the server's word for it is waited for."""


class Inbound(NamedTuple):
    """A stored message on its way to the coordinator. `stamp`: the server's, seconds since 1970; `reply` acknowledges it, in this `session` only."""

    subject: str
    payload: bytes
    headers: Headers
    seq: int
    stamp: float
    reply: str
    session: int = 0

    @property
    def deliveries(self) -> int:
        """How often it was delivered, this time included."""
        return delivery_of(self.reply).deliveries

    def is_current(self, connection: Connection) -> bool:
        """Whether it may be answered: after a reconnect it comes again, and (after a power cut) its number may be another message's."""
        return connection.connected and self.session == connection.session


Handler = Callable[[Inbound], Awaitable[None]]


def _session_of(message: Msg) -> int:
    """In which session of the connection it came, however long it has waited for its turn."""
    return int(getattr(message, "session", 0))


@dataclass(slots=True)
class _Asked:
    """A pull. `batch`: what of it has not come; `until`: when it counts no more, monotonic."""

    batch: int
    until: float


class ShardConsumers:
    """The consumers of the shards that this process holds. `holds`: whether it still does; who woke up late must not take them from its successor."""

    def __init__(
        self, connection: Connection, *, on_claim: Handler, on_submit: Handler, holds: Callable[[int], bool] = lambda _: True
    ) -> None:
        self._connection = connection
        self._holds = holds
        self._on_claim = on_claim
        self._on_submit = on_submit
        self._inbox = f"_INBOX.{new_id()}"
        self._claims = stream_name(INBOX, connection.prefix)
        self._submits = stream_name(SUBMITS, connection.prefix)
        self._heard: dict[int, float] = {}
        self._subscribed: dict[int, Subscription] = {}
        self._asked: dict[tuple[int, str], dict[str, _Asked]] = {}
        self._backlog: dict[tuple[int, str], int] = {}
        self._unmade: set[int] = set()
        """Shards whose consumers are not all there."""
        self._reconnected = anyio.Event()
        self._opening = anyio.Lock()
        """Two who make the same consumers would delete each other's."""
        self._count = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribed while the block runs; consumers whose beats stop are made anew."""
        submits = await self._connection.subscribe(f"{self._inbox}.s.*.*.*", self._submit_came)
        forget = self._connection.on_reconnect(self._reopen)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_beats)
                yield
                group.cancel_scope.cancel()
        finally:
            forget()
            with anyio.CancelScope(shield=True):
                for subscription in (submits, *self._subscribed.values()):
                    with suppress(Exception):
                        await subscription.unsubscribe()

    async def open(self, shard: int) -> None:
        """Delete and make the shard's consumers: what is not acknowledged comes (again). Raises ApiError."""
        async with self._opening:
            self._heard[shard] = time.monotonic()
            self._unmade.add(shard)
            if shard not in self._subscribed:
                # Each its own: the server sends no idle heartbeats to an interest by wildcard.
                self._subscribed[shard] = await self._connection.subscribe(f"{self._inbox}.c.{shard}", partial(self._claim_came, shard))
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._make_anew, self._claims, f"claims-{shard}", self._claims_config(shard))
                    for klass in CLASSES:
                        self._asked[shard, klass] = {}
                        group.start_soon(self._make_anew, self._submits, f"submits-{shard}-{klass}", self._submits_config(shard, klass))
            except ExceptionGroup as errors:
                raise first_of(errors) from None
            self._heard[shard] = time.monotonic()
            self._unmade.discard(shard)

    async def close(self, shard: int) -> None:
        """Deliver nothing here any more; the next holder makes the consumers anew."""
        if self._heard.pop(shard, None) is None:
            return
        self._unmade.discard(shard)
        for klass in CLASSES:
            self._asked.pop((shard, klass), None)
        with suppress(BusError):
            await self._deleted(self._claims, f"claims-{shard}")
        with suppress(Exception):
            await self._subscribed.pop(shard).unsubscribe()

    async def pull(self, shard: int, klass: str, batch: int, *, expires_s: float = 5.0) -> None:
        """Ask for up to `batch` submits of a class; they come to `on_submit` as they are there."""
        asked = self._asked.get((shard, klass))
        if asked is None or batch <= 0:
            return
        self._count += 1
        token = str(self._count)
        for old in [old for old, one in asked.items() if time.monotonic() >= one.until]:
            del asked[old]
        asked[token] = _Asked(batch, time.monotonic() + expires_s + GIVEN_UP_S)
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._submits}.submits-{shard}-{klass}",
            b'{"batch":%d,"expires":%d}' % (batch, int(expires_s * SECOND)),
            {},
            reply=f"{self._inbox}.s.{shard}.{klass}.{token}",
        )

    def outstanding(self, shard: int, klass: str) -> int:
        """How many submits of a class were asked for and have neither come nor been given up (which the server says, or its word got lost)."""
        now = time.monotonic()
        return sum(asked.batch for asked in self._asked.get((shard, klass), {}).values() if now < asked.until)

    def backlog(self, shard: int, klass: str) -> int:
        """How many submits of a class wait in the stream, as far as the last one that came has told."""
        return self._backlog.get((shard, klass), 0)

    # what arrives

    async def _claim_came(self, shard: int, message: Msg) -> None:
        if shard in self._heard:
            self._heard[shard] = time.monotonic()  # beats come only while nothing else does
        headers = message.headers or {}
        if message.reply.startswith("$JS.ACK."):
            _, seq, stamp, _ = delivery_of(message.reply)
            await self._on_claim(Inbound(message.subject, message.data, headers, seq, stamp, message.reply, _session_of(message)))
        else:
            await self._control(message, headers)

    async def _control(self, message: Msg, headers: Headers) -> None:
        """Answer flow control, or the server waits for ever."""
        answer_to = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if answer_to.startswith("$JS.FC."):
            await self._connection.publish(answer_to, b"", {})

    async def _submit_came(self, message: Msg) -> None:
        headers = message.headers or {}
        if message.reply.startswith("$JS.ACK."):
            _, seq, stamp, more = delivery_of(message.reply)
            shard, klass, _ = self._connection.subjects.parse_new(message.subject)
            self._count_down(shard, klass)
            self._backlog[shard, klass] = more
            await self._on_submit(Inbound(message.subject, message.data, headers, seq, stamp, message.reply, _session_of(message)))
            return
        status = headers.get("Status", "100")
        if status != "100":
            *_, number, klass, token = message.subject.split(".")
            if self._asked.get((int(number), klass), {}).pop(token, None):
                self._backlog[int(number), klass] = 0
            if status == NOBODY_THERE:
                self._unmade.add(int(number))

    def _count_down(self, shard: int, klass: str) -> None:
        asked = self._asked.get((shard, klass))
        if asked:
            token, first = next(iter(asked.items()))
            first.batch -= 1
            if first.batch <= 0:
                del asked[token]

    # making and watching

    def _claims_config(self, shard: int) -> dict[str, Any]:
        return {
            "filter_subject": self._connection.subjects.all_inbox(shard),
            "deliver_subject": f"{self._inbox}.c.{shard}",
            "idle_heartbeat": int(BEAT_S * SECOND),
            "flow_control": True,
        }

    def _submits_config(self, shard: int, klass: str) -> dict[str, Any]:
        return {"filter_subject": self._connection.subjects.all_new(shard, klass), "max_waiting": 512}

    async def _make_anew(self, stream: str, name: str, config: dict[str, Any]) -> None:
        """Delete and make one, and wait until somebody leads it.

        In a cluster that has lost a server each election may take as long as ELECTION_S, and until then nobody answers. Beginning anew with
        all of a shard's consumers because of one of them would only begin more elections.
        """
        await self._insist(partial(self._deleted, stream, name))
        await self._insist(partial(self._made, stream, name, config))

    async def _insist(self, done: Callable[[bool], Awaitable[bool]]) -> None:
        """Ask until it is done. Told that it is the last time, it raises instead."""
        give_up = time.monotonic() + ELECTION_S
        while True:
            if await done(time.monotonic() > give_up):
                return
            await anyio.sleep(LOOK_S)

    async def _deleted(self, stream: str, name: str, last: bool = True) -> bool:
        """Whether it is known to be gone. Raises ApiError."""
        try:
            await self._whole(f"CONSUMER.DELETE.{stream}.{name}", {})
        except ApiError as error:
            if error.fields["code"] == NO_ANSWER and not last:
                return False
            if error.fields["err_code"] != NO_CONSUMER:
                raise
        return True

    async def _made(self, stream: str, name: str, config: dict[str, Any], last: bool) -> bool:
        """Whether the consumer is there and led; asked again, the server tells of the one that it is making. Raises ApiError."""
        common = {
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * SECOND,
            "max_deliver": -1,
            "max_ack_pending": IN_FLIGHT,
            "mem_storage": True,
        }
        request = {"stream_name": stream, "config": {**common, **config, "name": name}, "action": "create"}
        try:
            made = await self._whole(f"CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}", request)
        except ApiError as error:
            if error.fields["code"] != NO_ANSWER or last:
                raise
            return False
        led = "cluster" not in made or bool(made["cluster"].get("leader"))
        if last and not led:
            raise ApiError(f"Nobody leads the consumer {name}.", code=NO_ANSWER, err_code=0, description="no leader")
        return led

    async def _whole(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request that is not cut in two: one that is under way when we end would meet those of who comes after us."""
        with anyio.CancelScope(shield=True):
            answer = await self._connection.api(name, body, timeout_s=ANSWER_S)
        return answer  # noqa: RET504 - to mypy a scope may swallow an error, and nothing would be returned

    async def _watch_beats(self) -> None:
        while True:
            with anyio.move_on_after(BEAT_S):
                await self._reconnected.wait()
            if self._reconnected.is_set():
                self._reconnected = anyio.Event()
                await self._open_again(list(self._heard))
                continue
            silent = list(filter(self._holds, self._silent(time.monotonic())))
            if silent and self._connection.connected and not self._opening.locked():
                self._connection.miss()
                self._connection.seldom.tell("silent", "The consumers of shards %s are gone or silent; they are made anew.", silent)
                await self._open_again(silent)

    def _silent(self, now: float) -> list[int]:
        return [shard for shard, heard in self._heard.items() if shard in self._unmade or now - heard > MISSED_BEATS * BEAT_S]

    async def _reopen(self) -> None:
        """Not by the one who calls this: what is under way must end with `running`, or it takes the consumers from those who come after."""
        self._reconnected.set()

    async def _open_again(self, shards: list[int]) -> None:
        for shard in filter(self._holds, shards):
            try:
                await self.open(shard)
            except BusError as error:
                self._connection.seldom.tell("consumers", "The consumers of shard %d could not be made: %s", shard, error)
