"""A task's plan as its events tell it: a pure reducer from `Event` to what a live view shows. Knows no clock, terminal or bus.

It tolerates gaps: an event about a subtask that was never announced makes its row, one that is out of order never raises.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.views import Event

__all__ = ["ENDED", "Auction", "Bid", "PlanState", "Row", "reduce"]

ENDED = frozenset({"completed", "failed", "cancelled", "superseded", "skipped"})
AUCTIONS_KEPT = 100


@dataclass(slots=True)
class Bid:
    """A bid of an auction that has ended."""

    agent: str
    score: float
    won: bool
    reason: str


@dataclass(slots=True)
class Auction:
    """How a subtask came to its agent. `bids`: the best ones, best first; `considered`: how many there were."""

    subtask: str
    epoch: int
    agent: str
    policy: str
    mode: str
    bids: list[Bid]
    considered: int
    reason: str
    at: float


@dataclass(slots=True)
class Row:
    """A subtask. Times are seconds since 1970, by the server's stamps; `fraction` 0 to 1."""

    name: str
    capability: str = ""
    state: str = "blocked"
    parent: str | None = None
    agent: str | None = None
    epoch: int | None = None
    attempt: int = 0
    fraction: float | None = None
    step: str = ""
    text: str = ""
    schedule_s: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    took_s: float | None = None
    error: str = ""
    children: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PlanState:
    """A task, its subtasks in the order in which they came, and its auctions, oldest first. `waiting`: nobody has taken it yet."""

    task: str = ""
    state: str = "waiting"
    version: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    auctions: list[Auction] = field(default_factory=list)
    coordinators: list[str] = field(default_factory=list)
    error: str = ""
    started_at: float | None = None
    last_at: float = 0.0
    last_seq: int = 0

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.state in ENDED

    def counts(self) -> Counter[str]:
        """How many subtasks are in each state."""
        return Counter(row.state for row in self.rows.values())

    def row(self, name: str) -> Row:
        """The row of a subtask; made when it is new."""
        return self.rows.setdefault(name, Row(name))

    def part_done(self, row: Row) -> float | None:
        """How much of a subtask is done, 0 to 1; None when nobody says. Of one that was split: how many of its shares have ended."""
        if row.state == "completed":
            return 1.0
        if row.children and row.state == "running":
            ended = sum(self.row(child).state in ENDED for child in row.children)
            return ended / len(row.children)
        return row.fraction


def reduce(state: PlanState, event: Event) -> PlanState:
    """Apply one event; gives `state`, changed in place (a plan may have thousands of rows)."""
    at = _moment(event.time, state.last_at)
    state.task = event.task
    state.last_seq = max(state.last_seq, event.seq)
    state.last_at = max(state.last_at, at)
    coordinator = event.data.get("coordinator")
    if isinstance(coordinator, str) and coordinator not in state.coordinators:
        state.coordinators.append(coordinator)
    if event.subtask is None:
        _of_task(state, event, at)
    else:
        _of_subtask(state, state.row(event.subtask), event, at)
    return state


def _moment(text: str, otherwise: float) -> float:
    try:
        return from_rfc3339(text)
    except DecodeFailed:
        return otherwise


def _of_task(state: PlanState, event: Event, at: float) -> None:
    match event.kind:
        case "submitted":
            state.state = "submitted" if not state.ended else state.state
            state.started_at = at
        case "planned" | "replanned":
            _superseded(state, event.data, at)
            _planned(state, event.data, at)
        case "proposed":
            state.state = "waiting"
        case "completed" | "failed" | "cancelled":
            _ended(state, event, at)


def _of_subtask(state: PlanState, row: Row, event: Event, at: float) -> None:
    match event.kind:
        case "ready" | "approved":
            row.state = "ready"
        case "asked":
            row.state = "approval"
        case "awarded":
            _awarded(row, event, at)
            state.auctions.append(_auction(row, event, at))
            del state.auctions[:-AUCTIONS_KEPT]
        case "accepted" if _is_current(row, event):
            row.state = "running"
            row.schedule_s = _length(event.data.get("schedule"))
        case "progress" if _is_current(row, event) and row.state not in ENDED:
            _progress(row, event.data)
        case "completed":
            _completed(row, event, at)
        case "failed":
            _failed(row, event.data, at)
        case "cancelled" | "superseded":
            row.state = event.kind
            row.ended_at = at


def _superseded(state: PlanState, data: dict[str, Any], at: float) -> None:
    """What a new version replaces, runs again or removes, and its shares, is over; what has the name then begins as blocked."""
    again = [name for name in (*data.get("again", ()), *data.get("subtasks", ())) if name in state.rows]
    gone = [*data.get("remove", ()), *again]
    while gone:
        row = state.row(gone.pop(0))
        gone += row.children
        row.children = []
        row.state, row.ended_at = "superseded", at
    for name in again:
        state.rows[name] = Row(name, capability=state.rows[name].capability)


def _planned(state: PlanState, data: dict[str, Any], at: float) -> None:
    state.state = "running" if not state.ended else state.state
    state.started_at = state.started_at or at
    state.version = max(state.version, int(data.get("version", 1)))
    parent = None if data.get("parent") is None else state.row(data["parent"])
    for name, spec in data.get("subtasks", {}).items():
        row = state.row(name)
        row.capability = spec.get("capability", row.capability)
        if parent is not None:
            row.parent = parent.name
            parent.children.append(name)
    if parent is not None and data.get("cause") == "split":
        parent.state = "running"
        parent.started_at = at


def _ended(state: PlanState, event: Event, at: float) -> None:
    state.state = event.kind
    if event.kind == "failed":
        state.error = _error(event.data)
    elif event.kind == "cancelled":
        state.error = str(event.data.get("reason", ""))
    for row in state.rows.values():
        if row.state not in ENDED:
            row.state = "cancelled"
            row.ended_at = at


def _awarded(row: Row, event: Event, at: float) -> None:
    row.state = "awarded"
    row.agent, row.epoch = event.agent, event.epoch
    row.attempt = int(event.data.get("attempt", 1))
    row.started_at, row.ended_at = at, None
    row.fraction, row.took_s = None, None
    row.step, row.text, row.error = "", "", ""


def _auction(row: Row, event: Event, at: float) -> Auction:
    data = event.data
    bids = [
        Bid(str(bid.get("agent", "")), float(bid.get("score", 0.0)), bool(bid.get("won", False)), str(bid.get("reason", "")))
        for bid in data.get("bids", ())
    ]
    return Auction(
        subtask=row.name,
        epoch=event.epoch or 0,
        agent=event.agent or "",
        policy=str(data.get("policy", "fastest")),
        mode=str(data.get("auction", "standing")),
        bids=bids,
        considered=int(data.get("considered", len(bids))),
        reason=next((bid.reason for bid in bids if bid.won), ""),
        at=at,
    )


def _progress(row: Row, data: dict[str, Any]) -> None:
    row.state = "running"
    row.fraction = data.get("fraction", row.fraction)
    row.text = str(data.get("text", row.text))
    if data.get("step"):
        row.step = "" if data.get("state") == "finished" else str(data["step"])
    if data.get("schedule") is not None:
        row.schedule_s = _length(data["schedule"])


def _completed(row: Row, event: Event, at: float) -> None:
    row.state = "completed"
    row.agent = event.agent or row.agent
    row.fraction, row.step = 1.0, ""
    row.ended_at = at
    row.took_s = event.data.get("took_s")


def _failed(row: Row, data: dict[str, Any], at: float) -> None:
    outcome = data.get("outcome", "final")
    row.state = {"retry": "ready", "skip": "skipped", "wait": "approval"}.get(outcome, "failed")
    row.error = _error(data)
    row.fraction, row.step = None, ""
    row.ended_at = at
    if outcome == "retry":
        row.agent = None


def _is_current(row: Row, event: Event) -> bool:
    """Whether an event is about the attempt that the row shows."""
    return event.epoch is None or row.epoch is None or event.epoch >= row.epoch


def _length(schedule: Any) -> float | None:
    ends = [float(step.get("start_s", 0.0)) + float(step.get("duration_s", 0.0)) for step in schedule or ()]
    return max(ends, default=None)


def _error(data: dict[str, Any]) -> str:
    error = data.get("error") or {}
    return f"{error.get('code', 'handler')}: {error.get('message', '')}".strip()
