"""What goes into the pure machine and what comes out: the words that machine, market and shell share.

Inputs are facts that somebody reports; a `Decision` says what is to be recorded and what follows. Nothing here knows a clock or the bus:
times are seconds since 1970 as the server stamps them, passed in.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Raw, Struct, field

from agentexecutor.schemas import messages as m
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.records import Change, Revision, ScoredBid

__all__ = [
    "AwardIn",
    "BrokenIn",
    "CancelIn",
    "ClaimIn",
    "ComposedIn",
    "Decision",
    "Demand",
    "Drop",
    "Effect",
    "FeedbackIn",
    "GiveAward",
    "HeldIn",
    "Input",
    "Key",
    "LostIn",
    "NeedCompose",
    "NeedProgress",
    "NeedRevision",
    "NeedSplit",
    "ProgressIn",
    "RevisionIn",
    "Send",
    "SetTimer",
    "Settle",
    "SettleIn",
    "SplitIn",
    "Stalled",
    "SubmitIn",
    "TimerIn",
    "TimerKind",
    "Want",
]

TimerKind = Literal["accept", "approval", "attempt", "budget", "late", "retry", "stall", "subtask-deadline", "task-deadline", "unserved"]


class Key(NamedTuple):
    """One subtask of one task."""

    task: TaskName
    subtask: str


# Inputs


class SubmitIn(Struct, frozen=True):
    """A submit, its plan already fetched when it came by reference. `error`: it could not be read."""

    submit: m.Submit
    digest: str
    stamp: float
    id: str = ""
    traceparent: str | None = None
    tracestate: str | None = None
    error: m.ErrorInfo | None = None


class ClaimIn(Struct, frozen=True):
    """What an agent says about an award: accept, decline, done, failed, release, extend. `span`: the id of its span, when it came with one."""

    peer: str
    claim: m.Claim
    id: str
    span: str | None = None


class CancelIn(Struct, frozen=True):
    """The owner ends the task."""

    peer: str
    reason: str
    id: str


class FeedbackIn(Struct, frozen=True):
    """Somebody says something about the task or a subtask."""

    peer: str
    feedback: m.FeedbackClaim
    id: str


class AwardIn(Struct, frozen=True):
    """The market found an agent for a ready subtask."""

    subtask: str
    agent: str
    boot: str
    policy: str
    auction: str
    bids: list[ScoredBid]
    considered: int = 1
    dropped: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    version: int = 1
    id: str = ""


class LostIn(Struct, frozen=True):
    """The holder of this award is gone; the inbox holds no claim of it."""

    subtask: str
    epoch: int
    reason: str
    id: str = ""


class BrokenIn(Struct, frozen=True):
    """The award's input could not be composed (a reference that points at nothing, a body that is gone)."""

    subtask: str
    epoch: int
    error: m.ErrorInfo
    id: str = ""


class TimerIn(Struct, frozen=True):
    """A timer that `SetTimer` asked for is due."""

    kind: TimerKind
    subtask: str | None = None
    epoch: int = 0
    id: str = ""


class ProgressIn(Struct, frozen=True):
    """The answer to `NeedProgress`: the agent's last sign, `at` by the server's clock (None: there is none), the step and the schedule that it named.

    `since`: when it named this step first; `fraction_at`: when it told the fraction. `queued`: its offer says that it has not begun; `queued_at`: when
    that was seen last. `late`: asked because of a deadline. `scheduled_at`: when it told the schedule. `began`: the first step of it that it named, and
    when. `first`: its first sign, and the fraction that it told with it.
    """

    subtask: str
    epoch: int
    at: float | None = None
    step: str | None = None
    schedule: list[m.Step] | None = None
    fraction: float | None = None
    queued: bool = False
    late: bool = False
    since: float | None = None
    fraction_at: float | None = None
    queued_at: float | None = None
    scheduled_at: float | None = None
    began: tuple[str, float] | None = None
    first: tuple[float, float] | None = None
    id: str = ""


class SplitIn(Struct, frozen=True):
    """The answer to `NeedSplit`: the list has `length` items; one share for each of `capacities` (agent or None, its weight)."""

    subtask: str
    length: int
    capacities: list[tuple[str | None, int]]
    error: m.ErrorInfo | None = None
    version: int = 1
    id: str = ""


class RevisionIn(Struct, frozen=True):
    """The answer to `NeedRevision`: what the planner wants, or why its answer cannot be read."""

    subtask: str
    epoch: int
    revision: Revision | None = None
    error: str = ""
    id: str = ""


class SettleIn(Struct, frozen=True):
    """The answer to `Settle`."""

    id: str = ""


class ComposedIn(Struct, frozen=True):
    """The answer to `NeedCompose`: a result put together from others. `subtask` None: the task's own."""

    subtask: str | None
    result: Raw = field(default_factory=lambda: m.NULL)
    result_blob: m.BlobRef | None = None
    error: m.ErrorInfo | None = None
    id: str = ""


class HeldIn(Struct, frozen=True):
    """The task was taken over by the coordinator that says so."""

    id: str = ""


Input = (
    SubmitIn
    | ClaimIn
    | CancelIn
    | FeedbackIn
    | AwardIn
    | LostIn
    | BrokenIn
    | TimerIn
    | ProgressIn
    | SplitIn
    | RevisionIn
    | ComposedIn
    | SettleIn
    | HeldIn
)


# What follows from a decision


class Demand(Struct, frozen=True):
    """What a ready subtask asks of the market.

    `avoid`: agents that had it before, so another is preferred; `never`: agents that must not get it. `share`: its size, in items. `deadline`:
    seconds since 1970. `version`: of the plan in which it was made.
    """

    capability: str
    labels: dict[str, str]
    priority: int
    policy: str | None
    auction: str | None
    tailored: bool
    prefer: str | None
    avoid: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    share: int = 1
    deadline: float | None = None
    version: int = 1


class Send(Struct, frozen=True):
    """A complete message for a peer: cancel, feedback, result, refused. `kind` is the kind in the subject."""

    peer: str
    kind: str
    message: m.Message


class GiveAward(Struct, frozen=True):
    """Send the award of this epoch (the shell fills its references in)."""

    subtask: str
    epoch: int


class Want(Struct, frozen=True):
    """A subtask is ready: find an agent."""

    subtask: str
    demand: Demand


class Drop(Struct, frozen=True):
    """A subtask is not ready any more: look no further."""

    subtask: str


class NeedSplit(Struct, frozen=True):
    """Find the length of the list and the capacities on offer, and answer with `SplitIn`. `input` may hold references."""

    subtask: str
    input: Raw
    input_blob: m.BlobRef | None
    split: m.Split
    demand: Demand


class NeedRevision(Struct, frozen=True):
    """Read the planner's answer, and answer with `RevisionIn`."""

    subtask: str
    epoch: int
    body: Raw | m.BlobRef


class Settle(Struct, frozen=True):
    """Have `SettleIn` decided next, once this decision's changes are part of the state: what follows from what is left open."""


class NeedCompose(Struct, frozen=True):
    """Put results together and answer with `ComposedIn`. `join`: concatenate the lists; else an object by name."""

    subtask: str | None
    parts: dict[str, Raw | m.BlobRef]
    join: bool


class NeedProgress(Struct, frozen=True):
    """Find the last thing that the holder said about this award since `since` (seconds since 1970), and answer with `ProgressIn`."""

    subtask: str
    epoch: int
    since: float
    late: bool = False


class Stalled(Struct, frozen=True):
    """Show the subtask as stalled: no sign since `since` (seconds since 1970), with `allowed_s` promised. Epoch 0: it is not, or not any more."""

    subtask: str
    epoch: int = 0
    agent: str = ""
    since: float = 0.0
    allowed_s: float = 0.0


class SetTimer(Struct, frozen=True):
    """Wake the machine with `TimerIn` at `due` (seconds since 1970). A later one of the same kind and subtask replaces it."""

    kind: TimerKind
    due: float
    subtask: str | None = None
    epoch: int = 0


Effect = Send | GiveAward | Want | Drop | NeedSplit | NeedRevision | Settle | NeedCompose | NeedProgress | Stalled | SetTimer


class Decision(Struct):
    """What an input leads to.

    `changes`: to be recorded (empty: nothing). `effects`: to be done once they are stored. `applied`: ids that the record answers.
    `soft`: the record may wait for the next one, up to a second (an accept). `stale`: the state may be older than the log: reload and
    decide again; when it stays so, the input is refused (`refusal`).
    """

    changes: list[Change] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    soft: bool = False
    stale: bool = False
    refusal: m.ErrorInfo | None = None
