"""The side thread: a loop and a connection of its own for what must not wait for handlers.

These are the offers, the process's share of coordinating, and a look at whether the main loop still turns.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from nats.aio.msg import Msg

from agentexecutor.agents.errors import AgentError, NameTaken
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.loop import run
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed

if TYPE_CHECKING:
    from agentexecutor.agents.hosting import Hosting

__all__ = ["Side"]

logger = logging.getLogger("agentexecutor.agents")

BEAT_S = 1.0
BLOCKED_S = 1.0
LOOK_S = 0.25


class Side:
    """One thread a process. `loop` is the main one, in which handlers run."""

    def __init__(self, hosting: Hosting, loop: asyncio.AbstractEventLoop, *, coordinate: bool) -> None:
        self._hosting = hosting
        self._main = loop
        self._coordinate = coordinate
        self._thread = threading.Thread(target=self._run, name=f"agentexecutor {hosting.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = anyio.Event()
        self._changed = anyio.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._answered_at = time.monotonic()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Side]:
        """The thread runs while the block does. Raises what kept it from starting."""
        self._thread.start()
        await anyio.to_thread.run_sync(self._ready.wait)
        if self._error is not None:
            raise self._error
        try:
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                self._call(self._stop.set)
                await anyio.to_thread.run_sync(self._thread.join)

    def publish_soon(self) -> None:
        """Publish the offer now. May be called from any thread."""
        self._call(self._offer_changed)

    def _offer_changed(self) -> None:
        self._changed.set()

    def _call(self, function: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]  # a function without arguments

    # in the thread

    def _run(self) -> None:
        try:
            run(self._live)
        except BaseException as error:
            self._error = error
            if self._ready.is_set():
                logger.exception("Agent %s cannot keep its offers.", self._hosting.name)
                gone = AgentError(f"Agent {self._hosting.name!r} cannot keep its offers: {error}.", hint="Start it again.")
                with suppress(RuntimeError):
                    self._main.call_soon_threadsafe(self._hosting.give_up, gone)
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._changed = anyio.Event(), anyio.Event()
        own = self._hosting.bus.connection
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                open_connection(own.url, name=own.name, prefix=own.prefix, credentials=own.credentials)
            )
            await connection.subscribe(connection.subjects.offer(own.name), self._offer_heard)
            coordinator = Coordinator(connection, boot=self._hosting.boot) if self._coordinate else None
            async with anyio.create_task_group() as group:
                group.start_soon(self._offers, connection)
                group.start_soon(self._look_at_main, connection)
                async with anyio.create_task_group() as coordinating:
                    if coordinator is not None:
                        await coordinating.start(coordinator.run)
                    await self._publish(connection)
                    self._ready.set()
                    await self._stop.wait()
                    if coordinator is not None:
                        coordinator.stop()
                group.cancel_scope.cancel()

    async def _offers(self, connection: Connection) -> None:
        while True:
            with anyio.move_on_after(BEAT_S):
                await self._changed.wait()
            self._changed = anyio.Event()
            await self._publish(connection)

    async def _publish(self, connection: Connection) -> None:
        try:
            await connection.publish(connection.subjects.offer(connection.name), encode(self._hosting.offer()), headers("offer"))
        except AgentExecutorError as error:
            logger.warning("The offer could not be sent: %s", error)

    async def _offer_heard(self, message: Msg) -> None:
        """One's own offer, or that of another process with the same name."""
        with suppress(DecodeFailed):
            offer = decode((message.headers or {}).get(H_TYPE), message.data)
            if isinstance(offer, m.Offer) and offer.boot > self._hosting.boot:
                error = NameTaken(
                    f"A newer process has the name {self._hosting.name!r}, so this one stops.",
                    hint="Give each process its own name.",
                    name=self._hosting.name,
                    boot=offer.boot,
                )
                self._main.call_soon_threadsafe(self._hosting.give_up, error)

    async def _look_at_main(self, connection: Connection) -> None:
        """When a handler blocks the main loop: say the accepts that it cannot say, and warn. Offers and leases go on anyway."""
        warned = False
        asked_at = 0.0
        while True:
            now = time.monotonic()
            if self._answered_at >= asked_at:
                warned = False
                asked_at = now
                with suppress(RuntimeError):
                    self._main.call_soon_threadsafe(self._main_answers)
                await anyio.sleep(LOOK_S)
                continue
            await self._accept_for_main(connection)
            if now - asked_at > BLOCKED_S and not warned:
                warned = True
                logger.warning(
                    "A handler of %s blocks the event loop for over %g s; make it a plain function, which runs in a thread.",
                    self._hosting.name,
                    BLOCKED_S,
                )
            await anyio.sleep(LOOK_S)

    async def _accept_for_main(self, connection: Connection) -> None:
        for held in list(self._hosting.book.held.values()):
            overdue = held.host.overdue_accept()
            if overdue is not None:
                task, claim = overdue
                with suppress(AgentExecutorError):
                    await connection.store(
                        connection.subjects.claim(connection.name, claim.kind, task), claim.payload, claim.headers, timeout_s=1.0
                    )

    def _main_answers(self) -> None:
        self._answered_at = time.monotonic()
