"""The agent of docs/protocol.md section 12, in Python: agentexecutor conformance -- python examples/conformance.py"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from agentexecutor.agents import Agent, Context, Fail, Retry

agent = Agent("conformance", capacity=4)


@agent.capability(os.environ.get("AGENTEXECUTOR_CAPABILITY", "conformance.work"))
async def work(ctx: Context, do: str, **more: Any) -> Any:
    match do:
        case "echo":
            return more["value"]
        case "fail":
            raise (Retry if more["retryable"] else Fail)(more["message"])
        case "steps":
            seconds = more["seconds"] / len(more["steps"])
            await ctx.schedule(*((step, seconds) for step in more["steps"]))
            for step in more["steps"]:
                async with ctx.step(step):
                    await asyncio.sleep(seconds)
            return more["steps"]
        case "wait":
            return await asyncio.Event().wait()
        case _:
            raise Fail(f"nobody has said what {do!r} means")


if __name__ == "__main__":
    agent.run(coordinate=False)
