"""Where a task and its subtasks change state: all transitions, as data.

The rules behind the tables:

1. Only a record changes a state. `SUBTASK` and `TASK` say what each change makes of each state; a pair that is not there cannot be
   recorded, and folding it raises `TransitionError` with the task's story.
2. A subtask's states `calling` and `parked` are not here: they are a coordinator's view of `ready`, held in memory (docs/adr/0005).
3. A subtask that goes back to `ready` gets a larger epoch with its next award; the claims of the older epoch then change nothing.
4. Ended is ended: from `completed`, `failed`, `cancelled`, `skipped` no claim leads anywhere. A newer plan version may supersede any of them:
   who had the name is superseded, and a new subtask of that name begins as `blocked`.
5. `CLAIMS` says what a claim leads to, by how its sender stands to the award that it names. Late and duplicate claims are rows that
   say *ignore* or *cancel*, not exceptions.

`docs/states.md` is generated from these tables by `agentexecutor.coordinator.diagram`.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "CLAIMS",
    "ENDED",
    "HELD",
    "SUBTASK",
    "TASK",
    "UNPLANNED",
    "Action",
    "Standing",
    "SubtaskEvent",
    "SubtaskStateName",
    "TaskEvent",
    "TaskStateName",
]

SubtaskStateName = Literal[
    "blocked", "approval", "ready", "awarded", "running", "completed", "failed", "cancelled", "superseded", "skipped"
]
TaskStateName = Literal["unknown", "submitted", "planning", "running", "waiting", "completed", "failed", "cancelled"]
SubtaskEvent = Literal[
    "asked",
    "approved",
    "ready",
    "split",
    "awarded",
    "accepted",
    "completed",
    "retry",
    "final",
    "skip",
    "replan",
    "wait",
    "cancelled",
    "superseded",
]
TaskEvent = Literal["submitted", "goal", "planned", "asked", "answered", "completed", "failed", "cancelled"]

UNPLANNED = ("unknown", "submitted")
"""States in which a submit is still to be planned. The second is found only where a version that recorded a large submit in two steps died in between."""

ENDED = frozenset({"completed", "failed", "cancelled", "superseded", "skipped"})
"""States that no claim leads out of; a task knows the first three of them only."""

HELD = frozenset({"awarded", "running"})
"""States in which an agent may hold the subtask."""

SUBTASK: dict[tuple[SubtaskStateName, SubtaskEvent], SubtaskStateName] = {
    ("blocked", "ready"): "ready",
    ("blocked", "asked"): "approval",
    ("blocked", "cancelled"): "cancelled",
    ("blocked", "final"): "failed",
    ("blocked", "skip"): "skipped",
    ("blocked", "superseded"): "superseded",
    ("approval", "approved"): "ready",
    ("approval", "final"): "failed",
    ("approval", "replan"): "failed",
    ("approval", "skip"): "skipped",
    ("approval", "cancelled"): "cancelled",
    ("approval", "superseded"): "superseded",
    ("ready", "awarded"): "awarded",
    ("ready", "split"): "running",
    ("ready", "final"): "failed",
    ("ready", "skip"): "skipped",
    ("ready", "cancelled"): "cancelled",
    ("ready", "superseded"): "superseded",
    ("awarded", "accepted"): "running",
    ("awarded", "retry"): "ready",
    ("awarded", "final"): "failed",
    ("awarded", "skip"): "skipped",
    ("awarded", "cancelled"): "cancelled",
    ("awarded", "superseded"): "superseded",
    ("running", "completed"): "completed",
    ("running", "retry"): "ready",
    ("running", "final"): "failed",
    ("running", "skip"): "skipped",
    ("running", "cancelled"): "cancelled",
    ("running", "superseded"): "superseded",
    ("completed", "superseded"): "superseded",
    ("failed", "superseded"): "superseded",
    ("cancelled", "superseded"): "superseded",
    ("skipped", "superseded"): "superseded",
    ("blocked", "replan"): "failed",
    ("ready", "replan"): "failed",
    ("awarded", "replan"): "failed",
    ("running", "replan"): "failed",
    ("blocked", "wait"): "approval",
    ("ready", "wait"): "approval",
    ("awarded", "wait"): "approval",
    ("running", "wait"): "approval",
}

TASK: dict[tuple[TaskStateName, TaskEvent], TaskStateName] = {
    ("unknown", "submitted"): "submitted",
    ("unknown", "cancelled"): "cancelled",  # a tombstone: cancelled before its submit was seen
    ("submitted", "goal"): "planning",
    ("planning", "goal"): "planning",
    ("submitted", "planned"): "running",
    ("submitted", "failed"): "failed",
    ("submitted", "cancelled"): "cancelled",
    ("planning", "planned"): "running",
    ("planning", "asked"): "waiting",
    ("planning", "completed"): "completed",
    ("planning", "failed"): "failed",
    ("planning", "cancelled"): "cancelled",
    ("running", "planned"): "running",
    ("running", "asked"): "waiting",
    ("running", "completed"): "completed",
    ("running", "failed"): "failed",
    ("running", "cancelled"): "cancelled",
    ("waiting", "planned"): "waiting",
    ("waiting", "answered"): "running",
    ("waiting", "completed"): "completed",  # a planner had the result without what waits
    ("waiting", "failed"): "failed",
    ("waiting", "cancelled"): "cancelled",
}

Standing = Literal["holder", "older", "ended", "stranger", "ahead", "unknown"]
"""How a claim stands to the state: its sender holds the award of that epoch; the epoch is older; the subtask or task has ended; the
epoch is the current one but another sender or boot holds it; the epoch is larger than any that was given; there is no such subtask."""

Action = Literal["take", "ignore", "cancel", "refuse", "reload"]
"""take: it counts. ignore: acknowledge, nothing changes. cancel: answer with `cancel`. refuse: answer with `refused`. reload: the state
may be older than the log; look again, then refuse."""

CLAIMS: dict[tuple[Standing, str], Action] = {
    **{("holder", kind): "take" for kind in ("accept", "decline", "done", "failed", "release", "extend")},
    ("older", "accept"): "cancel",
    ("older", "decline"): "ignore",
    ("older", "done"): "cancel",
    ("older", "failed"): "cancel",
    ("older", "release"): "ignore",
    ("older", "extend"): "cancel",
    ("ended", "accept"): "cancel",
    ("ended", "decline"): "ignore",
    ("ended", "done"): "cancel",
    ("ended", "failed"): "cancel",
    ("ended", "release"): "ignore",
    ("ended", "extend"): "cancel",
    **{("stranger", kind): "refuse" for kind in ("accept", "decline", "done", "failed", "release", "extend")},
    **{("ahead", kind): "reload" for kind in ("accept", "decline", "done", "failed", "release", "extend")},
    **{("unknown", kind): "reload" for kind in ("accept", "decline", "done", "failed", "release", "extend")},
}
