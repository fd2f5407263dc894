"""How anything is printed: tables for people, one JSON object a line for scripts, errors to stderr. Knows no commands.

On a terminal rich draws; in a pipe the same tables come without lines, colours or cut columns, so that grep and awk can read them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.json import JSON
from rich.table import Table
from rich.text import Text

from agentexecutor.schemas.bodies import readable

__all__ = ["STYLES", "Output", "amount", "cell", "make_console", "print_error", "seconds"]

NARROW = 60
"""Columns of a window in which a table that does not fit is printed as lines."""
PIPE_WIDTH = 10_000
"""Columns when nobody's window limits them."""

STYLES = {
    "completed": "green",
    "running": "cyan",
    "awarded": "cyan",
    "calling": "blue",
    "ready": "blue",
    "waiting": "yellow",
    "parked": "yellow",
    "submitted": "blue",
    "failed": "red",
    "cancelled": "magenta",
    "superseded": "dim",
    "skipped": "dim",
    "blocked": "dim",
    "ok": "green",
    "problem": "red",
    "won": "green",
}
"""Colours of states. The words say the same: nothing is told by colour alone."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on: the entry point ends the program, rich would end it as if a task had failed."""
        raise BrokenPipeError


def make_console() -> Console:
    """A console on stdout: as wide as the window, or without limit and colour in a pipe."""
    if sys.stdout.isatty():
        return _Console(highlight=False, markup=False, emoji=False)
    return _Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH, force_terminal=False, color_system=None)


def cell(value: Any) -> Text:
    """A value in a table, coloured when it is a state."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("-", style="dim")
    text = str(value)
    return Text(text, style=STYLES.get(text, ""))


def seconds(value: float | None) -> str:
    """A duration as people read it."""
    if value is None:
        return "-"
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if value < limit:
            return f"{value / size:.3g} {unit}"
    return f"{value / 86_400:.3g} d"


def amount(size: int) -> str:
    """Bytes as people read them."""
    for limit, unit, one in ((10_000, "B", 1), (10_000_000, "kB", 1000), (10_000_000_000, "MB", 1_000_000)):
        if size < limit:
            return f"{size / one:.4g} {unit}"
    return f"{size / 1e9:.4g} GB"


class Output:
    """Where a command's answer goes: `json` True prints objects only."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = make_console()

    @property
    def live(self) -> bool:
        """Whether somebody looks at a terminal and wants to see more than the answer."""
        return not self.json and self.console.is_terminal

    def object(self, value: Any) -> None:
        """One JSON object on a line of its own, sent at once."""
        try:
            click.echo(msgspec.json.encode(value))
        except BrokenPipeError:
            raise BrokenPipeError from None  # without the errno by which click would end the program as if a task had failed

    def say(self, text: str | Text) -> None:
        """A line for people; nothing with --json."""
        if not self.json:
            self.console.print(text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        """A table for people; columns that begin with ``>`` are numbers, those with ``!`` stay in one piece."""
        if self.json:
            return
        plain = not self.console.is_terminal
        if not plain:
            self.console.print()
        if title:
            self.console.print(Text(title, style="bold"))
        table = Table(
            box=None if plain else box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 2, 0, 0),
            header_style="" if plain else "bold",
        )
        for column in columns:
            number, whole = column.startswith(">"), column.startswith("!")
            table.add_column(column.lstrip(">!"), justify="right" if number else "left", overflow="fold", no_wrap=whole)
        cells = [[cell(value) for value in row] for row in rows]
        for row in cells:
            table.add_row(*row)
        needed = self.console.measure(table, options=self.console.options.update(width=PIPE_WIDTH)).maximum
        if self.console.width < min(NARROW, needed):
            self._lines(columns, cells)
        else:
            self.console.print(table)

    def _lines(self, columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> None:
        """A table for a window in which its columns would be too narrow to be read: a row is a block, a cell a line."""
        for row in rows:
            for name, value in zip(columns, row, strict=True):
                if value.plain:
                    self.console.print(Text.assemble((f"{name.lstrip('>!')}: ", "dim"), value), soft_wrap=True)
            self.console.print()

    def value(self, raw: bytes) -> None:
        """JSON for people: indented, coloured on a terminal."""
        if not self.json:
            self.console.print(JSON.from_data(readable(raw), ensure_ascii=False, highlight=self.console.is_terminal), soft_wrap=True)


def print_error(text: str) -> None:
    """A sentence on stderr."""
    colour = "red" if sys.stderr.isatty() else None
    click.echo(click.style("Error:", fg=colour) + f" {text}" if colour else f"Error: {text}", err=True)
