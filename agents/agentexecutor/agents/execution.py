"""Where an agent's code is called: one award from accept to its last claim (docs/protocol.md section 3)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from agentexecutor.agents.book import Held, LastClaim
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import AgentError, Retry
from agentexecutor.agents.failures import InputBroken, error_of, text_of
from agentexecutor.agents.schedule import schedule
from agentexecutor.bus import telemetry
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.events import log_entries
from agentexecutor.bus.queries import NoAnswer
from agentexecutor.bus.streams import MESSAGE_LIMIT, ROOM
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.bodies import MAX_BODY_DEPTH, lost_number, why_unreadable
from agentexecutor.schemas.codec import H_ID, INLINE_LIMIT, TYPE_OF, decode, encode, headers, to_rfc3339
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import dependencies
from agentexecutor.schemas.references import take

if TYPE_CHECKING:
    from agentexecutor.agents.agent import Handler
    from agentexecutor.agents.hosting import Hosting

__all__ = ["Execution"]

logger = logging.getLogger("agentexecutor.agents")

ACCEPT_HOLD_S = 0.02
"""An accept waits so long: when the work has ended by then, its last claim stands for the accept too."""
STOPS = "the agent stops"
LAST = (m.Done, m.Failed, m.Release)


class InputAway(AgentError):
    """The input cannot be fetched now; another agent, or a later try, may have it."""


class Stopped(AgentError):
    """The handler has obeyed a cancel."""


class Execution:
    """One award in hand. It is the `Host` of its handler's Context."""

    def __init__(self, hosting: Hosting, held: Held, handler: Handler, trace: dict[str, str]) -> None:
        self.held = held
        self.context: Context | None = None
        self._hosting = hosting
        self._award = held.award
        self._task = TaskName.parse(held.award.task)
        self._handler = handler
        self._trace = trace
        self._span: telemetry.Span | None = None
        self._schedule = schedule([(held.award.capability, held.expected_s)], hosting.load().queue_s)
        self._accepted = False
        """An accept was made, or something that stands for it."""
        self._accept_stored = False
        self._said_for_us = False
        """The side thread has said the accept."""
        self._timer: asyncio.TimerHandle | None = None
        self._scope = anyio.CancelScope()
        self._unwanted = False
        self._stopping = False
        self._abandoned = False
        self._runs: asyncio.Task[Any] | None = None
        """What the handler runs in, while it runs."""
        self._cancels = 0
        """How often that was cancelled from here."""
        self._has_slot = False
        self._resuming = anyio.Lock()
        self._waits = 0
        self._early: list[m.FeedbackMessage] = []
        self._extends: dict[str, int] = {}
        """Ae-Id of each extend claim: its call."""
        self._lifted: dict[int, m.SubtaskSpec] = {}
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()

    # its life

    async def run(self) -> None:
        """Wait for a slot, run the handler, send the last claim."""
        self._timer = self._loop.call_later(ACCEPT_HOLD_S, self._accept_soon)
        try:
            with self._scope:
                await self._hosting.slots.take(self.held.order)
                self._has_slot = True
                try:
                    self.held.state = "running"
                    self.held.started = time.monotonic()
                    claim = await self._work()
                finally:
                    self._give_back()
                if not (self._unwanted or self._abandoned):
                    await self._say(claim)
            if self._scope.cancelled_caught and self._hosting.releasing and not self._unwanted:
                await self._release()
        finally:
            if not self._abandoned:
                self._end()

    def _give_back(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._hosting.slots.give_back()

    async def _release(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await self._say(self._claim(m.Release, reason=STOPS))

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._hosting.book.end(self.held)
        telemetry.count(telemetry.METRIC_RUNNING, -1, {telemetry.ATTR_CAPABILITY: self._award.capability})

    def stop(self, grace_s: float) -> None:
        """The subtask is not wanted any more (or the agent gives it up): end the handler, which has so many seconds to clean up."""
        if self._stopping:
            return
        self._stopping = True
        if self.context is not None:
            self.context.cancelled = True
        if self._runs is None:
            self._scope.cancel()
            return
        self._loop.call_later(grace_s, self._overruns)
        if not self._handler.signature.blocking:
            self._cancel()

    def _cancel(self) -> None:
        """Once, so that what the handler awaits while it cleans up is not cancelled too."""
        if self._runs is not None:
            self._cancels += 1
            self._runs.cancel()

    def _overruns(self) -> None:
        """The grace is over: cancel what the clean-up awaits too. Whatever the handler does then, it does without a slot, and unnamed."""
        if self._runs is None:
            return
        logger.warning("Subtask %s of task %s has not ended in time after it was cancelled.", self._award.subtask, self._award.task)
        self._abandoned = True
        self._cancel()
        self._give_back()
        self._hosting.start_soon(self._leave)

    async def _leave(self) -> None:
        """What `run` would do if the handler ended."""
        if not self._unwanted:
            await self._release()
        self._end()
        self._hosting.went()

    @property
    def waiting_for(self) -> int:
        """So many results of children are waited for now."""
        return self._waits

    def cancelled(self, grace_s: float) -> None:
        """A `cancel` came: stop, and send nothing more about it."""
        self._unwanted = True
        self.stop(grace_s)

    def take_feedback(self, given: m.FeedbackMessage) -> None:
        """Feedback came; what comes before the handler has begun is kept for it."""
        if self.context is None:
            self._early.append(given)
        else:
            self._note_feedback(given)
            self.context.take_feedback(given)

    def _note_feedback(self, given: m.FeedbackMessage) -> None:
        if self._span is not None:
            said = {telemetry.ATTR_PEER: given.sender, telemetry.ATTR_REASON: given.verdict or "", telemetry.ATTR_TEXT: given.text}
            self._span.add_event(telemetry.EVENT_FEEDBACK, said)

    async def _work(self) -> m.Claim:
        """Run the handler and give the claim that says how it ended."""
        award = self._award
        attributes = self._attributes() if telemetry.recording() else None
        about = (award.task, telemetry.SPAN_EXECUTE, award.subtask, award.epoch)  # a coordinator tells the span when this agent is lost
        with telemetry.span(telemetry.SPAN_EXECUTE, award.capability, parent=self._trace, attributes=attributes, about=about) as span:
            self._span = span
            if attributes is not None:
                self._trace = telemetry.inject(span) or self._trace
            started = time.monotonic()
            try:
                body = await self._input()
                claim = await self._done(await self._call(body), time.monotonic() - started)
            except (InputAway, Stopped) as error:
                claim = self._claim(m.Release, reason=str(error))
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its failure, not ours
                _log(self._award, error)
                with suppress(Exception):  # it may not even be able to say what it is
                    span.record_exception(error)
                span.set_status(telemetry.StatusCode.ERROR, text_of(error))
                span.set_attribute(telemetry.ATTR_ERROR, type(error).__name__)
                if self._stopping and not isinstance(error, AgentError):  # it was stopped; what it raises on purpose counts
                    claim = self._claim(m.Release, reason=STOPS)
                else:
                    claim = self._failed(error_of(error), time.monotonic() - started, error.after_s if isinstance(error, Retry) else None)
            span.set_attribute(telemetry.ATTR_OUTCOME, TYPE_OF[type(claim)])
        if telemetry.measuring():
            outcome = {telemetry.ATTR_OUTCOME: TYPE_OF[type(claim)], telemetry.ATTR_CAPABILITY: award.capability}
            telemetry.measure(telemetry.METRIC_EXECUTION, time.monotonic() - started, outcome)
        return claim

    def _attributes(self) -> telemetry.Attributes:
        award = self._award
        return {
            telemetry.ATTR_TASK: award.task,
            telemetry.ATTR_SUBTASK: award.subtask,
            telemetry.ATTR_EPOCH: award.epoch,
            telemetry.ATTR_PLAN_VERSION: award.plan_version,
            telemetry.ATTR_ATTEMPT: award.attempt,
            telemetry.ATTR_AGENT: self._hosting.name,
            telemetry.ATTR_BOOT: award.boot,
        }

    async def _call(self, body: bytes | msgspec.Raw) -> Any:
        """The one place where an agent's code is called."""
        arguments = self._handler.signature.arguments(body)
        if self._handler.signature.context is not None:
            self.context = Context(self._award, self, state=self._hosting.state)
            for given in self._early:
                self._note_feedback(given)
                self.context.take_feedback(given)
            arguments = {self._handler.signature.context: self.context, **arguments}
        self._runs = task = asyncio.current_task()
        try:
            if self._handler.signature.blocking:
                call = partial(self._handler.function, **arguments)
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._hosting.threads)
            return await self._handler.function(**arguments)
        except asyncio.CancelledError as error:
            self._take_back_cancels(task)
            if self._scope.cancel_called or (task is not None and task.cancelling()):
                raise
            if self._stopping:
                raise Stopped(STOPS) from error
            raise RuntimeError("The handler was cancelled from inside: it raised CancelledError.") from error
        finally:
            self._take_back_cancels(task)
            self._runs = None

    def _take_back_cancels(self, task: asyncio.Task[Any] | None) -> None:
        """The cancels were for the handler alone."""
        while task is not None and self._cancels:
            self._cancels -= 1
            task.uncancel()

    async def _input(self) -> bytes | msgspec.Raw:
        """The input, large parts fetched and put in. Raises InputAway: nobody answers, which is not the handler's failure."""
        if self._award.input_blob is None and not self._award.fill:
            return self._award.input
        try:
            return await self._fetched_input()
        except NoAnswer as error:
            raise InputAway(f"The input could not be fetched: {error}") from error
        except (BusError, DecodeFailed) as error:
            raise InputBroken(f"The input cannot be put together: {error}") from error

    async def _fetched_input(self) -> bytes | msgspec.Raw:
        award = self._award
        body: bytes | msgspec.Raw = award.input
        if award.input_blob is not None:
            body = await self._hosting.bus.fetch(self._task, award.input_blob)
        if not award.fill:
            return body
        value = msgspec.json.decode(body)
        bodies: dict[str, Any] = {}
        for fill in award.fill:
            if fill.blob.digest not in bodies:
                bodies[fill.blob.digest] = msgspec.json.decode(await self._hosting.bus.fetch(self._task, fill.blob))
            _put(value, fill.at, take(bodies[fill.blob.digest], fill.path, fill.slice))
        return msgspec.json.encode(value)

    async def _done(self, result: Any, took_s: float) -> m.Claim:
        try:
            body = msgspec.json.encode(result)
            number = lost_number(result, body)
            problem = why_unreadable(body, MAX_BODY_DEPTH) if number is None else f"it holds {number}"
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            problem = str(error)
        if problem:
            message = f"The handler of {self._award.capability} returned a {type(result).__name__}, which has no JSON form: {problem}."
            return self._failed(m.ErrorInfo(code="handler", message=message), took_s, None)
        if len(body) > INLINE_LIMIT:
            ref = await self._hosting.bus.put(self._task, body, timeout_s=None)
            return self._ended(m.Done, took_s, result_blob=ref)
        return self._ended(m.Done, took_s, result=msgspec.Raw(body))

    def _failed(self, error: m.ErrorInfo, took_s: float, after_s: float | None) -> m.Claim:
        return self._ended(m.Failed, took_s, error=error, retry_after_s=after_s)

    # claims

    def _ended(self, cls: type[m.Claim], took_s: float, **fields: Any) -> m.Claim:
        """A `done` or `failed`: what both tell."""
        usage = {} if self.context is None else dict(self.context.usage)
        return self._claim(cls, took_s=took_s, usage=usage, schedule=self._schedule_if_new(), **fields)

    def _schedule_if_new(self) -> list[m.Step]:
        return [] if self._accepted else self._schedule

    def _claim(self, cls: type[m.Claim], **fields: Any) -> m.Claim:
        award = self._award
        return cls(subtask=award.subtask, epoch=award.epoch, boot=award.boot, load=self._hosting.load(), **fields)

    async def _say(self, claim: m.Claim) -> None:
        """Store a claim; it is the one that is said again when it is asked for."""
        if self._timer is not None and isinstance(claim, LAST):
            self._timer.cancel()
        self.held.last = self._sendable(claim)
        await self._hosting.store(self._task, self.held.last)

    def _sendable(self, claim: m.Claim) -> LastClaim:
        """What no coordinator would take would keep the subtask open for ever: say so instead."""
        try:
            last = self._made(claim)
            problem = f"{len(last.payload)} bytes are too many" if len(last.payload) > MESSAGE_LIMIT - ROOM else ""
            if isinstance(claim, m.Failed):
                decode("failed", last.payload)
        except (DecodeFailed, TypeError, ValueError, RecursionError, OverflowError) as error:
            problem = text_of(error)
        if not problem:
            return last
        return self._made(self._failed(m.ErrorInfo(code="handler", message=f"How the work ended cannot be sent: {problem}."), 0.0, None))

    def _made(self, claim: m.Claim) -> LastClaim:
        kind = TYPE_OF[type(claim)]
        return LastClaim(kind, encode(claim), headers(kind, self._trace))

    def _accept_soon(self) -> None:
        if not self._accepted and not self._unwanted:
            self._accepted = True
            self._hosting.start_soon(self._accept)

    async def _accept(self) -> None:
        with suppress(AgentExecutorError):
            await self._hosting.store(self._task, self._accept_claim())
            self._accept_stored = True

    def _accept_claim(self) -> LastClaim:
        last = self._made(self._claim(m.Accept, schedule=self._schedule))
        if self.held.last is None:
            self.held.last = last
        return last

    def overdue_accept(self) -> tuple[TaskName, LastClaim] | None:
        """The accept that a blocked main loop cannot send, once; it may have been made there, and stand in its way. Called from the side thread."""
        if self._accept_stored or self._said_for_us or self._unwanted:
            return None
        self._accepted = self._said_for_us = True
        return self._task, self._accept_claim()

    # the handler's host

    def tell(self, **progress: Any) -> None:
        award = self._award
        said = m.Progress(subtask=award.subtask, epoch=award.epoch, boot=award.boot, at=to_rfc3339(time.time()), **progress)
        if threading.get_ident() == self._thread:
            self._hosting.tell(self._task, said, self._trace)
        else:
            self._loop.call_soon_threadsafe(self._hosting.tell, self._task, said, self._trace)

    def scheduled(self, steps: list[m.Step]) -> None:
        self._schedule = steps
        self.held.expected_s = sum(step.duration_s for step in steps)
        if self._accepted:
            self.tell(schedule=steps)
        else:
            self._accept_soon()

    async def extend(self, call: int, child: m.SubtaskSpec) -> None:
        if len(child.input) > INLINE_LIMIT:
            child = self._lifted.get(call) or await self._lift(call, child)
        made = headers("extend", self._trace)
        self._extends[made[H_ID]] = call
        await self._hosting.store(self._task, LastClaim("extend", encode(self._claim(m.Extend, call=call, child=child)), made))

    async def _lift(self, call: int, child: m.SubtaskSpec) -> m.SubtaskSpec:
        """The child with its large input stored, and named by reference."""
        ref = await self._hosting.bus.put(self._task, bytes(child.input))
        self._lifted[call] = msgspec.structs.replace(child, input=m.EMPTY, input_blob=ref, after=dependencies(child))
        return self._lifted[call]

    async def say(self, said: m.FeedbackClaim) -> None:
        """Feedback by the holder."""
        await self._hosting.store(self._task, LastClaim("feedback", encode(said), headers("feedback-claim", self._trace)))

    def refused(self, id: str, error: m.ErrorInfo) -> bool:
        """A coordinator cannot use the claim with this Ae-Id: an `extend` fails its child. False: it was none of this subtask's."""
        call = self._extends.get(id)
        if call is not None and self.context is not None:
            self.context.child_ended(m.Result(task=self._award.task, subtask=self._award.subtask, call=call, state="failed", error=error))
        return call is not None or (self.held.last is not None and self.held.last.headers[H_ID] == id)

    @asynccontextmanager
    async def waits(self) -> AsyncIterator[None]:
        self._waits += 1
        if self._waits == 1:
            self.held.state = "waiting"
            self._hosting.offer_changed()
            self._give_back()
        try:
            yield
        finally:
            self._waits -= 1
            with anyio.CancelScope(shield=True):
                await self._resume()

    async def _resume(self) -> None:
        """Have the one slot again, unless others of the handler wait for children (again), or have got it back."""
        async with self._resuming:
            if self._waits or self._stopping or self._has_slot:
                return
            await self._hosting.slots.take_again()
            if self._waits:
                self._hosting.slots.give_back()
                return
            self._has_slot = True
            self.held.state = "running"
            self._hosting.offer_changed()

    async def body(self, result: m.Result) -> bytes:
        return await self._hosting.bus.body(self._task, result.result, result.result_blob)

    def records(self) -> AsyncGenerator[r.LogEntry, None]:
        return log_entries(self._hosting.bus, self._task)


def _log(award: m.Award, error: BaseException) -> None:
    """What an author wants to see: where their code failed. What they raised on purpose is a line."""
    meant = isinstance(error, AgentError)
    text = "Subtask %s of task %s (%s, attempt %d) failed: %s"
    level = logging.INFO if meant else logging.WARNING
    logger.log(level, text, award.subtask, award.task, award.capability, award.attempt, text_of(error), exc_info=None if meant else error)


def _put(value: Any, at: list[str | int], part: Any) -> None:
    for step in at[:-1]:
        value = value[step]
    value[at[-1]] = part
