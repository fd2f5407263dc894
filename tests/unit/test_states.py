"""The tables: complete, closed, and the documentation drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from agentexecutor.coordinator import states
from agentexecutor.coordinator.diagram import document
from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.evolve import evolve
from agentexecutor.coordinator.model import Attempt, SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.names import TaskName

KINDS = ("accept", "decline", "done", "failed", "release", "extend")
OOPS = m.ErrorInfo(code="handler", message="x")
CHANGES: dict[str, r.Change] = {
    "asked": r.Asked(subtasks=["s"]),
    "approved": r.Approved(subtasks=["s"]),
    "ready": r.Ready(subtasks=["s"]),
    "split": r.Planned(cause="split", parent="s", add={"s-1": m.SubtaskSpec(capability="c")}),
    "awarded": r.Awarded(subtask="s", epoch=2, agent="a", boot="b"),
    "accepted": r.Accepted(subtask="s", epoch=1),
    "completed": r.Completed(subtask="s", epoch=1),
    "retry": r.FailedChange(subtask="s", error=OOPS, outcome="retry"),
    "final": r.FailedChange(subtask="s", error=OOPS, outcome="final"),
    "skip": r.FailedChange(subtask="s", error=OOPS, outcome="skip"),
    "replan": r.FailedChange(subtask="s", error=OOPS, outcome="replan", why=r.Why(trigger="failed", answer="retry", subtask="s")),
    "wait": r.FailedChange(subtask="s", error=OOPS, outcome="wait"),
    "cancelled": r.Cancelled(subtasks=["s"]),
    "superseded": r.Superseded(subtasks=["s"]),
}


def a_task(subtask_state: Any) -> TaskState:
    state = TaskState(TaskName("me", "t"), 0, state="running", open=1)
    subtask = SubtaskState("s", m.SubtaskSpec(capability="c"), state=subtask_state)
    if subtask_state == "approval":
        state.state, state.asking = "waiting", 1
    if subtask_state in states.HELD:
        subtask.agent, subtask.boot, subtask.epoch = "a", "b", 1
        subtask.attempts.append(Attempt("a", "b", 1))
    if subtask.ended:
        state.open = 0
    state.subtasks["s"] = subtask
    return state


@pytest.mark.parametrize("event", get_args(states.SubtaskEvent))
@pytest.mark.parametrize("before", get_args(states.SubtaskStateName))
def test_every_pair_of_state_and_event_follows_the_table(before: Any, event: Any) -> None:
    state = a_task(before)
    after = states.SUBTASK.get((before, event))
    if after is None:
        with pytest.raises(TransitionError) as raised:
            evolve(state, CHANGES[event], 1.0)
        assert "s (c) is" in "\n".join(raised.value.fields["story"])
    else:
        evolve(state, CHANGES[event], 1.0)
        assert state.subtasks["s"].state == after
        still_open = sum(not subtask.ended for subtask in state.subtasks.values())
        assert state.open == still_open
        assert state.asking == (after == "approval")
        assert state.state == ("waiting" if after == "approval" else "running")


def test_every_subtask_event_has_a_change_that_causes_it() -> None:
    assert set(CHANGES) == set(get_args(states.SubtaskEvent))


def test_what_has_ended_stays_ended() -> None:
    left = {(before, event) for before, event in states.SUBTASK if before in states.ENDED}
    assert left == {(before, "superseded") for before in ("completed", "failed", "cancelled", "skipped")}
    assert not {before for before, _ in states.TASK if before in states.ENDED}


def test_every_open_state_can_end() -> None:
    for before in set(get_args(states.SubtaskStateName)) - states.ENDED:
        assert states.SUBTASK[before, "cancelled"] == "cancelled"
        assert states.SUBTASK[before, "final"] == "failed"


def test_every_claim_of_every_standing_has_a_row() -> None:
    assert set(states.CLAIMS) == {(standing, kind) for standing in get_args(states.Standing) for kind in KINDS}


def test_the_document_is_drawn_from_the_tables() -> None:
    page = Path(__file__).parents[2] / "docs" / "states.md"
    assert page.read_text() == document(), "run: python -m agentexecutor.coordinator.diagram > docs/states.md"
