"""The bench's own processes: agents that give back what they get, and, beside an embedded server, a coordinator. Not the measuring process."""

from __future__ import annotations

import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio

from agentexecutor.agents import Agent
from agentexecutor.bus.client import connect
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.loop import run_program
from agentexecutor.console.coordinator import coordinate_until_stopped
from agentexecutor.console.lifeline import hold_on
from agentexecutor.console.options import log_to_stderr

__all__ = ["COORDINATE", "ECHO", "agent_names", "main"]

COORDINATE, ECHO = "coordinate", "echo"
ESTIMATE_S = 0.001


def agent_names(name: str, count: int) -> list[str]:
    """The peers of a run whose client is called `name`."""
    return [f"{name}-agent-{number}" for number in range(1, count + 1)]


def main() -> None:
    """``coordinate NAME``, or ``echo NAME CAPABILITY COUNT CAPACITY``; the bus's address comes from the environment."""
    hold_on()
    log_to_stderr()
    role, name, *more = sys.argv[1:]
    if role == COORDINATE:
        run_program(_coordinate, name)
    else:
        run_program(_echo, name, more[0], int(more[1]), int(more[2]))


async def _coordinate(name: str) -> None:
    async with open_connection(name=f"{name}-coordinator") as connection:
        await coordinate_until_stopped(connection, lambda: None)


async def _echo(name: str, capability: str, count: int, capacity: int) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with connect(name=f"{name}-host") as bus, AsyncExitStack() as stack:
            for peer in agent_names(name, count):
                await stack.enter_async_context(_echoing(peer, capability, capacity).serve(bus, name=peer, coordinate=False))
            async for _ in signals:
                break


def _echoing(peer: str, capability: str, capacity: int) -> Agent:
    agent = Agent(peer, capacity=capacity)

    @agent.capability(capability, estimate_s=ESTIMATE_S)
    async def echo(data: Any = None) -> Any:
        return data

    return agent


if __name__ == "__main__":
    main()
