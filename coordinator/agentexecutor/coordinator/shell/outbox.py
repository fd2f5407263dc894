"""What tasks have a coordinator send, to agents and clients and with their trace context, and the acknowledgements of what came in.

A loss is counted, not raised: what matters is sent again.
"""

from __future__ import annotations

import logging
from collections import Counter

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.consumers import Inbound
from agentexecutor.coordinator.inputs import Send
from agentexecutor.coordinator.market import SendCall
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.spans import Spans
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import TYPE_OF, encode, headers
from agentexecutor.schemas.names import TaskName

__all__ = ["Outbox"]

logger = logging.getLogger("agentexecutor.coordinator")

NAK_S = 1.0
"""After so long comes again what cannot be answered yet."""


class Outbox:
    """Sends as the coordinator whose connection this is; `counters` are the coordinator's."""

    def __init__(self, connection: Connection, spans: Spans, counters: Counter[str]) -> None:
        self._connection = connection
        self._subjects = connection.subjects
        self._spans = spans
        self._counters = counters

    async def send(self, task: TaskName, send: Send, state: TaskState | None) -> None:
        """A message to one peer."""
        message = send.message
        trace = self._spans.of_task(state)
        if state is not None and isinstance(message, m.Result) and message.subtask is None:
            trace = self._spans.delivered(state)
        await self._publish(self._subjects.to(send.peer, send.kind, task), encode(message), headers(TYPE_OF[type(message)], trace))

    async def award(self, state: TaskState, agent: str, award: m.Award) -> None:
        trace = self._spans.of_award(state, award.subtask)
        await self._publish(self._subjects.to(agent, "award", state.name), encode(award), headers("award", trace))

    async def call(self, state: TaskState | None, call: SendCall, message: m.Call) -> None:
        """A call for proposals, to all who offer the capability or to some."""
        payload, trace = encode(message), self._spans.of_task(state)
        if call.peers is None:
            await self._publish(self._subjects.call(call.demand.capability), payload, headers("call", trace))
        for peer, _ in call.peers or ():
            await self._publish(self._subjects.to(peer, "call", call.key.task), payload, headers("call", trace))

    async def acknowledge(self, inbound: Inbound) -> None:
        if inbound.is_current(self._connection):
            await self._publish(inbound.reply, b"+ACK", {})

    async def deliver_later(self, inbound: Inbound) -> None:
        """Have it come again."""
        if inbound.is_current(self._connection):
            await self._publish(inbound.reply, b'-NAK {"delay":%d}' % int(NAK_S * 1e9), {})

    async def _publish(self, subject: str, payload: bytes, made: Headers) -> None:
        try:
            await self._connection.publish(subject, payload, made)
        except Exception as error:  # noqa: BLE001  # nats-py raises whatever its state suggests
            self._counters["messages unsent"] += 1
            logger.warning("A message on %s was not sent: %s", subject, error)
