"""The client's side of the bus: submit, run, ask; one subscription for all that comes to this peer (docs/protocol.md section 7)."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, overload
from weakref import WeakValueDictionary

from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus import telemetry as t
from agentexecutor.bus.blobs import store_body
from agentexecutor.bus.connection import Connection, Headers, open_connection
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.outcome import Outcome
from agentexecutor.bus.queries import NoAnswer, Questions, merge_unserved
from agentexecutor.bus.request import AuctionMode, What, encode_submit, fill_submit, options_of, plan_of
from agentexecutor.bus.task import Submitted, Task
from agentexecutor.bus.watch import listening
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_TYPE, decode, decode_as, headers
from agentexecutor.schemas.errors import DecodeFailed, PlanRefused
from agentexecutor.schemas.names import TaskName, check_name, clean_name, new_id
from agentexecutor.schemas.plans import Goal
from agentexecutor.schemas.subjects import DEFAULT_PREFIX, NOBODY, class_of

__all__ = ["AuctionMode", "Bus", "MessageHandler", "OnStall", "attached", "connect", "own_name"]

T = TypeVar("T")
MessageHandler = Callable[[TaskName, m.Message, Headers], Awaitable[None]]
OnStall = m.OnStall
ANSWER_S = 10.0
ALL_ANSWER_S = 3.0
SEARCH_S = 60.0
CHUNK_S = 30.0
FORECAST_S = 60.0
"""A plan of 20,000 subtasks takes a coordinator seconds."""


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
    """A peer on the bus. Made by `connect`. Several peers may share a name: each hears all that is sent to it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.counters: dict[str, int] = {"undecodable": 0}
        """Messages to this peer that could not be used."""
        self._handlers: dict[str, list[MessageHandler]] = {}
        self._outcomes: WeakValueDictionary[TaskName, Outcome] = WeakValueDictionary()
        self._questions = Questions(connection)
        self._submit_template = connection.subjects.submit(TaskName(connection.name, "{task}"), "{class}")

    @property
    def name(self) -> str:
        """The name of this peer."""
        return self.connection.name

    # what comes in

    def on_message(self, kind: str, handler: MessageHandler) -> Callable[[], None]:
        """Have `handler` awaited for every message of a kind that comes to this peer: call award cancel feedback result refused.

        One message after another: a handler that has much to do hands it to a task of its own. Gives the function that takes it back.
        """
        handlers = self._handlers.setdefault(kind, [])
        handlers.append(handler)
        return lambda: handlers.remove(handler) if handler in handlers else None

    async def receive(self, message: Msg) -> None:
        """Everything that is sent to this peer. What has no Ae-Type is dropped (R3), what does not decode is counted."""
        got = message.headers or {}
        if H_TYPE not in got:
            return
        try:
            _, kind, task = self.connection.subjects.parse_to(message.subject)
            if kind == "answer":
                self._questions.answered(got, message.data)
                return
            content = decode(got[H_TYPE], message.data) if got[H_TYPE] == kind else None
        except (DecodeFailed, ValueError):
            self.count_undecodable()
            return
        if content is not None:
            self._learn(task, content)
            for handler in tuple(self._handlers.get(kind, ())):
                await handler(task, content, got)

    def count_undecodable(self) -> None:
        """A message that came to this peer cannot be read: it is passed over."""
        self.counters["undecodable"] += 1
        t.count(t.METRIC_UNDECODABLE, 1, {t.ATTR_REASON: "undecodable"})

    def _learn(self, task: TaskName, content: m.Message) -> None:
        outcome = self._outcomes.get(task)
        if outcome is None:
            return
        if isinstance(content, m.Result) and content.subtask is None:
            outcome.ended(content)
        elif isinstance(content, m.Refused):
            outcome.refused(content.id, content.error)

    def _outcome(self, task: TaskName) -> Outcome:
        """What is known here of how a task ended; shared by all handles of the task, gone with the last."""
        known = self._outcomes.get(task)
        if known is None:
            known = self._outcomes[task] = Outcome()
        return known

    def _outcome_of_submit(self, task: TaskName) -> Outcome:
        """A result that was told before this submit says nothing about it: the content may be another."""
        known = self._outcomes.get(task)
        if known is not None and known.result is not None:
            del self._outcomes[task]
        return self._outcome(task)

    async def look_again(self) -> None:
        """Have everybody who waits ask how things stand: what was sent to us while we were away is lost."""
        for outcome in list(self._outcomes.values()):
            outcome.wake()

    def close(self) -> None:
        """Tell everybody who waits that nothing will come any more. `connect` does it at its end."""
        for outcome in list(self._outcomes.values()):
            outcome.close()

    # tasks

    async def submit(
        self,
        what: What,
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
        on_stall: OnStall | None = None,
        replan: m.Replan | None = None,
        budget: Mapping[str, float] | None = None,
        approval: m.ApprovalPolicy | None = None,
        store_timeout_s: float | None = 60.0,
    ) -> Task:
        """Publish a task: a capability with its input (an object whose keys are the handler's parameters), a plan, or a `Goal` with what there is.

        Returns once it is stored, whether or not anybody coordinates. The same `id` with the same content is the same task.
        `deadline_s`: from now; `timeout_s`: for each attempt; `on_stall`: as for Subtask; `replan`: what answers what happens;
        `budget`: limits (``subtasks``, ``replans``, ``seconds`` of work, and what agents report: ``tokens``, ``money``); `approval`: what waits for a
        person's word (docs/protocol.md section 11); `store_timeout_s`: for storing it. Raises PlanRefused, NameRefused,
        TaskRefused (an option that no coordinator would take), StoreTimeout, StoreRefused, TooLarge, BusClosed.
        """
        task = TaskName(self.name, check_name("task", new_id() if id is None else id))
        options = options_of(
            priority=priority,
            deadline_s=deadline_s,
            retries=retries,
            timeout_s=timeout_s,
            labels=labels,
            award=award,
            auction=auction,
            tailored=tailored,
            critics=critics,
            on_stall=on_stall,
            replan=replan,
            budget=budget,
            approval=approval,
        )
        title = what if isinstance(what, str) else "goal" if isinstance(what, Goal) else "plan"
        with t.span(t.SPAN_SUBMIT, title, parent=t.current()) as span:
            submit = await fill_submit(options, what, input, lambda body: self.put(task, body))
            payload = encode_submit(task, submit)
            made = headers("submit", t.inject() if span.get_span_context().is_valid else None)
            if span.is_recording():
                span.set_attributes({**self._span_attributes(task, made[H_ID], payload), t.ATTR_PRIORITY: priority})
            subject = self.connection.subjects.submit(task, class_of(priority))
            return await self._store(task, Submitted(subject, payload, made, time.monotonic()), title, store_timeout_s)

    async def _store(self, task: TaskName, submitted: Submitted, title: str, timeout_s: float | None) -> Task:
        outcome = self._outcome_of_submit(task)
        outcome.expect(submitted.headers[H_ID])
        await self.connection.store(submitted.subject, submitted.payload, submitted.headers, timeout_s=timeout_s)
        t.count(t.METRIC_SUBMITS, 1, {t.ATTR_CAPABILITY: title})
        return Task(self, task, outcome, submitted)

    def _span_attributes(self, task: TaskName, id: str, payload: bytes) -> dict[str, str | int]:
        return {
            t.ATTR_TASK: str(task),
            t.ATTR_PEER: self.name,
            t.ATTR_MESSAGING_SYSTEM: "nats",
            t.ATTR_MESSAGING_OPERATION: "publish",
            t.ATTR_MESSAGING_TYPE: "send",
            t.ATTR_MESSAGING_TEMPLATE: self._submit_template,
            t.ATTR_MESSAGING_ID: id,
            t.ATTR_MESSAGING_CONVERSATION: str(task),
            t.ATTR_MESSAGING_SIZE: len(payload),
        }

    @overload
    async def run(self, what: What, input: Any, type: type[T], **options: Any) -> T: ...
    @overload
    async def run(self, what: What, input: Any = None, *, type: type[T], **options: Any) -> T: ...
    @overload
    async def run(self, what: What, input: Any = None, **options: Any) -> Any: ...
    async def run(self, what: What, input: Any = None, type: Any = Any, **options: Any) -> Any:
        """Submit and wait for the result, converted to `type`, at most `wait_s` seconds (None: as long as it takes).

        Other options as for `submit`, where `timeout_s` is that of each attempt. Raises what `submit` and `Task.result` raise.
        """
        wait_s = options.pop("wait_s", None)
        task = await self.submit(what, input, **options)
        return await task.result(type, timeout_s=wait_s)

    async def plan(self, what: What, input: Any = None, *, id: str | None = None, **options: Any) -> v.Forecast:
        """Who would do what, when and at what cost, if this were submitted now; nothing is executed. Options as for `submit`.

        The `plan` in the answer can be changed and submitted. Raises PlanRefused (also for what a coordinator would refuse), NameRefused, TaskRefused,
        NoAnswer, and what storing a large plan raises.
        """
        store_timeout_s = options.pop("store_timeout_s", 60.0)
        plan = None if isinstance(what, Goal) else plan_of(what, input)
        submit = await fill_submit(options_of(**options), what, input, lambda body: self.put(NOBODY, body, timeout_s=store_timeout_s))
        encode_submit(TaskName(self.name, check_name("task", new_id() if id is None else id)), submit)  # what submit refuses is refused
        try:
            forecast = await self.ask_body(v.Forecast, "forecast", None, m.Ask(submit=submit), timeout_s=FORECAST_S)
        except BusError as error:
            refused = error.fields.get("error")
            if refused is None or refused.code != "input":
                raise
            raise PlanRefused(refused.message, path=refused.details.get("path", [])) from error
        return forecast if plan is None else replace(forecast, plan=plan)  # with the inputs that travelled by reference

    def task(self, name: str) -> Task:
        """A handle for a task by its full name, ``<owner>.<id>``, from anywhere, at any time. Raises NameRefused."""
        task = TaskName.parse(name)
        return Task(self, task, self._outcome(task))

    # questions

    async def ask(self, kind: str, task: TaskName | None = None, question: m.Ask | None = None, *, timeout_s: float = ANSWER_S) -> m.Answer:
        """Ask the coordinators, again every second until one answers. Raises NoAnswer, or BusError when the answer is an error."""
        return await self._questions.ask(kind, task, question or m.Ask(), timeout_s)

    async def ask_body(
        self, cls: type[T], kind: str, task: TaskName | None = None, question: m.Ask | None = None, *, timeout_s: float = ANSWER_S
    ) -> T:
        """Ask, and decode the answer's body as `cls`. Raises what `ask` raises, and DecodeFailed."""
        answer = await self.ask(kind, task, question, timeout_s=timeout_s)
        return decode_as(cls, await self.body(task or NOBODY, answer.body, answer.body_blob))

    async def tasks(self, states: Iterable[str] = (), owner: str | None = None, limit: int = 100) -> v.TasksView:
        """Tasks, newest first, and how many submits wait in the queue. Raises NoAnswer.

        To find a few of very many takes long: where coordinators answer other questions it is waited for a minute more.
        """
        question = m.Ask(states=list(states), owner=owner, limit=limit)
        try:
            return await self.ask_body(v.TasksView, "tasks", None, question)
        except NoAnswer as error:
            try:
                await self.ask("agents", timeout_s=ALL_ANSWER_S)
            except NoAnswer:
                raise error from None
            return await self.ask_body(v.TasksView, "tasks", None, question, timeout_s=SEARCH_S)

    async def agents(self) -> list[v.AgentView]:
        """All living agents. Raises NoAnswer."""
        return (await self.ask_body(v.AgentsView, "agents")).agents

    async def unserved(self) -> list[v.UnservedLine]:
        """Demand that no agent fits, from all coordinators. Raises NoAnswer."""
        return merge_unserved(await self._what_stands_still())

    async def stalled(self) -> list[v.StalledLine]:
        """Subtasks whose agents live and show no progress for longer than they promised, longest first. Raises NoAnswer."""
        lines = [line for view in await self._what_stands_still() for line in view.stalled]
        return sorted(lines, key=lambda line: -line.silent_s)

    async def _what_stands_still(self) -> list[v.UnservedView]:
        answers = await self._questions.ask_all("unserved", m.Ask(), ALL_ANSWER_S)
        return [decode_as(v.UnservedView, await self.body(NOBODY, got.body, got.body_blob)) for got in answers]

    # bodies

    async def fetch(self, task: TaskName, ref: m.BlobRef, *, timeout_s: float = CHUNK_S) -> bytes:
        """A body by its reference, read through the coordinators. `timeout_s`: for each chunk. Raises NoAnswer, BusError when it is gone."""
        return await self._questions.fetch(task, ref, timeout_s)

    async def put(self, task: TaskName, body: bytes, *, timeout_s: float | None = 60.0) -> m.BlobRef:
        """Store a body under a task. `timeout_s`: for each chunk of it, None: for ever. Raises StoreTimeout, StoreRefused, BusClosed."""
        return await store_body(self.connection, task, body, timeout_s=timeout_s)

    async def body(self, task: TaskName, inline: Raw, ref: m.BlobRef | None) -> bytes:
        """The JSON text of a body, wherever it is. Raises what `fetch` raises."""
        return bytes(inline) if ref is None else await self.fetch(task, ref)


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    name: str | None = None,
    prefix: str = DEFAULT_PREFIX,
    credentials: str | None = None,
    shards: int = 16,
    replicas: int | None = None,
) -> AsyncIterator[Bus]:
    """Connect to the bus as peer `name`; the streams are made when they are missing.

    `url` None: AGENTEXECUTOR_NATS_URL, else nats://127.0.0.1:4222. `name` None: AGENTEXECUTOR_NAME, else ``<user>-<host>``.
    `credentials`: path of a credentials file. `shards` and `replicas` (None: AGENTEXECUTOR_REPLICAS, else 1) count only when the streams are
    made. Streams of a cluster that elects a leader are waited for, up to 30 s. Reconnects for ever. Raises NoBus, ServerTooOld,
    StreamMismatch, ApiError, NameRefused, ReplicasRefused. Errors of the body come out unwrapped.
    """
    opened = open_connection(url, name=name or own_name(), prefix=prefix, credentials=credentials, shards=shards, replicas=replicas)
    async with opened as connection, attached(connection) as bus:
        yield bus


@asynccontextmanager
async def attached(connection: Connection) -> AsyncIterator[Bus]:
    """A Bus on a connection that is there already (and is not closed here)."""
    bus = Bus(connection)
    forget = connection.on_reconnect(bus.look_again)
    try:
        async with listening(connection, connection.subjects.all_to(connection.name), bus.receive):
            yield bus
    finally:
        forget()
        bus.close()
