"""The client's side of the bus: submit, run, ask; one subscription for all that comes to this peer (docs/protocol.md section 7)."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

import anyio
from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus import telemetry
from agentexecutor.bus.blobs import join, store_body
from agentexecutor.bus.connection import Connection, Headers, open_connection
from agentexecutor.bus.errors import TaskRefused
from agentexecutor.bus.queries import Questions
from agentexecutor.bus.task import Outcome, Task
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_TYPE, INLINE_LIMIT, decode, decode_as, encode, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName, check_capability, check_name, clean_name, new_id
from agentexecutor.schemas.plans import Plan
from agentexecutor.schemas.references import encode_input
from agentexecutor.schemas.subjects import DEFAULT_PREFIX, class_of

__all__ = ["Bus", "MessageHandler", "attached", "connect", "own_name"]

T = TypeVar("T")
MessageHandler = Callable[[TaskName, m.Message, Headers], Awaitable[None]]
AuctionMode = Literal["standing", "call", "broadcast", "auto"]


def own_name() -> str:
    """AGENTEXECUTOR_NAME, else ``<user>-<host>`` with every other character made a dash."""
    named = os.environ.get("AGENTEXECUTOR_NAME")
    if named:
        return named
    user = "peer"
    with suppress(KeyError, OSError):
        user = getpass.getuser()
    return clean_name(f"{user}-{socket.gethostname()}")


class Bus:
    """A peer on the bus. Made by `connect`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.undecodable = 0
        """Messages to this peer that did not decode."""
        self._handlers: dict[str, list[MessageHandler]] = {}
        self._outcomes: WeakValueDictionary[TaskName, Outcome] = WeakValueDictionary()
        self._questions = Questions(connection)

    @property
    def name(self) -> str:
        """The peer's own name."""
        return self.connection.name

    # what comes in

    def on_message(self, kind: str, handler: MessageHandler) -> Callable[[], None]:
        """Have `handler` awaited for every message of a kind that comes to this peer: call award cancel feedback result refused.

        Gives the function that takes it back.
        """
        self._handlers.setdefault(kind, []).append(handler)
        return lambda: self._handlers[kind].remove(handler)

    async def receive(self, message: Msg) -> None:
        """Everything that is sent to this peer. What has no Ae-Type is dropped, what does not decode is counted."""
        got = message.headers or {}
        if H_TYPE not in got:
            return
        try:
            _, kind, task = self.connection.subjects.parse_to(message.subject)
            if kind == "answer":
                self._questions.answered(got, message.data)
                return
            content = decode(got[H_TYPE], message.data)
        except (DecodeFailed, ValueError):
            self.undecodable += 1
            return
        if content is None:
            return
        outcome = self._outcomes.get(task)
        if outcome is not None and isinstance(content, m.Result) and content.subtask is None:
            outcome.ended(content)
        elif outcome is not None and isinstance(content, m.Refused):
            outcome.refused(content)
        for handler in self._handlers.get(kind, ()):
            await handler(task, content, got)

    def outcome(self, task: TaskName) -> Outcome:
        """What is known here of how a task ended; shared by all handles of the task."""
        known = self._outcomes.get(task)
        if known is None:
            known = self._outcomes[task] = Outcome()
        return known

    # tasks

    async def submit(
        self,
        what: str | Plan | m.PlanSpec,
        input: Any = None,
        *,
        id: str | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        retries: int | None = None,
        timeout_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        award: str | None = None,
        auction: AuctionMode | None = None,
        tailored: bool | None = None,
        critics: Iterable[str] = (),
        store_timeout_s: float | None = 60.0,
    ) -> Task:
        """Publish a task: a capability with its input (an object whose keys are the handler's parameters), or a plan.

        Returns once it is stored, whether or not anybody coordinates. The same `id` with the same content is the same task. Raises
        PlanRefused, NameRefused, TaskRefused, StoreTimeout (not stored within `store_timeout_s`), BusClosed.
        """
        task = TaskName(self.name, check_name("task", id) if id is not None else new_id())
        options = m.Submit(
            priority=priority,
            deadline_s=deadline_s,
            retries=retries,
            timeout_s=timeout_s,
            labels=dict(labels or {}),
            award=award,
            auction=auction,
            tailored=tailored,
            critics=list(critics),
        )
        title = what if isinstance(what, str) else "plan"
        with telemetry.span(telemetry.span_submit(title), kind=telemetry.SpanKind.PRODUCER, attributes={telemetry.AE_TASK: str(task)}):
            submit = await self._fill(task, what, input, options)
            payload = encode(submit)
            made = headers("submit", telemetry.inject())
            handle = Task(self, task, self.outcome(task), submitted=(class_of(priority), payload, made))
            await handle.store(store_timeout_s)
        return handle

    async def _fill(self, task: TaskName, what: str | Plan | m.PlanSpec, input: Any, options: m.Submit) -> m.Submit:
        """The submit message, large bodies stored and named by reference."""
        if isinstance(what, str):
            raw = encode_input({} if input is None else input)
            if not bytes(raw).startswith(b"{"):
                raise TaskRefused(
                    "The input is no JSON object.",
                    hint="Give an object whose keys are the handler's parameters.",
                    task=str(task),
                    error=m.ErrorInfo(code="input", message="The input is no JSON object."),
                )
            capability = check_capability(what)
            if len(bytes(raw)) > INLINE_LIMIT:
                return replace(options, capability=capability, input_blob=await store_body(self.connection, task, bytes(raw)))
            return replace(options, capability=capability, input=raw)
        spec = what.spec() if isinstance(what, Plan) else what
        body = encode(spec)
        if len(body) > INLINE_LIMIT:
            return replace(options, plan_blob=await store_body(self.connection, task, body))
        return replace(options, plan=spec)

    async def run(self, what: str | Plan | m.PlanSpec, input: Any = None, type: type[T] | Any = Any, **options: Any) -> T:
        """Submit and wait for the result, converted to `type`. Options as for `submit`; raises what `submit` and `Task.result` raise."""
        task = await self.submit(what, input, **options)
        result: T = await task.result(type)
        return result

    def task(self, name: str) -> Task:
        """A handle for a task by its full name, ``<owner>.<id>``, from anywhere, at any time. Raises NameRefused."""
        task = TaskName.parse(name)
        return Task(self, task, self.outcome(task))

    # questions

    async def ask(self, kind: str, task: TaskName | None = None, question: m.Ask | None = None, *, timeout_s: float = 10.0) -> m.Answer:
        """Ask the coordinators, again every second until one answers. Raises BusError when none does, or when the answer is an error."""
        return await self._questions.ask(kind, task, question or m.Ask(), timeout_s)

    async def ask_body(self, cls: type[T], kind: str, task: TaskName | None = None, question: m.Ask | None = None) -> T:
        """Ask, and decode the answer's body as `cls`."""
        answer = await self.ask(kind, task, question)
        if answer.body_blob is not None:
            return decode_as(cls, await self.fetch(task or TaskName(self.name, "-"), answer.body_blob))
        return decode_as(cls, answer.body)

    async def tasks(self, states: Iterable[str] = (), owner: str | None = None, limit: int = 100) -> v.TasksView:
        """Tasks, newest first, and how many submits wait in the queue."""
        return await self.ask_body(v.TasksView, "tasks", None, m.Ask(states=list(states), owner=owner, limit=limit))

    async def agents(self) -> list[v.AgentView]:
        """All living agents."""
        return (await self.ask_body(v.AgentsView, "agents")).agents

    async def unserved(self) -> list[v.UnservedLine]:
        """Demand that no agent fits, from all coordinators."""
        answers = await self._questions.ask_all("unserved", m.Ask())
        return [line for answer in answers for line in decode_as(v.UnservedView, answer.body).unserved]

    # bodies

    async def fetch(self, task: TaskName, ref: m.BlobRef, *, timeout_s: float = 60.0) -> bytes:
        """A body by its reference, read through the coordinators. Raises BusError when it is gone."""

        async def read(number: int) -> bytes:
            return await self._questions.chunk(task, m.Ask(digest=ref.digest, chunk=number), timeout_s)

        return await join(ref, read)

    async def put(self, task: TaskName, body: bytes) -> m.BlobRef:
        """Store a body under a task."""
        return await store_body(self.connection, task, body)

    async def body(self, task: TaskName, result: Raw, blob: m.BlobRef | None) -> bytes:
        """The JSON text of a body, wherever it is."""
        return bytes(result) if blob is None else await self.fetch(task, blob)

    async def claim(self, kind: str, task: TaskName, content: m.Message, type: str, *, timeout_s: float | None = None) -> str:
        """Store a claim, and give its Ae-Id."""
        made = headers(type, telemetry.inject())
        await self.connection.store(self.connection.subjects.claim(self.name, kind, task), encode(content), made, timeout_s=timeout_s)
        return made[H_ID]


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    name: str | None = None,
    prefix: str = DEFAULT_PREFIX,
    credentials: str | None = None,
    shards: int = 16,
    replicas: int = 1,
) -> AsyncIterator[Bus]:
    """Connect to the bus as peer `name`; the streams are made when they are missing.

    `url` None: AGENTEXECUTOR_NATS_URL, else nats://127.0.0.1:4222. `name` None: AGENTEXECUTOR_NAME, else ``<user>-<host>``. Reconnects for ever.
    Raises NoBus, ServerTooOld, StreamMismatch, NameRefused. Errors of the body come out unwrapped.
    """
    opened = open_connection(url, name=name or own_name(), prefix=prefix, credentials=credentials, shards=shards, replicas=replicas)
    async with opened as connection, attached(connection) as bus:
        yield bus


@asynccontextmanager
async def attached(connection: Connection) -> AsyncIterator[Bus]:
    """A Bus on a connection that is there already (and is not closed here)."""
    bus = Bus(connection)
    subscription = await connection.subscribe(connection.subjects.all_to(connection.name), bus.receive)
    try:
        yield bus
    finally:
        with anyio.CancelScope(shield=True), suppress(Exception):
            await subscription.unsubscribe()
