"""Errors of the bus and of tasks; every one derives from AgentExecutorError (agentexecutor.schemas.errors).

AgentExecutorError
├── BusError                   the connection and the streams
│   ├── NoBus                  nothing answers at the address
│   ├── BusClosed              the connection was closed
│   ├── BusAway                the server is away, and too much waits for it
│   ├── ServerTooOld           the server lacks what the streams need
│   ├── ReplicasRefused        AGENTEXECUTOR_REPLICAS is no number of replicas
│   ├── StreamMismatch         a stream exists with another setting
│   ├── ApiError               JetStream refused a request
│   ├── StoreRefused           a stream will never take this message
│   ├── StoreTimeout           a stream did not acknowledge in time
│   └── AppendUnknown          a fenced append was refused or not answered: read the log
└── TaskError                  how a task ended, for the client
    ├── TaskFailed
    ├── TaskCancelled
    ├── TaskTimeout            the client's own patience ran out; the task goes on
    ├── TaskRefused            the submit cannot be used
    └── TaskLost               nobody knows the task any more
"""

from __future__ import annotations

from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.messages import ErrorInfo

__all__ = [
    "NO_MESSAGE",
    "ApiError",
    "AppendUnknown",
    "BusAway",
    "BusClosed",
    "BusError",
    "NoBus",
    "ReplicasRefused",
    "ServerTooOld",
    "StoreRefused",
    "StoreTimeout",
    "StreamMismatch",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskLost",
    "TaskRefused",
    "TaskTimeout",
    "first_of",
    "only_of",
]

NO_MESSAGE = 10037
"""JetStream's code for a subject or sequence without a message (ApiError's `err_code`)."""


class BusError(AgentExecutorError):
    """The connection and the streams."""


class NoBus(BusError):
    """Nothing answers at `url`."""


class BusClosed(BusError):
    """The connection was closed while it was in use."""


class BusAway(BusError):
    """The server is away, and more waits to be sent than is kept."""


class ServerTooOld(BusError):
    """The server's `version` is below `needed`."""


class ReplicasRefused(BusError):
    """AGENTEXECUTOR_REPLICAS is `value`, which no stream can have."""


class StreamMismatch(BusError):
    """A stream exists with another setting: `stream`, `setting`, `wanted`, `found`."""


class ApiError(BusError):
    """JetStream refused a request: `code`, `err_code`, `description`."""


class StoreRefused(BusError):
    """A stream will never take this message: `err_code`, `description`."""


class StoreTimeout(BusError):
    """A stream did not acknowledge in time: `subject`."""


class AppendUnknown(BusError):
    """A fenced append was refused (`refused`) or not answered: what the log holds has to be read."""


class TaskError(AgentExecutorError):
    """How a task ended; `task` is its full name."""

    task: str


class TaskFailed(TaskError):
    """The task failed; `error` says why."""

    error: ErrorInfo


class TaskCancelled(TaskError):
    """The task was cancelled; `reason` says why."""

    reason: str


class TaskTimeout(TaskError):
    """The result did not come within the client's timeout_s; the task goes on."""


class TaskRefused(TaskError):
    """The submit, cancel or feedback cannot be used; `error` says why."""

    error: ErrorInfo


class TaskLost(TaskError):
    """Nobody knows the task (any more)."""


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of the group that a task group puts around it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def only_of(error: BaseException) -> BaseException:
    """The error inside of groups that hold no other."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
