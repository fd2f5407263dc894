"""The NATS client, made to outlive messages that it cannot take apart.

nats-py (2.16) ends the connection over a header block without an end, or a subject that is no UTF-8. A stored message like that comes again after
every reconnect: one of them in a work queue, from whoever may publish, would stop every coordinator for ever. It also reads on behind the end of a
line: a message whose headers begin with an end of line and whose payload is a number makes it wait for that many bytes, deaf to all else.

Its `flush` says nothing about what was sent before: the PING overtakes commands that wait for the flusher, a subscription for one. And a try to
reconnect that gets no further than the socket, as with a server that starts, leaves the socket open: the next try forgets it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.protocol import parser

from agentexecutor.bus.complaints import Complaints
from agentexecutor.schemas.codec import H_EXPECTED

__all__ = ["Arrived", "RobustClient"]

logger = logging.getLogger("agentexecutor.bus")

parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+(\S+)[ \t]+(\S+)[ \t]+((\S+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n")
"""The parser's own one takes ends of lines for blanks between its fields."""

_BOUND = re.compile(rb"H?PUB \$JS\.ACK\.|HPUB [^\r\n]+\r\nNATS/1\.0(?:\r\n[^\r\n]+)*?\r\n" + H_EXPECTED.encode() + rb":")
"""What speaks of a number that may be another message's after a reconnect: acknowledgements, and what is stored only behind such a number."""


@dataclass
class Arrived(Msg):
    """A message, and the number of the connection's session in which it came: it may wait for its turn until after a reconnect."""

    session: int = 0


class RobustClient(Client):
    """Headers that cannot be read count as none (such a message has no Ae-Type, and is set aside); a subject is read as far as it goes.

    `sockets`: how many were opened; `session`: gives the number of the session, for what arrives.
    """

    msg_class = Arrived

    def __init__(self) -> None:
        super().__init__()
        self.session: Callable[[], int] = int
        self.sockets = 0
        self._over = False
        self._complaints = Complaints(logger)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """What waits to be sent goes first: so the PONG proves that the server has it."""
        if self._transport is not None and self.is_connected and self._pending:
            self._transport.writelines(self._pending[:])
            self._keep_pending([])
        await super()._send_ping(future)

    async def leave(self, patience_s: float) -> None:
        """Send what waits to be sent, as far as that is done within `patience_s`, and close.

        Not by `drain`, which takes a connection that is lost meanwhile for one that stands.
        """
        with suppress(Exception):  # whatever a socket that is gone makes of it; a RuntimeError, with uvloop
            if self.is_connected:
                async with asyncio.timeout(patience_s):
                    await self.flush()
        self._keep_pending([])  # closing would send it, and fail where the socket is gone
        await self.close()

    async def close(self) -> None:
        """Tries to reconnect end for good: a cancel alone may be swallowed by the end of a try that came in the same moment.

        One that was cancelled while it waited for the socket to close has cancelled that for all who wait: this is no cancel of who closes.
        """
        self._over = True
        try:
            await super().close()
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise

    async def _connect_to_server(self, s: Srv) -> None:
        """Nothing stays open of the try before, and what is meant for the session before is not sent."""
        if self._over:
            raise asyncio.CancelledError
        self.sockets += 1
        self._keep_pending([command for command in self._pending if not _BOUND.match(command)])
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    def _keep_pending(self, commands: list[bytes]) -> None:
        self._pending = commands
        self._pending_data_size = sum(map(len, commands))

    async def _attempt_reconnect(self) -> None:
        """When a server is gone again at once, a second attempt finds the future of its end set by the first, and would leave a traceback at the close."""
        with suppress(asyncio.InvalidStateError):
            await super()._attempt_reconnect()

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except Exception as error:  # noqa: BLE001  # whatever a stranger's bytes make the parser raise
            self._complaints.tell(type(error).__name__, "The headers of a message cannot be read: %r", error)
            return {}

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Any:
        try:
            message = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            message = super()._build_message(sid, _readable(subject), _readable(reply), data, headers)
        message.session = self.session()
        return message


def _readable(subject: bytes) -> bytes:
    return bytes(subject).decode("utf-8", "replace").encode()
