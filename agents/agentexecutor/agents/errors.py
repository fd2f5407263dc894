"""Errors of agents; the tree is drawn in agentexecutor.schemas.errors. `Fail` and `Retry` are what a handler raises to say how it ended."""

from __future__ import annotations

import math
from typing import Any

from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["AgentError", "ChildFailed", "Fail", "InputRefused", "NameTaken", "Retry"]


class AgentError(AgentExecutorError):
    """A mistake in how an agent is written or run."""


class NameTaken(AgentError):
    """A newer process has this agent's name; `name`, `boot`: its boot."""


class InputRefused(AgentError):
    """The input does not fit the handler's parameters; `parameter` says which. Not tried again."""


class ChildFailed(AgentError):
    """A child subtask failed or was cancelled; `error` is its ErrorInfo."""


class Fail(AgentError):
    """Raised by a handler: it failed for good, no other try. Details are given by keyword."""

    def __init__(self, message: str = "failed", **details: Any) -> None:
        super().__init__(message, **details)


class Retry(AgentError):
    """Raised by a handler: try again, not before `after_s` seconds (None: after the usual back-off). Details are given by keyword."""

    def __init__(self, message: str = "to be tried again", *, after_s: float | None = None, **details: Any) -> None:
        if after_s is not None and not 0 <= after_s < math.inf:
            raise ValueError(f"Retry(after_s={after_s!r}): give seconds from now, 0 or more")
        super().__init__(message, **details)
        self.after_s = after_s
