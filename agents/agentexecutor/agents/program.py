"""A program that only serves: address from the environment, signals, a drain in good order."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import connect
from agentexecutor.bus.loop import run_program
from agentexecutor.schemas.names import new_id

if TYPE_CHECKING:
    from agentexecutor.agents.agent import Agent
    from agentexecutor.agents.hosting import Hosting
    from agentexecutor.bus.client import Bus

__all__ = ["run", "run_serving", "serve_until_stopped"]

LEAVE_S = 1.0

logger = logging.getLogger("agentexecutor.agents")


def run(agent: Agent, *, url: str | None = None, name: str | None = None, coordinate: bool = True) -> None:
    """See `Agent.run`."""
    peer = name or os.environ.get("AGENTEXECUTOR_NAME") or f"{agent.name[:56]}-{new_id(6)}"
    telemetry.setup(agent.name)

    async def main() -> None:
        await serve_until_stopped(agent, peer, url=url, coordinate=coordinate)

    run_serving(main)


def run_serving(main: Callable[[], Awaitable[None]]) -> None:
    """Run it as the program's main; then the process ends, although a handler may still run that cannot be stopped."""
    try:
        run_program(main)
    except Exception as error:
        if _stuck():
            logger.error("%s", error)  # noqa: TRY400  # the traceback is this file's
            _leave(1)
        raise
    if _stuck():
        _leave(0)


def _stuck() -> bool:
    """Whether a blocking handler keeps the process: it cannot be stopped, and what it held is given back already."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(LEAVE_S)
            if thread.is_alive():
                return True
    return False


def _leave(code: int) -> None:
    logger.warning("A handler did not end when it was cancelled; the process ends without waiting for it.")
    atexit._run_exitfuncs()  # noqa: SLF001  # spans are still to be sent, logs to be flushed
    os._exit(code)


async def serve_until_stopped(
    agent: Agent,
    peer: str,
    *,
    url: str | None,
    coordinate: bool,
    began: Callable[[Bus], None] | None = None,
    stops: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish or release what runs. `began` and `stops` are called when it serves, and when it is to stop."""
    hosting: Hosting | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            async with connect(url, name=f"{peer[:58]}-main") as bus, agent.serve(bus, name=peer, coordinate=coordinate) as hosting:
                logger.info("Agent %s serves %s.", peer, ", ".join(agent.handlers))
                if began is not None:
                    began(bus)
                async for number in signals:
                    logger.info("Agent %s stops (%s).", peer, signal.Signals(number).name)
                    break
                if stops is not None:
                    stops()
        except Exception as error:
            if hosting is not None and hosting.stubborn:
                logger.error("%s", error)  # noqa: TRY400  # the traceback is this file's
                _leave(1)
            raise
        if hosting.stubborn:
            _leave(0)  # the event loop would wait for it
