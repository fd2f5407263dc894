"""A simulated NATS server with JetStream: the part that coordinators, agents and clients use, with everything that may go wrong on the way.

`Server` holds the streams and knows all that was ever stored; `SimConnection` is a `Connection` whose network is lossy: messages of core NATS are lost,
doubled, delayed and so reordered; requests and their acknowledgements get lost; a link can be cut; the server restarts (streams in memory and
consumers are gone) or loses its last second of writes.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import json
import random
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from virtual import EPOCH, Process, VirtualLoop

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errors import ApiError
from agentexecutor.bus.streams import INBOX, LEASE, LOG, OFFERS, SUBMITS
from agentexecutor.schemas.codec import H_EXPECTED, H_ROLLUP, to_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import CLASSES, Subjects, shard_of

__all__ = ["Faults", "Server", "SimConnection", "Stored", "matches"]

SHARDS = 4
ACK_WAIT_S = 30.0
BEAT_S = 1.0
OFFERED = "ae.v1.offer."
NO_CONSUMER = {"code": 404, "err_code": 10014, "description": "consumer not found"}
NO_MESSAGE = {"code": 404, "err_code": 10037, "description": "no message found"}
SENT_AGAIN = ("ae.v1.submit.", "ae.v1.from.")
"""What is repeated when its acknowledgement is late, and so may be stored twice."""
WRONG_LAST = {"code": 400, "err_code": 10071, "description": "wrong last sequence"}


@dataclass
class Faults:
    """What may go wrong on the way, as parts of all messages; seconds of delay."""

    lose: float = 0.0
    double: float = 0.0
    lose_request: float = 0.0
    lose_ack: float = 0.0
    delay_s: float = 0.002
    late: float = 0.0
    late_s: float = 2.0


@dataclass
class Stored:
    """A message of a stream. `stamp`: seconds since 1970."""

    seq: int
    subject: str
    payload: bytes
    headers: dict[str, str]
    stamp: float
    at: float
    """When, by the loop's clock."""
    excused: bool = False
    """Its delivery or its acknowledgement was lost: it comes again after `ACK_WAIT_S`."""


@dataclass
class _Stream:
    name: str
    memory: bool
    queue: bool = False
    last_only: bool = False
    max_age_s: float | None = None
    messages: OrderedDict[int, Stored] = field(default_factory=OrderedDict)
    last_seq: int = 0
    made: float = 0.0
    last_of: dict[str, int] = field(default_factory=dict)
    """Subject: its last sequence."""


@dataclass
class _Consumer:
    name: str
    stream: str
    filter: str
    deliver: str | None
    link: SimConnection | None
    explicit: bool
    next_seq: int = 1
    pulls: list[list[Any]] = field(default_factory=list)
    pending: dict[int, float] = field(default_factory=dict)
    """Delivered and not acknowledged: when it is delivered again."""
    naked: dict[int, float] = field(default_factory=dict)
    delivered: int = 0
    heard_at: float = 0.0
    headers_only: bool = False
    backlog: list[int] | None = None


class Msg:
    """A delivered message, with the fields of nats-py's."""

    __slots__ = ("data", "headers", "reply", "session", "subject")

    def __init__(self, subject: str, data: bytes, headers: dict[str, str] | None, reply: str, session: int = 0) -> None:
        self.subject, self.data, self.headers, self.reply, self.session = subject, data, headers, reply, session


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", r"[^.]+").replace(r"\.>", r"\..+").replace("^>", ".+"))


@cache
def matches(pattern: str, subject: str) -> bool:
    """NATS's own rule: ``*`` is one token, ``>`` all that are left."""
    return pattern == subject or (("*" in pattern or ">" in pattern) and _compiled(pattern).fullmatch(subject) is not None)


class Server:
    """Streams, consumers, subscriptions. `watchers` see every message that a stream stores, and every acknowledgement, in order."""

    def __init__(self, loop: VirtualLoop, drawn: random.Random, faults: Faults) -> None:
        self.loop = loop
        self.drawn = drawn
        self.faults = faults
        self.subjects = Subjects()
        self.counts: Counter[str] = Counter()
        self.up = True
        self.links: list[SimConnection] = []
        self.streams: dict[str, _Stream] = {}
        self.consumers: dict[tuple[str, str], _Consumer] = {}
        self.on_stored: Callable[[str, Stored], None] = lambda _stream, _stored: None
        self.on_acked: Callable[[str, Stored], None] = lambda _stream, _stored: None
        self.on_sent: Callable[[SimConnection, str, bytes], None] = lambda _link, _subject, _payload: None
        self.skew_s = 0.0
        self._queues: Counter[str] = Counter()
        self._make_streams()
        loop.call_later(0.25, self._tick)

    def _make_streams(self) -> None:
        for stream in (
            _Stream(SUBMITS, memory=False, queue=True),
            _Stream(INBOX, memory=False, queue=True),
            _Stream(LOG, memory=False),
            _Stream(LEASE, memory=True, last_only=True),
            _Stream(OFFERS, memory=True, last_only=True, max_age_s=10.0),
        ):
            if stream.name not in self.streams:
                stream.made = self.stamp
                self.streams[stream.name] = stream

    @property
    def stamp(self) -> float:
        """The server's clock."""
        return EPOCH + self.loop.now + self.skew_s

    # faults

    def crash(self, *, lose_s: float = 0.0, cluster: bool = False) -> None:
        """The server goes away: what is in memory is gone; with `lose_s` also what was written last (a power cut).

        `cluster`: of a cluster all have gone, which then remembers when its streams were made, also those in memory, that are empty now.
        """
        self.up = False
        self.counts["server crashes"] += 1
        self.consumers.clear()
        for name, stream in [(name, stream) for name, stream in self.streams.items() if stream.memory]:
            if cluster:
                self.counts["memory emptied"] += 1
                self.streams[name] = _Stream(name, memory=True, last_only=stream.last_only, max_age_s=stream.max_age_s, made=stream.made)
            else:
                del self.streams[name]
        if lose_s:
            self.counts["power cuts"] += 1
            for stream in self.streams.values():
                gone = [seq for seq, stored in stream.messages.items() if stored.at > self.loop.now - lose_s]
                for seq in gone:
                    self._forget(stream, seq)
                stream.last_seq = min([stream.last_seq, *(seq - 1 for seq in gone)])
        for link in self.links:
            link.cut()

    def lose_consumer(self) -> None:
        """Its leader is gone, and nobody is told: it is silent."""
        if self.consumers:
            del self.consumers[self.drawn.choice(sorted(self.consumers))]

    def restart(self) -> None:
        """It is back."""
        self.up = True
        self._make_streams()

    # messages

    def later(self, action: Callable[[], None]) -> None:
        """Something arrives after the time that it takes."""
        faults = self.faults
        delay = self.drawn.uniform(0.2, 1.0) * faults.delay_s
        if faults.late and self.drawn.random() < faults.late:
            self.counts["late"] += 1
            delay += self.drawn.uniform(0, faults.late_s)
        self.loop.call_later(delay, action, context=contextvars.Context())

    def reach(self, link: SimConnection, action: Callable[[], None]) -> None:
        """The same for what goes through a link: when that breaks on the way, it never arrives."""
        session = link.up_at

        def arrive() -> None:
            if link.connected and link.up_at == session:
                action()
            else:
                link.deaf_at = self.loop.now

        self.later(arrive)

    def lost(self, part: float, what: str) -> bool:
        """Whether the network drops it."""
        if part and self.drawn.random() < part:
            self.counts[what] += 1
            return True
        return False

    def receive(self, link: SimConnection, subject: str, payload: bytes, headers: dict[str, str], reply: str) -> None:
        """A message of a client has arrived."""
        if not self.up or not link.connected:
            return
        if subject.startswith("$JS."):
            self._control(link, subject, payload, reply)
            return
        stream = self._stream_of(subject)
        if stream is not None:
            self._answer(link, reply, self._store(stream, subject, payload, headers))
        elif reply.startswith("_INBOX."):
            self._answer(link, reply, None)
        self.deliver(subject, payload, headers, reply)

    def _answer(self, link: SimConnection, reply: str, answer: dict[str, Any] | None) -> None:
        if reply and not self.lost(self.faults.lose_ack, "acknowledgements lost"):
            body = b"" if answer is None else json.dumps(answer).encode()
            self.reach(link, lambda: link.take(reply, body, {}, ""))

    def deliver(self, subject: str, payload: bytes, headers: dict[str, str], reply: str = "") -> None:
        """Core NATS: to all that listen now, and one of each queue group."""
        groups: dict[str, list[tuple[SimConnection, int]]] = {}
        for link in self.links:
            if link.connected:
                for number, (pattern, queue) in link.interests(subject):
                    if not queue:
                        self._send(link, number, subject, payload, headers, reply)
                    else:
                        groups.setdefault(pattern + queue, []).append((link, number))
        for name, members in groups.items():
            self._queues[name] += 1
            link, number = members[self._queues[name] % len(members)]
            self._send(link, number, subject, payload, headers, reply)

    def _send(self, link: SimConnection, number: int, subject: str, payload: bytes, headers: dict[str, str], reply: str) -> None:
        if link.is_deaf_to(subject):
            self.counts["offers unheard"] += 1
            return
        if self.lost(self.faults.lose, "messages lost"):
            link.deaf_at = self.loop.now
            return
        self.reach(link, lambda: link.hear(number, Msg(subject, payload, dict(headers), reply)))
        if self.faults.double and self.drawn.random() < self.faults.double:
            self.counts["messages doubled"] += 1
            self.reach(link, lambda: link.hear(number, Msg(subject, payload, dict(headers), reply)))

    # streams

    def _stream_of(self, subject: str) -> _Stream | None:
        head = subject.removeprefix(self.subjects.prefix + ".").split(".", 1)[0]
        name = {"submit": SUBMITS, "from": INBOX, "task": LOG, "lease": LEASE, "member": LEASE, "offer": OFFERS}.get(head)
        return self.streams.get(name or "")

    def put(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Store what comes from elsewhere."""
        stream = self._stream_of(subject)
        assert stream is not None, subject
        self._store(stream, subject, payload, headers)

    def _store(self, stream: _Stream, subject: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
        subject = self._transformed(subject)
        expected = headers.get(H_EXPECTED)
        if expected is not None and int(expected) != stream.last_of.get(subject, 0):
            self.counts["appends refused"] += 1
            return {"error": WRONG_LAST, "stream": stream.name, "seq": 0}
        if headers.get(H_ROLLUP) == "sub" or stream.last_only:
            for seq in [seq for seq, stored in stream.messages.items() if stored.subject == subject]:
                self._forget(stream, seq)
        stream.last_seq += 1
        stored = Stored(stream.last_seq, subject, payload, dict(headers), self.stamp, self.loop.now)
        stream.messages[stored.seq] = stored
        stream.last_of[subject] = stored.seq
        self.on_stored(stream.name, stored)
        if stream.name == LOG:
            _, task = self.subjects.parse_log(subject)
            self.deliver(
                self.subjects.watch(task),
                payload,
                {**headers, "Nats-Sequence": str(stored.seq), "Nats-Time-Stamp": to_rfc3339(stored.stamp)},
            )
        for consumer in [consumer for consumer in self.consumers.values() if consumer.stream == stream.name]:
            self._serve(consumer)
        return {"stream": stream.name, "seq": stored.seq}

    def _forget(self, stream: _Stream, seq: int) -> None:
        stored = stream.messages.pop(seq, None)
        if stored is not None and stream.last_of.get(stored.subject) == seq:
            left = [other.seq for other in stream.messages.values() if other.subject == stored.subject]
            if left:
                stream.last_of[stored.subject] = max(left)
            else:
                del stream.last_of[stored.subject]

    def _transformed(self, subject: str) -> str:
        tokens = subject.removeprefix(self.subjects.prefix + ".").split(".")
        if tokens[0] == "submit":
            _, owner, klass, task_id = tokens
            task = TaskName(owner, task_id)
            return f"{self.subjects.prefix}.new.{shard_of(task, SHARDS)}.{klass}.{owner}.{task_id}"
        if tokens[0] == "from":
            _, peer, kind, owner, task_id = tokens
            task = TaskName(owner, task_id)
            return self.subjects.inbox(shard_of(task, SHARDS), kind, task, peer)
        return subject

    def last(self, stream: str, pattern: str) -> Stored | None:
        """The last message of a subject, or of all that match."""
        there = self.streams.get(stream)
        if there is None:
            return None
        if "*" not in pattern:
            seq = there.last_of.get(pattern)
            return None if seq is None else there.messages[seq]
        found = [seq for subject, seq in there.last_of.items() if matches(pattern, subject)]
        return there.messages[max(found)] if found else None

    # consumers

    def _tick(self) -> None:
        """Several times a second: beats, redelivery, ages, pulls that expire."""
        self.loop.call_later(0.25, self._tick)
        if not self.up:
            return
        for stream in self.streams.values():
            if stream.max_age_s is not None:
                for seq in [seq for seq, stored in stream.messages.items() if stored.stamp < self.stamp - stream.max_age_s]:
                    self._forget(stream, seq)
        for consumer in list(self.consumers.values()):
            self._redeliver(consumer)
            if consumer.deliver is not None and self.loop.now - consumer.heard_at >= BEAT_S:
                consumer.heard_at = self.loop.now
                self._push(consumer, Msg(consumer.deliver, b"", {"Status": "100", "Nats-Last-Consumer": str(consumer.delivered)}, ""))

    def _redeliver(self, consumer: _Consumer) -> None:
        now = self.loop.now
        again = [seq for seq, due in (*consumer.pending.items(), *consumer.naked.items()) if due <= now]
        for seq in again:
            consumer.pending.pop(seq, None)
            consumer.naked.pop(seq, None)
            self.counts["redelivered"] += 1
        if again:
            consumer.backlog = sorted({*(consumer.backlog or ()), *again})
            self._serve(consumer)
        alive = [pull for pull in consumer.pulls if pull[2] > now]
        for pull in consumer.pulls:
            if pull[2] <= now and consumer.link is not None:
                self.reach(pull[3], partial(pull[3].take, pull[1], b"", {"Status": "408"}, ""))
        consumer.pulls = alive

    def _serve(self, consumer: _Consumer) -> None:
        """Deliver what there is, as far as somebody wants it."""
        stream = self.streams.get(consumer.stream)
        while stream is not None and (consumer.deliver is not None or consumer.pulls):
            seq = self._next(stream, consumer)
            if seq is None:
                return
            stored = stream.messages[seq]
            consumer.delivered += 1
            reply = f"$JS.ACK.{stream.name}.{consumer.name}.1.{seq}.{consumer.delivered}.{int(stored.stamp * 1e9)}.{self._waiting(stream, consumer)}"
            payload = b"" if consumer.headers_only else stored.payload
            if consumer.explicit:
                consumer.pending[seq] = self.loop.now + ACK_WAIT_S
            message = Msg(stored.subject, payload, dict(stored.headers), reply)
            if consumer.deliver is not None:
                consumer.heard_at = self.loop.now
                self._push(consumer, message)
            else:
                pull = consumer.pulls[0]
                pull[0] -= 1
                if pull[0] <= 0:
                    consumer.pulls.pop(0)
                self._to(pull[3], pull[1], message)

    def _next(self, stream: _Stream, consumer: _Consumer) -> int | None:
        while consumer.backlog:
            seq = consumer.backlog.pop(0)
            if seq in stream.messages:
                return seq
        while consumer.next_seq <= stream.last_seq:
            seq = consumer.next_seq
            consumer.next_seq += 1
            if seq in stream.messages and matches(consumer.filter, stream.messages[seq].subject):
                return seq
        return None

    def _waiting(self, stream: _Stream, consumer: _Consumer) -> int:
        """How many it has not delivered yet; for those that are pushed nobody asks."""
        if consumer.deliver is not None:
            return 0
        later = (stream.messages.get(seq) for seq in range(consumer.next_seq, stream.last_seq + 1))
        return sum(seq in stream.messages for seq in consumer.backlog or ()) + sum(
            stored is not None and matches(consumer.filter, stored.subject) for stored in later
        )

    def _push(self, consumer: _Consumer, message: Msg) -> None:
        link = consumer.link
        if link is None or consumer.deliver is None:
            return
        if not consumer.explicit and not link.listens(consumer.deliver):
            self.consumers.pop((consumer.stream, consumer.name), None)  # inactive
            return
        if consumer.stream == OFFERS and link.is_deaf_to(self.subjects.all_offers()):
            self.counts["offers unheard"] += 1
            return
        self._to(link, consumer.deliver, message)

    def _to(self, link: SimConnection, subject: str, message: Msg) -> None:
        """A delivery: it may get lost on a link that breaks, and comes again then."""
        if self.lost(self.faults.lose, "deliveries lost"):
            link.deaf_at = self.loop.now
            self.excuse(message.reply)
        else:
            self.reach(link, lambda: link.take(subject, message.data, message.headers or {}, message.reply, message.subject))

    # JetStream's API

    def _control(self, link: SimConnection, subject: str, payload: bytes, reply: str) -> None:
        if subject.startswith("$JS.ACK."):
            self._acknowledge(subject, payload)
        elif subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            _, _, _, _, _, stream, name = subject.split(".")
            consumer = self.consumers.get((stream, name))
            if consumer is not None:
                asked = json.loads(payload)
                pull = [asked["batch"], reply, self.loop.now + asked.get("expires", 0) / 1e9, link]
                consumer.pulls.append(pull)
                self._serve(consumer)
                if asked.get("no_wait") and pull in consumer.pulls:
                    consumer.pulls.remove(pull)
                    self.reach(link, lambda: link.take(reply, b"", {"Status": "404"}, ""))
            else:
                self.reach(link, lambda: link.take(reply, b"", {"Status": "503"}, ""))
        elif subject.startswith("$JS.API.DIRECT.GET."):
            self._direct_get(link, subject.rpartition(".")[2], json.loads(payload), reply)

    def _acknowledge(self, subject: str, payload: bytes) -> None:
        tokens = subject.split(".")
        stream, consumer = self.streams.get(tokens[2]), self.consumers.get((tokens[2], tokens[3]))
        seq = int(tokens[5])
        if stream is None or seq not in stream.messages:
            return
        if payload.startswith(b"-NAK"):
            if consumer is not None:
                delay = json.loads(payload[4:] or b"{}").get("delay", 0) / 1e9
                consumer.pending.pop(seq, None)
                consumer.naked[seq] = self.loop.now + delay
        elif stream.queue:
            self.on_acked(stream.name, stream.messages[seq])
            self._forget(stream, seq)
            if consumer is not None:
                consumer.pending.pop(seq, None)

    def excuse(self, reply: str) -> None:
        """The network has lost a delivery, or its acknowledgement."""
        if reply.startswith("$JS.ACK."):
            tokens = reply.split(".")
            stream = self.streams.get(tokens[2])
            if stream is not None and int(tokens[5]) in stream.messages:
                stream.messages[int(tokens[5])].excused = True

    def _direct_get(self, link: SimConnection, stream: str, asked: dict[str, Any], reply: str) -> None:
        there = self.streams[stream]
        found = [stored for seq, stored in there.messages.items() if seq >= asked["seq"] and matches(asked["next_by_subj"], stored.subject)]
        replies = [
            (stored.payload, {**stored.headers, "Nats-Sequence": str(stored.seq), "Nats-Time-Stamp": to_rfc3339(stored.stamp)})
            for stored in found[: asked["batch"]]
        ]
        replies.append((b"", {"Status": "204", "Description": "EOB"}))

        def send() -> None:  # in order, as one connection keeps it
            for body, headers in replies:
                link.take(reply, body, headers, "")

        if not self.lost(self.faults.lose_ack, "answers lost"):
            self.later(send)

    def api(self, link: SimConnection, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """``$JS.API.<name>``: the answer, or ``error``."""
        what, _, rest = name.partition(".")
        if what == "CONSUMER":
            return self._consumer_api(link, rest, body)
        verb, _, stream = rest.partition(".")
        if verb == "INFO":
            there = self.streams[stream]
            return {
                "config": {"name": stream},
                "state": {"messages": len(there.messages), "last_seq": there.last_seq, "subjects": {}},
                "total": 0,
                "created": to_rfc3339(there.made),
            }
        if verb == "MSG":
            stored = self.last(stream.partition(".")[2], body["last_by_subj"])
            if stored is None:
                return {"error": NO_MESSAGE}
            lines = "NATS/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in stored.headers.items()) + "\r\n"
            message = {
                "seq": stored.seq,
                "subject": stored.subject,
                "time": to_rfc3339(stored.stamp),
                "hdrs": base64.b64encode(lines.encode()).decode(),
                "data": base64.b64encode(stored.payload).decode(),
            }
            return {"message": message}
        raise AssertionError(name)

    def _consumer_api(self, link: SimConnection, rest: str, body: dict[str, Any]) -> dict[str, Any]:
        verb, stream, *more = rest.split(".", 3)
        if verb == "DELETE":
            gone = self.consumers.pop((stream, more[0]), None)
            return {"success": True} if gone is not None else {"error": NO_CONSUMER}
        if verb == "INFO":
            known = self.consumers.get((stream, more[0]))
            return {"error": NO_CONSUMER} if known is None else {"delivered": {"consumer_seq": known.delivered}}
        config = body["config"]
        there = self.streams[stream]
        known = self.consumers.get((stream, config.get("durable_name") or ""))
        if known is not None:  # it is updated: what was delivered and not acknowledged waits for its time
            known.deliver, known.link = config.get("deliver_subject"), link
            return {"name": known.name, "num_pending": 0}
        name = config.get("durable_name") or f"c{len(self.consumers)}-{self.drawn.getrandbits(40)}"
        made = _Consumer(
            name,
            stream,
            config["filter_subject"],
            config.get("deliver_subject"),
            link,
            config.get("ack_policy") == "explicit",
            heard_at=self.loop.now,
            headers_only=bool(config.get("headers_only")),
        )
        if config.get("deliver_policy") == "last_per_subject":
            made.backlog = sorted(seq for subject, seq in there.last_of.items() if matches(made.filter, subject))
            made.next_seq = there.last_seq + 1
        waiting = len(made.backlog or ())
        self.consumers[stream, name] = made
        self.later(lambda: self._serve(made) if self.consumers.get((stream, name)) is made else None)
        return {"name": name, "num_pending": waiting}


class _Subscription:
    def __init__(self, link: SimConnection, number: int) -> None:
        self._link, self._number = link, number

    async def unsubscribe(self) -> None:
        """Hear nothing more."""
        self._link.forget(self._number)


class SimConnection(Connection):
    """One process's connection. Messages of one subscription are handled one after another, as nats-py does it."""

    def __init__(self, server: Server, process: Process, name: str) -> None:
        super().__init__(None, name=name, url="sim", prefix="ae.v1", credentials=None, streams=(SHARDS, 1, True))  # type: ignore[arg-type]  # no client
        self.shards = SHARDS
        self.server = server
        self.process = process
        self._up = True
        self._links = 1
        self.deaf_at = server.loop.now
        """When a message for it was lost last, or it was away."""
        self.up_at = server.loop.now
        """When it was last connected."""
        self.offers_lost_until = 0.0
        self._subscriptions: dict[int, tuple[str, str, asyncio.Queue[Msg], Callable[[Msg], Any]]] = {}
        self._heard: dict[int, tuple[str, str]] = {}
        """Those of them that are no inboxes."""
        self._one: dict[str, tuple[int, asyncio.Queue[Msg]]] = {}
        self._many: dict[int, tuple[str, asyncio.Queue[Msg]]] = {}
        """Inboxes, by subject, and those with wildcards."""
        self._number = 0
        self._buffer: list[tuple[str, bytes, dict[str, str], str]] = []
        server.links.append(self)

    def is_deaf_to(self, subject: str) -> bool:
        """Whether nothing on this subject gets through, though the connection stands: the server that it comes from is cut off from ours."""
        return self.server.loop.now < self.offers_lost_until and subject.startswith(OFFERED)

    async def start(self) -> None:
        """Hear what streams answer."""
        await self.listen()

    @property
    def session(self) -> int:
        return self._links

    @property
    def connected(self) -> bool:
        return self._up and self.server.up and not self.process.dead

    @property
    def max_payload(self) -> int:
        return 1 << 20

    # the link

    def cut(self) -> None:
        """The connection breaks; it is tried again until the server is reachable."""
        if self._up and not self.process.dead:
            self._up = False
            self.server.loop.call_later(self.server.drawn.uniform(0.03, 1.0), self._reconnect, context=self.process.context)

    def part(self, seconds: float) -> None:
        """A partition of its own."""
        self.server.counts["partitions"] += 1
        self._up = False
        self.server.loop.call_later(seconds, self._reconnect, context=self.process.context)

    def _reconnect(self) -> None:
        if self._up:
            return
        if not self.server.up:
            self.server.loop.call_later(0.25, self._reconnect, context=self.process.context)
            return
        self._up = True
        self._links += 1
        self.deaf_at = self.up_at = self.server.loop.now
        for consumer in self.server.consumers.values():
            if consumer.link is self:
                consumer.heard_at = self.server.loop.now
        buffered, self._buffer = self._buffer, []
        for message in buffered:
            self._send(*message)
        self.server.loop.create_task(self.reconnected(), context=self.process.context)

    async def restore(self) -> list[str]:
        """The streams are there."""
        return []

    # as a Connection

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str], *, reply: str = "") -> None:
        self.server.on_sent(self, subject, payload)
        if self._up:
            self._send(subject, payload, dict(headers), reply)
        else:
            self._buffer.append((subject, payload, dict(headers), reply))
        await asyncio.sleep(0)

    async def acknowledged(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float = 5.0) -> dict[str, Any] | None:
        reply, answer = self._acks.expect(timeout_s)
        await self.publish(subject, payload, headers, reply=reply)
        return await answer

    def _send(self, subject: str, payload: bytes, headers: dict[str, str], reply: str) -> None:
        server = self.server
        part = server.faults.lose_request if reply or subject.startswith("$JS.") else server.faults.lose
        times = 1
        if subject.startswith(SENT_AGAIN) and server.drawn.random() < server.faults.double:
            server.counts["sent twice"] += 1
            times = 2
        for _ in range(times):
            if server.lost(part, "requests lost" if reply else "publishes lost"):
                server.excuse(subject)
            else:
                server.reach(self, lambda: server.receive(self, subject, payload, headers, reply))

    async def subscribe(self, subject: str, callback: Callable[[Msg], Any], *, queue: str = "") -> Any:  # type: ignore[override]  # a Msg of ours
        self._number += 1
        number = self._number
        waiting: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscriptions[number] = subject, queue, waiting, callback
        if not subject.startswith("_INBOX"):
            self._heard[number] = subject, queue
        elif "*" in subject:
            self._many[number] = subject, waiting
        else:
            self._one[subject] = number, waiting

        async def serve() -> None:
            while number in self._subscriptions:
                message = await waiting.get()
                try:
                    await callback(message)
                except Exception:  # as nats-py: logged, and the next one comes
                    self.server.counts["callbacks failed"] += 1

        self.server.loop.create_task(serve(), context=self.process.context)
        return _Subscription(self, number)

    def forget(self, number: int) -> None:
        """Unsubscribed."""
        subject, *_ = self._subscriptions.pop(number, ("",))
        self._heard.pop(number, None)
        self._many.pop(number, None)
        if self._one.get(subject, (0,))[0] == number:
            del self._one[subject]

    def interests(self, subject: str) -> list[tuple[int, tuple[str, str]]]:
        """The subscriptions that a subject concerns."""
        return [
            (number, (pattern, queue))
            for number, (pattern, queue) in self._heard.items()
            if pattern == subject or matches(pattern, subject)
        ]

    def listens(self, subject: str) -> bool:
        """Whether somebody here still wants what comes on this inbox."""
        return not self.process.dead and any(pattern == subject for pattern, *_ in self._subscriptions.values())

    def hear(self, number: int, message: Msg) -> None:
        """A message for one subscription."""
        there = self._subscriptions.get(number)
        if there is not None and self.connected:
            message.session = self.session
            there[2].put_nowait(message)

    def take(self, subject: str, payload: bytes, headers: dict[str, str], reply: str, shown: str | None = None) -> None:
        """A message for an inbox of this connection."""
        if self.connected:
            waitings = [waiting for pattern, waiting in self._many.values() if matches(pattern, subject)]
            if subject in self._one:
                waitings.append(self._one[subject][1])
            for waiting in waitings:
                waiting.put_nowait(Msg(shown or subject, payload, headers, reply, self.session))
        else:
            self.deaf_at = self.server.loop.now

    async def api(self, name: str, body: dict[str, Any], *, timeout_s: float = 5.0, miss: bool = True) -> dict[str, Any]:
        server = self.server
        done: asyncio.Future[dict[str, Any] | None] = server.loop.create_future()

        def finish(answer: dict[str, Any] | None) -> None:
            if not done.done():
                done.set_result(answer)

        def arrive() -> None:
            answer = server.api(self, name, body)
            if not server.lost(server.faults.lose_ack, "answers lost"):
                server.reach(self, lambda: finish(answer))

        if self._up and not server.lost(server.faults.lose_request, "requests lost"):
            server.reach(self, arrive)
        timer = server.loop.call_later(timeout_s, finish, None)
        try:
            answer = await done
        finally:
            timer.cancel()
        if answer is None:
            raise ApiError(f"JetStream did not answer {name}.", code=408, err_code=0, description="time-out")
        if "error" in answer:
            raise ApiError(f"JetStream refused {name}.", **answer["error"])
        return answer


assert CLASSES  # the three classes are in the subjects
