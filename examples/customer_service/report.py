"""The report: held-out questions asked on the bus, the marks beside those of simpler ways, the times, and the way of one conversation through the boxes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple

import anyio
from examples.customer_service import library
from examples.customer_service.assess import Exam, Marks, Paper, Way, boxes_alone, topics_of_new_questions, twins
from examples.customer_service.corpus import read_exchanges
from examples.customer_service.learning import OTHERS, SUPPORT
from examples.customer_service.talk import Conversation, Reply
from rich.table import Table

from agentexecutor.bus import Bus

__all__ = ["Times", "ask_all", "report", "times", "way"]

ALONE = 40
"""Questions that one customer asks when nobody else does."""
SENTENCE = "my laptop's screen is totally black"


class Times(NamedTuple):
    """Seconds from a text to its answer."""

    answers: int
    median: float
    p99: float


class Hop(NamedTuple):
    """A subtask of a turn: when it was awarded and done, in milliseconds from the submit, by whom, and why that agent."""

    subtask: str
    capability: str
    agent: str
    awarded_ms: float
    done_ms: float
    reason: str


def times(replies: Sequence[Reply]) -> Times:
    """Median and p99 of the replies."""
    took = sorted(reply.took_s for reply in replies)
    return Times(len(took), statistics.median(took), took[min(len(took) - 1, math.ceil(0.99 * len(took)) - 1)])


async def ask_all(bus: Bus, questions: Sequence[str], at_once: int) -> list[Reply]:
    """Ask all of them, in `at_once` conversations at the same time; the replies in the order of the questions."""
    replies: dict[int, Reply] = {}
    places = iter(range(len(questions)))

    async def customer() -> None:
        async with Conversation(bus) as conversation:
            for place in places:  # shared: each takes the next that is left
                replies[place] = await conversation.ask(questions[place])

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(customer)
    return [replies[place] for place in range(len(questions))]


async def way(bus: Bus, task: str) -> list[Hop]:
    """The way of a turn through the boxes, in the order in which they ended; told by its log."""
    begun = ""
    does: dict[str, str] = {}
    awarded: dict[str, tuple[float, str, str]] = {}
    hops: list[Hop] = []
    async with aclosing(bus.task(task).events()) as events:
        async for event in events:
            begun = begun or event.time
            at = _milliseconds(begun, event.time)
            if event.kind in ("planned", "replanned"):
                does |= {name: made["capability"] for name, made in event.data["subtasks"].items()}
            elif event.kind == "awarded" and event.subtask is not None:
                won = next((bid["reason"] for bid in event.data["bids"] if bid["won"]), "")
                awarded[event.subtask] = (at, event.agent or "", won)
            elif event.kind == "completed" and event.subtask in awarded:
                since, agent, reason = awarded[event.subtask]
                hops.append(Hop(event.subtask, does.get(event.subtask, ""), agent, since, at, reason))
    return hops


def _milliseconds(begun: str, now: str) -> float:
    return (datetime.fromisoformat(now) - datetime.fromisoformat(begun)).total_seconds() * 1000


async def report(bus: Bus, count: int | None, at_once: int) -> dict[str, Any]:
    """Ask the first `count` held-out questions (None: all), and measure. Gives what `table` prints."""
    exam = Exam()
    papers = exam.papers(count)
    asked = [*papers[0].questions, *papers[-1].questions]
    alone = await ask_all(bus, asked[:ALONE], 1)
    together = await ask_all(bus, asked, at_once)
    found = {question: reply.found for question, reply in zip(asked, together, strict=True)}
    number, right = twins()
    async with Conversation(bus) as conversation:
        reply = await conversation.ask(SENTENCE)
        await conversation.content()
        hops = await way(bus, reply.task)
        trace = conversation.trace_id
    return {
        "exchanges": len(read_exchanges()),
        "learnt": len(exam.parts.learnt),
        "held_out": len(exam.parts.held_out),
        "threshold": {"support": library.thresholds()[SUPPORT], "others": library.thresholds()[OTHERS]},
        "papers": [_marked(exam, paper, found.get) for paper in papers],
        "twins": {"questions": number, "right": right},
        "topics": topics_of_new_questions()._asdict(),
        "alone": times(alone)._asdict(),
        "at_once": {"conversations": at_once, **times(together)._asdict()},
        "trace_id": trace,
        "way": [hop._asdict() for hop in hops],
    }


def _marked(exam: Exam, paper: Paper, ours: Way) -> dict[str, Any]:
    """All ways to answer a paper."""
    marks = {"customer service": paper.marks(ours), "the same, never silent": paper.marks(boxes_alone(always=True))}
    return {
        "name": paper.name,
        "asked": len(paper.questions),
        "known": sum(map(paper.known, paper.questions)),
        "marks": {name: mark._asdict() for name, mark in (marks | exam.simple_ways(paper)).items()},
    }


def table(told: dict[str, Any]) -> list[Any]:
    """The report for people."""
    hops = Table(
        "subtask", "capability", "agent", "awarded", "done", title=f"The way of {SENTENCE!r} through the boxes (ms)", title_justify="left"
    )
    for hop in told["way"]:
        hops.add_row(hop["subtask"], hop["capability"], hop["agent"], f"{hop['awarded_ms']:.0f}", f"{hop['done_ms']:.0f}")
    return [
        _sizes(told),
        *map(_paper, told["papers"]),
        _twins(told["twins"]),
        _topics(told["topics"]),
        _took("One customer alone", told["alone"]),
        _took(f"{told['at_once']['conversations']} conversations at once", told["at_once"]),
        hops,
        f"All turns of a conversation are one trace; this one's is {told['trace_id'] or 'not recorded (set OTEL_EXPORTER_OTLP_ENDPOINT)'}.",
    ]


def _topics(topics: dict[str, Any]) -> str:
    return (
        f"Topic of {topics['questions']} questions in wordings that were never learnt: {100 * topics['learnt']:.1f} % right,"
        f" by keyword search {100 * topics['keywords']:.1f} %, by the commonest topic {100 * topics['commonest']:.1f} %."
    )


def _sizes(told: dict[str, Any]) -> str:
    return (
        f"{told['exchanges']:,} exchanges: {told['learnt']:,} learnt, {told['held_out']:,} held out. Other words than those learnt are answered from"
        f" a likeness of {told['threshold']['support']:.2f} on in technical support, {told['threshold']['others']:.2f} where nothing better is known."
    )


def _paper(paper: dict[str, Any]) -> Table:
    known = paper["known"]
    title = f"Right outcomes: {paper['name']}"
    columns = (f"all {paper['asked']:,}", f"known: {known:,}", f"not known: {paper['asked'] - known:,}")
    marks = Table("", *columns, title=title, title_justify="left")
    for name, mark in paper["marks"].items():
        marks.add_row(name, *(f"{100 * value:.1f} %" for value in Marks(**mark)))
    return marks


def _twins(told: dict[str, Any]) -> str:
    right = ", ".join(f"{name} {100 * share:.1f} %" for name, share in told["right"].items())
    return (
        f"{told['questions']} questions of the corpus share an answer with another; asked without their own wording, never silent: {right}."
    )


def _took(who: str, took: dict[str, Any]) -> str:
    return f"{who}: {took['answers']:,} answers, median {1000 * took['median']:.0f} ms, p99 {1000 * took['p99']:.0f} ms."
