"""What a handler is given beside its input: who it works for, its schedule and steps, feedback, children, cancellation."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from itertools import chain, repeat
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from agentexecutor.agents.errors import AgentError, ChildFailed
from agentexecutor.agents.failures import text_of
from agentexecutor.agents.schedule import schedule as make_schedule
from agentexecutor.bus import telemetry
from agentexecutor.coordinator.budgets import COUNTED
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.plans import Feedback, Subtask

__all__ = ["Child", "Context", "Host"]

T = TypeVar("T")
MAX_STEPS = 1000
STEP_NAME = 200


class Host(Protocol):
    """Whoever runs a handler: sends what it says. `tell` may be called from any thread."""

    def tell(self, **progress: Any) -> None:
        """Publish progress; nothing is lost when it gets lost."""

    def scheduled(self, steps: list[m.Step]) -> None:
        """A schedule was made or revised."""

    async def say(self, said: m.FeedbackClaim) -> None:
        """Store feedback by the holder."""

    async def extend(self, call: int, child: m.SubtaskSpec) -> None:
        """Store an `extend` claim."""

    def waits(self) -> AbstractAsyncContextManager[None]:
        """The handler waits for children while this lasts: its slot is given back."""

    async def body(self, result: m.Result) -> bytes:
        """The JSON text of a result."""

    def records(self) -> AsyncGenerator[r.LogEntry, None]:
        """The task's log so far."""


class Child:
    """A subtask that a running one has added to its task."""

    def __init__(self, context: Context, call: int, spec: m.SubtaskSpec) -> None:
        self.call = call
        self._context = context
        self._spec = spec
        self._ended: m.Result | None = None
        self._news = anyio.Event()

    def ended(self, result: m.Result) -> None:
        """Its result has come."""
        self._ended = result
        self._news.set()

    async def result(self, type: type[T] | Any = Any) -> T:
        """Wait for its result, converted to `type`. The waiting subtask's slot is given back meanwhile. Raises ChildFailed."""
        host = self._context.host
        if self._ended is None:
            async with host.waits():
                await self._wait(host)
        ended = self._ended
        if ended is None or ended.state != "completed":
            error = ended.error if ended is not None else None
            message = error.message if error is not None else "no reason given"
            raise ChildFailed(f"Child {self.call} ({self._spec.capability}) has not completed: {message}", error=error, call=self.call)
        converted: T = msgspec.json.decode(await host.body(ended), type=type)
        return converted

    async def _wait(self, host: Host) -> None:
        for delay in chain((2.0, 5.0, 15.0, 30.0), repeat(60.0)):
            with anyio.move_on_after(delay):
                await self._news.wait()
            if self._ended is not None:
                return
            await host.extend(self.call, self._spec)


class Context:
    """Given to a handler whose first parameter is annotated ``Context`` (or is called ``ctx``)."""

    def __init__(self, award: m.Award, host: Host, *, state: Any = None, log: logging.Logger | None = None) -> None:
        self.award = award
        self.host = host
        self.state = state
        """What the agent's `lifespan` gave."""
        self.log = log or logging.getLogger(f"agentexecutor.agent.{award.capability}")
        self.usage: dict[str, float] = {}
        """What this attempt has used so far, by the names of a budget."""
        self.cancelled = False
        """True once the subtask is not wanted any more; blocking handlers look here."""
        self._feedback: list[m.FeedbackMessage] = []
        self._feedback_ids: set[str] = set()
        self._read = 0
        self._feedback_came = anyio.Event()
        self._children: dict[int, Child] = {}
        for given in award.feedback:
            self.take_feedback(given)

    @property
    def task(self) -> str:
        """The task's full name, ``<owner>.<id>``."""
        return self.award.task

    @property
    def subtask(self) -> str:
        """The subtask's name in its plan."""
        return self.award.subtask

    @property
    def capability(self) -> str:
        """What is asked for."""
        return self.award.capability

    @property
    def epoch(self) -> int:
        """Number of this award."""
        return self.award.epoch

    @property
    def attempt(self) -> int:
        """1 for the first."""
        return self.award.attempt

    @property
    def key(self) -> str:
        """The same for every attempt at this work: an idempotency key towards the outside."""
        return self.award.key

    @property
    def plan_version(self) -> int:
        """The version of the plan that this subtask belongs to."""
        return self.award.plan_version

    @property
    def deadline(self) -> float | None:
        """Seconds since 1970 after which the result is not wanted; None: no such time."""
        return None if self.award.deadline is None else from_rfc3339(self.award.deadline)

    # schedule and progress

    async def schedule(self, *steps: tuple[str, float]) -> None:
        """Publish this subtask's schedule: steps (name, seconds), one after another. Called again, it revises it.

        Raises AgentError.
        """
        if len(steps) > MAX_STEPS:
            raise AgentError(f"A schedule of {len(steps)} steps is too long.", hint=f"Give up to {MAX_STEPS}.")
        self.host.scheduled(make_schedule([_checked(step) for step in steps]))
        await anyio.lowlevel.checkpoint()

    def progress(self, fraction: float | None = None, text: str = "", *, feedback: m.FeedbackMessage | None = None) -> None:
        """Say how far it is (0 to 1), what it is doing, or what it did with `feedback`. Works from blocking handlers too."""
        said = {} if feedback is None else {"feedback": feedback.id}
        how_far: dict[str, float] = {} if fraction is None else {telemetry.ATTR_FRACTION: fraction}
        telemetry.event(telemetry.EVENT_PROGRESS, {**how_far, telemetry.ATTR_TEXT: text})
        self.host.tell(fraction=None if fraction is None else min(max(fraction, 0.0), 1.0), text=text, **said)

    def spend(self, /, **used: float) -> None:
        """Add to what this attempt has used: ``ctx.spend(tokens=812, money=0.004)``. It counts against the task's budget when the attempt ends, well or not.

        `seconds`, `subtasks` and `replans` are counted without this. Works from blocking handlers too. Raises AgentError.
        """
        for name, number in used.items():
            if name in COUNTED:
                raise AgentError(f"{name} are counted by the coordinator.", hint="Give what is spent another name: tokens, money, ...")
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise AgentError(f"{name}={number!r} cannot be spent.", hint="Give a number, 0 or more.")
            self.usage[name] = self.usage.get(name, 0.0) + number

    def step(self, name: str) -> _Step:
        """A step of the work, ``async with ctx.step("fit"):`` (or plain ``with`` in a blocking handler): told as started and finished, and a span."""
        return _Step(self, name)

    # feedback

    def take_feedback(self, given: m.FeedbackMessage) -> None:
        """Feedback arrived; the same id again is dropped."""
        if given.id and given.id in self._feedback_ids:
            return
        self._feedback_ids.add(given.id)
        self._feedback.append(given)
        self._feedback_came.set()
        self._feedback_came = anyio.Event()

    def feedback_now(self) -> list[m.FeedbackMessage]:
        """All feedback so far, oldest first."""
        return list(self._feedback)

    async def feedback(self) -> AsyncIterator[m.FeedbackMessage]:
        """Feedback as it comes, from the first on: ``async for said in ctx.feedback():``. Each is given once, however often this is called."""
        while True:
            while self._read < len(self._feedback):
                self._read += 1
                yield self._feedback[self._read - 1]
            await self._feedback_came.wait()

    async def say(self, feedback: Feedback) -> None:
        """Say something about the task or another of its subtasks, as a critic does: ``await ctx.say(Feedback("revise", "too low", "features"))``.

        Stored when this returns; what runs again because of it, perhaps this subtask too, is cancelled then. Raises PlanRefused.
        """
        await self.host.say(feedback.claim())

    # the task

    def records(self) -> AsyncGenerator[r.LogEntry, None]:
        """The task's log so far, oldest first: ``async for entry in ctx.records():``. In a unit test (`agents.testing`) it says that a task was submitted."""
        return self.host.records()

    # children

    async def submit(self, capability: str, input: Any = None, **options: Any) -> Child:
        """Add a subtask to this task; wait for it with ``await child.result()``. Options as for Subtask.

        Children are numbered in the order of the calls, so a second attempt of this subtask finds the children of the first.
        """
        spec = Subtask(capability, {} if input is None else input, **options).spec()
        child = Child(self, len(self._children) + 1, spec)
        self._children[child.call] = child
        await self.host.extend(child.call, spec)
        return child

    def child_ended(self, result: m.Result) -> None:
        """The result of a child came."""
        child = self._children.get(result.call or 0)
        if child is not None:
            child.ended(result)


def _checked(step: object) -> tuple[str, float]:
    match step:
        case (str() as name, int() | float() as seconds) if 0 <= seconds < math.inf:
            return text_of(name, STEP_NAME), float(seconds)
    raise AgentError(f"{step!r:.200} is no step of a schedule.", hint="A step is a name and its seconds, 0 or more.")


class _Step(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """Both kinds of ``with`` for one step."""

    def __init__(self, context: Context, name: str) -> None:
        self._manager: Any = None
        self._context = context
        self._name = name

    def __enter__(self) -> None:
        self._manager = _told(self._context, self._name)
        self._manager.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._manager.__exit__(*exc_info)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__(*exc_info)


@contextmanager
def _told(context: Context, name: str) -> Iterator[None]:
    award = context.award
    attributes: telemetry.Attributes = {
        telemetry.ATTR_TASK: award.task,
        telemetry.ATTR_SUBTASK: award.subtask,
        telemetry.ATTR_EPOCH: award.epoch,
        telemetry.ATTR_PLAN_VERSION: award.plan_version,
        telemetry.ATTR_STEP: name,
    }
    context.host.tell(step=name, state="started")
    with telemetry.span(telemetry.SPAN_STEP, name, parent=telemetry.current(), attributes=attributes):
        yield
    context.host.tell(step=name, state="finished")
