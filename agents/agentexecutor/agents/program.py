"""A program that only serves: address from the environment, signals, a drain in good order."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

import anyio

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import connect
from agentexecutor.bus.loop import run_program
from agentexecutor.schemas.names import new_id

if TYPE_CHECKING:
    from agentexecutor.agents.agent import Agent

__all__ = ["run", "serve_until_stopped"]

logger = logging.getLogger("agentexecutor.agents")


def run(agent: Agent, *, url: str | None = None, name: str | None = None, coordinate: bool = True) -> None:
    """See `Agent.run`."""
    peer = name or os.environ.get("AGENTEXECUTOR_NAME") or f"{agent.name[:56]}-{new_id(6)}"
    telemetry.setup(agent.name)

    async def main() -> None:
        await serve_until_stopped(agent, peer, url=url, coordinate=coordinate)

    run_program(main)


async def serve_until_stopped(agent: Agent, peer: str, *, url: str | None, coordinate: bool) -> None:
    """Serve until SIGTERM or SIGINT, then finish or release what runs."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with connect(url, name=f"{peer[:58]}-main") as bus, agent.serve(bus, name=peer, coordinate=coordinate):
            logger.info("Agent %s serves %s.", peer, ", ".join(agent.handlers))
            async for number in signals:
                logger.info("Agent %s stops (%s).", peer, signal.Signals(number).name)
                break
