"""How a program of AgentExecutor runs its event loop."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

__all__ = ["run", "run_program"]

T = TypeVar("T")

YOUNG = 50_000
"""Objects that are made before the youngest are searched for garbage. Messages leave no cycles: at Python's own 700 the search was 7 % of
the time of a busy coordinator."""


def run(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """`anyio.run`, on uvloop where it is installed (the extra ``fast``)."""
    quick = importlib.util.find_spec("uvloop") is not None
    return anyio.run(function, *arguments, backend="asyncio", backend_options={"use_uvloop": quick})


def run_program(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """`run` in a process that does nothing else."""
    gc.freeze()
    gc.set_threshold(YOUNG, 50, 100)
    return run(function, *arguments)
