"""The pure machine: what an input leads to (`decide`), and everything that must be sent, wanted or timed from a state (`pending`).

No clock, no random source, no I/O: `now` is seconds since 1970 by the server's clock, `seed` an integer that the caller drew.
`decide` never raises on anything that a peer can send. How a caller uses it, for several waiting inputs of one task: decide on the
first, `evolve` the state by its changes at once, decide on the next, ..., append one record with all changes, then do all effects in
order. A `Want` may be handed to the market before the append, so that the award that it finds rides on the same record. When the
append is refused the state is thrown away and loaded again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.coordinator import feedback
from agentexecutor.coordinator.approval import approval_timer, pending_approval, pending_proposal
from agentexecutor.coordinator.attempts import go_back, timeout_of, try_again, turn_down
from agentexecutor.coordinator.budgets import budget_error, seconds_due
from agentexecutor.coordinator.claims import decide_claim
from agentexecutor.coordinator.draft import (
    Draft,
    award_effects,
    check_policies,
    completed,
    result_message,
    unserved_timer,
    want_effects,
)
from agentexecutor.coordinator.inputs import (
    AwardIn,
    BrokenIn,
    CancelIn,
    ClaimIn,
    ComposedIn,
    Decision,
    Effect,
    FeedbackIn,
    HeldIn,
    Input,
    LostIn,
    NeedCompose,
    ProgressIn,
    RevisionIn,
    Send,
    SetTimer,
    Settle,
    SettleIn,
    SplitIn,
    SubmitIn,
    TimerIn,
)
from agentexecutor.coordinator.lateness import late_timer, watch_lateness
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import answer_to, check_approval, check_replan
from agentexecutor.coordinator.replanning import decide_revision, is_unsettled, planner_spec, settle
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.split import share_specs
from agentexecutor.coordinator.stalls import decide_progress, stall_timer, watch_silence
from agentexecutor.coordinator.states import UNPLANNED
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import to_rfc3339
from agentexecutor.schemas.errors import AgentExecutorError, PlanRefused
from agentexecutor.schemas.plans import check_plan

__all__ = ["award_of", "decide", "lookup", "pending"]

NAMED = 8
SHOWN = 200
"""An error names so many subtasks, and tells so many characters of another one."""

MAIN = "main"
"""The name of the only subtask when a task is one capability."""


def decide(state: TaskState, input: Input, now: float, settings: Settings, seed: int) -> Decision:
    """What `input` leads to. The state is read, not changed."""
    if input.id and input.id in state.applied:
        return Decision(effects=_again(state, input))
    draft = Draft(state, now, settings, seed, input.id)
    _DECIDE[type(input)](draft, input)
    decision = draft.decision
    if not decision.changes:
        decision.applied = []
    return decision


def _again(state: TaskState, input: Input) -> list[Effect]:
    """An input that is applied already: what follows from it is sent again, in case it was lost."""
    if state.ended:
        return [_result(state)]
    if isinstance(input, FeedbackIn):
        return [
            Send(subtask.agent, "feedback", feedback.message(state, subtask.name, given))
            for given in state.feedback
            if given.id == input.id
            for subtask in feedback.addressed(state, given)
            if subtask.agent is not None
        ]
    return []


def _result(state: TaskState) -> Send:
    body = m.NULL if state.result is None else state.result
    return Send(state.name.owner, "result", result_message(state, state.state, body, state.why))


# submit


def _submit(draft: Draft, input: SubmitIn) -> None:
    state = draft.state
    if state.digest not in (None, input.digest):
        _refuse_submit(draft, input, "refused", f"The task {state.name} exists with other content; choose another id.")
    elif state.state in UNPLANNED:
        _plan(draft, input)
    elif state.ended:
        draft.effect(_result(state))


def _plan(draft: Draft, input: SubmitIn) -> None:
    try:
        if input.error is not None:
            raise PlanRefused(input.error.message)
        plan = _plan_of(input.submit, draft.settings)
        needs = {} if plan is None else check_plan(plan)
        if len(needs) > input.submit.budget.get("subtasks", len(needs)):
            raise PlanRefused(f"The plan has {len(needs)} subtasks, more than its budget of {input.submit.budget['subtasks']:g}.")
        _check_goal(input.submit)
    except AgentExecutorError as error:
        details = {"path": error.fields["path"]} if "path" in error.fields else {}
        _refuse_submit(draft, input, "input", str(error), details)
        return
    submit = input.submit if plan is None else replace(input.submit, plan=None, input=m.EMPTY, input_blob=None)
    if draft.state.state == "unknown":
        draft.change(
            r.Submitted(submit=submit, digest=input.digest, at=input.stamp, traceparent=input.traceparent, tracestate=input.tracestate)
        )
    if plan is None:
        why = r.Why(trigger="goal", answer="plan", text=(submit.goal or "")[:1000])
        draft.change(r.Planned(version=1, cause="goal", add={"plan-1": planner_spec(submit.replan or m.Replan())}, why=[why]))
        draft.effect(Settle())
    else:
        _plan_all(draft, input, submit, plan, needs)
    if submit.deadline_s is not None:
        draft.effect(SetTimer("task-deadline", input.stamp + submit.deadline_s))


def _plan_all(draft: Draft, input: SubmitIn, submit: m.Submit, plan: m.PlanSpec, needs: dict[str, list[str]]) -> None:
    """Version 1, and all of it that can start."""
    draft.change(r.Planned(version=1, cause="submit", add=plan.subtasks, result=plan.result))
    preview = TaskState(draft.state.name, draft.state.shard, submit=submit, submitted_at=input.stamp)
    preview.subtasks = {name: SubtaskState(name, plan.subtasks[name]) for name, waits in needs.items() if not waits}
    draft.make_ready(list(preview.subtasks), preview)
    draft.time_deadlines(plan.subtasks, input.stamp)


def _plan_of(submit: m.Submit, settings: Settings) -> m.PlanSpec | None:
    """The plan of a submit: its own, or one subtask; None when a planner is to make it. Raises PlanRefused."""
    given = [what for what in (submit.capability, submit.plan or submit.plan_blob, submit.goal) if what is not None]
    if len(given) != 1:
        raise PlanRefused("A submit names exactly one of capability, plan, goal.", hint="Name one of them.")
    check_replan(submit.replan or m.Replan())
    check_approval(submit.approval or m.ApprovalPolicy())
    if submit.goal is not None:
        check_policies([submit.award], settings)
        return None
    if submit.capability is not None:
        plan = m.PlanSpec(subtasks={MAIN: m.SubtaskSpec(capability=submit.capability, input=submit.input, input_blob=submit.input_blob)})
    else:
        plan = submit.plan or m.PlanSpec(subtasks={})
    check_policies([submit.award, *(spec.award for spec in plan.subtasks.values())], settings)
    return plan


def _check_goal(submit: m.Submit) -> None:
    """Raises PlanRefused when the budget leaves no room for a planner, or for the first plan that it makes."""
    for name in ("subtasks", "replans"):
        if submit.goal is not None and submit.budget.get(name, 1) < 1:
            raise PlanRefused(
                f"A goal needs at least 1 of {name}, and its budget is {submit.budget[name]:g}.", hint="Its first plan counts."
            )


def _refuse_submit(draft: Draft, input: SubmitIn, code: str, message: str, details: dict[str, Any] | None = None) -> None:
    error = m.ErrorInfo(code=code, message=message, details=details or {})
    task = draft.state.name
    draft.decision.refusal = error
    draft.effect(Send(task.owner, "refused", m.Refused(task=str(task), id=input.id, error=error)))


# the market, the shell, timers


def _award(draft: Draft, input: AwardIn) -> None:
    subtask = draft.state.subtasks.get(input.subtask)
    if subtask is None or subtask.state != "ready" or draft.state.ended or input.version != subtask.plan_version:
        return
    epoch = max(draft.state.epochs + 1, draft.settings.first_epoch)
    draft.change(
        r.Awarded(
            subtask=subtask.name,
            epoch=epoch,
            agent=input.agent,
            boot=input.boot,
            policy=input.policy,
            auction=input.auction,
            bids=[replace(bid, epoch=epoch) for bid in input.bids],
            considered=input.considered,
            dropped=input.dropped,
            attempt=subtask.attempt + 1,
            seed=input.seed,
        )
    )
    draft.effect(*award_effects(subtask.name, epoch, draft.now, draft.settings))


def _held_subtask(draft: Draft, name: str | None, epoch: int) -> SubtaskState | None:
    subtask = draft.state.subtasks.get(name or "")
    if subtask is None or draft.state.ended or not subtask.held or subtask.epoch != epoch:
        return None
    return subtask


def _lost(draft: Draft, input: LostIn) -> None:
    subtask = _held_subtask(draft, input.subtask, input.epoch)
    if subtask is None:
        return
    settings = draft.settings
    error = m.ErrorInfo(code="lost", message=f"Agent {subtask.agent} was lost: {input.reason}.", retryable=True, details={"cause": "lost"})
    draft.stop(subtask, "taken for lost")
    if subtask.losses + 1 >= settings.losses:
        draft.fail(subtask, replace(error, message=f"{error.message} It was loss number {subtask.losses + 1}, the last allowed."))
    elif subtask.parent is None and not subtask.planner and answer_to(draft.state, "lost", subtask) not in (None, "retry"):
        draft.fail(subtask, error, "lost")
    else:
        go_back(draft, subtask, error, None)


def _broken(draft: Draft, input: BrokenIn) -> None:
    subtask = _held_subtask(draft, input.subtask, input.epoch)
    if subtask is not None:
        draft.fail(subtask, input.error)


def _timer(draft: Draft, input: TimerIn) -> None:
    if not draft.state.ended:
        _TIMERS[input.kind](draft, input)


def _accept_timer(draft: Draft, input: TimerIn) -> None:
    subtask = _held_subtask(draft, input.subtask, input.epoch)
    if subtask is None or subtask.state != "awarded":
        return
    message = f"Agent {subtask.agent} did not accept within {draft.settings.accept_timeout_s:g} s."
    draft.stop(subtask, "not accepted in time")
    turn_down(draft, subtask, m.ErrorInfo(code="lost", message=message, retryable=True, details={"cause": "accept-timeout"}))


def _attempt_timer(draft: Draft, input: TimerIn) -> None:
    subtask = _held_subtask(draft, input.subtask, input.epoch)
    timeout = None if subtask is None else timeout_of(draft.state, subtask)
    if subtask is None or timeout is None or subtask.accepted_at is None:
        return
    error = m.ErrorInfo(
        code="deadline",
        message=f"The attempt took longer than its timeout_s of {timeout:g} s.",
        retryable=True,
        details={"cause": "timeout"},
    )
    draft.stop(subtask, "timeout_s has passed")
    try_again(draft, subtask, error, None)


def _retry_timer(draft: Draft, input: TimerIn) -> None:
    subtask = draft.state.subtasks.get(input.subtask or "")
    if subtask is not None and subtask.state == "ready":
        draft.want(draft.state, subtask)


def _unserved_timer(draft: Draft, input: TimerIn) -> None:
    """No agent fits, and the task's policy has an answer to that."""
    state = draft.state
    subtask = state.subtasks.get(input.subtask or "")
    if subtask is None or subtask.state != "ready" or subtask.plan_version != input.epoch:
        return
    message = f"For {state.replan.unserved_s:g} s no agent fitted {subtask.spec.capability!r}."
    draft.stop(subtask, message)
    draft.fail(subtask, m.ErrorInfo(code="unserved", message=message, details={"cause": "unserved"}), "unserved")


def _budget_timer(draft: Draft, _input: TimerIn) -> None:
    """What runs may have used up the budget of seconds."""
    due = seconds_due(draft.state, draft.now)
    if due is not None and due > draft.now:
        draft.effect(SetTimer("budget", due))
    elif due is not None:
        running = [subtask.accepted_at for subtask in draft.state.subtasks.values() if subtask.held and subtask.accepted_at is not None]
        draft.fail_task(budget_error(draft.state, "seconds", {"seconds": sum(draft.now - since for since in running)}))


def _subtask_deadline(draft: Draft, input: TimerIn) -> None:
    subtask = draft.state.subtasks.get(input.subtask or "")
    if subtask is None or subtask.ended or subtask.spec.deadline_s is None:
        return
    due = draft.state.submitted_at + subtask.spec.deadline_s
    if draft.now < due:
        draft.effect(SetTimer("subtask-deadline", due, subtask.name))
        return
    why = _still_waiting([subtask] if subtask.state == "ready" else [], draft.now)
    draft.stop(subtask, "its deadline has passed")
    draft.fail(subtask, _deadline_error(f"Subtask {subtask.name!r} passed its deadline of {subtask.spec.deadline_s:g} s{why}."))


def _task_deadline(draft: Draft, _input: TimerIn) -> None:
    due = draft.state.deadline
    if due is None:
        return
    if draft.now < due:
        draft.effect(SetTimer("task-deadline", due))
    else:
        waiting = [subtask for subtask in draft.state.subtasks.values() if subtask.state == "ready"]
        draft.fail_task(
            _deadline_error(f"The task passed its deadline of {due - draft.state.submitted_at:g} s{_still_waiting(waiting, draft.now)}.")
        )


def _still_waiting(subtasks: list[SubtaskState], now: float) -> str:
    """What no agent had taken by then, mostly a misspelt capability, or an agent that is not up; and what had failed and was to be tried later."""
    paused = [subtask for subtask in subtasks if _is_paused(subtask, now)]
    untaken = [f"{subtask.name!r} ({subtask.spec.capability})" for subtask in subtasks if not _is_paused(subtask, now)]
    parts = [f"; no agent had taken {', '.join(untaken[:NAMED])}"] if untaken else []
    for subtask in paused[:1]:
        error = subtask.attempts[-1].error
        why = "" if error is None else f": {error.message[:SHOWN].rstrip('.')}"
        parts.append(f"; {subtask.name!r} ({subtask.spec.capability}) was to be tried again later{why}")
    return "".join(parts)


def _is_paused(subtask: SubtaskState, now: float) -> bool:
    return bool(subtask.attempts) and subtask.ready_at > now


def _deadline_error(message: str) -> m.ErrorInfo:
    return m.ErrorInfo(code="deadline", message=message, details={"cause": "deadline"})


_TIMERS: dict[str, Callable[[Draft, TimerIn], None]] = {
    "accept": _accept_timer,
    "approval": approval_timer,
    "budget": _budget_timer,
    "late": late_timer,
    "unserved": _unserved_timer,
    "attempt": _attempt_timer,
    "retry": _retry_timer,
    "stall": stall_timer,
    "subtask-deadline": _subtask_deadline,
    "task-deadline": _task_deadline,
}


def _split(draft: Draft, input: SplitIn) -> None:
    subtask = draft.state.subtasks.get(input.subtask)
    if subtask is None or subtask.state != "ready" or subtask.children or draft.state.ended or input.version != subtask.plan_version:
        return
    try:
        if input.error is not None:
            raise PlanRefused(input.error.message)
        specs, shares = share_specs(subtask, input.length, input.capacities)
        taken = [name for name in specs if name in draft.state.subtasks and draft.state.subtasks[name].state != "superseded"]
        if taken:
            raise PlanRefused(f"The share {taken[0]!r} has the name of another subtask.", hint="Rename that one.")
    except AgentExecutorError as error:
        draft.fail(subtask, m.ErrorInfo(code="input", message=str(error)))
        return
    if draft.over_budget(len(specs)):
        return
    draft.change(r.Planned(version=draft.state.plan_version, cause="split", add=specs, parent=subtask.name, shares=shares))
    preview = TaskState(draft.state.name, draft.state.shard, submit=draft.state.submit, submitted_at=draft.state.submitted_at)
    preview.subtasks = {
        name: SubtaskState(name, specs[name], plan_version=draft.state.plan_version, parent=subtask.name, shares=shares[name])
        for name in shares
    }
    draft.make_ready(list(shares), preview)
    draft.time_deadlines(specs, draft.state.submitted_at)


def _composed(draft: Draft, input: ComposedIn) -> None:
    body = input.result if input.result_blob is None else input.result_blob
    if draft.state.ended or draft.state.state in UNPLANNED:  # the server has lost the log meanwhile
        return
    if input.subtask is None:
        if input.error is not None:
            draft.fail_task(input.error)
        elif draft.state.open == 0:
            draft.complete_task(body)
        return
    subtask = draft.state.subtasks.get(input.subtask)
    if subtask is None or subtask.ended or not subtask.is_split:
        return
    if subtask.state != "running" or any(not draft.state.subtasks[name].ended for name in subtask.children):
        return  # of an earlier version
    if input.error is not None:
        draft.fail(subtask, input.error)
    else:
        draft.complete(subtask, completed(subtask.name, body, took_s=None))


def _cancel(draft: Draft, input: CancelIn) -> None:
    if input.peer != draft.state.name.owner:
        error = m.ErrorInfo(code="refused", message=f"{input.peer} is not the owner of task {draft.state.name}.")
        draft.decision.refusal = error
        draft.effect(Send(input.peer, "refused", m.Refused(task=str(draft.state.name), id=input.id, error=error)))
    elif draft.state.ended:
        draft.effect(_result(draft.state))
    else:
        draft.cancel_task(input.reason)


def _held(draft: Draft, _input: HeldIn) -> None:
    """Taken over: fence off the holder before."""
    if not draft.state.ended and draft.state.state != "unknown":
        draft.change(r.Held())


_DECIDE: dict[type, Callable[[Draft, Any], None]] = {
    SubmitIn: _submit,
    ClaimIn: decide_claim,
    CancelIn: _cancel,
    FeedbackIn: feedback.decide_feedback,
    AwardIn: _award,
    LostIn: _lost,
    BrokenIn: _broken,
    TimerIn: _timer,
    ProgressIn: decide_progress,
    SplitIn: _split,
    RevisionIn: decide_revision,
    SettleIn: settle,
    ComposedIn: _composed,
    HeldIn: _held,
}


# what must be sent, wanted or timed from a state


def pending(state: TaskState, now: float, settings: Settings) -> list[Effect]:
    """Everything that must be sent, wanted or timed from this state: what a coordinator does after it has loaded a task."""
    if state.state == "unknown":
        return []
    if state.ended:
        return [_result(state)]
    effects: list[Effect] = []
    if state.deadline is not None:
        effects.append(SetTimer("task-deadline", state.deadline))
    seconds = seconds_due(state, now)
    if seconds is not None:
        effects.append(SetTimer("budget", seconds))
    effects += pending_proposal(state, now)
    for subtask in state.subtasks.values():
        if not subtask.ended:
            effects += _pending_subtask(state, subtask, now, settings)
    if state.state not in UNPLANNED and is_unsettled(state):
        effects.append(Settle())
    return effects


def _pending_subtask(state: TaskState, subtask: SubtaskState, now: float, settings: Settings) -> list[Effect]:
    effects: list[Effect] = []
    if subtask.spec.deadline_s is not None:
        effects.append(SetTimer("subtask-deadline", state.submitted_at + subtask.spec.deadline_s, subtask.name))
    if subtask.state == "ready":
        due = min(subtask.ready_at, now + subtask.pause_s)  # the server's clock may have been set back
        if due > now:
            effects.append(SetTimer("retry", due, subtask.name))
        else:
            effects += [*want_effects(state, subtask), *unserved_timer(state, subtask, now)]
    elif subtask.state == "approval":
        effects += pending_approval(state, subtask, now)
    elif subtask.state == "awarded":
        effects += award_effects(subtask.name, subtask.epoch, now, settings)
    elif subtask.state == "running" and subtask.is_split:
        effects += _pending_split(state, subtask)
    elif subtask.state == "running":
        timeout = timeout_of(state, subtask)
        if timeout is not None and subtask.accepted_at is not None:
            effects.append(SetTimer("attempt", min(subtask.accepted_at, now) + timeout, subtask.name, subtask.epoch))
        effects += watch_silence(subtask, now, settings)
        effects += watch_lateness(state, subtask, now)
        effects += [
            Send(subtask.agent, "feedback", feedback.message(state, subtask.name, given))
            for given in state.feedback
            if subtask.agent is not None and given.epoch == subtask.epoch and given.subtask == subtask.name
        ]
    return effects


def _pending_split(state: TaskState, subtask: SubtaskState) -> list[Effect]:
    children = [state.subtasks[name] for name in subtask.children]
    merged = subtask.spec.split is not None and subtask.spec.split.merge is not None
    if merged or not all(child.state in ("completed", "skipped") for child in children):
        return []
    parts = {child.name: m.NULL if child.result is None else child.result for child in children}
    return [NeedCompose(subtask.name, parts, join=True)]


def award_of(state: TaskState, name: str) -> m.Award:
    """The award message of a subtask as it stands, references in its input not yet filled in."""
    subtask = state.subtasks[name]
    deadline = state.deadline_of(subtask)
    submit = state.submit or m.Submit()
    whole = name if subtask.shares is None else subtask.parent
    return m.Award(
        task=str(state.name),
        subtask=name,
        capability=subtask.spec.capability,
        epoch=subtask.epoch,
        boot=subtask.boot or "",
        input=subtask.spec.input,
        input_blob=subtask.spec.input_blob,
        attempt=subtask.attempt,
        key=f"{state.name}/{name}/{subtask.plan_version}",
        priority=submit.priority if subtask.spec.priority is None else subtask.spec.priority,
        deadline=None if deadline is None else to_rfc3339(deadline),
        timeout_s=timeout_of(state, subtask),
        plan_version=subtask.plan_version,
        feedback=[feedback.message(state, name, given) for given in state.feedback if given.subtask in (None, name, whole)],
        shard=state.shard,
    )


def lookup(state: TaskState, name: str) -> Raw | m.BlobRef:
    """The result that a reference to subtask `name` stands for; null when it was skipped. For `schemas.references.compose`."""
    result = state.subtasks[name].result if name in state.subtasks else None
    return m.NULL if result is None else result
