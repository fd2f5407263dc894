"""What the demo tells: a chronicle made from the task's events, and the report at its end. Pure but for printing; asks nobody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.text import Text

from agentexecutor.console.output import Output, cell, seconds
from agentexecutor.console.plan_state import PlanState, Row
from agentexecutor.schemas.views import Event, TaskView

__all__ = ["Chronicle", "Scored", "demo_object", "print_report"]

BIDS_SHOWN = 3
CLOSER = (
    "  The demo's server is gone, and its data with it. One that stays, and an agent,",
    "  each in a terminal of its own:",
    "    agentexecutor up",
    "    agentexecutor agent examples/hello/agent.py:agent",
    """    agentexecutor submit greet '{"name": "Ada"}'""",
    "  Then: agentexecutor tasks, show TASK, watch TASK, agents. README.md goes on.",
)


class ScoredClass(msgspec.Struct, frozen=True):
    """How well one label was found, as `text.evaluate` gives it."""

    precision: float
    recall: float
    f1: float
    texts: int


class Scored(msgspec.Struct, frozen=True):
    """The task's result as far as the report needs it; the agents' own type would bring NumPy into the starting process."""

    accuracy: float
    baseline: float
    texts: int
    per_class: dict[str, ScoredClass]
    trained_on: int
    shares: list[int]


@dataclass
class Chronicle:
    """Who coordinated: the records that each wrote, by their sequences, and the changes of hands."""

    records: dict[str, set[int]] = field(default_factory=dict)
    last: str | None = None
    failures: list[Event] = field(default_factory=list)

    def read(self, event: Event) -> str | None:
        """Take an event in; gives a sentence when the task has changed hands."""
        if event.kind == "failed" and event.subtask is not None:
            self.failures.append(event)
        coordinator = event.data.get("coordinator")
        if not isinstance(coordinator, str):
            return None
        self.records.setdefault(coordinator, set()).add(event.seq)
        before, self.last = self.last, coordinator
        if before is None or before == coordinator:
            return None
        return f"{coordinator} finds the task without a coordinator and goes on from its log."

    def counts(self) -> dict[str, int]:
        """Coordinator → records that it wrote, in the order in which they appeared."""
        return {name: len(sequences) for name, sequences in self.records.items()}


def demo_object(view: TaskView, score: Scored, chronicle: Chronicle, took_s: float) -> dict[str, Any]:
    """The object of ``show``, and what the demo adds: accuracy, baseline, who coordinated (records of each), seconds."""
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(view))
    more = {"accuracy": score.accuracy, "baseline": score.baseline, "coordinators": chronicle.counts(), "took_s": round(took_s, 3)}
    return shown | more


def print_report(out: Output, state: PlanState, view: TaskView, score: Scored, chronicle: Chronicle, took_s: float) -> None:
    """The end of the show, for people. Nothing is wider than 80 columns but names that are long."""
    sections = (
        ("What was done", ["subtask", "agent", ">awarded after", ">took", "state"], _done(state)),
        (
            "Auctions: every bid, and why it won (smaller scores are better)",
            ["subtask", "bid by", "how", ">score", "", "reason"],
            _bids(state),
        ),
        ("On held-out tweets", ["label", ">precision", ">recall", ">f1", ">tweets"], _classes(score)),
    )
    for title, columns, rows in sections:
        out.say("")
        out.table(columns, rows, title=title)
    out.say("")
    for line in [*_summary(state, score, chronicle, took_s), *_closer(view)]:
        out.say(line)


def _done(state: PlanState) -> list[list[Any]]:
    """The plan's own subtasks in its order, shares below what was shared."""
    own = [row for row in state.rows.values() if row.parent is None]
    return [_line(state, row) for first in own for row in (first, *(state.rows[name] for name in first.children))]


def _line(state: PlanState, row: Row) -> list[Any]:
    """A subtask: who tried it, when it was first awarded after the task's start, how long the work took by the agent's own clock."""
    awards = [auction for auction in state.auctions if auction.subtask == row.name]
    shares = sum(state.rows[name].capability == row.capability for name in row.children)
    who = " then ".join(award.agent for award in awards) if awards else f"{shares} shares" if shares else None
    begun = awards[0].at if awards else row.started_at
    took = row.took_s if row.took_s is not None else _passed(row.started_at, row.ended_at)
    name = f"  {row.name}" if row.parent else row.name
    return [name, who, _text(_passed(state.started_at, begun)), _text(took), cell(row.state)]


def _passed(since: float | None, until: float | None) -> float | None:
    return None if since is None or until is None else until - since


def _text(took_s: float | None) -> str:
    return "-" if took_s is None else f"{took_s:.2f} s"


def _bids(state: PlanState) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for auction in state.auctions:
        for number, bid in enumerate(auction.bids[:BIDS_SHOWN]):
            first = auction.subtask if number == 0 else ""
            rows.append(
                [
                    first,
                    bid.agent,
                    "offer" if auction.mode == "standing" else "call",
                    f"{bid.score:.3g}",
                    Text("won", style="green") if bid.won else "",
                    bid.reason,
                ]
            )
    return rows


def _classes(score: Scored) -> list[list[Any]]:
    return [[name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", f"{one.texts:,}"] for name, one in score.per_class.items()]


def _summary(state: PlanState, score: Scored, chronicle: Chronicle, took_s: float) -> list[Text]:
    shares = " : ".join(f"{size:,}" for size in score.shares)
    who = ", then ".join(f"{name} ({count} records)" for name, count in chronicle.counts().items())
    return [
        _said("accuracy", f"{score.accuracy:.3f}", f"on {score.texts:,} tweets that nobody learnt from"),
        _said("baseline", f"{score.baseline:.3f}", "by always saying the most frequent label"),
        _said("shares", shares, f"of {score.trained_on:,} tweets, by the capacities on offer"),
        *(_retried(state, event) for event in chronicle.failures),
        _said("coordinated", f"by {len(chronicle.records)}", who),
        _said("time", seconds(took_s), "from submit to result"),
    ]


def _retried(state: PlanState, event: Event) -> Text:
    error = event.data.get("error") or {}
    row = state.rows.get(event.subtask or "")
    then = f", then {row.agent} did it" if row is not None and row.state == "completed" else ""
    return _said("retried", str(event.subtask), f"{event.agent}: {str(error.get('message', '')).rstrip('.')}{then}")


def _said(what: str, value: str, more: str) -> Text:
    return Text.assemble((f"{what:<12}", "bold"), (value, "green"), f"  {more}")


def _closer(view: TaskView) -> list[Text | str]:
    lines: list[Text | str] = ["", Text("To look closer", style="bold")]
    if view.trace_id is not None:
        lines.append(f"  trace {view.trace_id} has every auction, bid,")
        lines.append("  execution and step of this run, where OTEL_EXPORTER_OTLP_ENDPOINT points to.")
    return [*lines, *CLOSER]
