"""The real data: the English conversations of the package `chatterbot-corpus` (BSD), and the part of them that is held out. Knows neither agents nor the bus.

The YAML files are read where the package lies; its code is not imported.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

from examples.customer_service.texts import normal

from agentexecutor.console.exits import UsageError

__all__ = ["SEED", "Exchange", "Parts", "accepted_answers", "hold_out", "read_exchanges"]

SEED = "customer service"
HELD_OUT = 0.2
FOLDER = "chatterbot_corpus/data/english/"
INSTALL = "pip install 'agentexecutor[customer-service]'"


class Exchange(NamedTuple):
    """A question that somebody asked, what was answered, and the topic (the file that it stands in)."""

    question: str
    answer: str
    topic: str


class Parts(NamedTuple):
    """What is learnt from, and what is only asked."""

    learnt: list[Exchange]
    held_out: list[Exchange]


@cache
def read_exchanges() -> tuple[Exchange, ...]:
    """Every question of the corpus with every answer to it, repeats included, in the order of the files. Raises UsageError."""
    try:
        import yaml  # noqa: PLC0415  # the extra may be missing, and then this function says so
    except ImportError:
        raise UsageError("The customer service needs PyYAML, which is not installed.", hint=INSTALL) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[Exchange] = []
    for path in _files():
        held = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  # it is one of the two safe ones
        for question, *answers in (one for one in held["conversations"] if isinstance(one, list)):  # one is a mistake: a plain text
            asked = str(question).strip()
            found += [Exchange(asked, str(answer).strip(), path.stem) for answer in answers if normal(asked)]
    return tuple(found)


def _files() -> list[Path]:
    try:
        held = files("chatterbot-corpus") or []
    except PackageNotFoundError:
        held = []
    paths = sorted(Path(str(file.locate())) for file in held if file.as_posix().startswith(FOLDER) and file.suffix == ".yml")
    if not paths:
        raise UsageError("The conversations are not there: chatterbot-corpus is not installed, or not completely.", hint=INSTALL)
    return paths


def hold_out(exchanges: tuple[Exchange, ...] | list[Exchange], seed: str = SEED) -> Parts:
    """A fifth of the exchanges, the same always and everywhere: the order is that of a digest of seed, place and question."""

    def drawn(place: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{place}\n{exchanges[place].question}".encode()).digest()

    order = sorted(range(len(exchanges)), key=drawn)
    held = set(order[: round(len(exchanges) * HELD_OUT)])
    return Parts(
        learnt=[exchange for place, exchange in enumerate(exchanges) if place not in held],
        held_out=[exchanges[place] for place in sorted(held)],
    )


def accepted_answers(exchanges: tuple[Exchange, ...] | list[Exchange]) -> dict[str, set[str]]:
    """For each question, in its normal form, all answers that the corpus gives to it: each of them is right."""
    accepted: dict[str, set[str]] = defaultdict(set)
    for exchange in exchanges:
        accepted[normal(exchange.question)].add(exchange.answer)
    return accepted
