"""The versions of a task's plan, read from its log (docs/protocol.md section 11). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.parts import Parts
from agentexecutor.schemas.views import PlanVersion

__all__ = ["plan_versions"]


def plan_versions(entries: Iterable[r.LogEntry]) -> list[PlanVersion]:
    """Every version, oldest first, each with the whole plan that it led to; last the one that is proposed, if any.

    Shares, children and planners are no part of it.
    """
    found: list[PlanVersion] = []
    proposed: PlanVersion | None = None
    parts = Parts()
    for entry in entries:
        whole = parts.whole(entry.record)
        for change in () if whole is None else whole.changes:
            if isinstance(change, r.Proposed):
                proposed = _proposed(entry, change, found)
            elif _ends_proposal(change, proposed):
                proposed = None
            if isinstance(change, r.Planned) and change.cause in ("submit", "goal", "replan"):
                found.append(_made(entry, change, found))
    return found if proposed is None else [*found, proposed]


def _ends_proposal(change: r.Change, proposed: PlanVersion | None) -> bool:
    """Whether the planner is asked again, another version was made, or the task has ended."""
    if isinstance(change, r.Planned):
        named = proposed is not None and proposed.planner in (*change.again, *change.add)
        return change.cause == "replan" or named
    if isinstance(change, r.Cancelled):
        return change.subtasks is None
    return isinstance(change, r.Completed | r.FailedChange) and change.subtask is None


def _made(entry: r.LogEntry, change: r.Planned, before: list[PlanVersion]) -> PlanVersion:
    plan, result = _last(before)
    if change.cause != "goal":
        plan = {name: spec for name, spec in plan.items() if name not in change.remove} | change.add
    return PlanVersion(
        version=change.version,
        base=change.base,
        cause=change.cause,
        why=change.why,
        at=entry.time,
        coordinator=entry.record.coordinator,
        planner=change.planner,
        add=[] if change.cause == "goal" else list(change.add),
        again=change.again,
        remove=change.remove,
        finish=change.finish,
        plan=m.PlanSpec(subtasks=plan, result=_result(change.result, result, change.remove)),
    )


def _proposed(entry: r.LogEntry, change: r.Proposed, before: list[PlanVersion]) -> PlanVersion:
    """As the planner has said it: what of it is kept is found out when it is agreed to."""
    revision = change.revision or r.Revision()
    plan, result = _last(before)
    wanted = {*revision.add, *revision.again}
    removed = [name for name in plan if name in revision.remove or (revision.whole and name not in wanted)]
    return PlanVersion(
        version=before[-1].version + 1 if before else 1,
        base=before[-1].version if before else 0,
        cause="replan",
        why=change.why,
        at=entry.time,
        coordinator=entry.record.coordinator,
        planner=change.planner,
        add=list(revision.add),
        again=revision.again,
        remove=removed,
        finish=revision.finish,
        proposed=True,
        plan=m.PlanSpec(
            subtasks={name: spec for name, spec in plan.items() if name not in removed} | revision.add,
            result=_result(revision.result, result, removed),
        ),
    )


def _last(before: list[PlanVersion]) -> tuple[dict[str, m.SubtaskSpec], str | None]:
    """The plan before, and the subtask whose result is its own."""
    return (before[-1].plan.subtasks, before[-1].plan.result) if before else ({}, None)


def _result(named: str | None, before: str | None, removed: list[str]) -> str | None:
    return named if named is not None else None if before in removed else before
