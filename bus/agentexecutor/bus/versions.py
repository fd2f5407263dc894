"""The versions of a task's plan, read from its log (docs/protocol.md section 11). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.parts import Parts
from agentexecutor.schemas.views import PlanVersion

__all__ = ["plan_versions"]


def plan_versions(entries: Iterable[r.LogEntry]) -> list[PlanVersion]:
    """Every version, oldest first, each with the whole plan that it led to. Shares, children and planners are no part of it."""
    found: list[PlanVersion] = []
    plan: dict[str, m.SubtaskSpec] = {}
    result: str | None = None
    parts = Parts()
    for entry in entries:
        whole = parts.whole(entry.record)
        for change in () if whole is None else whole.changes:
            if not isinstance(change, r.Planned) or change.cause not in ("submit", "goal", "replan"):
                continue
            if change.cause != "goal":
                plan = {name: spec for name, spec in plan.items() if name not in change.remove} | change.add
            result = change.result if change.result is not None else None if result in change.remove else result
            made = PlanVersion(
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
                plan=m.PlanSpec(subtasks=dict(plan), result=result),
            )
            found.append(made)
    return found
