"""What is worth a line in the log, so that no flood becomes a flood of lines.

`Complaints`: what strangers send and nobody can use, the first of each kind, then now and then how many more there were. `Seldom`: what goes wrong again
and again until it is mended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable

__all__ = ["Complaints", "Seldom"]

KINDS = 100
LONGEST = 500
EVERY_S = 10.0


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


class Seldom:
    """Warnings, each kind at most once in `every_s` seconds. `kind` is one of a few words of the program's own."""

    def __init__(self, logger: logging.Logger, every_s: float = EVERY_S) -> None:
        self._logger = logger
        self._every_s = every_s
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, kind: str, text: str, *arguments: object) -> None:
        """Log it, with the number of those that were left out before; or leave it out."""
        now = time.monotonic()
        at, left_out = self._told.get(kind, (float("-inf"), 0))
        if now < at + self._every_s:
            self._told[kind] = at, left_out + 1
            return
        self._told[kind] = now, 0
        more = f" (Since the last such line: {left_out} more.)" if left_out else ""
        self._logger.warning("%s%s", text % arguments, more)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"
