"""Rule 9: a server that was started anew may have lost records, so nothing goes on from memory before it is known whether it was."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.log import TaskLog

__all__ = ["RestartWatch"]


class RestartWatch:
    """Looks once for every session of the connection. `begin_anew` is given the first number that an award may have from now on (docs/adr/0011)."""

    def __init__(self, connection: Connection, log: TaskLog, begin_anew: Callable[[int], None]) -> None:
        self._connection = connection
        self._log = log
        self._begin_anew = begin_anew
        self._session = -1
        """The connection's session of which it is known."""
        self._read = anyio.Event()
        self._marked_at: float | None = None

    def knows(self) -> bool:
        """Whether it is known of this session's server if it was started anew."""
        return self._session == self._connection.session

    async def known(self) -> None:
        """Wait until more is known."""
        await self._read.wait()

    async def look(self) -> None:
        """Ask the server. Raises BusError when it does not answer."""
        session = self._connection.session
        first = max(1, await self._log.restarted_ms())
        if session < self._session:
            return  # another, begun later, was faster
        self._begin_anew(first)
        self._session = session
        self._read.set()
        self._read = anyio.Event()

    def marked(self, stamp: float) -> bool:
        """The stamp of the mark in the stream of leases. True: it is another one, so the streams in memory were emptied, whatever the connection noticed."""
        before, self._marked_at = self._marked_at, stamp
        return before not in (None, stamp) and self._session >= 0
