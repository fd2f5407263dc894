"""What only the bus can do is asked for until it does it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from agentexecutor.bus.complaints import Seldom
from agentexecutor.bus.errors import BusError

__all__ = ["RETRY_S", "Insist", "Insisting"]

logger = logging.getLogger("agentexecutor.coordinator")

RETRY_S = 0.5
"""After so long is tried again what the bus did not do."""

Insist = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class Insisting:
    """One coordinator's tries, of which a line now and then is enough."""

    def __init__(self) -> None:
        self._seldom = Seldom(logger)

    async def insist(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do it, again and again until the bus does its part."""
        while True:
            try:
                await what()
            except (BusError, TimeoutError) as error:
                self._seldom.tell("bus", "The bus does not do its part, which is tried again: %s", error)
                await anyio.sleep(RETRY_S)
            else:
                return
