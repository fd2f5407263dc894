"""What a stream says to a message that was published to it: one reply subscription for all of them, and a future each.

The client's own request costs more than the publish itself (a task, a time-out and a subscription's bookkeeping for each).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from agentexecutor.schemas.names import new_id

if TYPE_CHECKING:
    from nats.aio.msg import Msg

__all__ = ["Acks", "Answer"]

Answer = dict[str, Any]
"""A stream's answer: ``seq``, or ``error``."""
SWEEP_S = 0.1
NOBODY_THERE = "503"
"""Status: no responders."""


class Acks:
    """The answers that one connection waits for. `on_answer` is to be subscribed to `subject`.

    `nobody` is called when the server says that there is nobody to answer: no stream takes such a message (any more).
    """

    def __init__(self, nobody: Callable[[], None]) -> None:
        self._nobody = nobody
        self._inbox = f"_INBOX.{new_id()}"
        self._waiting: dict[str, tuple[asyncio.Future[Answer | None], float]] = {}
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._sweeping = False

    @property
    def subject(self) -> str:
        """Where all answers come."""
        return f"{self._inbox}.*"

    def expect(self, timeout_s: float) -> tuple[str, asyncio.Future[Answer | None]]:
        """A reply subject, and what a stream will have answered there: None when none did within `timeout_s` (or a little later)."""
        self._count += 1
        token = str(self._count)
        future: asyncio.Future[Answer | None] = self._loop.create_future()
        self._waiting[token] = future, self._loop.time() + timeout_s
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)
        return f"{self._inbox}.{token}", future

    async def on_answer(self, message: Msg) -> None:
        """An answer came. Anything else than a stream's says that no stream took the message."""
        if not message.data and (message.headers or {}).get("Status") == NOBODY_THERE:
            self._nobody()
        try:
            answer = msgspec.json.decode(message.data) if message.data else None
        except msgspec.MsgspecError:
            answer = None
        token = message.subject.rpartition(".")[2]
        self._tell(token, answer if isinstance(answer, dict) and ("seq" in answer or "error" in answer) else None)

    def close(self) -> None:
        """No answer will come any more."""
        for token in list(self._waiting):
            self._tell(token, None)

    def _tell(self, token: str, answer: Answer | None) -> None:
        future, _ = self._waiting.pop(token, (None, 0.0))
        if future is not None and not future.done():
            future.set_result(answer)

    def _sweep(self) -> None:
        """One timer for all that wait costs less than one each."""
        now = self._loop.time()
        for token in [token for token, (_, due) in self._waiting.items() if due <= now]:
            self._tell(token, None)
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)
