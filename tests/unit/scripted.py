"""A coordinator that does exactly what a test tells it: writes records by fenced appends, answers questions, sends messages. No decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from msgspec import Raw
from nats.aio.msg import Msg

from agentexecutor.bus.blobs import load_chunk, store_body
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.errors import first_of
from agentexecutor.bus.log import TaskLog
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_RE, H_ROLLUP, H_STATE, H_TTL, TYPE_OF, decode, decode_record, encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

PATIENCE_S = 20.0


class Scripted:
    """What it heard: `submits` (task, headers, payload), `claims` (kind, task, headers, message), `asked` (kind, task, question).

    What it answers with: `states`, `views`, `bodies` (by kind of question), `silent` (so many questions are not answered first).
    """

    def __init__(self, connection: Connection, log: TaskLog) -> None:
        self.connection = connection
        self.subjects = connection.subjects
        self.log = log
        self.submits: list[tuple[TaskName, dict[str, str], bytes]] = []
        self.claims: list[tuple[str, TaskName, dict[str, str], m.Message | None]] = []
        self.asked: list[tuple[str, TaskName, m.Ask]] = []
        self.states: dict[TaskName, v.StateView] = {}
        self.views: dict[TaskName, v.TaskView] = {}
        self.bodies: dict[str, bytes] = {}
        self.silent = 0
        self.of = 1
        self.page_bytes = 262_144
        self.error: m.ErrorInfo | None = None
        self._news = anyio.Event()

    async def until(self, holds: Any) -> None:
        """Wait until something that was heard makes `holds()` true."""
        with anyio.fail_after(PATIENCE_S):
            while not holds():
                await self._news.wait()

    async def settle(self) -> None:
        """All subscriptions made so far are known to the server. (nats-py's `flush` overtakes what is still buffered.)"""
        await self.log.waiting()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # what it writes

    async def append(self, task: TaskName, *changes: r.Change, state: str = "running", applied: Sequence[str] = ()) -> int:
        """One record after the last one."""
        record = r.Record(coordinator=self.connection.name, at="2026-01-01T00:00:00Z", changes=list(changes), applied=list(applied))
        return await self.append_raw(task, encode(record), {**headers("record"), H_STATE: state})

    async def append_raw(self, task: TaskName, payload: bytes, made: dict[str, str]) -> int:
        shard = shard_of(task, self.connection.shards)
        last = await self.log.last(shard, task)
        return await self.log.append(shard, task, payload, made, expected=0 if last is None else last.seq)

    async def end(self, task: TaskName, *changes: r.Change, state: str = "completed", by_reference: bool = False) -> int:
        """The last record: replaces all others and holds them as history."""
        stored = await self.log.read(shard_of(task, self.connection.shards), task)
        history = [r.LogEntry(seq=one.seq, time=one.time, record=decode_record(one.payload)) for one in stored if one.payload is not None]
        ref = await store_body(self.connection, task, encode(history)) if by_reference else None
        record = r.Record(
            coordinator=self.connection.name,
            at="2026-01-01T00:00:00Z",
            changes=list(changes),
            history=[] if by_reference else history,
            history_blob=ref,
            digest="d",
        )
        return await self.append_raw(task, encode(record), {**headers("record"), H_STATE: state, H_ROLLUP: "sub", H_TTL: "604800s"})

    async def say(self, peer: str, task: TaskName, message: m.Message) -> None:
        """Send a message to a peer; its kind is its type."""
        kind = TYPE_OF[type(message)]
        await self.connection.publish(self.subjects.to(peer, kind, task), encode(message), headers(kind))

    # what it hears

    async def submitted(self, message: Msg) -> None:
        owner, _, id = message.subject.split(".")[-3:]
        self.submits.append((TaskName(owner, id), dict(message.headers or {}), message.data))
        self._tell()

    async def claimed(self, message: Msg) -> None:
        made = dict(message.headers or {})
        kind, owner, id = message.subject.split(".")[-3:]
        self.claims.append((kind, TaskName(owner, id), made, decode(made.get("Ae-Type"), message.data)))
        self._tell()

    async def question(self, message: Msg) -> None:
        peer, kind, task = self.subjects.parse_ask(message.subject)
        ask = decode("ask", message.data)
        assert isinstance(ask, m.Ask)
        self.asked.append((kind, task, ask))
        self._tell()
        if self.silent > 0:
            self.silent -= 1
            return
        id = (message.headers or {})[H_ID]
        await self._answer(peer, kind, task, ask, id)

    async def _answer(self, peer: str, kind: str, task: TaskName, ask: m.Ask, id: str) -> None:
        reply = m.Answer(re=id, coordinator=self.connection.name, of=self.of, error=self.error)
        if kind == "blob":
            chunk = await load_chunk(self.connection, task, ask.digest, ask.chunk)
            if chunk is not None:
                await self.connection.publish(self.subjects.to(peer, "answer", task), chunk, {**headers("chunk"), H_RE: id})
                return
            reply = m.Answer(re=id, coordinator=self.connection.name, error=m.ErrorInfo(code="lost", message="This body is gone."))
        elif kind == "task" and ask.what == "log":
            body, after = await self._page(task, ask.after)
            reply = m.Answer(re=id, coordinator=self.connection.name, body=Raw(body), next=after)
        elif reply.error is None:
            reply = m.Answer(re=id, coordinator=self.connection.name, of=self.of, body=Raw(self._body(kind, task, ask)))
        await self.connection.publish(self.subjects.to(peer, "answer", task), encode(reply), {**headers("answer"), H_RE: id})

    def _body(self, kind: str, task: TaskName, ask: m.Ask) -> bytes:
        if kind != "task":
            return self.bodies[kind]
        if ask.what == "view":
            return encode(self.views.get(task, v.TaskView(task=str(task), state="unknown")))
        return encode(self.states.get(task, v.StateView(state="unknown")))

    async def _page(self, task: TaskName, after: int) -> tuple[bytes, int | None]:
        stored, more = await self.log.read_after(task, after, self.page_bytes)
        entries = [r.LogEntry(seq=one.seq, time=one.time, record=decode_record(one.payload)) for one in stored if one.payload is not None]
        return encode(v.LogView(records=entries)), stored[-1].seq if more else None


@asynccontextmanager
async def scripted(url: str, name: str = "coord", prefix: str = "ae.v1") -> AsyncIterator[Scripted]:
    """A scripted coordinator that hears submits, claims and questions while the block runs."""
    try:
        async with open_connection(url, name=name, prefix=prefix) as connection:
            log = TaskLog(connection)
            made = Scripted(connection, log)
            await connection.subscribe(made.subjects.all_submits(), made.submitted)
            await connection.subscribe(made.subjects.all_claims(), made.claimed)
            for kind in ("task", "blob", "tasks", "agents", "unserved"):
                await connection.subscribe(made.subjects.all_asks(kind), made.question)
            await made.settle()
            yield made
    except BaseExceptionGroup as group:
        raise first_of(group) from None
