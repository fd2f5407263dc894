"""The client for programs without asyncio: the same methods, blocking. ``with agentexecutor.bus.blocking.connect() as bus: bus.run(...)``.

An event loop in a thread of its own does the work; every call waits for it. Safe to use from several threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentexecutor.bus import client
from agentexecutor.bus import task as tasks
from agentexecutor.bus.request import What
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback
from agentexecutor.schemas.subjects import DEFAULT_PREFIX

__all__ = ["Bus", "Task", "connect"]

T = TypeVar("T")


class Task:
    """A handle for a task; see `agentexecutor.bus.Task`. Made by `Bus.submit` and `Bus.task`."""

    def __init__(self, portal: BlockingPortal, task: tasks.Task) -> None:
        self._portal = portal
        self._task = task

    def __repr__(self) -> str:
        return repr(self._task)

    @property
    def name(self) -> str:
        """The full name, ``<owner>.<id>``."""
        return self._task.name

    @property
    def trace_id(self) -> str | None:
        """The trace in which the task is found."""
        return self._task.trace_id

    @overload
    def result(self, *, timeout_s: float | None = None) -> Any: ...
    @overload
    def result(self, type: type[T], *, timeout_s: float | None = None) -> T: ...
    def result(self, type: Any = Any, *, timeout_s: float | None = None) -> Any:
        """Wait for the result, converted to `type`; raises TaskFailed, TaskCancelled, TaskRefused, TaskLost, TaskTimeout."""
        return self._portal.call(partial(self._task.result, type, timeout_s=timeout_s))

    def events(self) -> Iterator[v.Event]:
        """Everything that happens to the task, from its first event on; ends with the task."""
        events = self._task.events()
        try:
            while (event := self._portal.call(anext, events, None)) is not None:
                yield event
        finally:
            self._portal.call(events.aclose)

    def state(self) -> v.StateView:
        """How the task stands."""
        return self._portal.call(self._task.state)

    def view(self) -> v.TaskView:
        """All of it, as ``show`` prints it."""
        return self._portal.call(self._task.view)

    def plan_versions(self) -> list[v.PlanVersion]:
        """Every version of the plan, oldest first."""
        return self._portal.call(self._task.plan_versions)

    def cancel(self, reason: str = "") -> None:
        """End the task."""
        self._portal.call(self._task.cancel, reason)

    def feedback(self, feedback: Feedback, *, sender: str | None = None) -> tasks.Noted | None:
        """Say something about the task or a subtask; gives what is on record."""
        return self._portal.call(partial(self._task.feedback, feedback, sender=sender))


class Bus:
    """A peer on the bus; see `agentexecutor.bus.Bus`. Made by `connect`."""

    def __init__(self, portal: BlockingPortal, bus: client.Bus) -> None:
        self._portal = portal
        self._bus = bus

    @property
    def name(self) -> str:
        """The name of this peer."""
        return self._bus.name

    def submit(self, what: What, input: Any = None, **options: Any) -> Task:
        """Publish a task; options as for `agentexecutor.bus.Bus.submit`."""
        return Task(self._portal, self._portal.call(partial(self._bus.submit, what, input, **options)))

    @overload
    def run(self, what: What, input: Any, type: type[T], **options: Any) -> T: ...
    @overload
    def run(self, what: What, input: Any = None, *, type: type[T], **options: Any) -> T: ...
    @overload
    def run(self, what: What, input: Any = None, **options: Any) -> Any: ...
    def run(self, what: What, input: Any = None, type: Any = Any, **options: Any) -> Any:
        """Submit and wait for the result, converted to `type`."""
        return self._portal.call(partial(self._bus.run, what, input, type, **options))

    def plan(self, what: What, input: Any = None, **options: Any) -> v.Forecast:
        """Who would do what, and when; options as for `agentexecutor.bus.Bus.submit`. Nothing is executed."""
        return self._portal.call(partial(self._bus.plan, what, input, **options))

    def task(self, name: str) -> Task:
        """A handle for a task by its full name, ``<owner>.<id>``."""
        return Task(self._portal, self._portal.call(self._bus.task, name))

    def tasks(self, states: Iterable[str] = (), owner: str | None = None, limit: int = 100) -> v.TasksView:
        """Tasks, newest first."""
        return self._portal.call(self._bus.tasks, states, owner, limit)

    def agents(self) -> list[v.AgentView]:
        """All living agents."""
        return self._portal.call(self._bus.agents)

    def stalled(self) -> list[v.StalledLine]:
        """See `Bus.stalled`."""
        return self._portal.call(self._bus.stalled)

    def unserved(self) -> list[v.UnservedLine]:
        """Demand that no agent fits."""
        return self._portal.call(self._bus.unserved)

    def put(self, task: TaskName, body: bytes) -> m.BlobRef:
        """Store a body under a task."""
        return self._portal.call(self._bus.put, task, body)

    def fetch(self, task: TaskName, ref: m.BlobRef) -> bytes:
        """A body by its reference."""
        return self._portal.call(self._bus.fetch, task, ref)


@contextmanager
def connect(
    url: str | None = None,
    *,
    name: str | None = None,
    prefix: str = DEFAULT_PREFIX,
    credentials: str | None = None,
    shards: int = 16,
    replicas: int | None = None,
) -> Iterator[Bus]:
    """Connect as `agentexecutor.bus.connect` does, until the block ends."""
    opened = client.connect(url, name=name, prefix=prefix, credentials=credentials, shards=shards, replicas=replicas)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as bus:
        yield Bus(portal, bus)
