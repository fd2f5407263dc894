"""Exit codes, and which error leads to which: the one place that scripts' expectations stand in (see `agentexecutor --help`)."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from agentexecutor.bus.errors import BusError, ReplicasRefused, StoreTimeout, TaskCancelled, TaskFailed, TaskTimeout
from agentexecutor.coordinator.errors import SettingRefused
from agentexecutor.schemas.errors import AgentExecutorError, NameRefused, PlanRefused

__all__ = ["Exit", "UsageError", "exit_code", "of_task", "sentence"]


class Exit(IntEnum):
    """What a program that calls us can rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_BUS = 3
    TIMEOUT = 4
    UNWRITTEN = 74
    """The answer could not be written, as on a full disk (EX_IOERR of sysexits.h)."""
    INTERRUPTED = 130
    PIPE = 141


class UsageError(AgentExecutorError):
    """The command cannot be meant like this: a file that is not there, a name that nobody knows."""


def exit_code(error: BaseException) -> Exit:
    """The exit code of a command that ended with this error."""
    if isinstance(error, TaskFailed):
        return of_task("failed", getattr(error, "error", None))
    if isinstance(error, TaskCancelled | TaskTimeout | StoreTimeout):
        return Exit.TIMEOUT
    if isinstance(error, UsageError | NameRefused | PlanRefused | SettingRefused | ReplicasRefused):
        return Exit.USAGE
    if isinstance(error, BusError):
        return Exit.NO_BUS
    return Exit.FAILED


def of_task(state: str, error: Any = None) -> Exit:
    """The exit code that a task's end stands for; `error` is its ErrorInfo."""
    if state == "cancelled" or (state == "failed" and getattr(error, "code", None) == "deadline"):
        return Exit.TIMEOUT
    return Exit.FAILED if state == "failed" else Exit.DONE


def sentence(error: BaseException) -> str:
    """An error as people read it: what is wrong, and what to do next."""
    if not isinstance(error, AgentExecutorError):
        return f"{type(error).__name__}: {str(error).strip() or type(error).__name__}"
    message = error.message.rstrip()
    if "\n" in message:
        return f"{message}\n{error.hint}".strip()
    if error.hint and not message.endswith((".", "!", "?")):
        message += "."
    return f"{message} {error.hint}".strip()
