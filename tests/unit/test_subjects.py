"""Subjects: what is built is what the document says, and what is built can be parsed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import CLASSES, NOBODY, Subjects, class_of, shard_of

TASK = TaskName("ada", "t-1")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
ME, OWNER, ID = "<me>", "<owner>", "<id>"


@pytest.fixture(params=["ae.v1", "acme", "eu.acme.ae.v1"])
def subjects(request: pytest.FixtureRequest) -> Subjects:
    return Subjects(request.param)


def test_the_document_shows_the_subjects_that_are_built() -> None:
    made, task = Subjects(), TaskName(OWNER, ID)
    built = [
        made.submit(TaskName(ME, ID), "<class>"),
        made.claim(ME, "<kind>", task),
        made.ask(ME, "<kind>", task),
        made.offer(ME),
        made.progress(ME, task),
        made.bid(ME, "<shard>", task),  # type: ignore[arg-type]
        made.blob(task, "<digest>", "<n>"),  # type: ignore[arg-type]
        made.to(ME, "<kind>", task),
        made.call("<capability>"),
        made.watch(task),
        made.log("<shard>", task),  # type: ignore[arg-type]
        made.lease("<shard>"),  # type: ignore[arg-type]
        made.member("<peer>"),
        made.inbox("<shard>", "<kind>", task, "<peer>"),  # type: ignore[arg-type]
    ]
    assert [subject for subject in built if f"`{subject}`" not in DOCUMENT] == []


def test_a_question_about_nothing_has_dashes_for_a_task() -> None:
    assert Subjects().ask("me", "agents") == "ae.v1.ask.me.agents.-.-"
    assert Subjects().parse_ask("ae.v1.ask.me.agents.-.-") == ("me", "agents", NOBODY)


def test_what_is_built_can_be_parsed(subjects: Subjects) -> None:
    assert subjects.parse_inbox(subjects.inbox(11, "done", TASK, "a1")) == (11, "done", TASK, "a1")
    assert subjects.parse_log(subjects.log(3, TASK)) == (3, TASK)
    assert subjects.parse_to(subjects.to("a1", "award", TASK)) == ("a1", "award", TASK)
    assert subjects.parse_ask(subjects.ask("a1", "task", TASK)) == ("a1", "task", TASK)
    assert subjects.parse_bid(subjects.bid("a1", 15, TASK)) == ("a1", 15, TASK)
    assert subjects.parse_progress(subjects.progress("a1", TASK)) == ("a1", TASK)
    assert subjects.parse_new(f"{subjects.prefix}.new.7.high.ada.t-1") == (7, "high", TASK)
    assert [subjects.last_token(s) for s in (subjects.offer("a1"), subjects.member("a1"), subjects.lease(9))] == ["a1", "a1", "9"]


@pytest.mark.parametrize(
    "parse", ["parse_new", "parse_inbox", "parse_log", "parse_to", "parse_ask", "parse_bid", "parse_progress", "last_token"]
)
def test_a_subject_of_another_shape_is_a_value_error(subjects: Subjects, parse: str) -> None:
    for subject in (subjects.prefix, f"{subjects.prefix}.x", f"{subjects.prefix}." + ".".join("abcdefghij"), ""):
        with pytest.raises(ValueError, match="tokens"):
            getattr(subjects, parse)(subject)


@pytest.mark.parametrize(
    ("parse", "subject"),
    [("parse_new", "new.x.high.a.b"), ("parse_log", "task.x.a.b"), ("parse_inbox", "in.x.done.a.b.c"), ("parse_bid", "bid.p.x.a.b")],
)
def test_a_shard_that_is_no_number_is_a_value_error(parse: str, subject: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        getattr(Subjects(), parse)(f"ae.v1.{subject}")


def matches(pattern: str, subject: str) -> bool:
    """NATS wildcards, written anew: ``*`` is one token, ``>`` the rest."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and matches(".".join(wanted[:-1]), ".".join(tokens[: len(wanted) - 1]))
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def test_wildcards_cover_what_they_are_for_and_nothing_else(subjects: Subjects) -> None:
    other = TaskName("bob", "t-2")
    covers = [
        (subjects.all_submits(), subjects.submit(TASK, "high"), subjects.claim("ada", "cancel", TASK)),
        (subjects.all_claims(), subjects.claim("a1", "done", TASK), subjects.submit(TASK, "high")),
        (subjects.all_logs(), subjects.log(3, TASK), subjects.lease(3)),
        (subjects.all_logs(3), subjects.log(3, TASK), subjects.log(13, TASK)),
        (subjects.all_log_tokens(), subjects.log(3, TASK), subjects.watch(TASK)),
        (subjects.any_log(TASK), subjects.log(3, TASK), subjects.log(3, other)),
        (subjects.all_leases(), subjects.lease(3), subjects.member("a1")),
        (subjects.all_members(), subjects.member("a1"), subjects.offer("a1")),
        (subjects.all_offers(), subjects.offer("a1"), subjects.member("a1")),
        (subjects.all_progress(), subjects.progress("a1", TASK), subjects.offer("a1")),
        (subjects.all_progress(TASK), subjects.progress("a1", TASK), subjects.progress("a1", other)),
        (subjects.all_blobs(), subjects.blob(TASK, "d", 0), subjects.log(0, TASK)),
        (subjects.all_blobs(TASK), subjects.blob(TASK, "d", 0), subjects.blob(other, "d", 0)),
        (subjects.all_to("a1"), subjects.to("a1", "award", TASK), subjects.to("a11", "award", TASK)),
        (subjects.all_by("a1")[0], subjects.claim("a1", "done", TASK), subjects.claim("a11", "done", TASK)),
        (subjects.all_by("a1")[1], subjects.bid("a1", 3, TASK), subjects.claim("a1", "done", TASK)),
        (subjects.all_by("a1")[2], subjects.progress("a1", TASK), subjects.progress("a11", TASK)),
        (subjects.all_asks("task"), subjects.ask("a1", "task", TASK), subjects.ask("a1", "tasks")),
        (subjects.all_bids(3), subjects.bid("a1", 3, TASK), subjects.bid("a1", 13, TASK)),
        (subjects.all_inbox(3), subjects.inbox(3, "done", TASK, "a1"), subjects.inbox(13, "done", TASK, "a1")),
        (subjects.inbox_of(3, TASK, "a1"), subjects.inbox(3, "done", TASK, "a1"), subjects.inbox(3, "done", TASK, "a2")),
    ]
    for pattern, inside, outside in covers:
        assert matches(pattern, inside), pattern
        assert not matches(pattern, outside), pattern


def test_priorities_travel_in_three_classes() -> None:
    assert [class_of(priority) for priority in (1, 1_000_000, 0, -1)] == ["high", "high", "normal", "low"]
    assert CLASSES == ("high", "normal", "low")


def test_shards_are_the_documented_hash() -> None:
    """FNV-1a, 32 bits: the published values of the empty text, "a" and "foobar" (tests/integration/test_shards.py asks the server)."""
    assert shard_of(TaskName("", ""), 2**32) == 0x811C9DC5
    assert shard_of(TaskName("a", ""), 2**32) == 0xE40C292C
    assert shard_of(TaskName("foo", "bar"), 2**32) == 0xBF9CF968
    assert shard_of(TaskName("foob", "ar"), 2**32) == 0xBF9CF968
    spread = [shard_of(TaskName("ada", f"t{n}"), 16) for n in range(4000)]
    assert set(spread) == set(range(16))
    assert max(spread.count(shard) for shard in range(16)) < 2 * 4000 / 16
