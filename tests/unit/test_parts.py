"""Turns of several records: what counts when all of them are there, and when their writer died before the last."""

from __future__ import annotations

import pytest

from agentexecutor.bus.story import Story
from agentexecutor.bus.versions import plan_versions
from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.evolve import fold
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts

AT = "2026-01-01T00:00:00Z"
TASK = TaskName("me", "t1")
SUBMITTED = r.Submitted(submit=m.Submit(), digest="d", at=0.0)
PLANNED = r.Planned(add={"main": m.SubtaskSpec(capability="echo")})


def record(*changes: r.Change, part: bool = False, parts: int = 0, applied: tuple[str, ...] = ()) -> r.Record:
    return r.Record(coordinator="c1", at=AT, changes=list(changes), part=part, parts=parts, applied=list(applied))


TURN = [record(SUBMITTED, part=True), record(PLANNED, part=True), record(r.Ready(subtasks=["main"]), parts=2, applied=("i",))]
DEAD = [record(SUBMITTED, part=True), record(SUBMITTED, part=True)]


def numbered(records: list[r.Record]) -> list[tuple[int, r.Record]]:
    return list(enumerate(records, 1))


def test_the_parts_of_a_turn_count_with_its_last_record() -> None:
    parts = Parts()
    assert [parts.whole(one) for one in TURN[:2]] == [None, None]
    assert parts.whole(TURN[2]) == record(SUBMITTED, PLANNED, r.Ready(subtasks=["main"]), applied=("i",))
    assert parts.whole(record(r.Held())) == record(r.Held())


@pytest.mark.parametrize("count", [1, 2])
def test_half_a_turn_moves_the_head_and_nothing_else(count: int) -> None:
    state = fold(TASK, 0, numbered(TURN[:count]))
    assert (state.state, state.head, state.subtasks, state.applied) == ("unknown", count, {}, set())


@pytest.mark.parametrize("dead", [DEAD[:1], DEAD, [*DEAD, record(r.Held())]], ids=["one", "two", "held"])
def test_what_a_dead_writer_left_of_a_turn_is_dropped(dead: list[r.Record]) -> None:
    dead = dead if dead[-1].part else [*TURN, *dead]
    after = dead + ([record(r.Held())] if dead[0] is TURN[0] else TURN)
    state = fold(TASK, 0, numbered(after))
    assert (state.state, state.subtasks["main"].state, state.applied, state.head) == ("running", "ready", {"i"}, len(after))


def test_the_history_of_an_ended_task_holds_its_parts() -> None:
    history = [r.LogEntry(seq=seq, time=AT, record=one) for seq, one in numbered([*DEAD, *TURN])]
    history.append(r.LogEntry(seq=6, time=AT, record=record(r.Held(), part=True)))
    last = r.Record(coordinator="c1", at=AT, changes=[r.Cancelled()], history=history, parts=1)
    state = fold(TASK, 0, [(7, last)])
    assert (state.state, state.head, state.applied) == ("cancelled", 7, {"i"})


def test_a_log_that_has_lost_a_part_leads_to_no_state() -> None:
    with pytest.raises(TransitionError, match="1 of the records that belong to it are missing"):
        fold(TASK, 0, numbered(TURN[1:]))


def test_events_and_versions_tell_of_whole_turns_only() -> None:
    entries = [r.LogEntry(seq=seq, time=AT, record=one) for seq, one in numbered([*DEAD, *TURN])]
    story = Story(TASK)
    told = [[event.kind for event in story.tell(entry)] for entry in entries]
    assert told[:4] == [[], [], [], []]
    assert told[4] == [
        event.kind
        for change in (SUBMITTED, PLANNED, r.Ready(subtasks=["main"]))
        for event in Story(TASK).tell(r.LogEntry(seq=1, time=AT, record=record(change)))
    ]
    assert story.position == len(entries)
    assert [version.version for version in plan_versions(entries)] == [1]
