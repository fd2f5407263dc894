"""Agents whose traces are looked at: `agentexecutor agent traced.py:first`."""

from __future__ import annotations

from agentexecutor.agents import Agent, Context

first, second = Agent("first", capacity=2), Agent("second", capacity=2)


@first.capability("load", estimate_s=0.1)
async def load(ctx: Context) -> list[int]:
    async with ctx.step("read"):
        return [1, 2, 3]


@first.capability("sum", estimate_s=0.1)
@second.capability("sum", estimate_s=0.2)
async def total(ctx: Context, xs: list[int]) -> int:
    """Fails at first; then adds up once somebody says so."""
    if ctx.attempt == 1:
        raise RuntimeError("not at first")
    async with ctx.step("add"):
        await _said(ctx)
        return sum(xs)


@first.capability("hold", estimate_s=0.1)
@second.capability("hold", estimate_s=0.2)
async def hold(ctx: Context) -> str:
    """Prepares, then waits for a word in the first attempt."""
    async with ctx.step("prepare"):
        pass
    if ctx.attempt == 1:
        await _said(ctx)
    return ctx.key


@second.capability("wait", estimate_s=0.1)
async def wait(ctx: Context) -> None:
    """Until somebody says something."""
    await _said(ctx)


async def _said(ctx: Context) -> None:
    async for _ in ctx.feedback():
        return
