"""From records to events: what each kind of change becomes, in which order, and where the story ends."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from agentexecutor.bus.story import Story, progress_event
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.names import TaskName

TASK = TaskName("me", "t1")
ERROR = m.ErrorInfo(code="handler", message="broken", retryable=True, details={"cause": "failed"})
BLOB = m.BlobRef(digest="d" * 64, bytes=300_000, chunks=2)


def entry(seq: int, *changes: r.Change) -> r.LogEntry:
    record = r.Record(coordinator="coord", at="2026-01-01T00:00:00Z", changes=list(changes))
    return r.LogEntry(seq=seq, time=f"2026-01-01T00:00:{seq:02}Z", record=record)


def tell(*changes: r.Change) -> list[v.Event]:
    return Story(TASK).tell(entry(1, *changes))


AWARDED = r.Awarded(
    subtask="x", epoch=3, agent="ada", boot="b1", bids=[r.ScoredBid(agent="ada", boot="b1", epoch=3, won=True)], dropped={"busy": 2}
)
BID = {
    "agent": "ada",
    "boot": "b1",
    "epoch": 3,
    "source": "offer",
    "score": 0.0,
    "won": True,
    "reason": "",
    "estimate_s": 0.0,
    "queue_s": 0.0,
    "cost": 0.0,
    "capacity": 1,
    "free": 0,
    "factor": 1.0,
}

CHANGES: list[tuple[r.Change, str, str | None, str | None, int | None, dict[str, Any]]] = [
    (
        r.Submitted(submit=m.Submit(capability="a", priority=2, input=msgspec.Raw(b'{"x":1}')), digest="d", at=1.0),
        "submitted",
        None,
        None,
        None,
        {"capability": "a", "priority": 2},
    ),
    (
        r.Planned(add={"y": m.SubtaskSpec(capability="b", input=msgspec.Raw(b'{"x":{"$ref":"x"}}'), after=["w"])}, result="y"),
        "planned",
        None,
        None,
        None,
        {"version": 1, "cause": "submit", "subtasks": {"y": {"capability": "b", "after": ["w", "x"]}}, "result": "y"},
    ),
    (
        r.Planned(cause="split", parent="x", add={"x-1": m.SubtaskSpec(capability="b")}, shares={"x-1": (0, 5)}),
        "planned",
        None,
        None,
        None,
        {
            "version": 1,
            "cause": "split",
            "subtasks": {"x-1": {"capability": "b", "after": []}},
            "parent": "x",
            "shares": {"x-1": [0, 5]},
        },
    ),
    (r.Planned(version=2, cause="feedback"), "replanned", None, None, None, {"version": 2, "cause": "feedback", "subtasks": {}}),
    (r.Ready(subtasks=["x"]), "ready", "x", None, None, {}),
    (
        AWARDED,
        "awarded",
        "x",
        "ada",
        3,
        {
            "boot": "b1",
            "policy": "fastest",
            "auction": "standing",
            "bids": [BID],
            "considered": 1,
            "dropped": {"busy": 2},
            "attempt": 1,
        },
    ),
    (
        r.Accepted(subtask="x", epoch=3, schedule=[m.Step(name="s", duration_s=1)]),
        "accepted",
        "x",
        None,
        3,
        {"schedule": [{"name": "s", "duration_s": 1.0}]},
    ),
    (
        r.Completed(subtask="x", epoch=3, agent="ada", result=msgspec.Raw(b"[1,2]"), took_s=0.5, usage={"tokens": 7}),
        "completed",
        "x",
        "ada",
        3,
        {"bytes": 5, "took_s": 0.5, "usage": {"tokens": 7}},
    ),
    (r.Completed(subtask="x", epoch=3, agent="ada", result_blob=BLOB), "completed", "x", "ada", 3, {"bytes": 300_000}),
    (r.Completed(of="x"), "completed", None, None, None, {"of": "x"}),
    (
        r.FailedChange(subtask="x", epoch=3, agent="ada", error=ERROR, outcome="retry", ready_at=9.5),
        "failed",
        "x",
        "ada",
        3,
        {
            "error": {"code": "handler", "message": "broken", "retryable": True, "details": {"cause": "failed"}},
            "outcome": "retry",
            "ready_at": 9.5,
        },
    ),
    (
        r.FailedChange(error=m.ErrorInfo(code="deadline", message="late", details={"n": 1})),
        "failed",
        None,
        None,
        None,
        {"error": {"code": "deadline", "message": "late", "retryable": False, "details": {"n": 1}}, "outcome": "final"},
    ),
    (r.Cancelled(reason="enough"), "cancelled", None, None, None, {"reason": "enough"}),
    (r.Superseded(subtasks=["x"], cause="feedback"), "superseded", "x", None, None, {"cause": "feedback"}),
    (
        r.FeedbackGiven(id="i", sender="you", subtask="x", verdict="revise", text="t", data=msgspec.Raw(b'{"n":1}'), epoch=3),
        "feedback",
        "x",
        None,
        3,
        {"id": "i", "sender": "you", "verdict": "revise", "text": "t", "data": {"n": 1}},
    ),
    (r.Held(), "held", None, None, None, {}),
    (
        r.Planned(version=2, base=1, cause="replan", again=["x"], remove=["z"], why=[r.Why(trigger="revise", answer="retry", subtask="x")]),
        "replanned",
        None,
        None,
        None,
        {
            "version": 2,
            "base": 1,
            "cause": "replan",
            "subtasks": {},
            "again": ["x"],
            "remove": ["z"],
            "why": [{"trigger": "revise", "answer": "retry", "subtask": "x"}],
        },
    ),
    (r.Asked(subtasks=["x"], text="May it?"), "asked", "x", None, None, {"text": "May it?"}),
    (r.Approved(subtasks=["x"], sender="me"), "approved", "x", None, None, {"sender": "me"}),
    (r.Approved(sender="me"), "approved", None, None, None, {"sender": "me"}),
    (
        r.Proposed(revision=r.Revision(again=["x"], finish=True), planner="plan-1"),
        "proposed",
        None,
        None,
        None,
        {"revision": {"again": ["x"], "finish": True}, "planner": "plan-1"},
    ),
]


@pytest.mark.parametrize(("change", "kind", "subtask", "agent", "epoch", "data"), CHANGES, ids=lambda value: type(value).__name__)
def test_what_a_change_becomes(
    change: r.Change, kind: str, subtask: str | None, agent: str | None, epoch: int | None, data: dict[str, Any]
) -> None:
    (event,) = tell(change)
    assert event == v.Event(
        time="2026-01-01T00:00:01.000000Z",
        task="me.t1",
        kind=kind,
        subtask=subtask,
        agent=agent,
        epoch=epoch,
        seq=1,
        data={**data, "coordinator": "coord"},
    )
    assert msgspec.json.decode(encode(event))["data"] == event.data, "plain JSON"


def test_every_kind_of_change_was_looked_at() -> None:
    assert {type(change) for change, *_ in CHANGES} == set(get_args(r.Change))


def test_several_changes_and_subtasks_come_in_order() -> None:
    events = tell(r.Ready(subtasks=["b", "a"]), AWARDED, r.Cancelled(subtasks=["a", "b"]))
    assert [(event.kind, event.subtask) for event in events] == [
        ("ready", "b"),
        ("ready", "a"),
        ("awarded", "x"),
        ("cancelled", "a"),
        ("cancelled", "b"),
    ]


def test_a_number_that_is_out_of_range_is_told_as_text() -> None:
    (event,) = tell(r.FeedbackGiven(id="f", sender="me", data=msgspec.Raw(b'{"accuracy":1e400}')))
    assert event.data["data"] == {"accuracy": "1e400"}


def test_an_accept_is_of_the_agent_that_the_award_named() -> None:
    story = Story(TASK)
    story.tell(entry(1, AWARDED))
    (accepted,) = story.tell(entry(2, r.Accepted(subtask="x", epoch=3)))
    assert accepted.agent == "ada"
    (other,) = story.tell(entry(3, r.Accepted(subtask="x", epoch=4)))
    assert other.agent is None


def test_what_was_told_is_not_told_again() -> None:
    story = Story(TASK)
    assert len(story.tell(entry(5, r.Held()))) == 1
    assert story.tell(entry(5, r.Held())) == []
    assert story.tell(entry(4, r.Held())) == []
    story.skip(8)
    story.skip(7)
    assert story.position == 8
    assert story.tell(entry(8, r.Held())) == []
    assert len(story.tell(entry(9, r.Held()))) == 1


@pytest.mark.parametrize("end", [r.Completed(of="x"), r.FailedChange(error=ERROR), r.Cancelled()])
def test_the_story_ends_with_the_task_s_own_end(end: r.Change) -> None:
    story = Story(TASK)
    assert [event.kind for event in story.tell(entry(1, r.Ready(subtasks=["x"]), end, r.Held()))][:1] == ["ready"]
    assert story.ended
    assert story.tell(entry(2, r.Held())) == []


@pytest.mark.parametrize(
    "change", [r.Completed(subtask="x"), r.FailedChange(subtask="x", error=ERROR), r.Cancelled(subtasks=["x"]), r.Cancelled(subtasks=[])]
)
def test_the_end_of_a_subtask_is_not_the_end(change: r.Change) -> None:
    story = Story(TASK)
    story.tell(entry(1, change))
    assert not story.ended


def test_progress_says_only_what_was_said() -> None:
    said = m.Progress(subtask="x", epoch=2, boot="b", at="2026-01-01T00:00:00Z", fraction=0.0, schedule=[m.Step(name="s")])
    event = progress_event(TASK, "ada", said)
    assert (event.kind, event.seq, event.agent, event.epoch, event.time) == ("progress", 0, "ada", 2, "2026-01-01T00:00:00Z")
    assert event.data == {"fraction": 0.0, "schedule": [{"name": "s"}]}
