"""A task's log: a turn is appended with the fence.

Rules 1 and 3: an append that is refused or unanswered is unknown, and the log tells; there is none without the lease.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import anyio

from agentexecutor.bus.connection import Headers
from agentexecutor.bus.errands import Errands
from agentexecutor.bus.errors import AppendUnknown, BusError
from agentexecutor.bus.log import TaskLog
from agentexecutor.coordinator import errands, records
from agentexecutor.coordinator.entry import Entry
from agentexecutor.coordinator.figures import Figures
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.shell.insisting import RETRY_S
from agentexecutor.coordinator.spans import Spans
from agentexecutor.coordinator.turns import Turn
from agentexecutor.schemas.codec import H_ID, from_rfc3339

__all__ = ["Journal"]

logger = logging.getLogger("agentexecutor.coordinator")


class Journal:
    """Writes as the peer `me`; `may_append` and `holds` are asked about a shard: whether what is in memory of it is true, whether it is ours."""

    def __init__(
        self,
        log: TaskLog,
        errands: Errands,
        settings: Settings,
        *,
        me: str,
        may_append: Callable[[int], bool],
        holds: Callable[[int], bool],
        spans: Spans,
        figures: Figures,
        counters: Counter[str],
    ) -> None:
        self._log = log
        self._errands = errands
        self._settings = settings
        self._me = me
        self._may_append = may_append
        self._holds = holds
        self._spans = spans
        self._figures = figures
        self._counters = counters

    async def store(self, entry: Entry, state: TaskState, turn: Turn) -> bool:
        """Append a turn's changes: one record, or several when they are large, of which none counts before the last. False: they are not stored."""
        if turn.size > records.ADD_LIMIT:
            await self._errands.run(entry.name, errands.store_plans(turn))
        pages = records.pages(turn.encoded)
        for page in pages[:-1]:
            payload = records.encode_record(self._me, turn.at, page, part=True)
            if not await self._append(entry, state, turn, payload, records.record_headers("running")):
                return False
        payload = await self._errands.run(entry.name, errands.last_page(entry, state, turn, pages[-1], self._me, len(pages) - 1))
        priority = 0 if state.submit is None else state.submit.priority
        made = records.record_headers(state.state, priority=priority, keep_s=self._settings.keep_s if state.ended else None)
        if not await self._append(entry, state, turn, payload, made):
            return False
        at = from_rfc3339(turn.at)
        self._spans.stored(state, turn.changes, at)
        self._figures.stored(state, turn.changes, at)
        return True

    async def _append(self, entry: Entry, state: TaskState, turn: Turn, payload: bytes, made: Headers) -> bool:
        """One fenced append, not without the lease (3)."""
        seq: int | None = None
        if not entry.gone and self._may_append(entry.shard):
            sent = time.monotonic()
            try:
                seq = await self._log.append(entry.shard, entry.name, payload, made, expected=state.head)
                self._figures.appended(time.monotonic() - sent, "stored")
            except AppendUnknown as error:
                self._figures.appended(time.monotonic() - sent, "refused" if error.fields["refused"] else "unknown")
                self._counters["appends unknown"] += 1
                seq = await self._find(entry, made[H_ID])
        if seq is None:
            return False
        self._counters["records"] += 1
        state.head = seq
        entry.fenced = True
        entry.history.append(records.encode_entry(seq, turn.at, payload))
        return True

    async def _find(self, entry: Entry, id: str) -> int | None:
        """After an append without an answer (1): the sequence when the log's last record is ours; None when it is not, or the lease is lost."""
        while not entry.gone and self._holds(entry.shard):
            try:
                last = await self._log.last(entry.shard, entry.name)
            except BusError:
                await anyio.sleep(RETRY_S)
                continue
            return last.seq if last is not None and last.id == id else None
        return None
