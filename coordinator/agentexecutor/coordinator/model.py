"""What is known of a task: the state that records fold into.

Nothing here decides; see `machine` (what is recorded) and `evolve` (what a record changes).
"""

from __future__ import annotations

from msgspec import Raw, Struct, field

from agentexecutor.coordinator.states import ENDED, HELD, SubtaskStateName, TaskStateName
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.records import FeedbackGiven, Proposed, ScoredBid, Why

__all__ = ["Attempt", "SubtaskState", "TaskState", "body_of", "new_task", "why_cancelled"]


DEFAULT = m.Replan()


class Attempt(Struct):
    """One award and what became of it; state: awarded running completed failed cancelled, or the cause for which it went back.

    `accepted_at`: seconds since 1970; `span`: the id of the agent's span.
    """

    agent: str
    boot: str
    epoch: int
    state: str = "awarded"
    error: m.ErrorInfo | None = None
    accepted_at: float | None = None
    span: str | None = None


class SubtaskState(Struct):
    """A subtask. Times are seconds since 1970. `waits`: what it still waits for; `dependents`: who waits for it."""

    name: str
    spec: m.SubtaskSpec
    state: SubtaskStateName = "blocked"
    plan_version: int = 1
    needs: list[str] = field(default_factory=list)
    """What it depends on, by its specification."""
    waits: set[str] = field(default_factory=set)
    dependents: list[str] = field(default_factory=list)
    parent: str | None = None
    call: int | None = None
    """Number of the call with which its running parent added it; None for a share of a split."""
    children: list[str] = field(default_factory=list)
    shares: tuple[int, int] | None = None
    """The part of the parent's list that this share has."""
    epoch: int = 0
    agent: str | None = None
    boot: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    bids: list[ScoredBid] = field(default_factory=list)
    tries: int = 0
    losses: int = 0
    returns: int = 0
    """Declines and accept time-outs in a row."""
    ready_at: float = 0.0
    pause_s: float = 0.0
    """How long it waits for its next try."""
    awarded_at: float = 0.0
    accepted_at: float | None = None
    schedule: list[m.Step] = field(default_factory=list)
    result: Raw | m.BlobRef | None = None
    error: m.ErrorInfo | None = None
    took_s: float | None = None
    first: int = 0
    """So many of the attempts belong to earlier versions of it."""
    asked_at: float = 0.0
    """Since when it waits for a person's word."""
    whys: list[Why] | None = None
    """Of a planner: what it is asked for; None for all others."""

    @property
    def planner(self) -> bool:
        """Its result is the next version of the plan."""
        return self.whys is not None

    @property
    def attempt(self) -> int:
        """Number of the present attempt, from 1; 0 before the first."""
        return len(self.attempts) - self.first

    @property
    def ended(self) -> bool:
        """No claim leads anywhere from here."""
        return self.state in ENDED

    @property
    def held(self) -> bool:
        """An agent holds it (the shares of a split subtask are held, not itself)."""
        return self.agent is not None and self.state in HELD

    @property
    def is_split(self) -> bool:
        """Its shares are made, they do the work."""
        return self.spec.split is not None and bool(self.children)


class TaskState(Struct):
    """A task.

    `head`: sequence of its last record, 0 before the first. `epochs`: number of the last award. `open`: subtasks that have not ended; `asking`: of those,
    how many wait for a person's word. `reason`: of its cancel.
    """

    name: TaskName
    shard: int
    state: TaskStateName = "unknown"
    head: int = 0
    digest: str | None = None
    submit: m.Submit | None = None
    submitted_at: float = 0.0
    traceparent: str | None = None
    tracestate: str | None = None
    plan_version: int = 0
    result_of: str | None = None
    subtasks: dict[str, SubtaskState] = field(default_factory=dict)
    open: int = 0
    asking: int = 0
    epochs: int = 0
    applied: set[str] = field(default_factory=set)
    feedback: list[FeedbackGiven] = field(default_factory=list)
    result: Raw | m.BlobRef | None = None
    error: m.ErrorInfo | None = None
    reason: str = ""
    coordinators: list[str] = field(default_factory=list)
    unanswered: list[Why] = field(default_factory=list)
    """Triggers of a new version that none has answered yet."""
    thinking: str | None = None
    """The planner whose answer is awaited."""
    proposed: Proposed | None = None
    proposed_at: float = 0.0
    finish: bool = False
    """The planner has said that no more is to come."""
    made: int = 0
    """Subtasks made so far."""
    works: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often work that was superseded had been begun, by its digest and the subtask's name."""
    spent: dict[str, dict[str, float]] = field(default_factory=dict)
    """By capability: seconds of work, and whatever agents reported."""

    @property
    def ended(self) -> bool:
        """Its last record is written."""
        return self.state in ENDED

    @property
    def replan(self) -> m.Replan:
        """The task's policy."""
        return DEFAULT if self.submit is None or self.submit.replan is None else self.submit.replan

    @property
    def goal(self) -> str | None:
        """What a planner is to reach."""
        return None if self.submit is None else self.submit.goal

    @property
    def why(self) -> m.ErrorInfo | None:
        """What its owner is told about an end without a result."""
        return why_cancelled(self.reason) if self.state == "cancelled" else self.error

    @property
    def deadline(self) -> float | None:
        """Seconds since 1970, counted from the server's stamp of the submit."""
        if self.submit is None or self.submit.deadline_s is None:
            return None
        return self.submitted_at + self.submit.deadline_s

    def deadline_of(self, subtask: SubtaskState) -> float | None:
        """The subtask's own deadline, or the task's when that is earlier."""
        own = None if subtask.spec.deadline_s is None else self.submitted_at + subtask.spec.deadline_s
        task = self.deadline
        return own if task is None else task if own is None else min(own, task)


def why_cancelled(reason: str) -> m.ErrorInfo:
    """The error of a task that its owner has ended."""
    return m.ErrorInfo(code="cancelled", message=reason or "The owner cancelled the task.")


def new_task(name: TaskName, shard: int) -> TaskState:
    """A task of which no record is known."""
    return TaskState(name, shard)


def body_of(result: Raw, blob: m.BlobRef | None) -> Raw | m.BlobRef:
    """The body that a message carries in two fields."""
    return result if blob is None else blob
