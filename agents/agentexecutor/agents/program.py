"""A program that only serves: address from the environment, signals, a drain in good order."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

import anyio

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import connect
from agentexecutor.bus.loop import run_program
from agentexecutor.schemas.names import new_id

if TYPE_CHECKING:
    from agentexecutor.agents.agent import Agent

__all__ = ["leave", "run", "serve_until_stopped"]

LEAVE_S = 1.0

logger = logging.getLogger("agentexecutor.agents")


def run(agent: Agent, *, url: str | None = None, name: str | None = None, coordinate: bool = True) -> None:
    """See `Agent.run`."""
    peer = name or os.environ.get("AGENTEXECUTOR_NAME") or f"{agent.name[:56]}-{new_id(6)}"
    telemetry.setup(agent.name)

    async def main() -> None:
        await serve_until_stopped(agent, peer, url=url, coordinate=coordinate)

    run_program(main)
    leave()


def leave() -> None:
    """End the process although a blocking handler still runs: it cannot be stopped, and what it held is given back already."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(LEAVE_S)
            if thread.is_alive():
                logger.warning("A blocking handler did not look at ctx.cancelled; the process ends without waiting for it.")
                atexit._run_exitfuncs()  # noqa: SLF001  # spans are still to be sent, logs to be flushed
                os._exit(0)


async def serve_until_stopped(agent: Agent, peer: str, *, url: str | None, coordinate: bool) -> None:
    """Serve until SIGTERM or SIGINT, then finish or release what runs."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with connect(url, name=f"{peer[:58]}-main") as bus, agent.serve(bus, name=peer, coordinate=coordinate):
            logger.info("Agent %s serves %s.", peer, ", ".join(agent.handlers))
            async for number in signals:
                logger.info("Agent %s stops (%s).", peer, signal.Signals(number).name)
                break
