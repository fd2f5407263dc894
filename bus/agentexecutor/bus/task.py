"""A client's handle for a task: its result, its events, its state; cancel and feedback (docs/protocol.md section 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import msgspec

from agentexecutor.bus.connection import Headers
from agentexecutor.bus.errors import BusError, TaskCancelled, TaskFailed, TaskLost, TaskRefused, TaskTimeout
from agentexecutor.bus.events import follow_events, until_applied
from agentexecutor.bus.telemetry import trace_id_of
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_TRACEPARENT
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback

if TYPE_CHECKING:
    from agentexecutor.bus.client import Bus

__all__ = ["Outcome", "Task"]

T = TypeVar("T")
ASK_AFTER_S = (2.0, 5.0, 15.0, 30.0, 60.0)
RESUBMIT_S = 3.5 * 24 * 3600
"""Half the keeping time: later nobody can tell whether the task has been."""
APPLIED_S = 5.0


class Outcome:
    """How a task ended, as far as this peer was told."""

    def __init__(self) -> None:
        self.result: m.Result | None = None
        self.refusals: dict[str, m.Refused] = {}
        self.news = anyio.Event()

    def ended(self, result: m.Result) -> None:
        self.result = result
        self._tell()

    def refused(self, refused: m.Refused) -> None:
        self.refusals[refused.id] = refused
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()


class Task:
    """A handle. Made by `Bus.submit` and `Bus.task`; handles of one task are interchangeable."""

    def __init__(self, bus: Bus, task: TaskName, outcome: Outcome, *, submitted: tuple[str, bytes, Headers] | None = None) -> None:
        self._bus = bus
        self._task = task
        self._outcome = outcome
        self._submitted = submitted
        self._first_at = anyio.current_time()
        self._trace_id = trace_id_of(submitted[2].get(H_TRACEPARENT)) if submitted is not None else None

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def name(self) -> str:
        """The full name, ``<owner>.<id>``."""
        return str(self._task)

    @property
    def trace_id(self) -> str | None:
        """The trace in which the task is found, 32 hex digits; None when nobody traces (or, for a task by name, before `state`)."""
        return self._trace_id

    async def store(self, timeout_s: float | None) -> None:
        """Store the submit (again). Raises StoreTimeout, StoreRefused, TooLarge."""
        if self._submitted is None:
            raise TaskLost(f"Task {self.name} was not submitted by this process.", task=self.name)
        klass, payload, made = self._submitted
        connection = self._bus.connection
        await connection.store(connection.subjects.submit(self._task, klass), payload, made, timeout_s=timeout_s)

    # the result

    async def result(self, type: type[T] | Any = Any, *, timeout_s: float | None = None) -> T:
        """Wait for the result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TaskRefused, TaskLost, and TaskTimeout after `timeout_s` (the task goes on). What does not convert
        raises msgspec.ValidationError.
        """
        try:
            with anyio.fail_after(timeout_s):
                ended = await self._wait()
        except TimeoutError:
            raise TaskTimeout(
                f"Task {self.name} has not ended within {timeout_s:g} s.", hint="It goes on; ask for its result again.", task=self.name
            ) from None
        self._raise_unless_completed(ended)
        body = await self._bus.body(self._task, ended.result, ended.result_blob)
        converted: T = msgspec.json.decode(body, type=type)
        return converted

    async def _wait(self) -> m.Result:
        delays = iter(ASK_AFTER_S if self._submitted is not None else (0.0, *ASK_AFTER_S))
        while True:
            delay = next(delays, ASK_AFTER_S[-1])
            with anyio.move_on_after(delay):
                while not self._told():
                    await self._outcome.news.wait()
            if self._outcome.result is not None:
                return self._outcome.result
            self._raise_if_refused()
            await self._look()

    def _told(self) -> bool:
        return self._outcome.result is not None or self._submit_id in self._outcome.refusals

    @property
    def _submit_id(self) -> str:
        return "" if self._submitted is None else self._submitted[2][H_ID]

    def _raise_if_refused(self) -> None:
        refused = self._outcome.refusals.get(self._submit_id)
        if refused is not None:
            raise TaskRefused(f"Task {self.name} was refused: {refused.error.message}", task=self.name, error=refused.error)

    async def _look(self) -> None:
        """Ask how the task stands; submit it again when nobody knows it."""
        try:
            state = await self.state()
        except BusError:
            return
        if state.state in ("completed", "failed", "cancelled") and self._outcome.result is None:
            self._outcome.ended(
                m.Result(task=self.name, state=state.state, result=state.result, result_blob=state.result_blob, error=state.error)  # type: ignore[arg-type]  # one of the three
            )
        elif state.state == "unknown":
            if self._submitted is None or anyio.current_time() - self._first_at > RESUBMIT_S:
                raise TaskLost(
                    f"Nobody knows a task {self.name}.",
                    hint="Ended tasks are kept for 7 days. Is the name right (<owner>.<id>)?",
                    task=self.name,
                )
            await self.store(None)

    def _raise_unless_completed(self, ended: m.Result) -> None:
        if ended.state == "failed":
            error = ended.error or m.ErrorInfo(code="handler", message="no reason given")
            raise TaskFailed(
                f"Task {self.name} failed ({error.code}): {error.message}",
                hint=f"agentexecutor show {self.name}",
                task=self.name,
                error=error,
            )
        if ended.state == "cancelled":
            reason = ended.error.message if ended.error is not None else ""
            raise TaskCancelled(f"Task {self.name} was cancelled. {reason}".strip(), task=self.name, reason=reason)

    # looking and acting

    async def state(self) -> v.StateView:
        """How the task stands: waiting, submitted, running, completed, failed, cancelled or unknown. Raises BusError when no coordinator answers."""
        state = await self._bus.ask_body(v.StateView, "task", self._task, m.Ask(what="state"))
        self._trace_id = self._trace_id or state.trace_id
        return state

    async def view(self) -> v.TaskView:
        """All of it, as ``show`` prints it. Raises TaskLost when nobody knows it, BusError when no coordinator answers."""
        view = await self._bus.ask_body(v.TaskView, "task", self._task, m.Ask(what="view"))
        if view.state == "unknown":
            raise TaskLost(f"Nobody knows a task {self.name}.", hint="Is the name right (<owner>.<id>)?", task=self.name)
        self._trace_id = self._trace_id or view.trace_id
        return view

    def events(self) -> AsyncIterator[v.Event]:
        """Everything that happens to the task, from its first event on; ends with the task."""
        return follow_events(self._bus, self._task)

    async def cancel(self, reason: str = "") -> None:
        """End the task, and wait (a little) until that is on record. Only its owner may."""
        await self._say("cancel", m.CancelTask(reason=reason), "cancel-task")

    async def feedback(self, feedback: Feedback) -> None:
        """Say something about the task or a subtask, and wait (a little) until it is on record. Raises TaskRefused when it cannot be used."""
        data = m.NULL if feedback.data is None else msgspec.Raw(msgspec.json.encode(feedback.data))
        said = m.FeedbackClaim(subtask=feedback.subtask, verdict=feedback.verdict, text=feedback.text, data=data)
        await self._say("feedback", said, "feedback-claim")

    async def _say(self, kind: str, content: m.Message, type: str) -> None:
        connection = self._bus.connection
        async with until_applied(connection, self._task) as applied:
            id = await self._bus.claim(kind, self._task, content, type, timeout_s=60.0)
            with anyio.move_on_after(APPLIED_S):
                while not applied.has(id):
                    refused = self._outcome.refusals.get(id)
                    if refused is not None:
                        raise TaskRefused(refused.error.message, task=self.name, error=refused.error)
                    if kind == "cancel" and self._outcome.result is not None:
                        return
                    await self._news(applied.news, self._outcome.news)

    @staticmethod
    async def _news(*events: anyio.Event) -> None:
        """Wait for the first of several events."""

        async def one(event: anyio.Event, scope: anyio.CancelScope) -> None:
            await event.wait()
            scope.cancel()

        async with anyio.create_task_group() as group:
            for event in events:
                group.start_soon(one, event, group.cancel_scope)
