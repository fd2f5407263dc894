"""Lateness: told from progress against the schedule, before a deadline is missed. Pure.

An attempt is looked at when it is accepted, and again as its deadline comes nearer, by what its agent said last: a fraction, else the step that is under
way and what the schedule has after it, else the schedule, else the winning bid's estimate, these two corrected by how the agent has kept its promises. What
is slower than promised is taken to stay so (docs/protocol.md section 11).
"""

from __future__ import annotations

from agentexecutor.coordinator.draft import Draft
from agentexecutor.coordinator.inputs import Effect, NeedProgress, ProgressIn, SetTimer, TimerIn
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import answer_to
from agentexecutor.schemas import messages as m

__all__ = ["decide_lateness", "expected_end", "late_timer", "time_lateness", "watch_lateness"]

NEARER = 0.25
"""After so much of the time that is left it is looked again."""
SOONEST_S = 0.2


def _watched(state: TaskState, subtask: SubtaskState) -> float | None:
    """The deadline that counts for a top-level subtask whose policy asks for it, once."""
    told = any(attempt.state == "late" for attempt in subtask.attempts)
    if told or subtask.parent is not None or answer_to(state, "late", subtask) is None:
        return None
    return state.deadline_of(subtask)


def expected_end(subtask: SubtaskState, said: ProgressIn | None, now: float) -> float | None:
    """When the attempt will end, in seconds since 1970; None: nothing is known."""
    queued = said is not None and said.queued
    began = now if queued or subtask.accepted_at is None else subtask.accepted_at
    schedule = subtask.schedule if said is None or said.schedule is None else said.schedule
    if said is not None and said.at is not None:
        if said.fraction:
            return _overdue(began + (said.at - began) / said.fraction, now)
        for index, step in enumerate(schedule):
            if step.name == said.step:
                return _by_step(schedule, index, began, said.at if said.since is None else said.since, now)
    bid = next((bid for bid in subtask.bids if bid.won and bid.epoch == subtask.epoch), None)
    promised = 0.0
    if schedule:
        promised = max(step.start_s + step.duration_s for step in schedule)
    elif bid is not None:
        promised = bid.queue_s + bid.estimate_s
    pace = 1.0 if bid is None else max(1.0, bid.factor)
    return _overdue(began + pace * promised, now) if promised > 0 else None


def _overdue(due: float, now: float) -> float:
    """When something ends that was to end at `due`: what is overdue is expected to take as long again as it is that."""
    return due if now <= due else now + (now - due)


def _by_step(schedule: list[m.Step], index: int, began: float, since: float, now: float) -> float:
    """A step is under way `since`. It, and those after it, take longer than promised in the proportion in which those so far do."""
    before = sum(step.duration_s for step in schedule[:index])
    here = schedule[index].duration_s
    pace = max(1.0, (since - began) / before) if before > 0 else 1.0
    end = _overdue(since + pace * here, now)
    if before + here > 0:
        pace = max(pace, (end - began) / (before + here))
    return end + pace * sum(step.duration_s for step in schedule[index + 1 :])


def _timer(subtask: SubtaskState, now: float, deadline: float) -> SetTimer:
    return SetTimer("late", now + max(SOONEST_S, NEARER * (deadline - now)), subtask.name, subtask.epoch)


def watch_lateness(state: TaskState, subtask: SubtaskState, now: float) -> list[Effect]:
    """Look soon at one that runs already."""
    deadline = _watched(state, subtask)
    return [] if deadline is None else [SetTimer("late", now, subtask.name, subtask.epoch)]


def time_lateness(draft: Draft, subtask: SubtaskState) -> None:
    """The subtask is accepted: look at its schedule as soon as that is recorded."""
    draft.effect(*watch_lateness(draft.state, subtask, draft.now))


def late_timer(draft: Draft, input: TimerIn) -> None:
    """Time to see how far it is."""
    subtask = draft.state.subtasks.get(input.subtask or "")
    if subtask is not None and subtask.held and subtask.epoch == input.epoch and subtask.accepted_at is not None:
        draft.effect(NeedProgress(subtask.name, subtask.epoch, subtask.accepted_at, late=True))


def decide_lateness(draft: Draft, input: ProgressIn) -> None:
    """Whether the deadline will be missed, as far as is known now; then the policy's answer takes the work from its agent."""
    state = draft.state
    subtask = state.subtasks.get(input.subtask)
    if subtask is None or state.ended or not subtask.held or subtask.epoch != input.epoch:
        return
    deadline = _watched(state, subtask)
    if deadline is None:
        return
    end = expected_end(subtask, input, draft.now)
    if end is None or end <= deadline:
        draft.effect(_timer(subtask, draft.now, deadline))
        return
    message = f"{subtask.agent} will be {end - deadline:.1f} s late with {subtask.name!r}."
    draft.stop(subtask, message)
    draft.fail(subtask, m.ErrorInfo(code="lost", message=message, retryable=True, details={"cause": "late"}), "late")
