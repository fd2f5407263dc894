"""What is worth a line in the log when strangers send what nobody can use: the first of each kind, then now and then how many more there were."""

from __future__ import annotations

import logging
from collections.abc import Hashable

__all__ = ["Complaints"]

KINDS = 100
LONGEST = 500


class Complaints:
    """Warnings that a flood cannot turn into a flood of lines. Remembers no more than `kinds` kinds."""

    def __init__(self, logger: logging.Logger, kinds: int = KINDS) -> None:
        self._logger = logger
        self._kinds = kinds
        self._told: set[Hashable] = set()
        self._more = 0
        self._tell_at = 10

    def tell(self, kind: Hashable, text: str, *arguments: object) -> bool:
        """Log the first of a kind; of all others every tenfold number is told, with the one that made it full. True: told as a first."""
        if kind not in self._told and len(self._told) < self._kinds:
            self._told.add(kind)
            self._logger.warning("%s", _cut(text % arguments))
            return True
        self._more += 1
        if self._more >= self._tell_at:
            self._tell_at *= 10
            self._logger.warning("%d more messages cannot be used. The last: %s", self._more, _cut(text % arguments))
        return False


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"
