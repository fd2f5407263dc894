"""The knowledge as SQLite keeps it: entries with full-text indexes (words, groups of three letters for misspelt ones), lessons, and what was wrong.

Every value travels as a parameter; what the customer typed reaches FTS5 as quoted words only.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from examples.customer_service.corpus import Exchange
from examples.customer_service.files import opened
from examples.customer_service.shapes import Candidate, Lesson
from examples.customer_service.texts import normal, plain, words

__all__ = [
    "activate",
    "add",
    "answer_of",
    "candidate",
    "create",
    "keep_lesson",
    "keywords",
    "questions",
    "search",
    "set_thresholds",
    "thresholds",
]

NAME = "knowledge"
WORDS_ASKED = 32
GRAMS_ASKED = 64
FOUND = 25
"""Entries from each of the two indexes."""
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE entries (id INTEGER PRIMARY KEY, question TEXT NOT NULL, normal TEXT NOT NULL, answer TEXT NOT NULL, topic TEXT NOT NULL,
                      source TEXT NOT NULL, votes INTEGER NOT NULL, UNIQUE (normal, answer));
CREATE VIRTUAL TABLE by_words USING fts5(normal, content = 'entries', content_rowid = 'id', tokenize = 'porter unicode61');
CREATE VIRTUAL TABLE by_grams USING fts5(normal, content = 'entries', content_rowid = 'id', tokenize = 'trigram', detail = 'none');
CREATE VIRTUAL TABLE by_answers USING fts5(answer, content = 'entries', content_rowid = 'id', tokenize = 'porter unicode61');
CREATE TRIGGER entered AFTER INSERT ON entries BEGIN
    INSERT INTO by_words (rowid, normal) VALUES (new.id, new.normal);
    INSERT INTO by_grams (rowid, normal) VALUES (new.id, new.normal);
    INSERT INTO by_answers (rowid, answer) VALUES (new.id, new.answer);
END;
CREATE TABLE lessons (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, question TEXT NOT NULL, answer TEXT NOT NULL, topic TEXT NOT NULL);
CREATE TABLE wrong (normal TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (normal, entry));
CREATE TABLE learnt (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
THE_SAME = "SELECT id, question, normal, answer, topic, source, votes FROM entries WHERE normal = ? ORDER BY id"
BY_WORDS = """SELECT id, question, normal, answer, topic, source, votes FROM entries
              WHERE id IN (SELECT rowid FROM by_words WHERE by_words MATCH ? ORDER BY rank LIMIT ?)"""
BY_GRAMS = """SELECT id, question, normal, answer, topic, source, votes FROM entries
              WHERE id IN (SELECT rowid FROM by_grams WHERE by_grams MATCH ? ORDER BY rank LIMIT ?)"""

PLAIN = {
    "by_words": """SELECT entries.answer, -bm25(by_words) AS score FROM by_words JOIN entries ON entries.id = by_words.rowid
                   WHERE by_words MATCH ? AND entries.normal != ? ORDER BY bm25(by_words), entries.id LIMIT 1""",
    "by_answers": """SELECT entries.answer, -bm25(by_answers) AS score FROM by_answers JOIN entries ON entries.id = by_answers.rowid
                     WHERE by_answers MATCH ? AND entries.normal != ? ORDER BY bm25(by_answers), entries.id LIMIT 1""",
}


def create(exchanges: Iterable[Exchange], name: str = NAME) -> None:
    """A new knowledge base with these exchanges."""
    with opened(name) as db:
        db.executescript(SCHEMA)
    add(exchanges, name)


def add(exchanges: Iterable[Exchange], name: str = NAME) -> None:
    """Have an entry for each different one; `votes` is how often it occurs in these."""
    times = Counter((exchange.question, exchange.answer, exchange.topic) for exchange in exchanges)
    rows = [(question, normal(question), answer, topic, votes) for (question, answer, topic), votes in times.items()]
    with opened(name) as db:
        db.execute("UPDATE entries SET votes = 0")
        db.executemany(
            "INSERT INTO entries (question, normal, answer, topic, source, votes) VALUES (?, ?, ?, ?, 'corpus', ?)"
            " ON CONFLICT DO UPDATE SET votes = votes + excluded.votes",
            rows,
        )


def search(text: str, name: str = NAME) -> list[sqlite3.Row]:
    """Entries whose questions share words, or groups of letters, with the text and that were not wrong for it before; in no order."""
    with opened(name) as db:
        found = {row["id"]: row for row in [*_the_same(db, text), *_by_words(db, text), *_by_grams(db, text)]}
        wrong = {row["entry"] for row in db.execute("SELECT entry FROM wrong WHERE normal = ?", (normal(text),))}
    return [row for id, row in found.items() if id not in wrong]


def keywords(
    text: str, name: str = NAME, index: Literal["by_words", "by_answers"] = "by_words", without: str = ""
) -> tuple[str, float] | None:
    """Plain keyword search, which the report compares with: the answer that bm25 puts first, whatever it is, and its score (more is better).

    `without`: as if this wording, in its normal form, were not there.
    """
    asked = _any_of(dict.fromkeys(words(text)), WORDS_ASKED)
    with opened(name) as db:
        row = db.execute(PLAIN[index], (asked, without)).fetchone() if asked else None
    return None if row is None else (row["answer"], row["score"])


def _by_words(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    asked = _any_of(dict.fromkeys([*words(text), *plain(text)]), WORDS_ASKED)
    return db.execute(BY_WORDS, (asked, FOUND)).fetchall() if asked else []


def _by_grams(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    plain = normal(text)
    asked = _any_of(dict.fromkeys(plain[start : start + 3] for start in range(len(plain) - 2)), GRAMS_ASKED)
    return db.execute(BY_GRAMS, (asked, FOUND)).fetchall() if asked else []


def _any_of(terms: Iterable[str], limit: int) -> str:
    """An FTS5 query; `words` leaves no quotation marks in a term."""
    return " OR ".join(f'"{term}"' for term in list(terms)[:limit])


def candidate(row: sqlite3.Row) -> Candidate:
    """A row of `search`; how alike it is the knowledge matcher says."""
    return Candidate(row["id"], row["normal"], row["topic"], likeness=0.0, source=row["source"], votes=row["votes"])


def _the_same(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    return db.execute(THE_SAME, (normal(text),)).fetchall()


def questions() -> list[str]:
    """The questions of all entries, each once."""
    with opened(NAME) as db:
        return [row["normal"] for row in db.execute("SELECT DISTINCT normal FROM entries ORDER BY normal")]


def answer_of(entry: int) -> str | None:
    """The answer of an entry."""
    with opened(NAME) as db:
        row = db.execute("SELECT answer FROM entries WHERE id = ?", (entry,)).fetchone()
    return None if row is None else str(row["answer"])


def keep_lesson(key: str, question: str, answer: str, topic: str, wrong: list[int]) -> Lesson:
    """Write down what a person taught. The same `key` again is the same lesson."""
    with opened(NAME) as db:
        db.execute(
            "INSERT INTO lessons (key, question, answer, topic) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (key, question, answer, topic)
        )
        row = db.execute("SELECT id FROM lessons WHERE key = ?", (key,)).fetchone()
    return Lesson(id=row["id"], question=question, answer=answer, topic=topic, wrong=wrong)


def activate(lesson: Lesson) -> int:
    """Make an entry of a lesson, and never give the wrong ones to that question again; gives the entry. Done twice it is done once."""
    plain = normal(lesson.question)
    with opened(NAME) as db:
        db.execute(
            "INSERT INTO entries (question, normal, answer, topic, source, votes) VALUES (?, ?, ?, ?, 'person', 1)"
            " ON CONFLICT DO UPDATE SET source = 'person'",
            (lesson.question, plain, lesson.answer, lesson.topic),
        )
        entry = int(db.execute("SELECT id FROM entries WHERE normal = ? AND answer = ?", (plain, lesson.answer)).fetchone()["id"])
        db.executemany("INSERT INTO wrong VALUES (?, ?) ON CONFLICT DO NOTHING", [(plain, one) for one in lesson.wrong if one != entry])
    return entry


def set_thresholds(values: Mapping[str, float]) -> None:
    """By topic, how alike a question must be for its answer to be given."""
    with opened(NAME) as db:
        db.executemany("INSERT INTO learnt VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", list(values.items()))


def thresholds() -> dict[str, float]:
    """As they were learnt."""
    with opened(NAME) as db:
        return {row["name"]: float(row["value"]) for row in db.execute("SELECT name, value FROM learnt ORDER BY name")}
