"""An agent whose process a certain input kills: `agentexecutor agent fragile.py:agent`."""

from __future__ import annotations

import os
import signal

import anyio

from agentexecutor.agents import Agent

agent = Agent("fragile", capacity=2)


@agent.capability("digest", estimate_s=0.05)
async def digest(food: str, after_s: float = 0.0) -> str:
    await anyio.sleep(after_s)
    if food == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"digested {food}"
