"""One NATS connection of one peer: the one size check, the durable send, JetStream's API, and hooks for reconnects.

Knows nothing of tasks. Everything that is published goes through `Connection.publish`, which refuses what the server would cut the
connection for (nats-py does not come back from that).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agentexecutor.bus.acks import Acks, Answer
from agentexecutor.bus.complaints import Seldom
from agentexecutor.bus.errors import (
    ApiError,
    BusAway,
    BusClosed,
    BusError,
    NoBus,
    ReplicasRefused,
    ServerTooOld,
    StoreRefused,
    StoreTimeout,
)
from agentexecutor.bus.robust import RobustClient
from agentexecutor.bus.streams import LEASE, NOT_FOUND, OFFERS, ensure_streams, stream_name
from agentexecutor.schemas.errors import TooLarge
from agentexecutor.schemas.names import check_name
from agentexecutor.schemas.subjects import DEFAULT_PREFIX, Subjects

__all__ = ["DEFAULT_URL", "MOST_REPLICAS", "Connection", "Headers", "default_replicas", "default_url", "open_connection"]

logger = logging.getLogger("agentexecutor.bus")

Headers = dict[str, str]
Callback = Callable[[Msg], Awaitable[None]]

DEFAULT_URL = "nats://127.0.0.1:4222"
NEEDED = (2, 12)
MOST_REPLICAS = 5
"""JetStream takes no more of a stream."""
CONNECT_S = 2.0
"""A server may take so long to answer; the next of several is tried then."""
ACK_S = 5.0
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
RESTORE_S = 0.5
LEAVE_S = 5.0
"""So long what waits to be sent is sent before the connection is closed."""
PATIENCE_S = 30.0
"""So long a new connection asks for the streams again while JetStream is silent: a cluster elects leaders meanwhile."""
LOOK_S = 1.0
"""Streams that are missed are looked after no more often."""
PENDING_MESSAGES = 4_000_000
PENDING_BYTES = 1 << 30
BUFFER_BYTES = 64 << 20
"""So much may wait to be sent."""
TOO_LARGE = 10054
TIME_OUT = 408
NO_LEADER = 10008
FEW_HEADERS = 8
PASSING = frozenset({10077, 10023, 10047, NO_LEADER})
"""Refusals that pass: stream full, resources, no leader (nats-server errors.json)."""
FULL = 10077
SILENT = "Is the server up? One whose disk was full stays silent until it is restarted: `agentexecutor doctor` tells."
NO_ANSWER = "A server whose disk was full stays silent until it is restarted, a cluster while half of its machines are away."


def default_url() -> str:
    """AGENTEXECUTOR_NATS_URL, else the local default."""
    return os.environ.get("AGENTEXECUTOR_NATS_URL") or DEFAULT_URL


def default_replicas() -> int:
    """AGENTEXECUTOR_REPLICAS, else 1. Whoever connects first makes the streams, so all programs of an installation should be told the same."""
    said = os.environ.get("AGENTEXECUTOR_REPLICAS") or "1"
    if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= MOST_REPLICAS:
        raise ReplicasRefused(
            f"AGENTEXECUTOR_REPLICAS cannot be {said!r}.",
            hint=f"Give how many servers keep a copy of each stream: 1 to {MOST_REPLICAS}, not more than the cluster has.",
            value=said,
        )
    return int(said)


class Connection:
    """One NATS connection of one peer. Made by `open_connection`."""

    def __init__(
        self, client: RobustClient, *, name: str, url: str, prefix: str, credentials: str | None, streams: tuple[int, int, bool]
    ) -> None:
        self.nats = client
        self.name = name
        self.url = url
        self.prefix = prefix
        self.credentials = credentials
        self.subjects = Subjects(prefix)
        self.shards = 0
        self._streams = streams
        """Shards and replicas of streams that are made, and whether they are."""
        self._anew = 0
        """How often streams were made anew while it stood."""
        self._hooks: dict[int, Callable[[], Awaitable[None]]] = {}
        self._hook_count = 0
        self._acks = Acks(self.miss)
        self._created: dict[str, str] = {}
        """When each stream was made, as far as is known."""
        self._missed = anyio.Event()
        self.seldom = Seldom(logger)

    async def listen(self) -> None:
        """Hear what streams answer. Called once."""
        await self.subscribe(self._acks.subject, self._acks.on_answer)

    def close(self) -> None:
        """Who waits for an answer is told that none will come."""
        self._acks.close()

    async def restore(self) -> list[str]:
        """Make the streams that are missing and compare the others. Raises StreamMismatch, ApiError.

        Gives the names of those that were made anew, here or by another process, since this was done last.
        """
        wished, replicas, make = self._streams
        found = await ensure_streams(self, shards=self.shards or wished, replicas=replicas, make=make)
        self.shards = found.shards
        anew = [name for name, created in found.created.items() if self._created.get(name, created) != created]
        self._created |= found.created
        return anew

    async def begin(self, patience_s: float) -> None:
        """`restore` on a new connection. JetStream that does not answer yet is asked again until `patience_s` have passed."""
        give_up = time.monotonic() + patience_s
        while True:
            try:
                await self.restore()
            except ApiError as error:
                passes = error.fields["code"] == TIME_OUT or error.fields["err_code"] == NO_LEADER
                if not passes or time.monotonic() >= give_up:
                    raise
                logger.warning("The streams cannot be looked after yet, it is tried again for %g s: %s", patience_s, error)
            else:
                return
            await anyio.sleep(RESTORE_S)

    def miss(self) -> None:
        """A stream seems to be gone: `keep_streams` looks after all of them."""
        self._missed.set()

    async def keep_streams(self) -> None:
        """Make streams anew that were deleted under a running system, when one is missed. Runs as long as the connection.

        To those who follow and consume them it is as if the server had come back.
        """
        while True:
            await self._missed.wait()
            self._missed = anyio.Event()
            if self.connected:
                await self._restore_missed()
            await anyio.sleep(LOOK_S)

    async def _restore_missed(self) -> None:
        try:
            anew = await self.restore()
        except (BusError, nats.errors.Error) as error:
            self.seldom.tell("streams", "A stream is missed, and the streams cannot be looked after right now: %s", error)
            return
        if anew:
            _tell_lost(anew)
            self._anew += 1
            await self._run_hooks()

    @property
    def session(self) -> int:
        """A number that is another as soon as a socket is opened, before anything is sent on it, and when streams were made anew."""
        return self.nats.sockets + self._anew

    @property
    def connected(self) -> bool:
        """Connected right now (it reconnects for ever when not)."""
        return self.nats.is_connected

    @property
    def max_payload(self) -> int:
        """The server's limit of a message, headers included, in bytes."""
        return self.nats.max_payload

    def on_reconnect(self, hook: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have `hook` awaited after every reconnect; gives the function that takes it back."""
        self._hook_count += 1
        number = self._hook_count
        self._hooks[number] = hook
        return lambda: self._hooks.pop(number, None) and None

    async def reconnected(self) -> None:
        """Make what the server has forgotten (streams in memory do not outlive it), then run the hooks. Called after a reconnect.

        While JetStream does not answer, the streams are tried again: perhaps nobody else makes them.
        """
        session = self.session
        restored = await self._restored()
        await self._run_hooks()
        while not restored:
            await anyio.sleep(RESTORE_S)
            if session != self.session or not self.connected:
                return
            restored = await self._restored()

    async def _run_hooks(self) -> None:
        for hook in list(self._hooks.values()):
            try:
                await hook()
            except Exception:
                logger.exception("A hook failed after a reconnect.")

    async def _restored(self) -> bool:
        """Whether the streams are there, or can never be."""
        try:
            anew = await self.restore()
            in_memory = {stream_name(name, self.prefix) for name in (LEASE, OFFERS)}
            if not in_memory.issuperset(anew):
                _tell_lost(anew)
        except ApiError as error:
            self.seldom.tell("streams", "After a reconnect the streams cannot be looked after right now, it is tried again: %s", error)
            return False
        except (BusError, nats.errors.Error) as error:
            logger.error("After a reconnect the streams cannot be used: %s", error)  # noqa: TRY400  # it says all, and what to do
        except Exception:
            logger.exception("The streams could not be restored after a reconnect.")
        return True

    def check_size(self, payload: bytes, headers: Headers) -> None:
        """The one size check: raises TooLarge."""
        if len(payload) < self.max_payload // 2 and len(headers) <= FEW_HEADERS:
            return  # headers that came in a message are far below the other half
        size = len(payload) + sum(len(name) + len(value) + 4 for name, value in headers.items()) + 16
        if size >= self.max_payload:
            raise TooLarge(
                f"A message of {size} bytes is over the server's limit of {self.max_payload}.",
                hint="Send large bodies by reference.",
                size=size,
                limit=self.max_payload,
            )

    async def publish(self, subject: str, payload: bytes, headers: Headers, *, reply: str = "") -> None:
        """Publish; raises TooLarge, BusClosed, BusAway (too much waits to be sent)."""
        self.check_size(payload, headers)
        try:
            await self.nats.publish(subject, payload, reply=reply, headers=headers or None)
        except nats.errors.OutboundBufferLimitError as error:
            raise BusAway(
                f"The server at {self.url} is away, and {BUFFER_BYTES >> 20} MiB wait for it.", hint="Is it running?", url=self.url
            ) from error
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
            raise BusClosed("The connection to the bus was closed.", hint="Connect again.", url=self.url) from error

    async def store(self, subject: str, payload: bytes, headers: Headers, *, timeout_s: float | None = None) -> int:
        """Publish durably: repeat until a stream acknowledges, and give the sequence.

        Raises TooLarge, StoreRefused (it will never be taken), StoreTimeout (not within `timeout_s`), BusClosed.
        """
        give_up = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        wait = FIRST_WAIT_S
        while True:
            left = give_up - time.monotonic()
            answer = await self.acknowledged(subject, payload, headers, min(ACK_S, left)) if left > 0 else None
            if answer is not None and "error" not in answer:
                return int(answer["seq"])
            if answer is not None and answer["error"].get("err_code") not in PASSING:
                self._refuse(answer["error"])
            full = answer is not None and answer["error"].get("err_code") == FULL
            if time.monotonic() + wait >= give_up:
                raise _not_stored(subject, timeout_s, answer, full=full)
            if full:
                self.seldom.tell("full", "The stream for %s is full: what is sent waits until there is room, and is tried again.", subject)
            await anyio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    @staticmethod
    def _refuse(error: dict[str, Any]) -> None:
        kind = TooLarge if error.get("err_code") == TOO_LARGE else StoreRefused
        raise kind(
            f"The bus refuses to store this message: {error.get('description')}.",
            hint="Send large bodies by reference." if kind is TooLarge else "",
            err_code=error.get("err_code"),
            description=error.get("description"),
        )

    async def acknowledged(self, subject: str, payload: bytes, headers: Headers, timeout_s: float = ACK_S) -> Answer | None:
        """Publish once, and give the answer of the stream that takes it; None when none answered. Raises TooLarge, BusClosed."""
        self.check_size(payload, headers)
        reply, answer = self._acks.expect(timeout_s)
        try:
            await self.nats.publish(subject, payload, reply=reply, headers=headers or None)
            return await answer
        except nats.errors.OutboundBufferLimitError:
            return None
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
            raise BusClosed("The connection to the bus was closed.", hint="Connect again.", url=self.url) from error

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Have `callback` awaited for each message, one after another. One that raises is logged and the next comes."""

        async def guarded(message: Msg) -> None:
            try:
                await callback(message)
            except Exception:
                logger.exception("A message on %s could not be handled.", message.subject)

        return await self.nats.subscribe(
            subject, queue=queue, cb=guarded, pending_msgs_limit=PENDING_MESSAGES, pending_bytes_limit=PENDING_BYTES
        )

    async def api(self, name: str, body: dict[str, Any], *, timeout_s: float = ACK_S, miss: bool = True) -> dict[str, Any]:
        """A request to ``$JS.API.<name>``; raises ApiError. A stream that is not found is missed, unless `miss` is false."""
        try:
            reply = await self.nats.request(f"$JS.API.{name}", json.dumps(body).encode() if body else b"", timeout=timeout_s)
        except nats.errors.NoRespondersError as error:
            raise ApiError(
                "JetStream does not answer.", hint="Start nats-server with -js.", code=503, err_code=0, description="no responders"
            ) from error
        except nats.errors.TimeoutError as error:
            raise ApiError(
                f"JetStream did not answer {name}.", hint=NO_ANSWER, code=TIME_OUT, err_code=0, description="time-out"
            ) from error
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
            raise BusClosed("The connection to the bus was closed.", hint="Connect again.", url=self.url) from error
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            fault = answer["error"]
            if miss and fault.get("err_code") == NOT_FOUND:
                self.miss()
            raise ApiError(
                f"JetStream refused {name}: {fault.get('description')}.",
                code=fault.get("code"),
                err_code=fault.get("err_code"),
                description=fault.get("description"),
            )
        return answer


def _tell_lost(streams: list[str]) -> None:
    logger.warning("Streams were gone and have been made anew; what was in them is lost: %s.", ", ".join(streams))


def _not_stored(subject: str, timeout_s: float | None, answer: Answer | None, *, full: bool) -> StoreTimeout:
    why = "it did not answer" if answer is None else answer["error"].get("description", "refused")
    hint = "More comes than is taken: send slower or wait longer, or start more agents and coordinators." if full else SILENT
    return StoreTimeout(f"The bus did not store a message within {timeout_s:g} s: {why}.", hint=hint, subject=subject)


@asynccontextmanager
async def open_connection(
    url: str | None = None,
    *,
    name: str,
    prefix: str = DEFAULT_PREFIX,
    credentials: str | None = None,
    shards: int = 16,
    replicas: int | None = None,
    make_streams: bool = True,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Connection]:
    """Connect as peer `name`, make the streams when they are missing, and send what waits at the end.

    `url`: an address, or several of one cluster with commas between them: whichever answers is taken.
    `credentials`: path of a credentials file. `shards`, `replicas` (None: AGENTEXECUTOR_REPLICAS, else 1) count only when the streams
    are made. Streams that JetStream tells nothing of yet, as in a cluster that elects a leader, are asked for again for `patience_s`.
    Reconnects for ever. Raises NoBus, ServerTooOld, StreamMismatch, ApiError, NameRefused, ReplicasRefused.
    """
    check_name("peer", name)
    url = url or default_url()
    streams = (shards, default_replicas() if replicas is None else replicas, make_streams)
    holder: list[Connection] = []
    client = await _connect(url, name, credentials, holder)
    connection = Connection(client, name=name, url=url, prefix=prefix, credentials=credentials, streams=streams)
    client.session = lambda: connection.session
    holder.append(connection)
    keeping: asyncio.Task[None] | None = None
    try:
        version = client.connected_server_version
        if (version.major, version.minor) < NEEDED:
            found = f"{version.major}.{version.minor}.{version.patch}"
            raise ServerTooOld(
                f"The NATS server at {url} is {found}.",
                hint="AgentExecutor needs 2.12 or newer: `agentexecutor up` starts one.",
                version=found,
                needed="2.12",
            )
        await connection.listen()
        await connection.begin(patience_s)
        keeping = asyncio.get_running_loop().create_task(connection.keep_streams())  # a task group would wrap the errors of the body
        yield connection
    finally:
        if keeping is not None:
            keeping.cancel()
        await _close(client)
        connection.close()


async def _connect(url: str, name: str, credentials: str | None, holder: list[Connection]) -> RobustClient:
    async def on_reconnect() -> None:
        logger.info("Reconnected to %s.", url)
        for connection in holder:
            await connection.reconnected()

    async def on_disconnect() -> None:
        if not client.is_closed:
            logger.warning("The server at %s is away; it is tried again until it is back.", url)

    async def on_error(error: Exception) -> None:
        logger.log(logging.WARNING if client.is_connected else logging.DEBUG, "The bus reports: %s", error)

    async def on_first_error(error: Exception) -> None:
        seen.append(error)

    options: dict[str, Any] = {"user_credentials": credentials} if credentials else {}
    client = RobustClient()
    seen: list[Exception] = []
    servers = url.split(",")
    patience_s = CONNECT_S * len(servers)
    try:
        with anyio.fail_after(patience_s):
            await client.connect(
                servers,
                name=name,
                allow_reconnect=True,
                connect_timeout=int(CONNECT_S),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; nats-py only compares and sleeps
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=BUFFER_BYTES,
                skip_subject_validation=True,  # names are checked where they enter (schemas.names), subjects built in one place
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                error_cb=on_first_error,
                **options,
            )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        with suppress(Exception):
            await client.close()
        last = seen[-1] if seen else error
        reason = (last.strerror if isinstance(last, OSError) else str(last)) or f"nothing within {patience_s:g} s"
        raise NoBus(
            f"No NATS server answers at {url}: {reason}.",
            hint="Start one with `agentexecutor up`, or name another with --nats or AGENTEXECUTOR_NATS_URL.",
            url=url,
        ) from error
    client._error_cb = on_error  # noqa: SLF001  # while connecting errors are raised, not logged
    return client


async def _close(client: RobustClient) -> None:
    with anyio.CancelScope(shield=True), suppress(Exception):
        await client.leave(LEAVE_S)
