"""The memory: ``agentexecutor agent agentexecutor.agents.autogpt.memory:agent``. What was tried and learned, in a SQLite file with full-text search.

The file is AGENTEXECUTOR_MEMORY_FILE, else ``autogpt-memory.db`` in the working folder. Several processes may share it. What a crash makes run twice is
kept once: notes are known by the key of the work that wrote them.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.settings import NOTE, SEARCH
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import Fail, Retry
from agentexecutor.schemas.codec import to_rfc3339

__all__ = ["Found", "Kept", "Memory", "Note", "agent", "make"]

FILE = "autogpt-memory.db"
BUSY_S = 10.0
MAX_NOTES = 100
MAX_CHARS = 10_000
MAX_WORDS = 32
"""Of a query; more of them find everything."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, at REAL NOT NULL, task TEXT NOT NULL, goal TEXT NOT NULL, text TEXT NOT NULL,
    UNIQUE (key, text)
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, goal, content='notes', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2');
CREATE TRIGGER IF NOT EXISTS noted AFTER INSERT ON notes BEGIN
    INSERT INTO words(rowid, text, goal) VALUES (new.id, new.text, new.goal);
END;
"""


class Note(msgspec.Struct):
    """Something that was learned, in which task, towards which goal, and when."""

    text: str
    goal: str
    task: str
    at: str


class Found(msgspec.Struct):
    """Notes that fit a query, the best first."""

    notes: list[Note]


class Kept(msgspec.Struct):
    """How many notes were new, and how many there are in all."""

    kept: int
    total: int


class Memory:
    """The notes in one file; a connection for each use, so that threads and processes may share it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._file, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            yield connection

    def keep(self, key: str, task: str, goal: str, texts: list[str]) -> Kept:
        """Keep them durably, each once."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            inserted = 0
            for text in texts:
                row = (key, time.time(), task, goal, text[:MAX_CHARS])
                inserted += connection.execute(
                    "INSERT OR IGNORE INTO notes(key, at, task, goal, text) VALUES (?, ?, ?, ?, ?)", row
                ).rowcount
            connection.execute("COMMIT")
            total: int = connection.execute("SELECT count(*) FROM notes").fetchone()[0]
        return Kept(inserted, total)

    def search(self, query: str, limit: int) -> list[Note]:
        """The notes that share words with the query; rare words count for more (BM25), and newer ones go first among equals."""
        words = list(dict.fromkeys(re.findall(r"\w+", query.casefold())))[:MAX_WORDS]
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        with self._open() as connection:
            rows = connection.execute(
                "SELECT notes.text, notes.goal, notes.task, notes.at FROM words JOIN notes ON notes.id = words.rowid "
                "WHERE words MATCH ? ORDER BY bm25(words, 4.0, 1.0), notes.id DESC LIMIT ?",
                (match, limit),
            ).fetchall()
        return [Note(text, goal, task, to_rfc3339(at)) for text, goal, task, at in rows]


def make(file: Path | None = None) -> Agent:
    """A memory in this file (None: as the environment says)."""
    made = Agent("memory", capacity=4)

    def memory() -> Memory:
        return Memory(file or Path(os.environ.get("AGENTEXECUTOR_MEMORY_FILE") or FILE))

    @made.capability(NOTE, estimate_s=0.1)
    def note(ctx: Context, texts: list[str], goal: str = "") -> Kept:
        """Keep what was learned, so that a later task finds it."""
        if len(texts) > MAX_NOTES:
            raise Fail(f"{len(texts)} notes at once are too many.", hint=f"Give up to {MAX_NOTES}.")
        with _told():
            return memory().keep(ctx.key, ctx.task, goal[:MAX_CHARS], texts)

    @made.capability(SEARCH, estimate_s=0.1)
    def search(query: str, limit: int = 5) -> Found:
        """What was learned before about something: notes that share words with the query, the best first."""
        with _told():
            return Found(memory().search(query, min(max(limit, 1), MAX_NOTES)))

    return made


@contextmanager
def _told() -> Iterator[None]:
    """What SQLite says, as it concerns the subtask: a file that is busy passes, others do not."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise Retry(f"The memory is busy: {error}.") from error
        raise Fail(f"The memory cannot be used: {error}.", hint="Look at AGENTEXECUTOR_MEMORY_FILE.") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise Fail(f"The memory cannot be used: {error}.", hint="Look at AGENTEXECUTOR_MEMORY_FILE.") from error


agent = make()
