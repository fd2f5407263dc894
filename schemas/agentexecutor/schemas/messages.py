"""The messages between peers and coordinators (docs/protocol.md sections 3 to 7).

Every class here is one message or a part of one; `agentexecutor.schemas.codec.TYPES` maps the header ``Ae-Type`` to the class.
Times are RFC 3339 text, durations are seconds, bodies are `msgspec.Raw` (JSON text that nobody but handler and client decodes).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = [
    "EMPTY",
    "ENDED",
    "NULL",
    "Accept",
    "Answer",
    "Approval",
    "ApprovalPolicy",
    "Ask",
    "Award",
    "Bid",
    "BlobRef",
    "Call",
    "Cancel",
    "CancelTask",
    "Capability",
    "Claim",
    "Decline",
    "Done",
    "ErrorInfo",
    "Extend",
    "Failed",
    "FeedbackClaim",
    "FeedbackMessage",
    "Fill",
    "Lease",
    "Load",
    "Member",
    "Message",
    "Offer",
    "PlanSpec",
    "Progress",
    "Refusal",
    "Refused",
    "Release",
    "Replan",
    "ReplanAnswer",
    "Result",
    "Running",
    "Split",
    "Step",
    "Submit",
    "SubtaskSpec",
    "Verdict",
]

EMPTY = Raw(b"{}")
NULL = Raw(b"null")
ENDED = ("completed", "failed", "cancelled")
"""The states in which a task stays."""

Verdict = Literal["accept", "revise", "reject"]
OnStall = Literal["wait", "release"]
ReplanAnswer = Literal["retry", "another", "split", "plan", "wait", "skip", "fail"]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Priority = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all that goes over the wire: immutable, unknown fields ignored, defaults left out."""


class BlobRef(Message, frozen=True, kw_only=True):
    """A body that was stored in chunks (section 5)."""

    digest: str
    bytes: Count
    chunks: Count


class ErrorInfo(Message, frozen=True, kw_only=True, omit_defaults=False):
    """What went wrong; `code` is one of input handler deadline budget unserved lost refused cancelled.

    People and scripts read it as it travels: all four fields are always there.
    """

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] = {}


class Step(Message, frozen=True, kw_only=True):
    """A step of a schedule: seconds after the accept, and how long."""

    name: str
    start_s: Seconds = 0.0
    duration_s: Seconds = 0.0


class Load(Message, frozen=True, kw_only=True):
    """How busy an agent is."""

    running: Count = 0
    queued: Count = 0
    queue_s: Seconds = 0.0


class Fill(Message, frozen=True, kw_only=True):
    """A large value to be put into an input (section 5)."""

    at: list[str | int]
    blob: BlobRef
    path: list[str] = []
    slice: tuple[int, int] | None = None


# Plans


class Split(Message, frozen=True, kw_only=True):
    """Cut a subtask into data-parallel shares (the seed's C_j = C / n)."""

    over: str
    by: Literal["equal", "capacity"] = "capacity"
    into: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    merge: str | None = None


class Approval(Message, frozen=True, kw_only=True):
    """Something waits for a person's word; what a time-out means; what the person is told (section 11)."""

    timeout_s: Seconds | None = None
    otherwise: Literal["accept", "reject"] = "reject"
    text: str = ""


class ApprovalPolicy(Approval, frozen=True, kw_only=True):
    """What of a task waits for a person's word: subtasks by capability (a ``*`` at the end stands for anything), new versions of its plan."""

    capabilities: list[str] = []
    versions: bool = False


class SubtaskSpec(Message, frozen=True, kw_only=True):
    """A subtask as plans carry it (section 7)."""

    capability: str
    input: Raw = EMPTY
    input_blob: BlobRef | None = None
    after: list[str] = []
    retries: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    timeout_s: Seconds | None = None
    deadline_s: Seconds | None = None
    priority: Priority | None = None
    labels: dict[str, str] = {}
    award: str | None = None
    auction: Literal["standing", "call", "broadcast", "auto"] | None = None
    tailored: bool | None = None
    on_failure: Literal["fail", "skip"] = "fail"
    on_stall: OnStall | None = None
    prefer: str | None = None
    avoid: list[str] = []
    split: Split | None = None
    approval: Approval | None = None


class PlanSpec(Message, frozen=True, kw_only=True):
    """A plan as it travels: subtasks by name, and the one whose result is the plan's."""

    subtasks: dict[str, SubtaskSpec]
    result: str | None = None


class Replan(Message, frozen=True, kw_only=True):
    """A task's answer to each trigger, and how its planner is asked (section 11); None is the built-in answer."""

    failed: ReplanAnswer | None = None
    lost: ReplanAnswer | None = None
    late: ReplanAnswer | None = None
    unserved: ReplanAnswer | None = None
    revise: ReplanAnswer | None = None
    reject: ReplanAnswer | None = None
    message: ReplanAnswer | None = None
    changed: ReplanAnswer | None = None
    planner: str = "plan"
    planner_timeout_s: Seconds = 120.0
    unserved_s: Seconds = 30.0
    split: Split | None = None
    repeats: Count = 3


# Clients


class Submit(Message, frozen=True, kw_only=True):
    """A task: exactly one of capability, plan (or plan_blob), goal."""

    capability: str | None = None
    input: Raw = EMPTY
    input_blob: BlobRef | None = None
    plan: PlanSpec | None = None
    plan_blob: BlobRef | None = None
    goal: str | None = None
    priority: Priority = 0
    deadline_s: Seconds | None = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    timeout_s: Seconds | None = None
    labels: dict[str, str] = {}
    award: str | None = None
    auction: Literal["standing", "call", "broadcast", "auto"] | None = None
    tailored: bool | None = None
    critics: list[str] = []
    on_stall: OnStall | None = None
    replan: Replan | None = None
    budget: dict[str, Seconds] = {}
    approval: ApprovalPolicy | None = None


class CancelTask(Message, frozen=True, kw_only=True):
    """The owner's wish to end a task."""

    reason: str = ""


class FeedbackClaim(Message, frozen=True, kw_only=True):
    """What somebody says about a task or subtask."""

    subtask: str | None = None
    verdict: Verdict | None = None
    text: str = ""
    data: Raw = NULL
    deadline_s: Seconds | None = None
    priority: Priority | None = None


class Ask(Message, frozen=True, kw_only=True):
    """A question; which fields count depends on the kind in the subject."""

    what: Literal["state", "view", "log"] = "state"
    after: Count = 0
    states: list[str] = []
    owner: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    digest: str = ""
    chunk: Count = 0
    submit: Submit | None = None


# Agents


class Capability(Message, frozen=True, kw_only=True):
    """One capability of an offer. `takes` and `gives` are JSON Schemas."""

    name: str
    estimate_s: Seconds | None = None
    cost: Seconds = 0.0
    takes: dict[str, Any] | None = None
    gives: dict[str, Any] | None = None
    tailored: bool = False


class Running(Message, frozen=True, kw_only=True, omit_defaults=False):
    """A subtask that an agent names in its offer: accepted and not ended. Printed as it travels, so complete."""

    task: str
    subtask: str
    epoch: Count
    state: Literal["queued", "running", "waiting", "stalled"] = "running"


class Offer(Message, frozen=True, kw_only=True):
    """An agent's standing bids and heartbeat."""

    boot: str
    capabilities: list[Capability]
    capacity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    labels: dict[str, str] = {}
    running: list[Running] = []
    queue_s: Seconds = 0.0
    accepting: bool = True


class Bid(Message, frozen=True, kw_only=True):
    """An answer to a call: what the subtask at hand would take."""

    subtask: str
    call: str
    boot: str
    estimate_s: Seconds
    queue_s: Seconds = 0.0
    cost: Seconds = 0.0
    schedule: list[Step] = []


class Refusal(Message, frozen=True, kw_only=True):
    """The other answer to a call."""

    subtask: str
    call: str
    boot: str
    reason: str


class Claim(Message, frozen=True, kw_only=True):
    """Base of what an agent says about an award that it holds."""

    subtask: str
    epoch: Count
    boot: str
    load: Load | None = None


class Accept(Claim, frozen=True, kw_only=True):
    """The agent will do it, by this schedule."""

    schedule: list[Step] = []


class Decline(Claim, frozen=True, kw_only=True):
    """The agent will not do it."""

    reason: str = ""


class Done(Claim, frozen=True, kw_only=True):
    """The subtask's result. Stands for the accept too."""

    result: Raw = NULL
    result_blob: BlobRef | None = None
    schedule: list[Step] = []
    took_s: Seconds | None = None
    usage: dict[str, Seconds] = {}


class Failed(Claim, frozen=True, kw_only=True):
    """The attempt failed; tried again when `error.retryable`."""

    error: ErrorInfo
    retry_after_s: Seconds | None = None
    schedule: list[Step] = []
    took_s: Seconds | None = None
    usage: dict[str, Seconds] = {}


class Release(Claim, frozen=True, kw_only=True):
    """The agent stops; somebody else shall run it."""

    reason: str = ""


class Extend(Claim, frozen=True, kw_only=True):
    """A running subtask adds a child to its task; the same `call` again is the same child."""

    call: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    child: SubtaskSpec


class Progress(Message, frozen=True, kw_only=True):
    """A step, a fraction or a revised schedule; losing one loses nothing."""

    subtask: str
    epoch: Count
    boot: str
    at: str
    step: str | None = None
    state: Literal["started", "finished"] | None = None
    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    text: str = ""
    schedule: list[Step] | None = None
    feedback: str | None = None


# Coordinators


class Call(Message, frozen=True, kw_only=True):
    """Call for proposals."""

    task: str
    subtask: str
    capability: str
    call: str
    shard: Count
    reply_by_s: Seconds
    input: Raw | UnsetType = UNSET
    input_blob: BlobRef | None = None
    fill: list[Fill] = []
    labels: dict[str, str] = {}
    priority: Priority = 0
    deadline: str | None = None


class FeedbackMessage(Message, frozen=True, kw_only=True):
    """Feedback on its way to the agent that runs (or will run) the subtask. `id` is the claim's Ae-Id."""

    task: str
    subtask: str | None = None
    epoch: Count = 0
    id: str = ""
    sender: str = ""
    verdict: Verdict | None = None
    text: str = ""
    data: Raw = NULL


class Award(Message, frozen=True, kw_only=True):
    """A subtask given to one life of one agent: all that is needed to run it."""

    task: str
    subtask: str
    capability: str
    epoch: Count
    boot: str
    input: Raw = EMPTY
    input_blob: BlobRef | None = None
    fill: list[Fill] = []
    attempt: Count = 1
    key: str = ""
    priority: Priority = 0
    deadline: str | None = None
    timeout_s: Seconds | None = None
    plan_version: Count = 1
    feedback: list[FeedbackMessage] = []
    shard: Count = 0
    coordinator: str = ""


class Cancel(Message, frozen=True, kw_only=True):
    """Stop this epoch of a subtask and all lower ones."""

    task: str
    subtask: str
    epoch: Count
    reason: str = ""
    grace_s: Seconds = 5.0


class Result(Message, frozen=True, kw_only=True):
    """How a task ended (subtask null), or the child that your `subtask` added with its `call`."""

    task: str
    state: Literal["completed", "failed", "cancelled"]
    subtask: str | None = None
    call: Count | None = None
    result: Raw = NULL
    result_blob: BlobRef | None = None
    error: ErrorInfo | None = None


class Refused(Message, frozen=True, kw_only=True):
    """A submit or claim that cannot be used; `id` is its Ae-Id."""

    task: str
    id: str
    error: ErrorInfo


class Answer(Message, frozen=True, kw_only=True):
    """The answer to a question; `re` is the question's Ae-Id."""

    re: str
    coordinator: str
    of: Count = 1
    error: ErrorInfo | None = None
    body: Raw = NULL
    body_blob: BlobRef | None = None
    next: Count | None = None


class Lease(Message, frozen=True, kw_only=True):
    """Who holds a shard; an empty holder means released."""

    holder: str
    boot: str


class Member(Message, frozen=True, kw_only=True):
    """A process that could coordinate."""

    boot: str
    leaving: bool = False
