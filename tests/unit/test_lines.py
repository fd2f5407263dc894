"""An event as a line of text: it names who, what and why, and is one line whatever agents write."""

from __future__ import annotations

from typing import Any

import pytest
from events import BIDS, a_run, event

from agentexecutor.console.lines import bids_text, line_of


def said(kind: str, subtask: str | None = "main", **data: Any) -> str:
    return line_of(event(kind, subtask, agent="a1", epoch=3, **data))


def test_a_line_begins_with_the_time_the_subtask_and_the_kind() -> None:
    assert line_of(event("ready", "features-1", at=0.231)).split() == ["10:00:00.231", "features-1", "ready"]
    assert line_of(event("completed")).split() == ["10:00:00.000", "task", "completed"]
    assert line_of(event("accepted", "main", agent="a1", epoch=3)).split()[-3:] == ["a1", "(epoch", "3)"]


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("submitted", {"priority": 5}, "priority 5"),
        ("planned", {"version": 1, "cause": "submit", "subtasks": {"a": {}, "b": {}}}, "version 1, subtasks: a, b"),
        ("planned", {"version": 2, "cause": "split", "parent": "a", "subtasks": {"a-1": {}}}, "version 2, shares of a: a-1"),
        ("planned", {"subtasks": {f"s{n}": {} for n in range(20)}}, "s11 and 8 more"),
        (
            "awarded",
            {"bids": BIDS, "considered": 9, "policy": "capacity", "auction": "call"},
            "is the largest; against a1 -5 (capacity 5), 7 more [capacity, call]",
        ),
        ("awarded", {"bids": [], "attempt": 2}, "won; no other bid [fastest, standing, attempt 2]"),
        (
            "accepted",
            {"schedule": [{"name": "read", "duration_s": 1}, {"name": "count", "duration_s": 300}]},
            "schedule read 1 s, count 5 min",
        ),
        ("progress", {"fraction": 0.4, "step": "read", "state": "started", "text": "400 of 1000"}, "40%, read started, 400 of 1000"),
        ("progress", {"schedule": [{"name": "read", "duration_s": 2}]}, "new schedule read 2 s"),
        ("completed", {"took_s": 0.25, "bytes": 2048, "usage": {"tokens": 12}}, "in 0.25 s, 2048 B, tokens 12"),
        ("failed", {"error": {"code": "handler", "message": "no"}, "outcome": "retry"}, "goes back: handler: no"),
        ("failed", {"error": {"code": "input", "message": "no"}}, "input: no"),
        ("failed", {"error": {"code": "lost", "message": "no"}, "outcome": "skip"}, "is skipped: lost: no"),
        ("cancelled", {"reason": "not needed"}, "not needed"),
        ("superseded", {"cause": "revised"}, "revised"),
        ("feedback", {"verdict": "revise", "sender": "ada", "text": "use bigrams"}, "revise by ada: use bigrams"),
        ("feedback", {"sender": "ada"}, "comment by ada"),
        ("held", {"coordinator": "c2"}, "taken over by c2"),
        ("teleported", {"what": 1}, "teleported"),
    ],
)
def test_each_kind_says_what_matters(kind: str, data: dict[str, Any], text: str) -> None:
    assert text in said(kind, **data)


def test_a_line_is_one_line_and_not_endless() -> None:
    line = said("failed", error={"code": "handler", "message": "Traceback\n  File x\r\n" + "long " * 1000})
    assert "\n" not in line
    assert "\r" not in line
    assert len(line) <= 500


def test_every_event_of_a_run_has_its_line() -> None:
    lines = [line_of(one) for one in a_run()]
    assert all(one.kind in line for one, line in zip(a_run(), lines, strict=True))


def test_the_losing_bids() -> None:
    many = [{"agent": f"a{n}", "score": float(n), "reason": "slower"} for n in range(6)]
    assert bids_text([{"agent": "w", "won": True}], 1) == "no other bid"
    assert bids_text([{"agent": "w", "won": True}], 3) == "against 2 more"
    assert bids_text([{"agent": "w", "won": True}, *many], 20).endswith("a3 3 (slower), 15 more")
