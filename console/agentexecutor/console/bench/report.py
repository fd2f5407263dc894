"""How a run is told: an object a line for scripts, tables and a moving line for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agentexecutor.console.bench.driving import Drive
from agentexecutor.console.bench.figures import Figures, Floor, Left, Line, Messages, Setup, Tasks
from agentexecutor.console.output import Output

__all__ = ["Report", "number", "row_of"]

WORDS = {
    "submit": "submit",
    "task": "record in the log",
    "call": "call to all",
    "to.call": "call to one agent",
    "bid": "bid or refusal",
    "to.award": "award",
    "to.result": "result",
    "to.cancel": "cancel",
    "to.answer": "answer",
    "progress": "progress",
    "blob": "chunk of a body",
}
COLUMNS = ["!", ">at once", ">done", ">per s", ">median", ">p90", ">p99", ">/req", ">/app"]
NOTE = """Latencies in ms. request: to a second connection and back. append: fenced, to a stream stored as the tasks' log is.
/req, /app: a task's median as a multiple of a request's and of an append's, with as many at once."""


class Report:
    """Takes lines as they come; people get their tables at the end, with `close`."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._lines: list[Line] = []

    def line(self, line: Line) -> None:
        """Something was measured."""
        if self._out.json:
            self._out.object(line)
        elif isinstance(line, Setup):
            whose = "of the bench's own" if line.own_agents else f"for {line.capability}"
            server = f"an embedded NATS {line.server}" if line.nats == "embedded" else f"NATS {line.server}"
            self._out.say(f"{number(line.agents, 'agent')} {whose}, on {server}; an input has {line.input_bytes} bytes.")
        self._lines.append(line)

    def warn(self, text: str) -> None:
        """Something that makes the numbers doubtful."""
        self.note(f"Warning: {text}")

    def note(self, text: str) -> None:
        """For people and scripts: on stderr."""
        click.echo(text, err=True)

    @contextmanager
    def showing(self, what: str, drive: Drive) -> Iterator[None]:
        """A moving line while it is driven, on a terminal only."""
        if not self._out.live:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]} done, {task.fields[rate]}/s"))
        with Progress(*columns, TimeElapsedColumn(), console=self._out.console, transient=True) as progress:
            bar = progress.add_task(what, total=1.0, done=0, rate=0)

            def tell(drive: Drive) -> None:
                parts = [len(drive.latencies) / drive.times if drive.times else 0.0, drive.took_s / drive.seconds if drive.seconds else 0.0]
                figures = len(drive.latencies), round(len(drive.latencies) / drive.took_s) if drive.took_s else 0
                progress.update(bar, completed=min(1.0, max(parts)), done=figures[0], rate=figures[1])

            drive.tell = tell
            yield

    def close(self) -> None:
        """The tables, of what there is."""
        if self._out.json:
            return
        self._print_figures([line for line in self._lines if isinstance(line, Floor | Tasks)])
        self._print_messages([line for line in self._lines if isinstance(line, Messages)])
        for line in self._lines:
            if isinstance(line, Left):
                self._out.say(f"\n{line.text}")

    def _print_figures(self, lines: Sequence[Floor | Tasks]) -> None:
        if not lines:
            return
        self._out.table(COLUMNS, [row_of(line) for line in lines], title="The server alone, and tasks from submit to result")
        self._out.say(NOTE)
        for line in lines:
            if isinstance(line, Tasks) and (line.failed or line.interrupted):
                why = ", ".join(f"{count} {code}" for code, count in line.failed.items())
                said = [f"not completed: {why}" if why else "", "interrupted" if line.interrupted else ""]
                self._out.say(f"{_what(line)}, {line.in_flight} at once: {'; '.join(filter(None, said))}.")

    def _print_messages(self, lines: Sequence[Messages]) -> None:
        if not lines:
            return
        channels = list(dict.fromkeys(channel for line in lines for channel in line.per_task))
        rows = [[_word(channel), *(_count(line.per_task.get(channel)) for line in lines)] for channel in channels]
        rows.append(["published in all", *(_count(line.published) for line in lines)])
        rows.append(["delivered in all", *(_count(line.delivered) for line in lines)])
        agents = ", ".join(dict.fromkeys(str(line.agents) for line in lines))
        self._out.table(
            ["!message", *(f">{line.auction}" for line in lines)], rows, title=f"Messages a task, by auction, with {agents} agents"
        )
        self._out.say(f"Besides, of all agents on the bus: up to {max(line.offers_per_s for line in lines):g} offers/s.")


def number(count: int, thing: str) -> str:
    """``1 agent``, ``2 agents``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def row_of(line: Floor | Tasks) -> list[object]:
    """A line of the first table."""
    ratios = (None, None) if isinstance(line, Floor) else (line.ratio.request, line.ratio.append)
    multiples = ("" if ratio is None else _three_digits(ratio) for ratio in ratios)
    return [_what(line), line.in_flight, line.done, f"{line.per_s:.0f}", *_latencies(line), *multiples]


def _what(line: Floor | Tasks) -> str:
    return line.what if isinstance(line, Floor) else f"task ({line.auction})"


def _latencies(figures: Figures) -> list[str | None]:
    return [_three_digits(mark) for mark in (figures.median_ms, figures.p90_ms, figures.p99_ms)]


def _three_digits(value: float | None) -> str | None:
    if value is None:
        return None
    return next((f"{value:.{digits}f}" for limit, digits in ((10, 2), (100, 1)) if value < limit), f"{value:.0f}")


def _word(channel: str) -> str:
    family, _, kind = channel.partition(".")
    return WORDS.get(channel) or (f"claim: {kind}" if family == "from" else f"question: {kind}" if family == "ask" else channel)


def _count(value: float | None) -> str:
    return f"{value:g}" if value else ""
