"""Agents as programs of their own, for tests that end them."""

from __future__ import annotations

import os
import sys
import time

import anyio

from agentexecutor.agents import Agent

agent = Agent("program", capacity=2)

if "exit" in sys.argv:

    @agent.capability("maybe.exit")
    async def maybe_exit() -> None:
        await anyio.sleep(0.3)  # long enough to have accepted
        os._exit(7)


if "sleep" in sys.argv:

    @agent.capability("sleep")
    async def sleep(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "slept"


if "block" in sys.argv:

    @agent.capability("sleep")
    def block(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"


if "stubborn" in sys.argv:

    @agent.capability("sleep")
    async def stubborn(seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                await anyio.sleep(3600)
            except anyio.get_cancelled_exc_class():
                pass
        return "slept"


if __name__ == "__main__":
    agent.run()
