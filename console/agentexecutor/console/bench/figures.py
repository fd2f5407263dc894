"""What is measured, as it is told: rates, latencies, message counts, and their ratios to the floor. Pure: numbers in, lines out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

__all__ = [
    "CALL_TO_ALL",
    "Figures",
    "Floor",
    "Left",
    "Line",
    "Messages",
    "Ratio",
    "Setup",
    "Tasks",
    "figures_of",
    "messages_of",
    "ratio_of",
]

CALL_TO_ALL = "call"
"""The one subject of a task that several hear."""


class Setup(msgspec.Struct, kw_only=True, frozen=True, tag_field="measure", tag="setup"):
    """What the run is about. `slots`: so many subtasks the agents take at once."""

    nats: str
    server: str
    capability: str
    agents: int
    slots: int
    own_agents: bool
    input_bytes: int


class Figures(msgspec.Struct, kw_only=True, frozen=True):
    """Rate and latencies of what was done `in_flight` at a time. Latencies are null when nothing was done."""

    in_flight: int
    done: int
    seconds: float
    per_s: float
    median_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Floor(Figures, kw_only=True, frozen=True, tag_field="measure", tag="floor"):
    """What the server alone takes: `request` (and its reply), or `append` (fenced, to a stream stored as the log is)."""

    what: str


class Ratio(msgspec.Struct, kw_only=True, frozen=True):
    """A task beside the floor: its median latency in medians of a request and of an append, and how many appends the server does in its time."""

    request: float | None
    append: float | None
    appends_per_task: float | None


class Tasks(Figures, kw_only=True, frozen=True, tag_field="measure", tag="tasks"):
    """Tasks from submit to result. `failed`: why → how many; `stored_median_ms`: from submit until the server has it."""

    auction: str
    failed: dict[str, int]
    stored_median_ms: float | None
    ratio: Ratio
    interrupted: bool


class Messages(msgspec.Struct, kw_only=True, frozen=True, tag_field="measure", tag="messages"):
    """Messages a task, by channel of docs/asyncapi.json. `published` by peers and coordinators; `delivered`: a call to all counts for each agent."""

    auction: str
    agents: int
    tasks: int
    per_task: dict[str, float]
    published: float
    delivered: float
    offers_per_s: float
    """Of all agents on the bus, meanwhile: every second, and when they change."""


class Left(msgspec.Struct, kw_only=True, frozen=True, tag_field="measure", tag="left"):
    """What the run leaves behind."""

    tasks: int
    unfinished: int
    text: str


Line = Setup | Floor | Tasks | Messages | Left


def figures_of(latencies: Sequence[float], in_flight: int, seconds: float) -> Figures:
    """Rate and percentiles of what took so long each (seconds), `seconds` in all."""
    done = len(latencies)
    marks: list[float | None] = [None] * 4
    if done:
        ranked = statistics.quantiles(latencies, n=100, method="inclusive") if done > 1 else [latencies[0]] * 99
        marks = [round(1000 * value, 3) for value in (ranked[49], ranked[89], ranked[98], max(latencies))]
    median, p90, p99, most = marks
    rate = done / seconds if seconds > 0 else 0.0
    return Figures(
        in_flight=in_flight,
        done=done,
        seconds=round(seconds, 3),
        per_s=round(rate, 1),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=most,
    )


def ratio_of(tasks: Figures, request: Figures | None, append: Figures | None) -> Ratio:
    """A task beside the floor; null where one of the two was not measured."""
    return Ratio(
        request=_over(tasks.median_ms, request.median_ms) if request else None,
        append=_over(tasks.median_ms, append.median_ms) if append else None,
        appends_per_task=_over(append.per_s, tasks.per_s) if append else None,
    )


def _over(value: float | None, floor: float | None) -> float | None:
    return round(value / floor, 2) if value and floor else None


def messages_of(auction: str, counted: Mapping[str, int], tasks: int, agents: int, seconds: float, offers: int) -> Messages:
    """Counts by channel, of so many tasks, as averages a task."""
    more = (agents - 1) * counted.get(CALL_TO_ALL, 0)
    published = sum(counted.values())
    return Messages(
        auction=auction,
        agents=agents,
        tasks=tasks,
        per_task={name: round(count / tasks, 2) for name, count in counted.items()},
        published=round(published / tasks, 2),
        delivered=round((published + more) / tasks, 2),
        offers_per_s=round(offers / seconds, 1) if seconds > 0 else 0.0,
    )
