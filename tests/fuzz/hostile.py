"""Hostile messages, any number of them, from a seed: what strangers, broken peers and torn wires could put on the bus."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import CLASSES, Subjects

SAMPLES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parents[1] / "golden" / "wire").glob("*.json"))}
TYPES = sorted({name.partition(".")[0] for name in SAMPLES})
CLAIMS = ("accept", "decline", "done", "failed", "progress", "extend", "release", "cancel", "feedback")
TYPE_OF_KIND = {"cancel": "cancel-task", "feedback": "feedback-claim"}
ASKS = ("task", "task", "task", "unserved", "agents", "blob", "blob", "tasks")
TOKENS = ("a", "-", "$JS", "é", "\u202e", "%s", "{{wildcard(1)}}", "0", "-1", "٣", "a" * 65, "x" * 400, "_INBOX", "\x01", "\xa0", "\udcff")
VALUES = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"-0.0", b"9" * 400, b"NaN", b'""', b'"\\ud800"', b'"\xff"', b"[]", b"{}", b"[[]]"),
    *(b'"' + b"x" * 5000 + b'"', b"[" * 3000 + b"]" * 3000, b"[" + b"0," * 20000 + b"0]", b'{"a":' * 500 + b"1" + b"}" * 500),
    *(
        b'{"digest":"' + b"0" * 64 + b'","size":10,"chunks":1}',
        b'{"digest":"sha256:x","size":-1,"chunks":1000000000}',
        b"18446744073709551616",
    ),
)
LARGE_BODIES = (1, 300_000, 2_000_000, 8 << 20, 80_000_000, 256 << 20)
"""Bytes of bodies that are named as they should be, and are not there."""
HEADERS = (
    *(
        b"",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
        b"no headers at all",
        b"\r\n\r\n",
        b"\x00\xff\r\n\r\n",
    ),
    *(
        b"NATS/1.0\r\nAe-Type\r\n\r\n",
        b"NATS/1.0\r\n: x\r\n\r\n",
        b"NATS/1.0\r\nAe-Type: \xff\xfe\r\n\r\n",
        b"NATS/1.0\r\nAe-Type: done",
        b"NATS/9.9\r\n\r\n",
    ),
    *(
        b"NATS/1.0\r\nAe-Type: done\r\nAe-Type: submit\r\n\r\n",
        b"NATS/1.0\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"NATS/1.0\r\nA b: c\r\n\r\n",
    ),
    *(b"NATS/1.0\r\nAe-Id: " + b"i" * 9000 + b"\r\nAe-Type: done\r\n\r\n", b"NATS/1.0\r\n Ae-Type: folded\r\n\tmore\r\n\r\n"),
)


@dataclass(frozen=True)
class Hostile:
    """A message as it goes over the wire. `where`: claim, submit, bid, ask, or what else it attacks."""

    where: str
    subject: bytes
    headers: bytes | None
    payload: bytes

    def wire(self) -> bytes:
        if self.headers is None:
            return b"PUB %b %d\r\n%b\r\n" % (self.subject, len(self.payload), self.payload)
        total = len(self.headers) + len(self.payload)
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (self.subject, len(self.headers), total, self.headers, self.payload)


class Attacker:
    """Makes hostile messages. `targets`: tasks that run, with the agent, boot and epoch of their awards."""

    def __init__(self, seed: int, prefix: str, shards: int, targets: list[tuple[TaskName, str, str, int]], max_payload: int) -> None:
        self._random = random.Random(seed)
        self._subjects = Subjects(prefix)
        self._shards = shards
        self._targets = targets
        self._max_payload = max_payload
        self._count = 0

    def counted(self) -> Hostile:
        """One of those that the coordinator has to account for."""
        make = self._random.choices((self._claim, self._submit, self._bid, self._ask), (70, 10, 12, 8))[0]
        return make()

    def uncounted(self) -> Hostile:
        """One for the streams of last values and for the tasks' logs."""
        task = self._task()
        subjects = self._subjects
        where, subject, kind = self._random.choice(
            (
                ("offer", subjects.offer(self._peer()), "offer"),
                ("member", subjects.member(self._peer()), "member"),
                ("lease", subjects.lease(self._random.choice((0, 1, 15, 16, 99))), "lease"),
                ("progress", subjects.progress(self._peer(), task), "progress"),
                ("blob", subjects.blob(task, "0" * 64, self._random.randrange(3)), "chunk"),
                ("log", subjects.log(self._random.randrange(self._shards), task), "record"),
            )
        )
        return self._message(where, subject, kind)

    # where to

    def _claim(self) -> Hostile:
        kind = self._random.choice(CLAIMS)
        if self._random.random() < 0.1:
            kind = self._token()
        return self._message("claim", self._subjects.claim(self._peer(), kind, self._task()), TYPE_OF_KIND.get(kind, kind))

    def _submit(self) -> Hostile:
        klass = self._random.choice(CLASSES)
        task = TaskName(self._peer(), f"h{self._next()}") if self._random.random() < 0.8 else self._task()
        return self._message("submit", self._subjects.submit(task, klass), "submit")

    def _bid(self) -> Hostile:
        shard = self._random.randrange(self._shards)
        return self._message("bid", self._subjects.bid(self._peer(), shard, self._task()), self._random.choice(("bid", "refusal")))

    def _ask(self) -> Hostile:
        return self._message("ask", self._subjects.ask(self._peer(), self._random.choice(ASKS), self._task()), "ask")

    # what

    def _message(self, where: str, subject: str, kind: str) -> Hostile:
        draw = self._random.random()
        headers: bytes | None
        if draw < 0.05:
            headers = None
        elif draw < 0.15:
            headers = self._random.choice(HEADERS)
        else:
            said = kind if self._random.random() < 0.85 else self._random.choice((*TYPES, "", "no-such-type", "Done", "\x7f"))
            id = f"i{self._next()}" if self._random.random() < 0.9 else self._token()
            headers = f"NATS/1.0\r\nAe-Type: {said}\r\nAe-Id: {id}\r\ntraceparent: {self._token()}\r\n\r\n".encode(
                "utf-8", "surrogateescape"
            )
        return Hostile(where, subject.encode("utf-8", "surrogateescape"), headers, self._payload(kind))

    def _payload(self, kind: str) -> bytes:
        samples = [body for name, body in SAMPLES.items() if name.partition(".")[0] == kind] or list(SAMPLES.values())
        body = self._aimed(self._random.choice(samples))
        make: Callable[[bytes], bytes] = self._random.choices(
            (lambda body: body, self._other_value, self._flipped, self._cut, self._noise, self._huge, self._by_reference),
            (25, 33, 15, 10, 14.8, 0.2, 2),
        )[0]
        return make(body)

    def _aimed(self, body: bytes) -> bytes:
        """The sample, about an award that runs (or ran, or will)."""
        made = json.loads(body)
        _, _, boot, epoch = self._random.choice(self._targets)
        if isinstance(made, dict):
            for name, value in (("epoch", epoch + self._random.choice((-1, 0, 0, 1, 10**9))), ("boot", boot), ("subtask", "main")):
                if name in made:
                    made[name] = value
        return json.dumps(made).encode()

    def _other_value(self, body: bytes) -> bytes:
        """One field has a value that it should not have."""
        made = json.loads(body)
        if not isinstance(made, dict) or not made:
            return self._random.choice(VALUES)
        name = self._random.choice(sorted(made))
        made[name] = "@@"
        return json.dumps(made).encode().replace(b'"@@"', self._random.choice(VALUES), 1)

    def _flipped(self, body: bytes) -> bytes:
        made = bytearray(body)
        for _ in range(self._random.randint(1, 5)):
            made[self._random.randrange(len(made))] = self._random.randrange(256)
        return bytes(made)

    def _cut(self, body: bytes) -> bytes:
        return body[: self._random.randrange(len(body))]

    def _noise(self, _: bytes) -> bytes:
        return self._random.choice((self._random.randbytes(self._random.randrange(300)), self._random.choice(VALUES)))

    def _huge(self, body: bytes) -> bytes:
        size = self._random.choice((262_144, 299_000, 300_001, self._max_payload - 30_000))
        return self._random.choice((b"x" * size, b"[" * size, body[:-1] + b" " * size + body[-1:]))

    def _by_reference(self, body: bytes) -> bytes:
        """A body that looks right, and that nobody has stored."""
        made = json.loads(body)
        if not isinstance(made, dict):
            return body
        size = self._random.choice(LARGE_BODIES)
        ref = {"digest": self._random.randbytes(32).hex(), "bytes": size, "chunks": -(-size // 262_144)}
        name = self._random.choice(("plan_blob", "plan_blob", "input_blob", "result_blob"))
        replaced = ("plan", "capability", "goal", "input") if name == "plan_blob" else ()
        return json.dumps({**{key: value for key, value in made.items() if key not in replaced}, name: ref}).encode()

    # small parts

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _token(self) -> str:
        return self._random.choice(TOKENS)

    def _peer(self) -> str:
        draw = self._random.random()
        return (
            self._token()
            if draw < 0.05
            else self._random.choice(self._targets)[1]
            if draw < 0.4
            else f"stranger-{self._random.randrange(50)}"
        )

    def _task(self) -> TaskName:
        draw = self._random.random()
        if draw < 0.5:
            return self._random.choice(self._targets)[0]
        return TaskName(self._token(), self._token()) if draw < 0.55 else TaskName("nobody", f"t{self._random.randrange(2000)}")
