"""What a record changes: `evolve` applies one change to a task's state, `apply` a whole record, `fold` a log.

Same records, same state, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.model import Attempt, SubtaskState, TaskState, body_of, new_task
from agentexecutor.coordinator.states import SUBTASK, TASK, SubtaskEvent, TaskEvent
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import dependencies

__all__ = ["apply", "evolve", "fold", "story"]


def evolve(state: TaskState, change: r.Change, at: float) -> None:
    """Apply one change in place. `at`: the record's time, seconds since 1970. Raises TransitionError when the tables do not allow it."""
    _EVOLVE[type(change)](state, change, at)


def apply(state: TaskState, record: r.Record, seq: int) -> None:
    """Apply a record: its changes, the ids that it answers, the new head."""
    at = from_rfc3339(record.at)
    for change in record.changes:
        evolve(state, change, at)
    state.applied.update(record.applied)
    if record.coordinator not in state.coordinators:
        state.coordinators.append(record.coordinator)
    state.head = seq


def fold(name: TaskName, shard: int, records: Iterable[tuple[int, r.Record]]) -> TaskState:
    """The state that a log (sequence, record), oldest first, leads to. A last record's history is folded before its own changes."""
    state = new_task(name, shard)
    for seq, record in records:
        if record.history and state.head == 0:
            for entry in record.history:
                apply(state, entry.record, entry.seq)
        apply(state, record, seq)
    return state


def story(state: TaskState) -> list[str]:
    """What happened to a task, a line for each award: the account that errors carry."""
    lines = [f"task {state.name} is {state.state}, plan version {state.plan_version}, head {state.head}"]
    for subtask in state.subtasks.values():
        lines.append(f"  {subtask.name} ({subtask.spec.capability}) is {subtask.state}")
        lines += [f"    epoch {a.epoch} to {a.agent}: {a.state}" + (f", {a.error.message}" if a.error else "") for a in subtask.attempts]
    return lines


def _move_task(state: TaskState, event: TaskEvent) -> None:
    after = TASK.get((state.state, event))
    if after is None:
        raise TransitionError(
            f"Task {state.name} is {state.state} and cannot take {event!r}.",
            hint="The log was written by something else than this version's coordinators.",
            task=str(state.name),
            state=state.state,
            event=event,
            story=story(state),
        )
    state.state = after


def _move(state: TaskState, name: str, event: SubtaskEvent) -> SubtaskState:
    subtask = state.subtasks.get(name)
    before = subtask.state if subtask else "unknown"
    after = SUBTASK.get((subtask.state, event)) if subtask else None
    if subtask is None or after is None:
        raise TransitionError(
            f"Subtask {name!r} of task {state.name} is {before} and cannot take {event!r}.",
            hint="The log was written by something else than this version's coordinators.",
            task=str(state.name),
            state=before,
            event=event,
            story=story(state),
        )
    was_ended = subtask.ended
    subtask.state = after
    if subtask.ended and not was_ended:
        state.open -= 1
    return subtask


def _submitted(state: TaskState, change: r.Submitted, _at: float) -> None:
    _move_task(state, "submitted")
    state.submit = change.submit
    state.digest = change.digest
    state.submitted_at = change.at
    state.traceparent = change.traceparent
    state.tracestate = change.tracestate


def _planned(state: TaskState, change: r.Planned, _at: float) -> None:
    _move_task(state, "planned")
    state.plan_version = change.version
    if change.result is not None:
        state.result_of = change.result
    for name, spec in change.add.items():
        state.subtasks[name] = SubtaskState(
            name, spec, plan_version=change.version, parent=change.parent, call=change.call, shares=change.shares.get(name)
        )
        state.open += 1
    for name in change.add:
        _connect(state, state.subtasks[name])
    if change.parent is not None:
        parent = state.subtasks[change.parent]
        parent.children.extend(change.add)
        if change.cause == "split":
            _move(state, change.parent, "split")


def _connect(state: TaskState, subtask: SubtaskState) -> None:
    for name in dependencies(subtask.spec):
        other = state.subtasks[name]
        if other.state not in ("completed", "skipped"):
            subtask.waits.add(name)
            other.dependents.append(subtask.name)


def _ready(state: TaskState, change: r.Ready, at: float) -> None:
    for name in change.subtasks:
        _move(state, name, "ready").ready_at = at


def _awarded(state: TaskState, change: r.Awarded, at: float) -> None:
    subtask = _move(state, change.subtask, "awarded")
    state.epochs = max(state.epochs, change.epoch)
    subtask.epoch = change.epoch
    subtask.agent = change.agent
    subtask.boot = change.boot
    subtask.awarded_at = at
    subtask.accepted_at = None
    subtask.schedule = []
    subtask.attempts.append(Attempt(change.agent, change.boot, change.epoch))
    subtask.bids.extend(change.bids)


def _accepted(state: TaskState, change: r.Accepted, at: float) -> None:
    subtask = _move(state, change.subtask, "accepted")
    subtask.accepted_at = at
    subtask.schedule = change.schedule
    subtask.returns = 0
    subtask.attempts[-1].state = "running"


def _completed(state: TaskState, change: r.Completed, _at: float) -> None:
    if change.subtask is None:
        _move_task(state, "completed")
        state.result = state.subtasks[change.of].result if change.of is not None else body_of(change.result, change.result_blob)
        return
    subtask = _move(state, change.subtask, "completed")
    subtask.result = body_of(change.result, change.result_blob)
    subtask.took_s = change.took_s
    _end_attempt(subtask, "completed")
    _release_dependents(state, subtask)


def _release_dependents(state: TaskState, subtask: SubtaskState) -> None:
    for name in subtask.dependents:
        state.subtasks[name].waits.discard(subtask.name)


def _end_attempt(subtask: SubtaskState, how: str, error: Any = None) -> None:
    if subtask.attempts and subtask.attempts[-1].state in ("awarded", "running"):
        subtask.attempts[-1].state = how
        subtask.attempts[-1].error = error


def _failed(state: TaskState, change: r.FailedChange, at: float) -> None:
    if change.subtask is None:
        _move_task(state, "failed")
        state.error = change.error
        _cancel_open(state)
        return
    subtask = _move(state, change.subtask, change.outcome)
    cause = str(change.error.details.get("cause", "failed"))
    _end_attempt(subtask, cause, change.error)
    if cause == "lost":
        subtask.losses += 1
    elif cause in ("declined", "accept-timeout"):
        subtask.returns += 1
    elif cause in ("failed", "timeout", "stalled"):
        subtask.tries += 1
    if change.outcome == "retry":
        subtask.agent = subtask.boot = None
        subtask.ready_at = at if change.ready_at is None else change.ready_at
        subtask.pause_s = subtask.ready_at - at
        return
    subtask.error = change.error
    if change.outcome == "skip":
        _release_dependents(state, subtask)


def _cancelled(state: TaskState, change: r.Cancelled, _at: float) -> None:
    if change.subtasks is None:
        _move_task(state, "cancelled")
        state.reason = change.reason
        _cancel_open(state)
        return
    for name in change.subtasks:
        _end_attempt(_move(state, name, "cancelled"), "cancelled")


def _cancel_open(state: TaskState) -> None:
    for subtask in state.subtasks.values():
        if not subtask.ended:
            _end_attempt(_move(state, subtask.name, "cancelled"), "cancelled")


def _superseded(state: TaskState, change: r.Superseded, _at: float) -> None:
    for name in change.subtasks:
        _end_attempt(_move(state, name, "superseded"), "superseded")


def _feedback(state: TaskState, change: r.FeedbackGiven, _at: float) -> None:
    state.feedback.append(change)


def _held(_state: TaskState, _change: r.Held, _at: float) -> None:
    """The fence alone matters: a holder that wakes up late is refused."""


_EVOLVE: dict[type, Callable[[TaskState, Any, float], None]] = {
    r.Submitted: _submitted,
    r.Planned: _planned,
    r.Ready: _ready,
    r.Awarded: _awarded,
    r.Accepted: _accepted,
    r.Completed: _completed,
    r.FailedChange: _failed,
    r.Cancelled: _cancelled,
    r.Superseded: _superseded,
    r.FeedbackGiven: _feedback,
    r.Held: _held,
}
