"""A client's handle for a task: its result, its events, its state; cancel and feedback (docs/protocol.md section 7)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import anyio
import msgspec
from nats.aio.msg import Msg

from agentexecutor.bus import telemetry as t
from agentexecutor.bus.connection import Headers
from agentexecutor.bus.errors import BusClosed, BusError, StoreTimeout, TaskCancelled, TaskFailed, TaskLost, TaskRefused, TaskTimeout
from agentexecutor.bus.events import follow_events, read_log
from agentexecutor.bus.outcome import Outcome
from agentexecutor.bus.versions import plan_versions
from agentexecutor.bus.watch import listening
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_STATE, INLINE_LIMIT, decode_as, decode_record, encode, headers
from agentexecutor.schemas.errors import DecodeFailed, PlanRefused, TooLarge
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback

if TYPE_CHECKING:
    from agentexecutor.bus.client import Bus

__all__ = ["Noted", "Submitted", "Task"]

T = TypeVar("T")
ASK_AFTER_S = (2.0, 5.0, 15.0, 30.0, 60.0)
"""A client that waits for a result asks after so many seconds, the last for ever."""
ANSWER_S = 5.0
"""Seconds for the answer to such a question; without one the waiting goes on."""
RESUBMIT = 0.5
"""Of the time that ended tasks are kept: later nobody can tell whether the task has been."""
DAY_S = 24 * 3600
STORE_S = 60.0
NOTED_S = 5.0
"""Seconds to wait until a cancel or feedback is on record, or refused."""


class Submitted(NamedTuple):
    """A submit as it was sent, for sending it again. `at`: when it was first stored, monotonic seconds."""

    subject: str
    payload: bytes
    headers: Headers
    at: float


class Noted(NamedTuple):
    """What a coordinator has recorded of feedback. `version`: of the plan, when the feedback has led to one in the same record."""

    given: r.FeedbackGiven
    version: int | None = None


class Task:
    """A handle for a task. Made by `Bus.submit` and `Bus.task`; handles of one task are interchangeable."""

    def __init__(self, bus: Bus, task: TaskName, outcome: Outcome, submitted: Submitted | None = None) -> None:
        self._bus = bus
        self._task = task
        self._outcome = outcome
        self._submitted = submitted
        self._trace_id = None if submitted is None else t.trace_id_of(submitted.headers)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def name(self) -> str:
        """The full name, ``<owner>.<id>``."""
        return str(self._task)

    @property
    def task_name(self) -> TaskName:
        """The full name, taken apart."""
        return self._task

    @property
    def trace_id(self) -> str | None:
        """The trace in which the task is found, 32 hex digits; None when nobody traces, or before a coordinator has told."""
        return self._trace_id

    # the result

    @overload
    async def result(self, *, timeout_s: float | None = None) -> Any: ...
    @overload
    async def result(self, type: type[T], *, timeout_s: float | None = None) -> T: ...
    async def result(self, type: Any = Any, *, timeout_s: float | None = None) -> Any:
        """Wait for the result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TaskRefused, TaskLost (nobody knows the task), TaskTimeout after `timeout_s` (the task goes on),
        DecodeFailed (the result is no `type`), BusClosed.
        """
        if timeout_s is None:
            return await self._converted(type)
        with anyio.move_on_after(timeout_s):
            return await self._converted(type)
        raise TaskTimeout(
            f"Task {self.name} has not ended within {timeout_s:g} s.", hint="It goes on; ask for its result again.", task=self.name
        )

    async def _converted(self, type: Any) -> Any:
        ended = self._told() or await self._ended()
        self._raise_unless_completed(ended)
        return decode_as(type, await self._bus.body(self._task, ended.result, ended.result_blob))

    async def _ended(self) -> m.Result:
        """How the task ended: heard from its coordinator, or asked for, at first soon and then every minute."""
        delays = chain(() if self._submitted is not None else (0.0,), ASK_AFTER_S, repeat(ASK_AFTER_S[-1]))
        async with self._noticing_the_end():
            while (ended := self._told()) is None:
                await self._outcome.wait(next(delays))
                await self._look_until_told()
        return ended

    def _told(self) -> m.Result | None:
        """The task's end, when it was told. Raises TaskRefused, BusClosed."""
        if self._submitted is not None and (error := self._outcome.refusal(self._submitted.headers[H_ID])) is not None:
            raise self._refused(error)
        if self._outcome.result is None and self._outcome.closed:
            raise BusClosed(
                f"The connection was closed before task {self.name} ended.", hint="Connect again, and ask for its result.", task=self.name
            )
        return self._outcome.result

    async def _look_until_told(self) -> None:
        """Look, unless the end is told meanwhile; again when something else was, such as that the connection is back. Raises what `_told` raises."""
        interrupted = True
        while interrupted and self._told() is None:
            with self._outcome.interrupting() as scope:
                await self._look()
            interrupted = scope.cancelled_caught

    async def _look(self) -> None:
        """Ask how the task stands, and submit it again when nobody knows it. Raises TaskLost; without an answer nothing happens."""
        try:
            state = await self.state(timeout_s=ANSWER_S)
        except BusClosed:
            raise
        except (BusError, DecodeFailed):
            return
        if state.state in m.ENDED:
            end = m.Result(
                task=self.name,
                state=state.state,  # type: ignore[arg-type]  # one of the three
                result=state.result,
                result_blob=state.result_blob,
                error=state.error,
            )
            self._outcome.ended(end)
        elif state.state == "unknown":
            await self._submit_again(state.keep_s)

    async def _submit_again(self, keep_s: float) -> None:
        kept = f"{keep_s / DAY_S:g} days" if keep_s >= DAY_S else f"{keep_s:g} s"
        if self._submitted is None:
            raise TaskLost(
                f"Nobody knows a task {self.name}.",
                hint=f"Is the name right (<owner>.<id>)? Ended tasks are kept for {kept}. Only who submitted it can submit it again.",
                task=self.name,
            )
        left = self._submitted.at + RESUBMIT * keep_s - time.monotonic()
        if left <= 0:
            raise TaskLost(
                f"Nobody knows task {self.name} any more, and it is too old to be submitted again: ended tasks are kept for {kept}.",
                hint="It may have been executed: look for its effects before you submit it under another id.",
                task=self.name,
            )
        t.count(t.METRIC_RESUBMITS)
        with suppress(StoreTimeout):
            await self._bus.connection.store(*self._submitted[:3], timeout_s=min(STORE_S, left))

    def _raise_unless_completed(self, ended: m.Result) -> None:
        error = ended.error
        if ended.state == "failed":
            error = error or m.ErrorInfo(code="handler", message="no reason was given")
            raise TaskFailed(
                f"Task {self.name} failed ({error.code}): {error.message}",
                hint=f"`agentexecutor show {self.name}` tells more.",
                task=self.name,
                error=error,
            )
        if ended.state == "cancelled":
            reason = error.message if error is not None else ""
            raise TaskCancelled(f"Task {self.name} was cancelled{f': {reason}' if reason else '.'}", task=self.name, reason=reason)

    def _refused(self, error: m.ErrorInfo) -> TaskRefused:
        return TaskRefused(f"Task {self.name} was refused: {error.message}", task=self.name, error=error)

    # looking

    async def state(self, *, timeout_s: float = 10.0) -> v.StateView:
        """How the task stands: waiting, submitted, running, completed, failed, cancelled or unknown. Raises NoAnswer."""
        state = await self._bus.ask_body(v.StateView, "task", self._task, m.Ask(what="state"), timeout_s=timeout_s)
        self._trace_id = self._trace_id or state.trace_id
        return state

    async def view(self, *, timeout_s: float = 10.0) -> v.TaskView:
        """All of it, as ``show`` prints it. Raises TaskLost (nobody knows it), NoAnswer."""
        view = await self._bus.ask_body(v.TaskView, "task", self._task, m.Ask(what="view"), timeout_s=timeout_s)
        if view.state == "unknown":
            raise TaskLost(f"Nobody knows a task {self.name}.", hint="Is the name right (<owner>.<id>)?", task=self.name)
        self._trace_id = self._trace_id or view.trace_id
        return view

    async def plan_versions(self) -> list[v.PlanVersion]:
        """Every version of the plan, oldest first: the difference, why it was made, and the plan that it led to. Raises TaskLost, BusError."""
        await self.view()
        return plan_versions(await read_log(self._bus, self._task))

    def events(self) -> AsyncGenerator[v.Event, None]:
        """Everything that happens to the task, from its first event on; ends with the task's own end.

        Raises TaskLost, TaskRefused (there will be no events), BusClosed.
        """
        return follow_events(self._bus, self._task, self._outcome, self._look_for_it)

    async def _look_for_it(self) -> None:
        await self._look_until_told()
        self._told()

    # acting

    async def cancel(self, reason: str = "") -> None:
        """End the task, and wait up to 5 s until that is on record. Raises StoreTimeout, TaskRefused."""
        if self._outcome.result is None:
            await self._say("cancel", "cancel-task", m.CancelTask(reason=reason), over=lambda: self._outcome.result is not None)

    async def feedback(self, feedback: Feedback, *, sender: str | None = None) -> Noted | None:
        """Say something about the task or a subtask, and wait up to 5 s until it is on record. Raises StoreTimeout, TaskRefused.

        `sender`: who says it and is on record, the task's owner unless given: a critic gives its own name. Gives what is on record; None: nothing yet, or
        so much at once that it stands in another record.
        """
        id, record = await self._say("feedback", "feedback-claim", feedback.claim(), sender)
        return None if record is None else _noted(record, id)

    async def _say(
        self, kind: str, type: str, content: m.Message, sender: str | None = None, *, over: Callable[[], bool] = lambda: False
    ) -> tuple[str, r.Record | None]:
        """Store a claim, and wait until a record answers it, a coordinator refuses it, or it is `over`. Gives its id, and the record if one came."""
        connection = self._bus.connection
        payload = _encoded(kind, content)
        made = headers(type, t.inject())
        id = made[H_ID]
        noted: r.Record | None = None

        async def came(message: Msg) -> None:
            nonlocal noted
            with suppress(DecodeFailed):
                record = decode_record(message.data)
                noted = noted or (record if id in record.applied else None)
            if noted:
                self._outcome.wake()

        self._outcome.expect(id)
        try:
            peer = sender or self._task.owner
            refusals = connection.subjects.to(peer, "refused", self._task)
            hearing = nullcontext() if peer == self._bus.name else listening(connection, refusals, self._bus.receive)
            async with hearing, listening(connection, connection.subjects.watch(self._task), came):
                subject = connection.subjects.claim(peer, kind, self._task)
                await connection.store(subject, payload, made, timeout_s=STORE_S)
                with anyio.move_on_after(NOTED_S):
                    while not (noted or over() or self._outcome.refusal(id) or self._outcome.closed):
                        await self._outcome.wait(NOTED_S)
            if (error := self._outcome.refusal(id)) is not None:
                raise TaskRefused(f"The {kind} for task {self.name} was refused: {error.message}", task=self.name, error=error)
            return id, noted
        finally:
            self._outcome.forget(id)

    def _noticing_the_end(self) -> AbstractAsyncContextManager[None]:
        """For a task of somebody else, whose result is sent to them: wake up when its last record goes by."""
        connection = self._bus.connection
        if self._task.owner == self._bus.name:
            return nullcontext()

        async def came(message: Msg) -> None:
            if (message.headers or {}).get(H_STATE) in m.ENDED:
                self._outcome.wake()

        return listening(connection, connection.subjects.watch(self._task), came)


def _noted(record: r.Record, id: str) -> Noted | None:
    """What a record says about the feedback with this id."""
    given = next((change for change in record.changes if isinstance(change, r.FeedbackGiven) and change.id == id), None)
    if given is None:
        return None
    versions = [change for change in record.changes if isinstance(change, r.Planned) and change.cause == "replan"]
    return Noted(given, next((made.version for made in versions if any(why.feedback == id for why in made.why)), None))


def _encoded(kind: str, content: m.Message) -> bytes:
    """Raises PlanRefused (text that is none), TooLarge."""
    try:
        payload = encode(content)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise PlanRefused(f"The {kind} cannot be sent: {error}.", hint="Text holds no lone surrogates.") from error
    if len(payload) > INLINE_LIMIT:
        raise TooLarge(
            f"The {kind} has {len(payload)} bytes, more than {INLINE_LIMIT}.",
            hint="Say it shorter, and name where the rest can be read.",
            size=len(payload),
            limit=INLINE_LIMIT,
        )
    return payload
