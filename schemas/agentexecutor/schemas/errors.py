"""The root of all errors, and those that belong to the wire.

    AgentExecutorError
    ├── WireError                  bytes or names that do not fit docs/protocol.md
    │   ├── NameRefused            a name of a peer, task, subtask or capability
    │   ├── DecodeFailed           a message that does not decode as its type
    │   └── TooLarge               a message over the server's or a stream's limit
    ├── PlanRefused                a plan that cannot run: cycle, unknown name, no subtasks
    │   ├── NoRoom                 a new version with more subtasks than there may be (agentexecutor.coordinator)
    │   └── RepeatedWork           a new version that asks for the same work once too often (agentexecutor.coordinator)
    ├── BusError                   the connection and the streams (agentexecutor.bus)
    ├── TaskError                  how a task ended, for the client (agentexecutor.bus)
    ├── SettingRefused             a setting that there is not, or a value that it cannot have (agentexecutor.coordinator)
    ├── Unplannable                a goal that what is on offer does not reach (agentexecutor.coordinator)
    ├── TransitionError            an input that the task's state does not allow (agentexecutor.coordinator)
    └── AgentError                 a mistake in how an agent is written or run (agentexecutor.agents)

Every error has fields, and a message that says what to do next. Errors pickle.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AgentExecutorError", "DecodeFailed", "NameRefused", "PlanRefused", "TooLarge", "WireError"]


class AgentExecutorError(Exception):
    """Root of all errors of the project.

    Fields are given by keyword and become attributes; ``hint`` says what to do next.
    """

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.fields)


def _rebuild(cls: type[AgentExecutorError], message: str, hint: str, fields: dict[str, Any]) -> AgentExecutorError:
    return cls(message, hint=hint, **fields)


class WireError(AgentExecutorError):
    """Bytes or names that do not fit docs/protocol.md."""


class NameRefused(WireError):
    """A name that may not stand in a subject; ``what`` and ``name`` say which."""


class DecodeFailed(WireError):
    """A message that does not decode as the type that its header names."""


class TooLarge(WireError):
    """A message over the limit; ``size`` and ``limit`` in bytes."""


class PlanRefused(AgentExecutorError):
    """A plan that cannot run; ``path`` names the subtasks that show it."""
