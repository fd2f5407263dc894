"""What people read: the objects that ``show``, ``agents``, ``tasks``, ``unserved`` and ``watch`` print (docs/protocol.md section 9)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw

from agentexecutor.schemas.messages import NULL, BlobRef, ErrorInfo, Message, PlanSpec, Running
from agentexecutor.schemas.records import LogEntry, Why

__all__ = [
    "AgentView",
    "AgentsView",
    "AttemptView",
    "BidView",
    "Event",
    "Forecast",
    "ForecastLine",
    "LogView",
    "PlanVersion",
    "ProposedView",
    "StalledLine",
    "StateView",
    "SubtaskView",
    "TaskLine",
    "TaskView",
    "TasksView",
    "UnservedLine",
    "UnservedView",
]


class View(Message, frozen=True, kw_only=True, omit_defaults=False):
    """Base: every field is printed, also when it has its default."""


class BidView(View, frozen=True, kw_only=True):
    """One bid of one auction."""

    agent: str
    epoch: int
    source: str
    score: float
    won: bool
    reason: str


class AttemptView(View, frozen=True, kw_only=True):
    """One award and what became of it."""

    agent: str
    boot: str
    epoch: int
    state: str
    error: ErrorInfo | None = None


class AskedView(View, frozen=True, kw_only=True):
    """What a person is asked before a subtask starts: `text`, and its `input` as it was planned (null when it is large).

    Without a word within `timeout_s` from `since` (None: it waits for ever) it is taken for `otherwise`.
    """

    since: str
    text: str = ""
    input: Raw = NULL
    timeout_s: float | None = None
    otherwise: Literal["accept", "reject"] = "reject"


class SubtaskView(View, frozen=True, kw_only=True):
    """A subtask as ``show`` prints it. `asked`: it waits for a person's word; `not_before`: it is ready, and is tried again then."""

    capability: str
    state: str
    agent: str | None = None
    epoch: int | None = None
    plan_version: int = 1
    bids: list[BidView] = []
    attempts: list[AttemptView] = []
    result: Raw = NULL
    result_blob: BlobRef | None = None
    error: ErrorInfo | None = None
    asked: AskedView | None = None
    not_before: str | None = None


class ProposedView(View, frozen=True, kw_only=True):
    """A version of the plan, or an end with a result (`output`), that waits for a person's word; `since` is when it was proposed."""

    version: int
    since: str
    planner: str | None = None
    why: list[Why] = []
    add: list[str] = []
    again: list[str] = []
    remove: list[str] = []
    whole: bool = False
    finish: bool = False
    output: bool = False
    text: str = ""


class TaskView(View, frozen=True, kw_only=True):
    """A task as ``show`` prints it."""

    task: str
    state: str
    plan_version: int = 1
    result: Raw = NULL
    result_blob: BlobRef | None = None
    error: ErrorInfo | None = None
    trace_id: str | None = None
    proposed: ProposedView | None = None
    subtasks: dict[str, SubtaskView] = {}


class PlanVersion(View, frozen=True, kw_only=True):
    """A version of a task's plan: the difference to `base`, why it was made, and the whole `plan` that it led to (inputs as they were planned).

    `proposed`: it waits for a person's word.
    """

    version: int
    base: int
    cause: str
    why: list[Why] = []
    at: str = ""
    coordinator: str = ""
    planner: str | None = None
    add: list[str] = []
    again: list[str] = []
    remove: list[str] = []
    finish: bool = False
    proposed: bool = False
    plan: PlanSpec


class StateView(View, frozen=True, kw_only=True):
    """The short answer about a task; state is also ``waiting`` (in the queue) or ``unknown``.

    `keep_s`: so long the task would be known after its end, by its coordinator's settings. Coordinators that do not say it keep 7 days unless told otherwise.
    """

    state: str
    result: Raw = NULL
    result_blob: BlobRef | None = None
    error: ErrorInfo | None = None
    trace_id: str | None = None
    keep_s: int = 7 * 24 * 3600


class LogView(View, frozen=True, kw_only=True):
    """A stretch of a task's log."""

    records: list[LogEntry]


class TaskLine(View, frozen=True, kw_only=True):
    """A task in the list of tasks; `at` is the server's stamp of its last record."""

    task: str
    state: str
    at: str
    priority: int = 0


class TasksView(View, frozen=True, kw_only=True):
    """Newest first; `waiting` counts submits that no coordinator has taken yet."""

    tasks: list[TaskLine]
    waiting: int = 0


class StalledLine(View, frozen=True, kw_only=True):
    """A subtask whose agent lives, and shows no progress for longer than it promised (`allowed_s`)."""

    task: str
    subtask: str
    agent: str
    epoch: int
    silent_s: float
    allowed_s: float


class AgentView(View, frozen=True, kw_only=True):
    """An agent as its last offer shows it; `seen_s` seconds ago."""

    name: str
    capabilities: list[str]
    capacity: int
    free: int
    labels: dict[str, str]
    running: list[Running]
    seen_s: float


class AgentsView(View, frozen=True, kw_only=True):
    """All agents that are alive."""

    agents: list[AgentView]


class UnservedLine(View, frozen=True, kw_only=True):
    """Subtasks that no agent fits. `tasks` names up to 8 of them."""

    capability: str
    labels: dict[str, str]
    subtasks: int
    oldest_s: float
    reason: str
    tasks: list[str]


class UnservedView(View, frozen=True, kw_only=True):
    """Demand without an offer, and work that stands still."""

    unserved: list[UnservedLine]
    stalled: list[StalledLine] = []


class ForecastLine(View, frozen=True, kw_only=True):
    """Who would do a subtask, and when (seconds from now); nobody (None) when no agent fits, or when it waits for such a one: `reason` says which."""

    name: str
    capability: str
    agent: str | None = None
    start_s: float | None = None
    finish_s: float | None = None
    cost: float | None = None
    reason: str = ""


class Forecast(View, frozen=True, kw_only=True):
    """What would happen to a submit now (section 11): `subtasks` in order of their start; `unserved`: capabilities without an agent that fits.

    `misfits`: inputs that do not fit what one of the offers takes, in words: there they would fail.
    """

    plan: PlanSpec
    subtasks: list[ForecastLine] = []
    finish_s: float | None = None
    cost: float = 0.0
    unserved: list[str] = []
    misfits: list[str] = []

    def __str__(self) -> str:
        """For print(): the JSON of `agentexecutor plan --json`, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


class Event(View, frozen=True, kw_only=True):
    """A line of ``watch``. `seq` is the record's sequence (0: progress, not stored in the log), `data` what the kind adds."""

    time: str
    task: str
    subtask: str | None = None
    kind: str
    agent: str | None = None
    epoch: int | None = None
    seq: int = 0
    data: dict[str, Any] = {}
