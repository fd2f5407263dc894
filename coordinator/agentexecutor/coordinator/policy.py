"""A task's replan policy: its answer to each trigger, and what waits for a person's word (docs/protocol.md section 11). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.names import check_capability

__all__ = ["SENSIBLE", "TRIGGERS", "answer_to", "answer_to_failure", "approval_of", "check_approval", "check_replan", "version_approval"]

TRIGGERS = ("failed", "lost", "late", "unserved", "revise", "reject", "message", "changed")
PLANNED_BY_GOAL = ("failed", "unserved", "revise", "reject", "message")
"""Triggers that a task with a goal puts before its planner when nobody says otherwise."""
FOR_ALL: tuple[m.ReplanAnswer, ...] = ("plan", "fail")
"""Answers that make sense for a task as a whole."""
IN_TIME: tuple[m.ReplanAnswer, ...] = ("retry", "another", "split", "wait")
"""Answers that make no sense once the subtask's deadline has passed, or when nobody has said the word that it waits for."""
TOO_LATE = ("deadline", "approval-timeout")
SENSIBLE: Mapping[str, tuple[m.ReplanAnswer, ...]] = {
    "revise": ("retry", "another", "split", "plan", "fail"),
    "message": ("plan", "fail"),
    "changed": ("retry", "another", "split", "plan", "fail"),
}
"""What makes sense where not all does: nobody passes over, or lets wait, what has its result or only another deadline."""


def check_replan(policy: m.Replan) -> None:
    """Raises PlanRefused for a policy that says something of which nothing could come."""
    check_capability(policy.planner)
    if policy.split is None and "split" in (getattr(policy, trigger) for trigger in TRIGGERS):
        raise PlanRefused("The policy answers with 'split', and does not say how.", hint="Say it in replan.split.")
    for trigger, answers in SENSIBLE.items():
        answer = getattr(policy, trigger)
        if answer is not None and answer not in answers:
            raise PlanRefused(f"{answer!r} is no answer to {trigger!r}.", hint=f"Say {', '.join(answers[:-1])} or {answers[-1]}.")


def check_approval(policy: m.ApprovalPolicy) -> None:
    """Raises NameRefused for what no capability can be called: nothing would wait, and nobody would know."""
    for pattern in policy.capabilities:
        beginning = pattern.removesuffix("*")
        check_capability(beginning if beginning == pattern else f"{beginning}x")


def answer_to(state: TaskState, trigger: str, subtask: SubtaskState | None) -> m.ReplanAnswer | None:
    """What the task's policy says; None: nothing."""
    answer: m.ReplanAnswer | None = getattr(state.replan, trigger)
    if answer is None and state.goal is not None and trigger in PLANNED_BY_GOAL and (trigger != "message" or subtask is None):
        answer = "plan"
    return answer if subtask is not None or answer in FOR_ALL else None


def answer_to_failure(state: TaskState, subtask: SubtaskState, error: m.ErrorInfo, trigger: str) -> m.ReplanAnswer:
    """What becomes of a subtask that has failed for good. A share's or a child's failure is its parent's, a planner's the task's."""
    if subtask.parent is not None or subtask.planner:
        return "skip" if subtask.spec.on_failure == "skip" else "fail"
    if subtask.spec.on_failure == "skip" and trigger == "failed":
        return "skip"
    answer = answer_to(state, trigger, subtask)
    too_late = answer in IN_TIME and error.details.get("cause") in TOO_LATE
    waited = answer == "wait" and subtask.state == "approval"
    return "fail" if answer is None or too_late or waited else answer


def approval_of(state: TaskState, subtask: SubtaskState, *, waits: bool = False) -> m.Approval | None:
    """How a subtask waits for a person's word; None: it need not. A share was agreed to with what it is a share of. `waits`: it has to."""
    waits = waits or subtask.state == "approval"
    if subtask.planner or (subtask.parent is not None and subtask.call is None):
        return None
    if subtask.spec.approval is not None:
        return subtask.spec.approval
    policy = None if state.submit is None else state.submit.approval
    if policy is not None and (waits or any(_fits(name, subtask.spec.capability) for name in policy.capabilities)):
        return policy
    return m.Approval() if waits else None


def _fits(pattern: str, capability: str) -> bool:
    """Whether a capability is meant: by its name, or by the beginning of it before a ``*``."""
    return capability.startswith(pattern[:-1]) if pattern.endswith("*") else capability == pattern


def version_approval(state: TaskState) -> m.ApprovalPolicy | None:
    """How a new version waits for a person's word; None: it need not."""
    policy = None if state.submit is None else state.submit.approval
    return policy if policy is not None and policy.versions else None
