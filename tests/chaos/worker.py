"""The agent whose processes are killed: `agentexecutor agent worker.py:agent`. What it makes of an input can be foretold (see `traffic`).

Each execution writes a line into the file that CHAOS_EFFECTS names as soon as it begins: its side effect, that nothing takes back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio

from agentexecutor.agents import Agent, Context, Fail, Retry

agent = Agent("worker", capacity=8)


def leave_trace(ctx: Context) -> None:
    """One line, written at once: what several processes append stays apart, and outlives them."""
    line = {"task": ctx.task, "subtask": ctx.subtask, "epoch": ctx.epoch, "agent": os.environ["AGENTEXECUTOR_NAME"], "pid": os.getpid()}
    file = os.open(os.environ["CHAOS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


@agent.capability("chaos.add", estimate_s=0.3)
async def add(ctx: Context, x: int, y: int, seconds: float = 0.0) -> int:
    leave_trace(ctx)
    await anyio.sleep(seconds)
    return x + y


@agent.capability("chaos.held", estimate_s=10.0)
async def held(ctx: Context, gate: str) -> str:
    """Runs until there is a file `gate`; then makes `gate`.over."""
    leave_trace(ctx)
    while not Path(gate).exists():
        await anyio.sleep(0.05)
    Path(f"{gate}.over").touch()
    return "let go"


@agent.capability("chaos.sum", estimate_s=0.05)
async def total(ctx: Context, parts: list[int]) -> int:
    leave_trace(ctx)
    return sum(parts)


@agent.capability("chaos.double", estimate_s=0.1)
async def double(ctx: Context, rows: list[int]) -> list[int]:
    leave_trace(ctx)
    await anyio.sleep(0.1)
    return [2 * row for row in rows]


@agent.capability("chaos.children", estimate_s=0.5)
async def children(ctx: Context, count: int) -> int:
    """Adds subtasks to its own task, and waits for them."""
    leave_trace(ctx)
    added = [await ctx.submit("chaos.add", {"x": number, "y": number, "seconds": 0.1}) for number in range(count)]
    results: list[int] = [await child.result(int) for child in added]
    return sum(results)


@agent.capability("chaos.flaky", estimate_s=0.1)
async def flaky(ctx: Context, value: int) -> int:
    """Fails at the first attempt."""
    leave_trace(ctx)
    if ctx.attempt == 1:
        raise Retry("not yet", after_s=0.1)
    return value


@agent.capability("chaos.doomed", estimate_s=0.1)
async def doomed(ctx: Context) -> None:
    leave_trace(ctx)
    raise Fail("as it was asked to")


@agent.capability("chaos.large", estimate_s=0.1)
async def large(ctx: Context, text: str) -> str:
    """Input and result that travel by reference."""
    leave_trace(ctx)
    return text[::-1]
