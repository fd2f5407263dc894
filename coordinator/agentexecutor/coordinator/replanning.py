"""New versions of a plan while it runs: what answers a trigger, how a planner is asked and its answer is used (docs/protocol.md section 11). Pure.

A trigger is a recorded fact (`TaskState.unanswered`), so it outlives who recorded it. `settle` does the next thing that the state asks for; each
decision that leaves something to be done asks for another `settle`, until nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from agentexecutor.coordinator.budgets import account, budget_error, budget_of, exceeded, left
from agentexecutor.coordinator.draft import Draft, completed
from agentexecutor.coordinator.errors import NoRoom, RepeatedWork
from agentexecutor.coordinator.evolve import story
from agentexecutor.coordinator.inputs import NeedRevision, RevisionIn, SetTimer, Settle, SettleIn
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import version_approval
from agentexecutor.coordinator.states import UNPLANNED
from agentexecutor.coordinator.versions import next_version, replaced, root_of
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.errors import AgentExecutorError, PlanRefused
from agentexecutor.schemas.plans import MAX_SUBTASKS

__all__ = ["ask_planner", "decide_revision", "is_unsettled", "planner_spec", "replan", "settle", "take_proposed"]

NONSENSE = 3
"""So many answers in a row that cannot be used fail the task."""


# what is left open


def settle(draft: Draft, _input: SettleIn) -> None:
    """The next thing that follows from the state: what can start, what is merged, what answers a trigger, what ends the task."""
    if draft.state.ended or draft.state.state in UNPLANNED:
        return
    for step in (_start, _merge, _answer_next, _think, _finish):
        if step(draft):
            return


def is_unsettled(state: TaskState) -> bool:
    """Whether something is to be settled: who decided what leads to it may have died before the turn that settles it."""
    if state.open == 0 or state.unanswered:
        return True
    return any(
        _may_start(subtask) or _is_merged(state, subtask) or (subtask.name == state.thinking and subtask.state == "completed")
        for subtask in state.subtasks.values()
    )


def _may_start(subtask: SubtaskState) -> bool:
    return subtask.state == "blocked" and not subtask.waits


def _start(draft: Draft) -> bool:
    ready = [name for name, subtask in draft.state.subtasks.items() if _may_start(subtask)]
    if ready:
        draft.make_ready(ready)
        draft.effect(Settle())
    return bool(ready)


def _merge(draft: Draft) -> bool:
    for subtask in draft.state.subtasks.values():
        if _is_merged(draft.state, subtask):
            draft.complete(subtask, completed(subtask.name, draft.body(subtask.children[-1]), took_s=None))
            return True
    return False


def _answer_next(draft: Draft) -> bool:
    state = draft.state
    for why in state.unanswered:
        # What a planner who is at work is not asked about yet waits for its answer, unless it is about the planner.
        if why.answer != "plan" or state.thinking in (None, why.subtask) or state.proposed is not None:
            _answer(draft, why)
            return True
    return False


def _think(draft: Draft) -> bool:
    """While a planner is asked nothing else ends the task; an answer of it that nobody has read yet is read."""
    state = draft.state
    if state.thinking is None:
        return False
    planner = state.subtasks[state.thinking]
    if planner.state == "completed" and planner.result is not None and state.proposed is None:
        draft.effect(NeedRevision(planner.name, planner.epoch, planner.result))
    return True


def _finish(draft: Draft) -> bool:
    state = draft.state
    if state.open == 0 and state.goal is not None and not state.finish:
        ask_planner(draft, [r.Why(trigger="continue", answer="plan", text="All that was planned has ended.")])
    elif state.open == 0:
        draft.finish_if_done()
    return True


def _is_merged(state: TaskState, subtask: SubtaskState) -> bool:
    """Whether its shares are merged, and only that is to be recorded."""
    merged = subtask.spec.split is not None and subtask.spec.split.merge is not None and subtask.is_split
    return merged and not subtask.ended and state.subtasks[subtask.children[-1]].state == "completed"


def _answer(draft: Draft, why: r.Why) -> None:
    """Answer a trigger as its policy has said."""
    state = draft.state
    subtask = state.subtasks.get(why.subtask or "")
    if why.answer == "plan":
        planner = None if state.thinking is None else state.subtasks[state.thinking]
        ask_planner(draft, [why for why in state.unanswered if why.answer == "plan"], again=planner)
    elif subtask is None:
        draft.fail_task(m.ErrorInfo(code="refused", message=f"Nothing answers {why.trigger!r}: {why.text}", details={"cause": why.trigger}))
    else:
        replan(draft, _revision(state, subtask, why.answer), [why])


def _revision(state: TaskState, subtask: SubtaskState, answer: str) -> r.Revision:
    """The difference that an answer makes: to what a share or child was made for, when it is about one."""
    root = root_of(state, subtask)
    if answer == "another":
        had = [attempt.agent for one in (root, subtask) for attempt in one.attempts]
        return r.Revision(add={root.name: replace(root.spec, avoid=list(dict.fromkeys([*root.spec.avoid, *had])))}, again=[root.name])
    if answer == "split":
        return r.Revision(add={root.name: replace(root.spec, split=state.replan.split)}, again=[root.name])
    return r.Revision(again=[root.name])


# a new version


def replan(draft: Draft, revision: r.Revision, why: list[r.Why]) -> None:
    """Write the next version without a planner; what cannot be done fails the task. A planner who is at work begins anew."""
    state = draft.state
    if exceeded(state, {"replans": 1}) is not None:
        draft.fail_task(budget_error(state, "replans", {"replans": 1}))
        return
    try:
        change = next_version(state, revision, why, room=_room(state) - (state.thinking is not None))
    except RepeatedWork as error:
        _circle(draft, why, error)
        return
    except PlanRefused as error:
        more = {"subtasks": error.fields.get("wanted", 0) + (state.thinking is not None)}
        if isinstance(error, NoRoom) and exceeded(state, more) == "subtasks":
            draft.fail_task(budget_error(state, "subtasks", more))
            return
        draft.fail_task(m.ErrorInfo(code="input", message=f"{why[0].text} {error}".strip(), details={"cause": why[0].trigger}))
        return
    if state.thinking is not None:
        change = replace(change, again=[*change.again, state.thinking])
    _write(draft, change)


def _room(state: TaskState) -> float:
    return min(MAX_SUBTASKS, left(state).get("subtasks", MAX_SUBTASKS))


def _write(draft: Draft, change: r.Planned) -> None:
    """Record the version, stop what it supersedes, and go on with what it leaves."""
    state = draft.state
    gone = replaced(state, change)
    for name in gone:
        draft.stop(state.subtasks[name], f"version {change.version} of the plan goes on without it")
    draft.change(change)
    draft.cancel_orphans([name for name in gone if name not in change.add and name not in change.again])
    draft.time_deadlines({**{name: state.subtasks[name].spec for name in change.again}, **change.add}, state.submitted_at)
    draft.effect(Settle())


# planners


def ask_planner(draft: Draft, whys: Sequence[r.Why], again: SubtaskState | None = None) -> None:
    """Have a planner asked for the next version, for these reasons; `again`: the same one, whose answer could not be used."""
    state = draft.state
    spent = exceeded(state, {"subtasks": 1, "replans": 1})
    if spent is not None:
        draft.fail_task(budget_error(state, spent, {"subtasks": 1, "replans": 1}))
        return
    policy = state.replan
    if again is not None:
        draft.stop(again, "it is asked anew")
        change = r.Planned(version=state.plan_version, cause="ask", why=[*whys], again=[again.name])
    else:
        number = 1
        while f"plan-{number}" in state.subtasks:
            number += 1
        change = r.Planned(version=state.plan_version, cause="ask", why=[*whys], add={f"plan-{number}": planner_spec(policy)})
    draft.change(change)
    draft.effect(Settle())


def planner_spec(policy: m.Replan) -> m.SubtaskSpec:
    """The subtask that asks a planner; what it is told is put together when it is awarded."""
    return m.SubtaskSpec(capability=policy.planner, timeout_s=policy.planner_timeout_s)


def decide_revision(draft: Draft, input: RevisionIn) -> None:
    """The planner's answer: the next version, a proposal of it, the end of the task, or nonsense that goes back to it."""
    state = draft.state
    planner = state.subtasks.get(input.subtask)
    if planner is None or state.ended or state.thinking != planner.name or state.proposed is not None:
        return
    if planner.state != "completed" or planner.epoch != input.epoch:
        return
    if input.revision is None:
        _nonsense(draft, planner, input.error)
    else:
        _use(draft, planner, input.revision, approved=False)


def take_proposed(draft: Draft) -> None:
    """The proposed version was agreed to."""
    state = draft.state
    if state.proposed is not None and state.proposed.revision is not None and state.thinking is not None:
        _use(draft, state.subtasks[state.thinking], state.proposed.revision, approved=True)


def _use(draft: Draft, planner: SubtaskState, revision: r.Revision, *, approved: bool) -> None:
    state = draft.state
    whys = planner.whys or []
    approval = None if approved else version_approval(state)
    output = revision.output if revision.output_blob is None else revision.output_blob
    if revision.finish and output is not UNSET and not (revision.add or revision.again or revision.remove):
        if approval is None:
            draft.finish_with(output)
        else:
            _propose(draft, planner, revision, approval)
        return
    try:
        change = next_version(state, revision, whys, planner=planner.name, room=_room(state))
    except RepeatedWork as error:
        _repeated(draft, planner, error)
        return
    except AgentExecutorError as error:
        _nonsense(draft, planner, str(error))
        return
    if exceeded(state, {"replans": 1}) is not None:  # others have used them up since it was asked
        draft.fail_task(budget_error(state, "replans", {"replans": 1}))
    elif approval is None:
        _write(draft, change)
    else:
        _propose(draft, planner, revision, approval)


def _propose(draft: Draft, planner: SubtaskState, revision: r.Revision, approval: m.ApprovalPolicy) -> None:
    """What the planner has answered waits for a person's word."""
    draft.change(r.Proposed(why=planner.whys or [], revision=revision, planner=planner.name))
    if approval.timeout_s is not None:
        draft.effect(SetTimer("approval", draft.now + approval.timeout_s))


def _nonsense(draft: Draft, planner: SubtaskState, error: str) -> None:
    """Back to the planner with the error, a few times."""
    earlier = 0
    for why in reversed(planner.whys or []):
        if why.trigger != "nonsense":
            break
        earlier += 1
    why = r.Why(trigger="nonsense", answer="plan", subtask=planner.name, text=error[:1000])
    if earlier + 1 < NONSENSE:
        ask_planner(draft, [why], again=planner)
    else:
        message = f"{planner.agent} has given {NONSENSE} answers that cannot be used; the last: {error}"
        draft.fail_task(m.ErrorInfo(code="input", message=message[:2000], details={"cause": "nonsense", "planner": planner.name}))


def _repeated(draft: Draft, planner: SubtaskState, error: RepeatedWork) -> None:
    """The same once too often: the planner is told so once, then the task fails with its story."""
    if any(why.trigger == "repeated" for why in planner.whys or []):
        _give_up(draft, error)
    else:
        ask_planner(draft, [r.Why(trigger="repeated", answer="plan", subtask=planner.name, text=str(error))], again=planner)


def _circle(draft: Draft, whys: list[r.Why], error: RepeatedWork) -> None:
    """The same once too often without a planner: who plans for the goal is told so, else the task fails with its story."""
    state = draft.state
    if state.goal is None:
        _give_up(draft, error)
        return
    planner = None if state.thinking is None else state.subtasks[state.thinking]
    ask_planner(draft, [*whys, r.Why(trigger="repeated", answer="plan", subtask=whys[0].subtask, text=str(error))], again=planner)


def _give_up(draft: Draft, error: RepeatedWork) -> None:
    details = {"cause": "repeated", "story": story(draft.state)[:100], "budget": budget_of(draft.state), "spent": account(draft.state)}
    draft.fail_task(m.ErrorInfo(code="budget", message=f"The plan goes round in circles: {error.message}", details=details))
