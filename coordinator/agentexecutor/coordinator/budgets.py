"""Budgets: what a task has spent, and whether that is more than it may. Pure.

`subtasks` and `replans` are counted here, `seconds` of work are what agents report (else measured from the accept), every other name is the sum of
that number in what agents report as usage. An attempt counts when it ends; what runs counts towards `seconds` as it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentexecutor.coordinator.model import TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r

__all__ = [
    "COUNTED",
    "REPLANS",
    "account",
    "budget_error",
    "budget_of",
    "exceeded",
    "exceeded_by",
    "left",
    "note_spent",
    "note_stopped",
    "seconds_due",
    "usage_of",
    "usage_refused",
]

REPLANS = 10
"""New versions of a plan when nobody says."""
COUNTED = ("subtasks", "replans", "seconds")
"""What is counted here, and not reported in `usage`."""


def budget_of(state: TaskState) -> dict[str, float]:
    """The limits that count."""
    return {"replans": REPLANS} | (state.submit.budget if state.submit is not None else {})


def usage_of(state: TaskState, change: r.Completed | r.FailedChange, at: float) -> dict[str, float]:
    """What an attempt that ends has used."""
    subtask = state.subtasks[change.subtask or ""]
    if not subtask.attempt or subtask.attempts[-1].state not in ("awarded", "running"):
        return {}
    measured = 0.0 if subtask.accepted_at is None else max(0.0, at - subtask.accepted_at)
    return {**change.usage, "seconds": measured if change.took_s is None else change.took_s}


def usage_refused(usage: Mapping[str, float]) -> str:
    """Why what an agent reports as usage cannot be used; empty when it can."""
    for name in COUNTED:
        if name in usage:
            return f"{name!r} is counted by the coordinator, and cannot be reported as usage; choose another name."
    return ""


def note_spent(state: TaskState, change: r.Completed | r.FailedChange, at: float) -> None:
    """Put an attempt that ends on the account; called before the attempt is marked as ended."""
    subtask = state.subtasks[change.subtask or ""]
    usage = usage_of(state, change, at)
    if usage:
        mine = state.spent.setdefault(subtask.spec.capability, {})
        for name, number in usage.items():
            mine[name] = mine.get(name, 0.0) + number


def note_stopped(state: TaskState, name: str, at: float) -> None:
    """Put an attempt that is stopped on the account, by the time that it has run; called before it is marked as ended."""
    subtask = state.subtasks[name]
    if subtask.attempt and subtask.attempts[-1].state == "running" and subtask.accepted_at is not None:
        mine = state.spent.setdefault(subtask.spec.capability, {})
        mine["seconds"] = mine.get("seconds", 0.0) + max(0.0, at - subtask.accepted_at)


def account(state: TaskState) -> dict[str, float]:
    """What was spent so far, by the names of a budget."""
    spent: dict[str, float] = {"subtasks": state.made, "replans": max(0, state.plan_version - 1)}
    for mine in state.spent.values():
        for name, number in mine.items():
            if name not in ("subtasks", "replans"):
                spent[name] = spent.get(name, 0.0) + number
    return spent


def left(state: TaskState) -> dict[str, float]:
    """What may still be spent."""
    spent = account(state)
    return {name: limit - spent.get(name, 0.0) for name, limit in budget_of(state).items()}


def exceeded(state: TaskState, more: Mapping[str, float]) -> str | None:
    """The first limit that is exceeded once `more` is spent too."""
    spent = account(state)
    for name, limit in budget_of(state).items():
        if spent.get(name, 0.0) + more.get(name, 0.0) > limit:
            return name
    return None


def exceeded_by(state: TaskState, change: r.Completed | r.FailedChange, at: float) -> str | None:
    """The first limit that an ending attempt exceeds."""
    if state.submit is None or not state.submit.budget:
        return None
    return exceeded(state, usage_of(state, change, at))


def budget_error(state: TaskState, name: str, more: Mapping[str, float] | None = None) -> m.ErrorInfo:
    """Why the task ends, with the account of where it went."""
    spent = account(state)
    for key, number in (more or {}).items():
        spent[key] = spent.get(key, 0.0) + number
    limits = budget_of(state)
    return m.ErrorInfo(
        code="budget",
        message=f"The budget of {limits[name]:g} {name} is exceeded: {spent.get(name, 0.0):g} are needed or spent.",
        details={"cause": "budget", "exceeded": name, "budget": limits, "spent": spent, "by": state.spent},
    )


def seconds_due(state: TaskState, now: float) -> float | None:
    """When the work that runs will have used up the budget of seconds; None when there is none, or nothing runs."""
    limit = budget_of(state).get("seconds")
    running = [subtask.accepted_at for subtask in state.subtasks.values() if subtask.held and subtask.accepted_at is not None]
    if limit is None or not running:
        return None
    used = account(state).get("seconds", 0.0) + sum(max(0.0, now - since) for since in running)
    return now + max(0.0, limit - used) / len(running)
