"""The log: a record is one append and holds the decisions taken together (docs/protocol.md section 8).

`Change` is the union of all kinds of decision; a kind that this version does not know decodes as nothing and is skipped
(see `agentexecutor.schemas.codec.decode_record`).
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Raw, UnsetType

from agentexecutor.schemas.messages import NULL, BlobRef, Count, ErrorInfo, Message, Step, Submit, SubtaskSpec, Verdict

__all__ = [
    "Accepted",
    "Approved",
    "Asked",
    "Awarded",
    "Cancelled",
    "Change",
    "Completed",
    "FailedChange",
    "FeedbackGiven",
    "Held",
    "LogEntry",
    "Planned",
    "Proposed",
    "Ready",
    "Record",
    "Revision",
    "ScoredBid",
    "Submitted",
    "Superseded",
    "Why",
]


class ScoredBid(Message, frozen=True, kw_only=True):
    """A bid as the award judged it. Smaller score is better.

    `factor`: real over promised time so far, by which the promise was corrected.
    """

    agent: str
    boot: str
    epoch: Count = 0
    source: Literal["offer", "call"] = "offer"
    score: float = 0.0
    won: bool = False
    reason: str = ""
    estimate_s: float = 0.0
    queue_s: float = 0.0
    cost: float = 0.0
    capacity: Count = 1
    free: int = 0
    factor: float = 1.0


class Submitted(Message, frozen=True, kw_only=True, tag_field="kind", tag="submitted"):
    """The task exists. `at` is the server's stamp of the submit, seconds since 1970."""

    submit: Submit
    digest: str
    at: float
    traceparent: str | None = None
    tracestate: str | None = None


class Why(Message, frozen=True, kw_only=True):
    """What a new version of the plan, or a question to the planner, answers (section 11)."""

    trigger: str
    answer: str = ""
    subtask: str | None = None
    feedback: str | None = None
    sender: str | None = None
    text: str = ""


class Revision(Message, frozen=True, kw_only=True):
    """A planner's answer: the next version of the plan as a difference (section 11)."""

    add: dict[str, SubtaskSpec] = {}
    again: list[str] = []
    remove: list[str] = []
    whole: bool = False
    result: str | None = None
    finish: bool = False
    output: Raw | UnsetType = UNSET
    output_blob: BlobRef | None = None
    text: str = ""


class Planned(Message, frozen=True, kw_only=True, tag_field="kind", tag="planned"):
    """These subtasks exist. `parent` and `call`: the subtask that was split or extended, and the number of its call.

    A new version (cause ``replan``) is a difference to `base`: `add` may replace, `again` run anew as they are. `finish`: no
    more is to come. `planner`: the subtask whose answer it is.
    """

    version: Count = 1
    cause: str = "submit"
    add: dict[str, SubtaskSpec] = {}
    add_blob: BlobRef | None = None
    parent: str | None = None
    call: Count | None = None
    result: str | None = None
    shares: dict[str, tuple[int, int]] = {}
    base: Count = 0
    why: list[Why] = []
    remove: list[str] = []
    again: list[str] = []
    finish: bool = False
    planner: str | None = None
    rest_blob: BlobRef | None = None


class Proposed(Message, frozen=True, kw_only=True, tag_field="kind", tag="proposed"):
    """A new version of the plan waits for a person's word."""

    why: list[Why] = []
    revision: Revision | None = None
    revision_blob: BlobRef | None = None
    planner: str | None = None
    rest_blob: BlobRef | None = None


class Asked(Message, frozen=True, kw_only=True, tag_field="kind", tag="asked"):
    """These wait for a person's word before they start."""

    subtasks: list[str]
    text: str = ""


class Approved(Message, frozen=True, kw_only=True, tag_field="kind", tag="approved"):
    """The word came (`feedback` null: by time-out). `subtasks` null: the proposed version may come."""

    subtasks: list[str] | None = None
    sender: str = ""
    feedback: str | None = None


class Ready(Message, frozen=True, kw_only=True, tag_field="kind", tag="ready"):
    """All that these wait for is there."""

    subtasks: list[str]


class Awarded(Message, frozen=True, kw_only=True, tag_field="kind", tag="awarded"):
    """A subtask given to an agent, with the bids that explain it."""

    subtask: str
    epoch: Count
    agent: str
    boot: str
    policy: str = "fastest"
    auction: str = "standing"
    bids: list[ScoredBid] = []
    considered: Count = 1
    dropped: dict[str, int] = {}
    attempt: Count = 1
    seed: Count = 0


class Accepted(Message, frozen=True, kw_only=True, tag_field="kind", tag="accepted"):
    """The agent accepted, by this schedule. `span`: the id of its span (16 hex digits), when the accept came with a trace's context."""

    subtask: str
    epoch: Count
    schedule: list[Step] = []
    span: str | None = None


class Completed(Message, frozen=True, kw_only=True, tag_field="kind", tag="completed"):
    """A subtask's accepted result, or the task's (subtask null): then `of` may name the subtask whose result it is."""

    subtask: str | None = None
    epoch: Count = 0
    agent: str = ""
    result: Raw = NULL
    result_blob: BlobRef | None = None
    of: str | None = None
    took_s: float | None = None
    usage: dict[str, float] = {}


class FailedChange(Message, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """An attempt, or (subtask null) the task, that failed.

    `outcome`: the subtask goes back to ready (retry), has failed for good (final), is passed over (skip), waits for a new version of the plan (replan:
    `why`) or for a person's word (wait).
    """

    subtask: str | None = None
    epoch: Count = 0
    agent: str = ""
    error: ErrorInfo
    outcome: Literal["retry", "final", "skip", "replan", "wait"] = "final"
    ready_at: float | None = None
    took_s: float | None = None
    usage: dict[str, float] = {}
    why: Why | None = None


class Cancelled(Message, frozen=True, kw_only=True, tag_field="kind", tag="cancelled"):
    """Subtasks, or the task (subtasks null), that were cancelled."""

    subtasks: list[str] | None = None
    reason: str = ""


class Superseded(Message, frozen=True, kw_only=True, tag_field="kind", tag="superseded"):
    """Subtasks that a newer plan version replaced."""

    subtasks: list[str]
    cause: str = ""


class FeedbackGiven(Message, frozen=True, kw_only=True, tag_field="kind", tag="feedback"):
    """Feedback that counts; `epoch` is the attempt that it was delivered to, null when it was kept. `why`: it leads to a new version."""

    id: str
    sender: str
    subtask: str | None = None
    verdict: Verdict | None = None
    text: str = ""
    data: Raw = NULL
    epoch: Count | None = None
    deadline_s: float | None = None
    priority: int | None = None
    why: Why | None = None


class Held(Message, frozen=True, kw_only=True, tag_field="kind", tag="held"):
    """Another coordinator has taken the task over."""


Change = (
    Submitted
    | Planned
    | Proposed
    | Asked
    | Approved
    | Ready
    | Awarded
    | Accepted
    | Completed
    | FailedChange
    | Cancelled
    | Superseded
    | FeedbackGiven
    | Held
)


class Record(Message, frozen=True, kw_only=True):
    """One append to a task's log. A turn that is too large for one: several `part` records and one that says how many `parts` it ends."""

    coordinator: str
    at: str
    changes: list[Change]
    applied: list[str] = []
    history: list[LogEntry] = []
    history_blob: BlobRef | None = None
    digest: str | None = None
    part: bool = False
    parts: Count = 0


class LogEntry(Message, frozen=True, kw_only=True):
    """A record with the server's sequence and stamp (RFC 3339)."""

    seq: Count
    time: str
    record: Record


class LooseRecord(Message, frozen=True, kw_only=True):
    """A record whose changes are decoded one by one, because one of them is of an unknown kind."""

    coordinator: str
    at: str
    changes: list[Raw]
    applied: list[str] = []
    history: list[Raw] = []
    history_blob: BlobRef | None = None
    digest: str | None = None
    part: bool = False
    parts: Count = 0
