"""Turns that need several records: what their first records say counts only together with the last one (docs/protocol.md section 8).

Who writes such a turn may die between two of its records; then nothing of it counts. The fence of the log keeps the records of a turn together.
"""

from __future__ import annotations

from msgspec.structs import replace

from agentexecutor.schemas import records as r

__all__ = ["Parts"]


class Parts:
    """Joins the records of one log, which are passed in one after another."""

    def __init__(self) -> None:
        self._waiting: list[r.Record] = []

    def lacks(self, record: r.Record) -> int:
        """How many records that belong to this one were not seen."""
        return max(0, record.parts - len(self._waiting))

    def whole(self, record: r.Record) -> r.Record | None:
        """The record with the changes of all its parts; None for a part, which counts only if the end of its turn follows."""
        if record.part:
            self._waiting.append(record)
            return None
        parts, self._waiting = self._waiting[-record.parts :] if record.parts else [], []
        if not parts:
            return record
        return replace(record, changes=[change for one in (*parts, record) for change in one.changes], parts=0)
