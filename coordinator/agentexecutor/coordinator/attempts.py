"""How an attempt ends without a result: back to ready, at once or after a back-off, or the end of the subtask."""

from __future__ import annotations

from agentexecutor.coordinator.draft import Draft, back_off
from agentexecutor.coordinator.inputs import SetTimer
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m

__all__ = ["go_back", "timeout_of", "try_again", "turn_down"]


def go_back(draft: Draft, subtask: SubtaskState, error: m.ErrorInfo, ready_at: float | None) -> None:
    """The attempt ends and the subtask is ready again, at once or at `ready_at`."""
    draft.failed(subtask, error, "retry", ready_at=ready_at)
    if draft.over:
        return
    if ready_at is None or ready_at <= draft.now:
        draft.want(draft.state, subtask)
    else:
        draft.effect(SetTimer("retry", ready_at, subtask.name))


def turn_down(draft: Draft, subtask: SubtaskState, error: m.ErrorInfo) -> None:
    """An award that was not taken: uses up no try; after some in a row the subtask waits a little before the next."""
    free = 3
    count = subtask.returns + 1
    ready_at = None if count <= free else draft.now + back_off(count - free, draft.settings, draft.seed)
    go_back(draft, subtask, error, ready_at)


def try_again(draft: Draft, subtask: SubtaskState, error: m.ErrorInfo, after_s: float | None) -> None:
    """A failed attempt: back to ready after a back-off while tries are left, else the end of the subtask."""
    tries = subtask.tries + 1
    retries = subtask.spec.retries
    if retries is None and draft.state.submit is not None:
        retries = draft.state.submit.retries
    if retries is None:
        retries = draft.settings.retries
    if not error.retryable or tries > retries:
        draft.fail(subtask, error)
        return
    wait = max(back_off(tries, draft.settings, draft.seed), after_s or 0.0)
    go_back(draft, subtask, error, draft.now + wait)


def timeout_of(state: TaskState, subtask: SubtaskState) -> float | None:
    """Seconds for one attempt: the subtask's own, or the submit's."""
    if subtask.spec.timeout_s is not None:
        return subtask.spec.timeout_s
    return None if state.submit is None else state.submit.timeout_s
