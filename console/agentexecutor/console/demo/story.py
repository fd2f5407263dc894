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


class ScoredClass(msgspec.Struct, frozen=True):
    """How well one label was found, as `text.evaluate` gives it."""

    precision: float
    recall: float
    f1: float
    texts: int


class Scored(msgspec.Struct, frozen=True):
    """The task's result as far as the report needs it. (The agents' own types bring NumPy along, which the starting process does without.)"""

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
        return f"{coordinator} has found the task without a coordinator and goes on from its log."

    def counts(self) -> dict[str, int]:
        """Coordinator → records that it wrote, in the order in which they appeared."""
        return {name: len(sequences) for name, sequences in self.records.items()}


def demo_object(view: TaskView, score: Scored, chronicle: Chronicle, took_s: float) -> dict[str, Any]:
    """The object of ``show``, and what the demo adds: accuracy, baseline, who coordinated (records of each), seconds."""
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(view))
    more = {"accuracy": score.accuracy, "baseline": score.baseline, "coordinators": chronicle.counts(), "took_s": round(took_s, 3)}
    return shown | more


def print_report(out: Output, state: PlanState, view: TaskView, score: Scored, chronicle: Chronicle, took_s: float) -> None:
    """The end of the show, for people."""
    out.table(["subtask", "capability", "agents", ">started", ">took", "state"], _lines(state), title="What was done")
    out.table(["subtask", "bid by", "bid", ">score", "", "reason"], _bids(state), title="Auctions: every bid, and why the winner won (smaller scores are better)")
    columns = ["label", ">precision", ">recall", ">f1", ">tweets"]
    rows = [
        [name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", f"{one.texts:,}"] for name, one in score.per_class.items()
    ]
    out.table(columns, rows, title="On tweets that were held out")
    for line in _summary(state, score, chronicle, took_s):
        out.say(line)
    for line in _closer(view):
        out.say(line)


def _lines(state: PlanState) -> list[list[Any]]:
    return [_line(state, row) for row in state.rows.values()]


def _line(state: PlanState, row: Row) -> list[Any]:
    """A subtask: who tried it, when it started after the task's start, how long the work took by the agent's own clock."""
    tries = [auction.agent for auction in state.auctions if auction.subtask == row.name]
    who = ", then ".join(tries) if tries else f"{len(row.children)} shares" if row.children else "-"
    begun = None if row.started_at is None or state.started_at is None else row.started_at - state.started_at
    took = row.took_s if row.took_s is not None else None if row.ended_at is None or row.started_at is None else row.ended_at - row.started_at
    return [f"  {row.name}" if row.parent else row.name, row.capability, who, _tenth(begun), _tenth(took), cell(row.state)]


def _tenth(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _bids(state: PlanState) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for auction in state.auctions:
        for number, bid in enumerate(auction.bids[:BIDS_SHOWN]):
            first = auction.subtask if number == 0 else ""
            how = {"call": "for this share"}.get(auction.mode, "standing offer")
            rows.append([first, bid.agent, how, f"{bid.score:.3g}", Text("won", style="green") if bid.won else "", bid.reason])
    return rows


def _summary(state: PlanState, score: Scored, chronicle: Chronicle, took_s: float) -> list[Text]:
    lines = [
        _said("accuracy", f"{score.accuracy:.3f}", f"on {score.texts:,} held-out tweets; always saying the most frequent label: {score.baseline:.3f}"),
        _said("shares", " : ".join(f"{size:,}" for size in score.shares), f"of {score.trained_on:,} tweets, in proportion to the capacities on offer"),
    ]
    for event in chronicle.failures:
        error = event.data.get("error") or {}
        then = state.rows[event.subtask].agent if event.subtask in state.rows else None
        lines.append(_said("retried", str(event.subtask), f"failed at {event.agent or 'its agent'} ({error.get('message', '')}); then done by {then}"))
    who = ", ".join(f"{name} ({count} records)" for name, count in chronicle.counts().items())
    lines.append(_said("coordinated", f"by {len(chronicle.records)}", who))
    lines.append(_said("time", seconds(took_s), "from submit to result; the works' own times are above"))
    return lines


def _said(what: str, value: str, more: str) -> Text:
    return Text.assemble((f"{what:<12}", "bold"), (value, "green"), f"  {more}")


def _closer(view: TaskView) -> list[Text | str]:
    lines: list[Text | str] = ["", Text("To look closer", style="bold")]
    if view.trace_id is not None:
        lines.append(f"  trace {view.trace_id}    every auction, bid, execution and step of this run, where OTEL_EXPORTER_OTLP_ENDPOINT points to")
    lines += [
        "  The demo's server is gone with its data. The same on one that stays, each line in a terminal of its own:",
        "    agentexecutor up",
        "    agentexecutor agent examples/hello/agent.py:agent",
        "    agentexecutor submit greet '{\"name\": \"Ada\"}'",
        "  then agentexecutor tasks, show TASK, watch TASK, agents. README.md goes on from there.",
    ]
    return lines
