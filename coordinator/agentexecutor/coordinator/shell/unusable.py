"""What comes and cannot be used: counted, the last of it kept, told in a few lines of the log."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Hashable
from typing import TypeVar

from agentexecutor.bus.complaints import Complaints
from agentexecutor.bus.connection import Headers
from agentexecutor.coordinator.figures import Figures
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, TYPE_OF, decode
from agentexecutor.schemas.errors import DecodeFailed

__all__ = ["SHOWN", "UnusableMessages"]

logger = logging.getLogger("agentexecutor.coordinator")

SHOWN = 1000
"""Of a message that cannot be used so many bytes, and of the reason so many characters, are kept."""
KEPT = 100

M = TypeVar("M", bound=m.Message)


class UnusableMessages:
    """`counters` are the coordinator's. `kept`: the last ones (subject, reason, first bytes)."""

    def __init__(self, counters: Counter[str], figures: Figures) -> None:
        self.kept: deque[tuple[str, str, bytes]] = deque(maxlen=KEPT)
        self._counters = counters
        self._figures = figures
        self._complaints = Complaints(logger)

    def count(self, why: str) -> None:
        self._counters[f"messages {why}"] += 1
        self._figures.unusable(why)

    def set_aside(self, why: str, kind: Hashable, subject: str, text: str, payload: bytes) -> None:
        """Count, keep and tell a message of which it is known what is wrong with it. One of a `kind` is told."""
        self.count(why)
        self.kept.append((subject, text, payload[:SHOWN]))
        self._complaints.tell(kind, "A message on %s cannot be used: %s", subject, text)

    def no_valid(self, subject: str, what: str, payload: bytes) -> None:
        """Count and keep what has come in the place of something else."""
        self.count("undecodable")
        if self._complaints.tell(subject, "What comes on %s cannot be used: it is no valid %s.", subject, what):
            self.kept.append((subject, f"no valid {what}", payload[:SHOWN]))

    def decoded(self, wanted: tuple[type[M], ...], subject: str, made: Headers | None, payload: bytes) -> M | None:
        """A message of a type that is expected here; anything else is counted and passed over."""
        try:
            message = decode((made or {}).get(H_TYPE), payload)
        except DecodeFailed:
            message = None
        if isinstance(message, wanted):
            return message
        self.no_valid(subject, " or ".join(TYPE_OF[cls] for cls in wanted), payload)
        return None
