"""Scripted peers on a plain Connection: an agent that does exactly what it is told, a client that asks; and the coordinator to be tested."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import msgspec
from msgspec import Raw
from nats.aio.msg import Msg

from agentexecutor.bus.blobs import join, store_body
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE, stream_settings
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_RE, H_TYPE, TYPE_OF, decode, decode_as, encode, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName, new_boot, new_id
from agentexecutor.schemas.subjects import DEFAULT_PREFIX, NOBODY, class_of

PATIENCE_S = 60.0
QUICK = Settings(
    accept_timeout_s=0.4, lost_after_s=1.0, heartbeat_s=0.3, soft_accept_s=0.2, backoff_s=0.05, suspend_s=0.1, bidding_s=0.3, keep_s=60
)
"""Settings with short waits."""

T = TypeVar("T")


async def _until(look: Callable[[], Awaitable[T]], fits: Callable[[T], bool]) -> T:
    """Look again and again until it fits: what is waited for is in another process's memory."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            seen = await look()
            if fits(seen):
                return seen
            await anyio.sleep(0.02)


@dataclass(frozen=True)
class Place:
    """A bus of one's own on a server that others use too: a prefix."""

    url: str
    prefix: str = DEFAULT_PREFIX


@asynccontextmanager
async def a_place(url: str) -> AsyncIterator[Place]:
    """A place whose streams are removed in the end: a server has room for few."""
    place = Place(url, f"t{new_id(8)}")
    yield place
    async with open_connection(url, name="tidy", prefix=place.prefix) as connection:
        for stream in stream_settings(place.prefix, connection.shards, 1):
            await connection.api(f"STREAM.DELETE.{stream['name']}", {})


class Peer:
    """Hears all that comes to it, in order, and finds what a test waits for."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = connection.name
        self.subjects = connection.subjects
        self.heard: list[tuple[str, TaskName, Any, dict[str, str]]] = []
        self._more = anyio.Event()

    async def hear(self, message: Msg) -> None:
        at = self.subjects.parse_to(message.subject)
        await self.take(at.second, at.task, message)

    async def take(self, what: str, task: TaskName, message: Msg) -> None:
        kind = (message.headers or {}).get(H_TYPE)
        body = message.data if kind == "chunk" else decode(kind, message.data)
        self.heard.append((what, task, body, dict(message.headers or {})))
        self._more.set()
        self._more = anyio.Event()

    async def expect(self, kind: str, fits: Callable[[Any], bool] = lambda _: True, *, re: str | None = None) -> Any:
        """The first message of a kind that fits, heard already or to come; it is taken out."""
        body, _ = await self.expect_with_headers(kind, fits, re=re)
        return body

    async def expect_with_headers(
        self, kind: str, fits: Callable[[Any], bool] = lambda _: True, *, re: str | None = None
    ) -> tuple[Any, dict[str, str]]:
        """The same, with its headers."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for index, (what, _, body, made) in enumerate(self.heard):
                    if what == kind and (re is None or made.get(H_RE) == re) and fits(body):
                        del self.heard[index]
                        return body, made
                await self._more.wait()

    def count(self, kind: str) -> int:
        return sum(what == kind for what, *_ in self.heard)

    # what clients do

    async def submit(
        self, task_id: str, submit: m.Submit | None = None, *, id: str | None = None, trace: dict[str, str] | None = None, **fields: Any
    ) -> TaskName:
        task = TaskName(self.name, task_id)
        submit = submit or m.Submit(**fields)
        subject = self.subjects.submit(task, class_of(submit.priority))
        await self.connection.store(subject, encode(submit), headers("submit", trace, id=id), timeout_s=PATIENCE_S)
        return task

    async def claim(self, kind: str, task: TaskName, message: m.Message, *, id: str | None = None) -> str:
        made = headers(TYPE_OF[type(message)], id=id)
        await self.connection.store(self.subjects.claim(self.name, kind, task), encode(message), made, timeout_s=PATIENCE_S)
        return made[H_ID]

    async def ask(self, kind: str, task: TaskName = NOBODY, **fields: Any) -> Any:
        """Ask until somebody answers; the Answer (or the chunk's bytes)."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                made = headers("ask")
                await self.connection.publish(self.subjects.ask(self.name, kind, task), encode(m.Ask(**fields)), made)
                with anyio.move_on_after(1.0):
                    return await self.expect("answer", re=made[H_ID])

    async def expect_error(self, kind: str, task: TaskName = NOBODY, **fields: Any) -> m.ErrorInfo:
        """Ask until the answer is an error."""
        answer = await _until(lambda: self.ask(kind, task, **fields), lambda answer: answer.error is not None)
        error: m.ErrorInfo = answer.error
        return error

    async def until_no_error(self, kind: str, task: TaskName = NOBODY) -> None:
        """Ask until the answer is none."""
        await _until(lambda: self.ask(kind, task), lambda answer: answer.error is None)

    async def state(self, task: TaskName) -> v.StateView:
        answer = await self.ask("task", task)
        return msgspec.json.decode(answer.body, type=v.StateView)

    async def view(self, task: TaskName) -> v.TaskView:
        answer = await self.ask("task", task, what="view")
        return msgspec.json.decode(answer.body, type=v.TaskView)

    async def until_state(self, task: TaskName, state: str) -> None:
        """Ask for the task's state until it is this one."""
        await _until(lambda: self.state(task), lambda seen: seen.state == state)

    async def until(self, task: TaskName, fits: Callable[[v.TaskView], bool]) -> v.TaskView:
        """Ask for the view until it fits."""
        return await _until(lambda: self.view(task), lambda view: bool(view.subtasks) and fits(view))

    async def story(self, task: TaskName) -> list[tuple[str, str]]:
        """(coordinator, kind of change) of the task's whole log."""
        answer = await self.ask("task", task, what="log")
        records = (await self.value(task, answer, "body"))["records"]
        return [(entry["record"]["coordinator"], change["kind"]) for entry in records for change in entry["record"]["changes"]]

    async def until_story(self, task: TaskName, fits: Callable[[list[tuple[str, str]]], bool]) -> None:
        """Ask for the log until it fits."""
        await _until(lambda: self.story(task), fits)

    async def until_held(self, holders: dict[str, int]) -> None:
        """Wait until the leases say that each holds so many shards."""
        log = TaskLog(self.connection)

        async def look() -> dict[str, int]:
            found: dict[str, int] = {}
            for shard in range(self.connection.shards):
                last = await log.last_of(LEASE, self.subjects.lease(shard))
                if last is not None and last.payload is not None:
                    with suppress(DecodeFailed):  # nonsense holds nothing
                        holder = decode_as(m.Lease, last.payload).holder
                        found[holder] = found.get(holder, 0) + 1
            return found

        await _until(look, lambda found: found == holders)

    async def agents(self) -> list[v.AgentView]:
        return msgspec.json.decode((await self.ask("agents")).body, type=v.AgentsView).agents

    async def until_agents(self, count: int) -> None:
        """Wait until the coordinator has heard so many agents."""
        await _until(self.agents, lambda agents: len(agents) >= count)

    async def put(self, task: TaskName, value: Any) -> m.BlobRef:
        """Store a value as a large body."""
        return await store_body(self.connection, task, encode(value))

    async def fetch(self, task: TaskName, ref: m.BlobRef) -> Any:
        """Read a large body by asking, as peers do."""

        async def read(chunk: int) -> bytes:
            body = await self.ask("blob", task, digest=ref.digest, chunk=chunk)
            assert isinstance(body, bytes), body
            return body

        return msgspec.json.decode(await join(ref, read))

    async def value(self, task: TaskName, message: Any, name: str = "result") -> Any:
        """What a message carries, inline or by reference."""
        ref = getattr(message, f"{name}_blob")
        return await self.fetch(task, ref) if ref is not None else msgspec.json.decode(getattr(message, name))

    async def result(self, task: TaskName) -> m.Result:
        name = str(task)
        result: m.Result = await self.expect("result", lambda result: result.task == name and result.subtask is None)
        return result


class ScriptedAgent(Peer):
    """Offers capabilities and names what it runs; accepts and ends only when told to (or by `work`)."""

    def __init__(self, connection: Connection, capabilities: list[str], capacity: int, labels: dict[str, str]) -> None:
        super().__init__(connection)
        self.boot = new_boot()
        self.capabilities = [m.Capability(name=name, estimate_s=0.01) for name in capabilities]
        self.capacity = capacity
        self.labels = labels
        self.running: dict[tuple[str, str], m.Running] = {}
        self.offering = True
        self.ended: set[tuple[str, str, int]] = set()

    async def offer(self) -> None:
        offer = m.Offer(
            boot=self.boot,
            capabilities=self.capabilities,
            capacity=self.capacity,
            labels=self.labels,
            running=list(self.running.values()),
        )
        await self.connection.publish(self.subjects.offer(self.name), encode(offer), headers("offer"))

    async def keep_offering(self, every_s: float) -> None:
        while True:
            if self.offering:
                await self.offer()
            await anyio.sleep(every_s)

    async def award(self, subtask: str | None = None) -> m.Award:
        award: m.Award = await self.expect("award", lambda award: subtask is None or award.subtask == subtask)
        return award

    async def award_with_headers(self) -> tuple[m.Award, dict[str, str]]:
        return await self.expect_with_headers("award")

    def _of(self, award: m.Award) -> dict[str, Any]:
        return {"subtask": award.subtask, "epoch": award.epoch, "boot": self.boot}

    async def accept(self, award: m.Award) -> str:
        self.running[award.task, award.subtask] = m.Running(task=award.task, subtask=award.subtask, epoch=award.epoch)
        return await self.claim("accept", TaskName.parse(award.task), m.Accept(**self._of(award), schedule=[m.Step(name="all")]))

    async def decline(self, award: m.Award) -> str:
        return await self.claim("decline", TaskName.parse(award.task), m.Decline(**self._of(award), reason="busy"))

    async def done(self, award: m.Award, result: Any = None, **more: Any) -> str:
        made = m.Done(**self._of(award), **({"result": Raw(encode(result))} | more))
        id = await self.claim("done", TaskName.parse(award.task), made)
        self._end(award)
        return id

    async def failed(self, award: m.Award, message: str = "broken", **more: Any) -> str:
        error = m.ErrorInfo(code="handler", message=message, retryable=more.pop("retryable", True))
        id = await self.claim("failed", TaskName.parse(award.task), m.Failed(**self._of(award), error=error, **more))
        self._end(award)
        return id

    async def bid(self, task: TaskName, shard: int, bid: m.Bid | m.Refusal) -> None:
        await self.connection.publish(self.subjects.bid(self.name, shard, task), encode(bid), headers(TYPE_OF[type(bid)]))

    async def listen(self, capability: str) -> None:
        """Take part in broadcast auctions."""

        async def called(message: Msg) -> None:
            await self.take("call", NOBODY, message)

        await self.connection.subscribe(self.subjects.call(capability), called)
        await self.connection.nats.flush()

    def _end(self, award: m.Award) -> None:
        self.running.pop((award.task, award.subtask), None)
        self.ended.add((award.task, award.subtask, award.epoch))

    async def work(self, handle: Callable[[m.Award], Any]) -> None:
        """Do every award as it comes; one that comes again is not done twice."""
        while True:
            award = await self.award()
            if (award.task, award.subtask, award.epoch) not in self.ended:
                await self.done(award, handle(award))


@asynccontextmanager
async def client(place: Place, name: str = "me") -> AsyncIterator[Peer]:
    async with open_connection(place.url, name=name, prefix=place.prefix) as connection:
        peer = Peer(connection)
        await connection.subscribe(connection.subjects.all_to(name), peer.hear)
        await connection.nats.flush()
        yield peer


@asynccontextmanager
async def agent(
    place: Place, name: str, *capabilities: str, capacity: int = 1, labels: dict[str, str] | None = None, every_s: float = 0.2
) -> AsyncIterator[ScriptedAgent]:
    async with open_connection(place.url, name=name, prefix=place.prefix) as connection:
        scripted = ScriptedAgent(connection, list(capabilities), capacity, labels or {})
        await connection.subscribe(connection.subjects.all_to(name), scripted.hear)
        await connection.nats.flush()
        async with anyio.create_task_group() as group:
            group.start_soon(scripted.keep_offering, every_s)
            yield scripted
            group.cancel_scope.cancel()


@asynccontextmanager
async def coordinating(place: Place, name: str = "coord", settings: Settings = QUICK) -> AsyncIterator[Coordinator]:
    """A coordinator that is stopped in good order at the end."""
    async with open_connection(place.url, name=name, prefix=place.prefix) as connection, anyio.create_task_group() as group:
        coordinator = Coordinator(connection, settings=settings)
        await group.start(coordinator.run)
        yield coordinator
        coordinator.stop()


@asynccontextmanager
async def killable(place: Place, name: str, settings: Settings = QUICK) -> AsyncIterator[tuple[Coordinator, anyio.CancelScope]]:
    """A coordinator, and the scope whose cancelling ends it without a goodbye."""
    async with open_connection(place.url, name=name, prefix=place.prefix) as connection, anyio.create_task_group() as group:
        coordinator = Coordinator(connection, settings=settings)
        await group.start(coordinator.run)
        yield coordinator, group.cancel_scope
        group.cancel_scope.cancel()
