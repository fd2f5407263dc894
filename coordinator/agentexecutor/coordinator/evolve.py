"""What a record changes: `evolve` applies one change to a task's state, `apply` a whole record, `fold` a log.

Same records, same state, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from agentexecutor.coordinator.budgets import note_spent, note_stopped
from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.model import Attempt, SubtaskState, TaskState, body_of, new_task
from agentexecutor.coordinator.states import SUBTASK, TASK, SubtaskEvent, TaskEvent
from agentexecutor.coordinator.versions import begun, replaced
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.messages import SubtaskSpec
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts
from agentexecutor.schemas.plans import dependencies

__all__ = ["apply", "evolve", "fold", "story"]


def evolve(state: TaskState, change: r.Change, at: float) -> None:
    """Apply one change in place. `at`: the record's time, seconds since 1970. Raises TransitionError when the tables do not allow it."""
    _EVOLVE[type(change)](state, change, at)


def apply(state: TaskState, record: r.Record, seq: int) -> None:
    """Apply a record, joined with its parts: its changes, the ids that it answers, the new head."""
    at = from_rfc3339(record.at)
    for change in record.changes:
        evolve(state, change, at)
    state.applied.update(record.applied)
    if record.coordinator not in state.coordinators:
        state.coordinators.append(record.coordinator)
    state.head = seq


def fold(name: TaskName, shard: int, records: Iterable[tuple[int, r.Record]]) -> TaskState:
    """The state that a log (sequence, record), oldest first, leads to. A last record's history is folded before its own changes."""
    state, parts = new_task(name, shard), Parts()
    for seq, record in records:
        if record.history and state.head == 0:
            for entry in record.history:
                _join(state, parts, entry.record, entry.seq)
        _join(state, parts, record, seq)
    return state


def _join(state: TaskState, parts: Parts, record: r.Record, seq: int) -> None:
    lacks = parts.lacks(record)
    if lacks:
        raise TransitionError(f"{lacks} of the records that belong to it are missing.", task=str(state.name), seq=seq)
    whole = parts.whole(record)
    if whole is not None:
        apply(state, whole, seq)
    state.head = seq


def story(state: TaskState) -> list[str]:
    """What happened to a task, a line for each award: the account that errors carry."""
    lines = [f"task {state.name} is {state.state}, plan version {state.plan_version}, head {state.head}"]
    for subtask in state.subtasks.values():
        lines.append(f"  {subtask.name} ({subtask.spec.capability}) is {subtask.state}")
        lines += [f"    epoch {a.epoch} to {a.agent}: {a.state}" + (f", {a.error.message}" if a.error else "") for a in subtask.attempts]
    return lines


def _person(state: TaskState) -> None:
    """While something waits for a person's word, the task does."""
    waits = bool(state.asking) or state.proposed is not None
    if waits != (state.state == "waiting") and not state.ended:
        _move_task(state, "asked" if waits else "answered")


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
    state.asking += (after == "approval") - (subtask.state == "approval")
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


def _planned(state: TaskState, change: r.Planned, at: float) -> None:
    thinks = change.cause == "goal" or (change.cause == "ask" and state.state == "planning")
    _move_task(state, "goal" if thinks else "planned")
    specs = {name: state.subtasks[name].spec for name in change.again} | change.add
    gone = _supersede(state, change, at)
    state.plan_version = change.version
    if change.result is not None or state.result_of in change.remove:
        state.result_of = change.result
    for name, spec in specs.items():
        _begin(state, name, spec, change)
    if change.cause == "replan":
        _reconnect(state)
    else:
        for name in specs:
            _connect(state, state.subtasks[name])
    _answered(state, change, specs, gone)
    if change.parent is not None:
        parent = state.subtasks[change.parent]
        parent.children.extend(change.add)
        if change.cause == "split":
            _move(state, change.parent, "split")


def _supersede(state: TaskState, change: r.Planned, at: float) -> list[str]:
    """What the new version replaces or removes is over; gives its names."""
    gone = replaced(state, change)
    if change.cause == "replan" and gone:
        over = set(gone)
        for name, work in begun(state, change.why).items():
            if name in over:
                times = state.works.setdefault(work, {})
                times[name] = times.get(name, 0) + 1
    for name in gone:
        note_stopped(state, name, at)
        _end_attempt(_move(state, name, "superseded"), "superseded")
    return gone


def _begin(state: TaskState, name: str, spec: SubtaskSpec, change: r.Planned) -> None:
    """A subtask, new or in the place of the one of its name, whose awards stay on its account."""
    old = state.subtasks.get(name)
    whys = None if old is None or not old.planner else [*(old.whys or [])]
    if change.cause in ("goal", "ask"):
        whys = [*(whys or []), *change.why]
    state.subtasks[name] = SubtaskState(
        name,
        spec,
        plan_version=change.version,
        needs=dependencies(spec),
        parent=change.parent,
        call=change.call,
        shares=change.shares.get(name),
        attempts=[] if old is None else old.attempts,
        bids=[] if old is None else old.bids,
        first=0 if old is None else len(old.attempts),
        whys=whys,
    )
    state.open += 1
    state.made += 1


def _answered(state: TaskState, change: r.Planned, specs: Iterable[str], gone: list[str]) -> None:
    """The triggers that a change names, or whose subtasks are gone, are answered; a question to a planner, or its answer, changes who is awaited."""
    state.unanswered = [why for why in state.unanswered if why not in change.why and why.subtask not in gone]
    if state.thinking in gone:
        state.proposed = None
    if change.cause in ("goal", "ask"):
        state.thinking = next(iter(specs), state.thinking)
    elif change.cause == "replan":
        state.finish = change.finish
        if change.planner is not None and change.planner == state.thinking:
            state.thinking = state.proposed = None
    _person(state)


def _reconnect(state: TaskState) -> None:
    """Who waits for whom, after a new version: all that begin anew wait, all that is needed is no final result."""
    plan = [subtask for subtask in state.subtasks.values() if subtask.state != "superseded"]
    for subtask in plan:
        subtask.dependents = []
        subtask.waits = set()
    for subtask in plan:
        _connect(state, subtask, always=subtask.parent is None)


def _connect(state: TaskState, subtask: SubtaskState, *, always: bool = False) -> None:
    """`always`: also to what has ended already."""
    for name in subtask.needs:
        other = state.subtasks[name]
        waits = other.state not in ("completed", "skipped")
        if waits:
            subtask.waits.add(name)
        if waits or always:
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
    attempt = subtask.attempts[-1]
    attempt.state, attempt.accepted_at, attempt.span = "running", at, change.span


def _completed(state: TaskState, change: r.Completed, at: float) -> None:
    if change.subtask is None:
        _move_task(state, "completed")
        state.result = state.subtasks[change.of].result if change.of is not None else body_of(change.result, change.result_blob)
        return
    subtask = _move(state, change.subtask, "completed")
    subtask.result = body_of(change.result, change.result_blob)
    subtask.took_s = change.took_s
    note_spent(state, change, at)
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
    note_spent(state, change, at)
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
    elif change.outcome == "wait":
        subtask.agent = subtask.boot = None
        subtask.asked_at = at
    elif change.why is not None:
        state.unanswered.append(change.why)
    _person(state)


def _cancelled(state: TaskState, change: r.Cancelled, at: float) -> None:
    if change.subtasks is None:
        _move_task(state, "cancelled")
        state.reason = change.reason
        _cancel_open(state)
        return
    for name in change.subtasks:
        note_stopped(state, name, at)
        _end_attempt(_move(state, name, "cancelled"), "cancelled")
    _person(state)


def _cancel_open(state: TaskState) -> None:
    for subtask in state.subtasks.values():
        if not subtask.ended:
            _end_attempt(_move(state, subtask.name, "cancelled"), "cancelled")


def _superseded(state: TaskState, change: r.Superseded, _at: float) -> None:
    for name in change.subtasks:
        subtask = _move(state, name, "superseded")
        _end_attempt(subtask, "superseded")
        for needed in subtask.needs:
            if name in state.subtasks[needed].dependents:
                state.subtasks[needed].dependents.remove(name)
    gone = set(change.subtasks)
    for parent in {state.subtasks[name].parent: None for name in change.subtasks}:
        if parent is not None:
            state.subtasks[parent].children = [name for name in state.subtasks[parent].children if name not in gone]
    _person(state)


def _feedback(state: TaskState, change: r.FeedbackGiven, _at: float) -> None:
    state.feedback.append(change)
    if change.why is not None:
        state.unanswered.append(change.why)
    submit = state.submit
    if submit is not None and change.deadline_s is not None:
        submit = replace(submit, deadline_s=change.deadline_s)
    if submit is not None and change.priority is not None:
        submit = replace(submit, priority=change.priority)
    state.submit = submit


def _proposed(state: TaskState, change: r.Proposed, at: float) -> None:
    state.proposed = change
    state.proposed_at = at
    _person(state)


def _asked(state: TaskState, change: r.Asked, at: float) -> None:
    for name in change.subtasks:
        _move(state, name, "asked").asked_at = at
    _person(state)


def _approved(state: TaskState, change: r.Approved, at: float) -> None:
    for name in change.subtasks or ():
        subtask = _move(state, name, "approved")
        subtask.ready_at = at
        subtask.pause_s = 0.0
        subtask.tries = subtask.losses = subtask.returns = 0
        subtask.error = None
    _person(state)


def _held(_state: TaskState, _change: r.Held, _at: float) -> None:
    """The fence alone matters: a holder that wakes up late is refused."""


_EVOLVE: dict[type, Callable[[TaskState, Any, float], None]] = {
    r.Submitted: _submitted,
    r.Planned: _planned,
    r.Proposed: _proposed,
    r.Asked: _asked,
    r.Approved: _approved,
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
