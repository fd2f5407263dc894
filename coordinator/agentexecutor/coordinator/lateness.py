"""Lateness: told from progress against the schedule, before a deadline is missed. Pure.

An attempt is looked at when it is accepted, and again as its deadline comes nearer, by what its agent said last: a fraction, else the step that is under
way and what the schedule has after it, else the schedule, else the winning bid's estimate, corrected by how the agent has kept its estimates. What is
slower than promised is taken to stay so (docs/protocol.md section 11); that it began later than it was accepted is no slowness.
"""

from __future__ import annotations

from collections import Counter

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
    accepted = now if subtask.accepted_at is None else subtask.accepted_at
    said = said or ProgressIn(subtask.name, subtask.epoch or 0)
    left_queue = now if said.queued else max(accepted, _waited_until(said) or accepted)
    if said.fraction and said.fraction_at is not None and said.fraction_at > left_queue:
        return _by_fraction(said.fraction, said.fraction_at, said.first, left_queue, now)
    schedule = subtask.schedule if said.schedule is None else said.schedule
    if schedule:
        return _by_schedule(schedule, said, accepted, left_queue, now)
    bid = next((bid for bid in subtask.bids if bid.won and bid.epoch == subtask.epoch), None)
    if bid is None or bid.queue_s + bid.estimate_s <= 0:
        return None
    return _overdue(max(accepted + bid.queue_s, left_queue) + max(1.0, bid.factor) * bid.estimate_s, now)


def _overdue(due: float, now: float) -> float:
    """When something ends that was to end at `due`: what is overdue is expected to take as long again as it is that."""
    return due if now <= due else now + (now - due)


def _waited_until(said: ProgressIn) -> float | None:
    """Whoever has told something had begun; what was seen of its queue may be older, or younger after another has taken the task over."""
    return said.queued_at if said.queued_at is None or said.first is None else min(said.queued_at, said.first[0])


def _by_fraction(fraction: float, at: float, first: tuple[float, float] | None, left_queue: float, now: float) -> float:
    """At the pace since it left the queue, or since its first sign if that is quicker: before that it may have waited, or prepared."""
    ends = [left_queue + (at - left_queue) / fraction]
    if first is not None and first[0] < at and first[1] < fraction:
        ends.append(at + (1.0 - fraction) * (at - first[0]) / (fraction - first[1]))
    return min(_overdue(end, now) for end in ends)


def _by_schedule(schedule: list[m.Step], said: ProgressIn, accepted: float, left_queue: float, now: float) -> float | None:
    """The step that is under way, else the schedule as a whole. A step that is named twice tells nothing."""
    named = Counter(step.name for step in schedule)
    steps = {step.name: step for step in schedule if named[step.name] == 1}
    end = max(step.start_s + step.duration_s for step in schedule)
    began = said.began if said.began is not None and said.began[0] in steps else None
    if said.at is not None and said.step in steps:
        since = said.at if said.since is None else said.since
        here = steps[said.step]
        first, first_at = (here, since) if began is None or steps[began[0]].start_s > here.start_s else (steps[began[0]], began[1])
        return _by_step(here, since, first, first_at, end, now)
    if end <= 0:
        return None
    begun = max(accepted + schedule[0].start_s, left_queue, said.scheduled_at or accepted)
    if began is not None:
        begun = began[1] - (steps[began[0]].start_s - schedule[0].start_s)
    return _overdue(begun + end - schedule[0].start_s, now)


def _by_step(here: m.Step, since: float, first: m.Step, first_at: float, end_s: float, now: float) -> float:
    """`here` is under way `since`. It, and those after it, take longer than promised in the proportion in which those since `first` did."""
    before = here.start_s - first.start_s
    pace = max(1.0, (since - first_at) / before) if before > 0 else 1.0
    end = _overdue(since + pace * here.duration_s, now)
    if before + here.duration_s > 0:
        pace = max(pace, (end - first_at) / (before + here.duration_s))
    return end + pace * max(0.0, end_s - (here.start_s + here.duration_s))


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
