"""What was said: the turns of all conversations and what customers thought of the answers. It outlives every box, so any of them may die in between."""

from __future__ import annotations

from examples.customer_service.files import opened
from examples.customer_service.shapes import Said

__all__ = ["close_turn", "create", "keep_opinion", "open_turn", "opinions"]

NAME = "diary"
EARLIER = 5
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE turns (id INTEGER PRIMARY KEY, task TEXT NOT NULL UNIQUE, conversation TEXT NOT NULL, text TEXT NOT NULL,
                    intent TEXT, about TEXT, answer TEXT);
CREATE INDEX by_conversation ON turns (conversation, id);
CREATE TABLE opinions (key TEXT PRIMARY KEY, task TEXT NOT NULL, helped INTEGER, text TEXT NOT NULL, entry INTEGER);
"""


def create() -> None:
    """An empty diary."""
    with opened(NAME) as db:
        db.executescript(SCHEMA)


def open_turn(task: str, conversation: str, text: str) -> list[Said]:
    """Write a turn down, once for each task; gives the last ones before it that were answered."""
    with opened(NAME) as db:
        db.execute("INSERT INTO turns (task, conversation, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (task, conversation, text))
        rows = db.execute(
            "SELECT text, intent, about, answer FROM turns WHERE conversation = ? AND answer IS NOT NULL"
            " AND id < (SELECT id FROM turns WHERE task = ?) ORDER BY id DESC LIMIT ?",
            (conversation, task, EARLIER),
        ).fetchall()
    return [Said(row["text"], row["intent"], row["about"], row["answer"]) for row in reversed(rows)]


def close_turn(task: str, intent: str, about: str | None, answer: str) -> None:
    """What the turn was about, and its answer; a second answer to it replaces the first."""
    with opened(NAME) as db:
        db.execute("UPDATE turns SET intent = ?, about = ?, answer = ? WHERE task = ?", (intent, about, answer, task))


def keep_opinion(key: str, task: str, text: str, entry: int | None, *, helped: bool | None) -> None:
    """What the customer thought of an answer. The same `key` again is the same opinion."""
    with opened(NAME) as db:
        db.execute(
            "INSERT INTO opinions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (key, task, None if helped is None else int(helped), text, entry),
        )


def opinions() -> tuple[int, int]:
    """How many answers have helped, and how many have not."""
    with opened(NAME) as db:
        row = db.execute(
            "SELECT count(*) FILTER (WHERE helped = 1) AS good, count(*) FILTER (WHERE helped = 0) AS bad FROM opinions"
        ).fetchone()
    return row["good"], row["bad"]
