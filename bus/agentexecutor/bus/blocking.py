"""The client for programs without asyncio: the same methods, blocking. ``with agentexecutor.bus.blocking.connect() as bus: bus.run(...)``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentexecutor.bus import client
from agentexecutor.bus import task as tasks
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.plans import Feedback, Plan

__all__ = ["Bus", "Task", "connect"]

T = TypeVar("T")


class Task:
    """A handle for a task; see `agentexecutor.bus.Task`."""

    def __init__(self, portal: BlockingPortal, task: tasks.Task) -> None:
        self._portal = portal
        self._task = task

    @property
    def name(self) -> str:
        """The full name, ``<owner>.<id>``."""
        return self._task.name

    @property
    def trace_id(self) -> str | None:
        """The trace in which the task is found."""
        return self._task.trace_id

    def result(self, type: type[T] | Any = Any, *, timeout_s: float | None = None) -> T:
        """Wait for the result, converted to `type`; raises TaskFailed, TaskCancelled, TaskRefused, TaskLost, TaskTimeout."""
        result: T = self._portal.call(partial(self._task.result, type, timeout_s=timeout_s))
        return result

    def state(self) -> v.StateView:
        """How the task stands."""
        return self._portal.call(self._task.state)

    def view(self) -> v.TaskView:
        """All of it, as ``show`` prints it."""
        return self._portal.call(self._task.view)

    def events(self) -> Iterator[v.Event]:
        """Everything that happens to the task, from its first event on; ends with the task."""
        events = self._task.events()
        while True:
            try:
                yield self._portal.call(events.__anext__)
            except StopAsyncIteration:
                return

    def cancel(self, reason: str = "") -> None:
        """End the task."""
        self._portal.call(self._task.cancel, reason)

    def feedback(self, feedback: Feedback) -> None:
        """Say something about the task or a subtask."""
        self._portal.call(self._task.feedback, feedback)


class Bus:
    """A peer on the bus; see `agentexecutor.bus.Bus`."""

    def __init__(self, portal: BlockingPortal, bus: client.Bus) -> None:
        self._portal = portal
        self._bus = bus

    @property
    def name(self) -> str:
        """The peer's own name."""
        return self._bus.name

    def submit(self, what: str | Plan | m.PlanSpec, input: Any = None, **options: Any) -> Task:
        """Publish a task; options as for `agentexecutor.bus.Bus.submit`."""
        return Task(self._portal, self._portal.call(partial(self._bus.submit, what, input, **options)))

    def run(self, what: str | Plan | m.PlanSpec, input: Any = None, type: type[T] | Any = Any, **options: Any) -> T:
        """Submit and wait for the result, converted to `type`."""
        result: T = self.submit(what, input, **options).result(type)
        return result

    def task(self, name: str) -> Task:
        """A handle for a task by its full name."""
        return Task(self._portal, self._portal.call(self._bus.task, name))

    def tasks(self, **options: Any) -> v.TasksView:
        """Tasks, newest first."""
        return self._portal.call(partial(self._bus.tasks, **options))

    def agents(self) -> list[v.AgentView]:
        """All living agents."""
        return self._portal.call(self._bus.agents)

    def unserved(self) -> list[v.UnservedLine]:
        """Demand that no agent fits."""
        return self._portal.call(self._bus.unserved)


@contextmanager
def connect(url: str | None = None, **options: Any) -> Iterator[Bus]:
    """Connect as `agentexecutor.bus.connect` does; an event loop in a thread of its own does the work."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client.connect(url, **options)) as bus:
        yield Bus(portal, bus)
