"""What a claim leads to: how its sender stands to the award that it names (`standing`), and by the table CLAIMS what is done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.coordinator.attempts import go_back, timeout_of, try_again, turn_down
from agentexecutor.coordinator.budgets import budget_of, usage_refused
from agentexecutor.coordinator.draft import Draft, check_policies, child_result, completed
from agentexecutor.coordinator.inputs import ClaimIn, Send, SetTimer
from agentexecutor.coordinator.lateness import time_lateness
from agentexecutor.coordinator.model import SubtaskState, TaskState, body_of
from agentexecutor.coordinator.split import child_name
from agentexecutor.coordinator.stalls import time_silence
from agentexecutor.coordinator.states import CLAIMS, Standing
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import TYPE_OF
from agentexecutor.schemas.errors import AgentExecutorError, PlanRefused
from agentexecutor.schemas.plans import MAX_SUBTASKS, check_plan

__all__ = ["decide_claim", "standing"]


def standing(state: TaskState, claim: m.Claim, peer: str) -> Standing:
    """How the sender of a claim stands to the award that the claim names."""
    subtask = state.subtasks.get(claim.subtask)
    if state.ended:
        return "ended"
    if subtask is None:
        return "unknown"
    if claim.epoch > state.epochs:
        return "ahead"
    if subtask.ended:
        return "ended"
    if claim.epoch != subtask.epoch or not subtask.held:
        return "older"
    holds = subtask.agent == peer and subtask.boot == claim.boot
    return "holder" if holds else "stranger"


def decide_claim(draft: Draft, input: ClaimIn) -> None:
    """Look the claim up in CLAIMS and do what stands there."""
    claim = input.claim
    how = standing(draft.state, claim, input.peer)
    action = CLAIMS[how, TYPE_OF[type(claim)]]
    problem = usage_refused(claim.usage) if isinstance(claim, m.Done | m.Failed) else ""
    if action == "take" and problem:
        _refuse(draft, input, problem, "input")
    elif action == "take":
        _TAKE[type(claim)](draft, draft.state.subtasks[claim.subtask], claim, input)
    elif action == "cancel":
        reason = "the task or subtask has ended" if how == "ended" else "a newer award was given"
        cancel = m.Cancel(
            task=str(draft.state.name), subtask=claim.subtask, epoch=claim.epoch, reason=reason, grace_s=draft.settings.grace_s
        )
        draft.effect(Send(input.peer, "cancel", cancel))
    elif action == "refuse":
        _refuse(draft, input, f"{input.peer} (boot {claim.boot}) does not hold epoch {claim.epoch} of subtask {claim.subtask!r}.")
    elif action == "reload":
        draft.decision.stale = True
        what = f"epoch {claim.epoch} of subtask {claim.subtask!r} was never awarded"
        _refuse(draft, input, f"In task {draft.state.name} {what}.")


def _refuse(draft: Draft, input: ClaimIn, message: str, code: str = "refused") -> None:
    error = m.ErrorInfo(code=code, message=message)
    draft.decision.refusal = error
    draft.effect(Send(input.peer, "refused", m.Refused(task=str(draft.state.name), id=input.id, error=error)))


def _accepted(draft: Draft, subtask: SubtaskState, schedule: list[m.Step], span: str | None = None) -> None:
    """Record the acceptance, unless it is recorded; a done or failed stands for it too."""
    if subtask.state == "awarded":
        draft.change(r.Accepted(subtask=subtask.name, epoch=subtask.epoch, schedule=schedule, span=span))


def _begun(draft: Draft, subtask: SubtaskState, schedule: list[m.Step]) -> None:
    """The attempt is watched from now on: its time-out, its silence, its lateness, what it uses."""
    timeout = timeout_of(draft.state, subtask)
    if timeout is not None:
        draft.effect(SetTimer("attempt", draft.now + timeout, subtask.name, subtask.epoch))
    time_silence(draft, subtask, schedule)
    time_lateness(draft, subtask)
    if "seconds" in budget_of(draft.state):
        draft.effect(SetTimer("budget", draft.now))


def _accept(draft: Draft, subtask: SubtaskState, claim: m.Accept, input: ClaimIn) -> None:
    if subtask.state != "awarded":
        return
    _accepted(draft, subtask, claim.schedule, input.span)
    is_timed = timeout_of(draft.state, subtask) is not None or "seconds" in budget_of(draft.state)
    draft.decision.soft = not is_timed  # what is timed counts from the record
    _begun(draft, subtask, claim.schedule)


def _done(draft: Draft, subtask: SubtaskState, claim: m.Done, _input: ClaimIn) -> None:
    _accepted(draft, subtask, claim.schedule)
    change = completed(subtask.name, body_of(claim.result, claim.result_blob), claim.took_s)
    draft.complete(subtask, replace(change, epoch=claim.epoch, agent=subtask.agent or "", usage=claim.usage))


def _failed(draft: Draft, subtask: SubtaskState, claim: m.Failed, _input: ClaimIn) -> None:
    _accepted(draft, subtask, claim.schedule)
    draft.took_s, draft.usage = claim.took_s, claim.usage
    error = replace(claim.error, details={**claim.error.details, "cause": "failed"})
    try_again(draft, subtask, error, claim.retry_after_s)


def _decline(draft: Draft, subtask: SubtaskState, claim: m.Decline, _input: ClaimIn) -> None:
    message = f"Agent {subtask.agent} declined: {claim.reason or 'no reason given'}."
    turn_down(draft, subtask, m.ErrorInfo(code="refused", message=message, retryable=True, details={"cause": "declined"}))


def _release(draft: Draft, subtask: SubtaskState, claim: m.Release, _input: ClaimIn) -> None:
    message = f"Agent {subtask.agent} released it: {claim.reason or 'no reason given'}."
    go_back(draft, subtask, m.ErrorInfo(code="lost", message=message, retryable=True, details={"cause": "released"}), None)


def _extend(draft: Draft, subtask: SubtaskState, claim: m.Extend, input: ClaimIn) -> None:
    state = draft.state
    name = child_name(subtask.name, str(claim.call))
    child = state.subtasks.get(name)
    if child is not None and child.state == "superseded":
        child = None  # of an earlier version of its parent
    if child is not None and child.parent == subtask.name and child.call == claim.call:
        if child.ended and subtask.agent is not None:
            body: Raw | m.BlobRef = m.NULL if child.result is None else child.result
            draft.effect(Send(subtask.agent, "result", child_result(state, subtask, child, body, _child_error(child))))
        return
    try:
        if child is not None:
            raise PlanRefused(f"The child would be named {name!r}, which is another subtask's name.", hint="Rename that one.")
        if len(state.subtasks) >= MAX_SUBTASKS:
            raise PlanRefused(f"The task has {MAX_SUBTASKS} subtasks already.", hint="Use a second task.")
        check_policies([claim.child.award], draft.settings)
        known = {other for other, there in state.subtasks.items() if there.state != "superseded"}
        needs = check_plan(m.PlanSpec(subtasks={name: claim.child}), known=known)
    except AgentExecutorError as error:
        _refuse(draft, input, str(error), "input")
        return
    if subtask.state == "awarded":
        _accepted(draft, subtask, [], input.span)
        _begun(draft, subtask, [])
    if draft.over_budget(1):
        return
    draft.change(r.Planned(version=state.plan_version, cause="extend", add={name: claim.child}, parent=subtask.name, call=claim.call))
    if all(state.subtasks[other].state in ("completed", "skipped") or other in draft.satisfied for other in needs[name]):
        preview = replace(
            state, subtasks={name: SubtaskState(name, claim.child, plan_version=state.plan_version, parent=subtask.name, call=claim.call)}
        )
        draft.make_ready([name], preview)
    draft.time_deadlines({name: claim.child}, state.submitted_at)


def _child_error(child: SubtaskState) -> m.ErrorInfo | None:
    if child.state in ("completed", "skipped"):
        return None
    return child.error or m.ErrorInfo(code="cancelled", message=f"Subtask {child.name!r} was cancelled.")


_TAKE: dict[type, Callable[[Draft, SubtaskState, Any, ClaimIn], None]] = {
    m.Accept: _accept,
    m.Done: _done,
    m.Failed: _failed,
    m.Decline: _decline,
    m.Release: _release,
    m.Extend: _extend,
}
