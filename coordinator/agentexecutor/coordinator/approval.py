"""What waits for a person's word: the word, and what a time-out means (docs/protocol.md section 11). Pure."""

from __future__ import annotations

from agentexecutor.coordinator.draft import Draft
from agentexecutor.coordinator.inputs import Effect, SetTimer, TimerIn
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import approval_of, version_approval
from agentexecutor.coordinator.replanning import take_proposed
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r

__all__ = ["approval_timer", "approve", "pending_approval", "pending_proposal"]


def approve(draft: Draft, subtask: SubtaskState, sender: str, feedback: str | None) -> None:
    """The word came: it may start."""
    draft.change(r.Approved(subtasks=[subtask.name], sender=sender, feedback=feedback))
    draft.want(draft.state, subtask)


def approval_timer(draft: Draft, input: TimerIn) -> None:
    """Nobody has said a word in time."""
    state = draft.state
    subtask = None if input.subtask is None else state.subtasks.get(input.subtask)
    if input.subtask is None:
        approval: m.Approval | None = version_approval(state)
        since = state.proposed_at
        if state.proposed is None or approval is None:
            return
    else:
        if subtask is None or subtask.state != "approval":
            return
        approval = approval_of(state, subtask)
        since = subtask.asked_at
    if approval is None or approval.timeout_s is None:
        return
    if since <= draft.now < since + approval.timeout_s:  # `since` may lie ahead: the server's clock was set back
        draft.effect(SetTimer("approval", since + approval.timeout_s, input.subtask))
    elif approval.otherwise == "reject" or (subtask is not None and subtask.error is not None):
        # What has failed before is not run again for ever because nobody looks.
        _reject(draft, subtask, approval)
    elif subtask is None:
        draft.change(r.Approved(subtasks=None))
        take_proposed(draft)
    else:
        approve(draft, subtask, "", None)


def _reject(draft: Draft, subtask: SubtaskState | None, approval: m.Approval) -> None:
    message = f"Nobody agreed within {approval.timeout_s:g} s."
    error = m.ErrorInfo(code="refused", message=message, details={"cause": "approval-timeout"})
    if subtask is None:
        draft.fail_task(error)
    else:
        draft.fail(subtask, error, "reject")


def pending_approval(state: TaskState, subtask: SubtaskState, now: float) -> list[Effect]:
    """The timer of a subtask that waits for a person's word."""
    return _timer(approval_of(state, subtask), subtask.asked_at, now, subtask.name)


def pending_proposal(state: TaskState, now: float) -> list[Effect]:
    """The same of a proposed version."""
    return [] if state.proposed is None else _timer(version_approval(state), state.proposed_at, now, None)


def _timer(approval: m.Approval | None, since: float, now: float, subtask: str | None) -> list[Effect]:
    if approval is None or approval.timeout_s is None:
        return []
    return [SetTimer("approval", min(since, now) + approval.timeout_s, subtask)]
