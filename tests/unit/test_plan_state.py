"""The reducer behind the live view: what each event makes of the picture."""

from __future__ import annotations

import random
from typing import Any

import pytest
from events import BIDS, START, a_run, event

from agentexecutor.console.plan_state import ENDED, PlanState, Row, reduce


def after(*events: Any) -> PlanState:
    state = PlanState()
    for one in events:
        assert reduce(state, one) is state
    return state


def awarded(subtask: str = "main", epoch: int = 1, **data: Any) -> Any:
    return event("awarded", subtask, agent="a1", epoch=epoch, **data)


def test_nothing_is_known_before_the_first_event() -> None:
    state = PlanState()
    assert (state.state, state.ended, state.rows, state.counts()) == ("waiting", False, {}, {})


def test_a_whole_run() -> None:
    state = after(*a_run())
    assert (state.task, state.state, state.version, state.ended) == ("ada.t1", "completed", 2, True)
    assert {name: row.state for name, row in state.rows.items()} == dict.fromkeys(
        ("features", "model", "features-1", "features-2"), "completed"
    )
    assert state.rows["features"].children == ["features-1", "features-2"]
    assert state.rows["features-2"].parent == "features"
    assert (state.rows["features-2"].attempt, state.rows["features-2"].agent) == (2, "a2")
    assert state.coordinators == ["c1", "c2"]
    assert (state.started_at, state.last_at, state.last_seq) == (START, START + 4.0, 10)
    assert state.rows["model"].took_s == 0.9


def test_states_in_the_middle_of_a_run() -> None:
    state = after(*a_run()[:10])
    assert {name: row.state for name, row in state.rows.items()} == {
        "features": "running",
        "model": "blocked",
        "features-1": "running",
        "features-2": "awarded",
    }
    first = state.rows["features-1"]
    assert (first.fraction, first.step, first.text, first.schedule_s) == (0.4, "count", "400 of 1000", 4.0)
    assert state.counts() == {"running": 2, "blocked": 1, "awarded": 1}
    assert [auction.subtask for auction in state.auctions] == ["features-1", "features-2"]


def test_an_auction_keeps_its_bids_and_the_winners_reason() -> None:
    (auction,) = after(awarded(bids=BIDS, considered=9, policy="capacity", auction="call")).auctions
    assert (auction.agent, auction.epoch, auction.policy, auction.mode, auction.considered) == ("a1", 1, "capacity", "call", 9)
    assert auction.reason == "capacity 10 is the largest"
    assert [(bid.agent, bid.score, bid.won) for bid in auction.bids] == [("a2", -10.0, True), ("a1", -5.0, False)]


def test_defaults_that_did_not_travel_are_filled_in() -> None:
    (auction,) = after(awarded(bids=[{"agent": "a1", "boot": "b", "won": True}])).auctions
    assert (auction.policy, auction.mode, auction.considered, auction.bids[0].score) == ("fastest", "standing", 1, 0.0)


def test_only_the_last_auctions_are_kept() -> None:
    state = after(*(awarded(epoch=n, bids=[]) for n in range(1, 301)))
    assert len(state.auctions) == 100
    assert state.auctions[-1].epoch == 300


@pytest.mark.parametrize(("outcome", "then"), [("retry", "ready"), ("skip", "skipped"), ("final", "failed"), (None, "failed")])
def test_a_failure_leads_where_it_says(outcome: str | None, then: str) -> None:
    data: dict[str, Any] = {"error": {"code": "lost", "message": "a1 is gone"}} | ({"outcome": outcome} if outcome else {})
    row = after(awarded(), event("failed", "main", agent="a1", epoch=1, **data)).rows["main"]
    assert (row.state, row.error) == (then, "lost: a1 is gone")
    assert row.agent == (None if outcome == "retry" else "a1")


def test_another_award_starts_afresh() -> None:
    state = after(
        awarded(),
        event("progress", "main", seq=0, agent="a1", epoch=1, fraction=0.9, step="x", state="started"),
        event("failed", "main", at=2, epoch=1, error={"code": "handler", "message": "no"}, outcome="retry"),
        event("awarded", "main", at=3, agent="a2", epoch=2, attempt=2),
    )
    row = state.rows["main"]
    assert (row.agent, row.attempt, row.fraction, row.step, row.error, row.started_at) == ("a2", 2, None, "", "", START + 3)


def test_what_comes_late_from_an_older_attempt_changes_nothing() -> None:
    state = after(
        awarded(epoch=1),
        awarded(epoch=2),
        event("progress", "main", seq=0, agent="a1", epoch=1, fraction=0.9),
        event("accepted", "main", epoch=1, schedule=[]),
    )
    assert (state.rows["main"].state, state.rows["main"].fraction) == ("awarded", None)


def test_progress_after_the_end_changes_nothing() -> None:
    row = after(awarded(), event("completed", "main", epoch=1), event("progress", "main", seq=0, epoch=1, fraction=0.5)).rows["main"]
    assert (row.state, row.fraction) == ("completed", 1.0)


def test_a_step_goes_when_it_is_finished_and_a_schedule_may_be_revised() -> None:
    state = after(awarded(), event("progress", "main", seq=0, epoch=1, step="read", state="started", fraction=0.1))
    assert state.rows["main"].step == "read"
    reduce(state, event("progress", "main", seq=0, epoch=1, step="read", state="finished", schedule=[{"name": "a", "duration_s": 9}]))
    row = state.rows["main"]
    assert (row.state, row.step, row.fraction, row.schedule_s) == ("running", "", 0.1, 9.0)


def test_a_new_version_of_the_plan_adds_to_the_picture() -> None:
    state = after(
        event("planned", subtasks={"a": {"capability": "x"}}),
        event("replanned", version=2, cause="revise", subtasks={"b": {"capability": "y"}}),
    )
    assert (state.version, list(state.rows)) == (2, ["a", "b"])


def test_the_end_of_the_task_ends_what_was_open() -> None:
    for kind, data, error in (
        ("failed", {"error": {"code": "deadline", "message": "30 s"}}, "deadline: 30 s"),
        ("cancelled", {"reason": "not needed"}, "not needed"),
    ):
        state = after(awarded("a"), event("completed", "a", epoch=1), awarded("b", 2), event(kind, at=5, **data))
        assert (state.state, state.error, state.ended) == (kind, error, True)
        assert {name: row.state for name, row in state.rows.items()} == {"a": "completed", "b": "cancelled"}
        assert state.rows["b"].ended_at == START + 5


def test_cancelled_and_superseded_subtasks() -> None:
    state = after(awarded("a"), event("cancelled", "a"), event("superseded", "b"))
    assert {name: row.state for name, row in state.rows.items()} == {"a": "cancelled", "b": "superseded"}


def test_how_much_is_done() -> None:
    state = PlanState()
    row = state.row("split")
    assert state.part_done(row) is None
    row.state, row.children = "running", ["s1", "s2", "s3", "s4"]
    assert state.part_done(row) == 0.0
    state.row("s1").state = "completed"
    assert state.part_done(row) == 0.25
    row.state = "completed"
    assert state.part_done(row) == 1.0
    assert state.part_done(Row("main", state="running", fraction=0.3)) == 0.3


def test_kinds_that_are_not_known_are_only_remembered_by_sequence() -> None:
    state = after(event("teleported", "main", seq=7), event("held", seq=8, coordinator="c9"), event("feedback", "main", seq=9))
    assert (state.state, state.last_seq, state.coordinators) == ("waiting", 9, ["c9"])


def test_a_time_that_cannot_be_read_is_taken_for_the_last_one() -> None:
    state = after(awarded())
    reduce(state, event("completed", "main", epoch=1).__class__(time="soon", task="ada.t1", kind="completed", subtask="main", epoch=1))
    assert state.rows["main"].ended_at == START


def test_no_order_of_events_raises() -> None:
    events = a_run()
    for seed in range(50):
        shuffled = random.Random(seed).sample(events, len(events))
        state = after(*shuffled)
        assert state.ended
        assert set(state.counts()) <= ENDED | {"ready", "running", "awarded", "blocked"}
