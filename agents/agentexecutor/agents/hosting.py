"""Serving: awards, calls, cancels and feedback arrive here and become executions; a side thread keeps the offers and coordinates."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.bidding import answer_call
from agentexecutor.agents.book import Book, Held, LastClaim, What
from agentexecutor.agents.errors import AgentError
from agentexecutor.agents.execution import Execution
from agentexecutor.agents.side import Side
from agentexecutor.agents.slots import Slots
from agentexecutor.bus import telemetry
from agentexecutor.bus.client import Bus, attached
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.errors import only_of
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, WireError
from agentexecutor.schemas.names import TaskName, new_boot

__all__ = ["Hosting", "serve"]

logger = logging.getLogger("agentexecutor.agents")

GRACE_S = 5.0
"""How long what runs may go on when the agent stops; then it is released. Also the grace for what a newer award replaces."""
END_S = 1.0
OFFER_LIMIT = 262_144
TRACE = ("traceparent", "tracestate")


class Hosting:
    """An agent that serves. Made by `serve`."""

    def __init__(self, agent: Agent, bus: Bus, group: anyio.abc.TaskGroup) -> None:
        self.agent = agent
        self.bus = bus
        self.name = bus.name
        self.boot = new_boot()
        self.book = Book(self.boot, agent.capacity)
        self.slots = Slots(agent.capacity)
        self.threads = anyio.CapacityLimiter(max(40, agent.capacity))
        self.state: Any = None
        self.releasing = False
        self.over: AgentError | None = None
        """Why it cannot go on: a newer process has this name, or its offers cannot be kept."""
        self.side: Side | None = None
        self._group = group
        self._offered = [handler.offered() for handler in agent.handlers.values()]
        self.stubborn = 0
        """So many handlers could not be ended."""
        self._idle = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    # what executions need

    def load(self) -> m.Load:
        """How busy the agent is."""
        if self.slots.free > 0:
            return m.Load(running=self.agent.capacity - self.slots.free)
        return self.book.load(time.monotonic())

    def offer(self) -> m.Offer:
        """The standing offer as it is now. Called from the side thread too."""
        return m.Offer(
            boot=self.boot,
            capabilities=self._offered,
            capacity=self.agent.capacity,
            labels=self.agent.labels,
            running=self.book.running(),
            queue_s=self.load().queue_s,
            accepting=not self.book.draining,
        )

    def offer_changed(self) -> None:
        """Have the offer published now, not only at the next beat."""
        if self.side is not None:
            self.side.publish_soon()

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
        """Run something beside; it ends with the hosting at the latest."""
        task = self._loop.create_task(function(*arguments))  # a task group's start costs as much as an execution
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Something went wrong in agent %s.", self.name, exc_info=error)

    async def end(self) -> None:
        """Stop whatever still runs beside. A handler that swallows every cancel is left behind (`stubborn`): its work was given back already."""
        for held in list(self.book.held.values()):
            held.host.stop(0.0)  # one that runs in a thread sees that it is cancelled
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=END_S)
            self.stubborn = len(left)

    async def store(self, task: TaskName, claim: LastClaim) -> None:
        """Store a claim, however long it takes."""
        connection = self.bus.connection
        await connection.store(connection.subjects.claim(self.name, claim.kind, task), claim.payload, claim.headers)

    def tell(self, task: TaskName, progress: m.Progress, trace: dict[str, str]) -> None:
        """Publish progress."""
        self.start_soon(self._publish, self.bus.connection.subjects.progress(self.name, task), progress, "progress", trace)

    async def _publish(self, subject: str, message: m.Message, kind: str, trace: dict[str, str] | None = None) -> None:
        try:
            await self.bus.connection.publish(subject, encode(message), headers(kind, trace))
        except AgentExecutorError as error:
            logger.warning("A %s message could not be sent: %s", kind, error)

    # what arrives

    async def on_award(self, task: TaskName, message: m.Message, got: dict[str, str]) -> None:
        if not isinstance(message, m.Award):
            return
        what, older, again = self.book.judge(message)
        trace = {name: got[name] for name in TRACE if name in got}
        if what is What.AGAIN and again is not None:
            self.start_soon(self.store, task, again)
        elif what is What.DECLINE or (what is What.RUN and message.capability not in self.agent.handlers):
            reason = "stopping" if self.book.draining else "queue full" if what is What.DECLINE else f"no handler for {message.capability}"
            decline = m.Decline(subtask=message.subtask, epoch=message.epoch, boot=self.boot, reason=reason, load=self.load())
            self.start_soon(self.store, task, LastClaim("decline", encode(decline), headers("decline", trace)))
        elif what is What.RUN:
            if older is not None:
                older.host.cancelled(GRACE_S)
            handler = self.agent.handlers[message.capability]
            held = Held(message, expected_s=handler.estimate_s or 0.0)
            held.host = Execution(self, held, handler, trace)
            self.book.take(held)
            telemetry.count(telemetry.METRIC_RUNNING, 1, {telemetry.ATTR_CAPABILITY: message.capability})
            self.start_soon(self._run, held)

    async def _run(self, held: Held) -> None:
        try:
            await held.host.run()
        except AgentExecutorError as error:
            logger.warning("Subtask %s of %s: %s", held.award.subtask, held.award.task, error)
        finally:
            self.went()

    def went(self) -> None:
        """A subtask is in hand no more."""
        if not self.book.held:
            self._idle.set()
            self._idle = anyio.Event()

    async def on_call(self, task: TaskName, message: m.Message, got: dict[str, str]) -> None:
        if isinstance(message, m.Call):
            self.start_soon(self._bid, task, message, {name: got[name] for name in TRACE if name in got})

    async def _bid(self, task: TaskName, call: m.Call, trace: dict[str, str]) -> None:
        handler = self.agent.handlers.get(call.capability)
        subject = self.bus.connection.subjects.bid(self.name, call.shard, task)
        answer: m.Bid | m.Refusal
        try:
            if self.book.draining:
                answer = m.Refusal(subtask=call.subtask, call=call.call, boot=self.boot, reason="stopping")
            elif handler is None or not self._has(call.labels):
                answer = m.Refusal(
                    subtask=call.subtask, call=call.call, boot=self.boot, reason="it has not this capability with these labels"
                )
            else:
                if handler.bid is not None and call.input_blob is not None:
                    call = replace(call, input=Raw(await self.bus.fetch(task, call.input_blob, timeout_s=call.reply_by_s)))
                answer = await answer_call(call, self.boot, self.agent.capacity, self.load(), handler.estimate_s, handler.cost, handler.bid)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            logger.exception("The bid function of %s failed.", call.capability)
            answer = m.Refusal(subtask=call.subtask, call=call.call, boot=self.boot, reason=f"bid function failed: {error}"[:200])
        await self._publish(subject, answer, "bid" if isinstance(answer, m.Bid) else "refusal", trace)

    def _has(self, labels: dict[str, str]) -> bool:
        return labels.items() <= self.agent.labels.items()

    async def on_broadcast(self, message: Msg) -> None:
        """A call to everybody with the capability."""
        got = message.headers or {}
        try:
            call = decode(got.get(H_TYPE), message.data)
            task = TaskName.parse(call.task) if isinstance(call, m.Call) else None
        except WireError:
            self.bus.count_undecodable()
            return
        if task is not None and isinstance(call, m.Call) and self._has(call.labels):  # who is not meant stays silent
            await self.on_call(task, call, got)

    async def on_cancel(self, _task: TaskName, message: m.Message, _got: dict[str, str]) -> None:
        if isinstance(message, m.Cancel):
            held = self.book.cancelled((message.task, message.subtask), message.epoch)
            if held is not None:
                held.host.cancelled(message.grace_s)

    async def on_feedback(self, _task: TaskName, message: m.Message, _got: dict[str, str]) -> None:
        if isinstance(message, m.FeedbackMessage):
            for held in list(self.book.held.values()):
                wanted = message.subtask in (None, held.award.subtask)
                if held.award.task == message.task and wanted:
                    held.host.take_feedback(message)

    async def on_result(self, _task: TaskName, message: m.Message, _got: dict[str, str]) -> None:
        if isinstance(message, m.Result) and message.subtask is not None:
            held = self.book.held.get((message.task, message.subtask))
            if held is not None and held.host.context is not None:
                held.host.context.child_ended(message)

    async def on_refused(self, task: TaskName, message: m.Message, _got: dict[str, str]) -> None:
        if isinstance(message, m.Refused):
            mine = [held for held in self.book.held.values() if held.award.task == str(task)]
            if not any(held.host.refused(message.id, message.error) for held in mine):
                logger.info("A claim about task %s came too late: %s", task, message.error.message)
            else:
                logger.warning("A claim about task %s was refused: %s", task, message.error.message)

    # its end

    async def drain(self, grace_s: float = GRACE_S) -> None:
        """Take nothing new, let what runs finish, release what does not finish in time."""
        self.book.draining = True
        self.offer_changed()
        with anyio.move_on_after(grace_s):
            while self.book.held:
                await self._idle.wait()
        self.releasing = True
        with anyio.move_on_after(grace_s):
            while self.book.held:
                for held in list(self.book.held.values()):
                    held.host.stop(grace_s / 2)
                await self._idle.wait()

    def give_up(self, error: AgentError) -> None:
        """It cannot go on: stop at once."""
        self.over = error
        self._group.cancel_scope.cancel()


@asynccontextmanager
async def serve(agent: Agent, bus: Bus, *, name: str | None = None, coordinate: bool = True) -> AsyncIterator[Hosting]:
    """See `Agent.serve`."""
    if not agent.handlers:
        raise AgentError(f"Agent {agent.name!r} has no capabilities.", hint="Decorate a function with @agent.capability(...).")
    async with AsyncExitStack() as stack:
        state = await _enter_lifespan(stack, agent)
        own = bus.connection
        connection = await stack.enter_async_context(
            open_connection(own.url, name=name or agent.name, prefix=own.prefix, credentials=own.credentials)
        )
        own_bus = await stack.enter_async_context(attached(connection))
        raised: BaseException | None = None
        hosting: Hosting | None = None
        try:
            async with anyio.create_task_group() as group:
                hosting = Hosting(agent, own_bus, group)
                hosting.state = state
                _check_offer(hosting)
                await _listen(hosting)
                try:
                    async with Side(hosting, asyncio.get_running_loop(), coordinate=coordinate).running() as hosting.side:
                        try:
                            yield hosting
                        except BaseException as error:  # noqa: BLE001  # given on unwrapped, below
                            raised = error
                        if hosting.over is None:
                            with anyio.CancelScope(shield=True):
                                await hosting.drain()
                finally:
                    with anyio.CancelScope(shield=True):
                        await hosting.end()
        except BaseExceptionGroup as group_error:
            raise (raised or only_of(group_error)) from None
        if hosting is not None and hosting.over is not None:
            raise hosting.over
        if raised is not None:
            raise raised


async def _enter_lifespan(stack: AsyncExitStack, agent: Agent) -> Any:
    if agent.lifespan is None:
        return None
    manager = agent.lifespan()
    if hasattr(manager, "__aenter__"):
        return await stack.enter_async_context(manager)
    return stack.enter_context(manager)


def _check_offer(hosting: Hosting) -> None:
    """An offer that coordinators cannot use would make the agent invisible. Raises AgentError."""
    try:
        payload = encode(hosting.offer())
        decode("offer", payload)
    except (DecodeFailed, TypeError, ValueError) as error:
        raise AgentError(
            f"What agent {hosting.agent.name!r} offers cannot be sent: {error}.", hint="Correct its labels or capabilities."
        ) from error
    if len(payload) > OFFER_LIMIT:
        raise AgentError(
            f"What agent {hosting.agent.name!r} offers has {len(payload)} bytes, more than {OFFER_LIMIT}.",
            hint="Shorten its labels, or the annotations of its handlers; or make two agents of it.",
        )


async def _listen(hosting: Hosting) -> None:
    bus = hosting.bus
    bus.on_message("award", hosting.on_award)
    bus.on_message("call", hosting.on_call)
    bus.on_message("cancel", hosting.on_cancel)
    bus.on_message("feedback", hosting.on_feedback)
    bus.on_message("result", hosting.on_result)
    bus.on_message("refused", hosting.on_refused)
    for capability in hosting.agent.handlers:
        await bus.connection.subscribe(bus.connection.subjects.call(capability), hosting.on_broadcast)
    await bus.connection.nats.flush()  # the first offer goes out on another connection, and must not be faster
