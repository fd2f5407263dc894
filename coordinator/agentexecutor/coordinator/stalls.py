"""Stalled is not lost: an agent whose offers come, but whose work shows no sign of life for longer than its own schedule promised. Pure.

Signs are the accept and each progress message. What was promised until the next one is the length of the step that is under way; without steps, what
the whole schedule takes; without a schedule, what the winning bid estimated. Who promised nothing never stalls.
"""

from __future__ import annotations

from agentexecutor.coordinator.attempts import try_again
from agentexecutor.coordinator.draft import Draft
from agentexecutor.coordinator.inputs import Effect, NeedProgress, ProgressIn, SetTimer, Stalled, TimerIn
from agentexecutor.coordinator.lateness import decide_lateness
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m

__all__ = ["decide_progress", "stall_timer", "time_silence", "watch_silence"]


def _allowed_s(subtask: SubtaskState, schedule: list[m.Step], step: str | None, settings: Settings) -> float | None:
    """Seconds without a sign that are not too long yet."""
    under_way = [one.duration_s for one in schedule if one.name == step]
    if under_way:
        promised = under_way[0]
    elif schedule:
        promised = max(one.start_s + one.duration_s for one in schedule)
    else:
        promised = next((bid.queue_s + bid.estimate_s for bid in subtask.bids if bid.won and bid.epoch == subtask.epoch), 0.0)
    return max(settings.stall_min_s, settings.stall_factor * promised) if promised > 0 else None


def time_silence(draft: Draft, subtask: SubtaskState, schedule: list[m.Step]) -> None:
    """The subtask runs from now on: look at it when its agent should have said something."""
    allowed = _allowed_s(subtask, schedule, None, draft.settings)
    if allowed is not None:
        draft.effect(SetTimer("stall", draft.now + allowed, subtask.name, subtask.epoch))


def watch_silence(subtask: SubtaskState, now: float, settings: Settings) -> list[Effect]:
    """The same for one that runs already."""
    if _allowed_s(subtask, subtask.schedule, None, settings) is None:
        return []
    return [SetTimer("stall", now + settings.stall_min_s, subtask.name, subtask.epoch)]


def stall_timer(draft: Draft, input: TimerIn) -> None:
    """Time to look for a sign of life; not while children work."""
    subtask = _running(draft.state, input.subtask, input.epoch)
    if subtask is None:
        return
    if any(not draft.state.subtasks[name].ended for name in subtask.children):
        draft.effect(*watch_silence(subtask, draft.now, draft.settings))
    elif subtask.accepted_at is not None:
        draft.effect(NeedProgress(subtask.name, subtask.epoch, subtask.accepted_at))


def decide_progress(draft: Draft, input: ProgressIn) -> None:
    """The agent may be stalled, as what it said last tells: shown, or released, or looked at again in time. Or it may be late."""
    if input.late:
        decide_lateness(draft, input)
        return
    subtask = _running(draft.state, input.subtask, input.epoch)
    if subtask is None or subtask.accepted_at is None:
        return
    settings = draft.settings
    allowed = _allowed_s(subtask, input.schedule or subtask.schedule, input.step, settings)
    silent = draft.now - max(subtask.accepted_at, input.at or 0.0, input.queued_at or 0.0)
    if allowed is None or silent < allowed or input.queued:
        wait = settings.stall_min_s if allowed is None or input.queued else allowed - silent
        draft.effect(Stalled(subtask.name), SetTimer("stall", draft.now + wait, subtask.name, subtask.epoch))
    elif on_stall(draft.state, subtask) == "release":
        promised = f"no sign of progress for {silent:.1f} s, and its schedule allowed {allowed:.1f} s"
        draft.stop(subtask, promised)
        message = f"Agent {subtask.agent} stalled: {promised}."
        try_again(draft, subtask, m.ErrorInfo(code="lost", message=message, retryable=True, details={"cause": "stalled"}), None)
    else:
        stalled = Stalled(subtask.name, subtask.epoch, subtask.agent or "", draft.now - silent, allowed)
        draft.effect(stalled, SetTimer("stall", draft.now + settings.stall_min_s, subtask.name, subtask.epoch))


def on_stall(state: TaskState, subtask: SubtaskState) -> str:
    """`wait` (and show it) or `release`: the subtask's own word, or the submit's."""
    return subtask.spec.on_stall or (None if state.submit is None else state.submit.on_stall) or "wait"


def _running(state: TaskState, name: str | None, epoch: int) -> SubtaskState | None:
    subtask = state.subtasks.get(name or "")
    held = subtask is not None and subtask.held and subtask.state == "running" and subtask.epoch == epoch and not state.ended
    return subtask if held else None
