"""The live view of a plan: on a terminal a table that moves, elsewhere a line for each event. `submit` and the demo use it.

    with LivePlan() as view:
        await follow(task, view)

What is shown comes from `plan_state.reduce`; this file draws it and waits for events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self

import anyio
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentexecutor.bus.errors import BusClosed, BusError, TaskLost, first_of
from agentexecutor.bus.task import Task
from agentexecutor.console.lines import line_of
from agentexecutor.console.output import cell, make_console, seconds
from agentexecutor.console.plan_state import ENDED, Auction, PlanState, Row, reduce
from agentexecutor.schemas.views import Event, TaskView

__all__ = ["LivePlan", "draw", "follow"]

REDRAW_S = 0.125
AGAIN_S = 1.0
AUCTIONS_SHOWN = 5
ROWS_AT_LEAST = 6
BAR_WIDTH = 16
WIDE = 110
"""Columns for the whole picture; a narrower window gets less."""
NARROW = ("capability",)
"""What a narrow window does without."""
NAMES_SHOWN = 8
QUIET_S = 1.5
LONGEST_QUIET_S = 60.0
NOBODY_COORDINATES = (
    "No coordinator has taken the task yet; it is stored and waits. "
    "Agents coordinate by default; `agentexecutor coordinator` starts one without an agent."
)
BUSY = ("running", "awarded", "failed", "ready")
"""What is worth a row when not all rows fit."""


class LivePlan:
    """A view of one task at a time. A context manager: on a terminal it draws while the block runs and leaves the last picture.

    `console`: where to (stdout when None). `title` stands above the table. `transient`: the picture goes away at the end. `clock`: seconds
    since 1970, for running times.
    """

    def __init__(
        self, console: Console | None = None, *, title: str = "", transient: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.console = console or make_console()
        self.title = title
        self.state = PlanState()
        self._transient = transient
        self._clock = clock
        self._note = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop", transient=self._transient)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self.redraw()
            self._live.stop()
            self._live = None

    def show(self, event: Event) -> None:
        """Take an event in; without a terminal its line is printed at once."""
        self._note = ""
        reduce(self.state, event)
        if self._live is None:
            self.console.print(line_of(event), soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that is no event, such as that nobody answers. Gone with the next event."""
        if self._live is None and text != self._note:
            self.console.print(text, soft_wrap=True)
        self._note = text

    def redraw(self) -> None:
        """Draw what is known now."""
        if self._live is not None:
            self._live.update(
                draw(self.state, self._clock(), self.console.height, self.console.width, title=self.title, note=self._note), refresh=True
            )

    async def keep_drawing(self) -> None:
        """Redraw for ever, so that running times run."""
        while True:
            self.redraw()
            await anyio.sleep(REDRAW_S)


async def follow(task: Task, view: LivePlan) -> PlanState:
    """Show all events of a task, from its first to its end. While no coordinator answers it says so and goes on asking.

    Raises BusClosed, DecodeFailed.
    """
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(view.keep_drawing)
            group.start_soon(_explain_silence, task, view)
            while not view.state.ended:
                try:
                    await _follow_once(task, view)
                except BusClosed:
                    raise
                except BusError as error:
                    view.note(str(error))
                    await anyio.sleep(AGAIN_S)
            group.cancel_scope.cancel()
    except ExceptionGroup as errors:
        raise first_of(errors) from None
    view.redraw()
    return view.state


async def _follow_once(task: Task, view: LivePlan) -> None:
    """Until the end or an error. Events begin with the first again each time: what was shown is not shown twice."""
    shown = view.state.last_seq
    async with aclosing(task.events()) as events:
        async for event in events:
            if event.seq == 0 or event.seq > shown:
                view.show(event)


async def _explain_silence(task: Task, view: LivePlan) -> None:
    """When nothing happens for a while, say what is waited for; the longer nothing does, the seldomer it is looked."""
    quiet_s = QUIET_S
    while True:
        before = view.state.last_seq
        await anyio.sleep(quiet_s)
        quiet_s = min(2 * quiet_s, LONGEST_QUIET_S) if before == view.state.last_seq else QUIET_S
        if before == 0 and view.state.last_seq == 0:
            view.note(NOBODY_COORDINATES)
        elif before == view.state.last_seq and view.state.counts()["ready"]:
            with suppress(BusError, TaskLost):
                _explain_parked(await task.view(), view)


def _explain_parked(shown: TaskView, view: LivePlan) -> None:
    parked = [name for name, subtask in shown.subtasks.items() if subtask.state == "parked"]
    if parked:
        wanted = ", ".join(dict.fromkeys(shown.subtasks[name].capability for name in parked))
        view.note(
            f"No agent fits {', '.join(parked[:NAMES_SHOWN])} ({wanted}). `agentexecutor unserved` says why; it goes on when one comes."
        )


# drawing


def draw(state: PlanState, now: float, height: int, width: int = 140, *, title: str = "", note: str = "") -> RenderableType:
    """The whole picture for a terminal of `height` lines and `width` columns: head, subtasks, the last auctions."""
    auctions = state.auctions[-AUCTIONS_SHOWN:]
    auction_lines = sum(1 + len(auction.bids[:2]) for auction in auctions)
    room = max(ROWS_AT_LEAST, height - auction_lines - 10)
    parts: list[RenderableType] = [Text(title, style="bold")] if title else []
    parts.append(_head(state, now))
    if state.rows:
        parts += ["", _table(state, now, room, wide=width >= WIDE)]
    if auctions:
        parts += ["", _auctions(auctions, wide=width >= WIDE)]
    if note:
        parts.append(Text(note, style="yellow"))
    return Group(*parts)


def _head(state: PlanState, now: float) -> Text:
    until = state.last_at if state.ended else now
    passed = "" if state.started_at is None else f"  {seconds(max(0.0, until - state.started_at))}"
    counts = ", ".join(f"{count} {name}" for name, count in sorted(state.counts().items()))
    head = Text.assemble((state.task or "the task", "bold"), "  ", cell(state.state), passed)
    if counts:
        head.append(f"  plan version {max(1, state.version)}: {counts}")
    if len(state.coordinators) > 1:
        head.append(f"  coordinators: {len(state.coordinators)}", style="dim")
    if state.error:
        head.append(f"\n{state.error}", style="red")
    return head


def _table(state: PlanState, now: float, room: int, *, wide: bool) -> RenderableType:
    rows = _in_order(state)
    shown = rows
    if len(rows) > room:
        shown = [row for row in rows if row.state in BUSY][: room - 1] or rows[: room - 1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    names = ["subtask", "capability", "state", "agent", "done", "time"]
    for name in names if wide else [name for name in names if name not in NARROW]:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("")
    for row in shown:
        table.add_row(*_cells(state, row, now, wide=wide))
    if len(shown) == len(rows):
        return table
    return Group(table, Text(f"... and {len(rows) - len(shown)} more subtasks", style="dim"))


def _in_order(state: PlanState) -> list[Row]:
    """Rows with their shares and children below them."""
    ordered: list[Row] = []
    rest = [row for row in reversed(state.rows.values()) if row.parent is None]
    while rest:
        row = rest.pop()
        ordered.append(row)
        rest.extend(state.row(child) for child in reversed(row.children))
    return ordered


def _depth(state: PlanState, row: Row) -> int:
    depth = 0
    while row.parent is not None and row.parent in state.rows:
        row = state.rows[row.parent]
        depth += 1
    return depth


def _cells(state: PlanState, row: Row, now: float, *, wide: bool) -> list[RenderableType]:
    done = state.part_done(row)
    bar: RenderableType = Text("")
    if done is not None and row.state not in ("cancelled", "failed"):
        bar = ProgressBar(total=1.0, completed=done, width=BAR_WIDTH if wide else BAR_WIDTH // 2)
    tries = f" (attempt {row.attempt})" if row.attempt > 1 else ""
    what = row.error if row.error and row.state not in ("running", "completed") else " ".join(part for part in (row.step, row.text) if part)
    return [
        Text("  " * _depth(state, row) + row.name),
        *([Text(row.capability)] if wide else []),
        cell(row.state),
        Text((row.agent or "-") + tries),
        bar,
        Text(_duration(row, now)),
        _rest(what, style="red" if row.error and row.state != "running" else "dim"),
    ]


def _rest(text: str, style: str = "") -> Text:
    """For the last column, which alone gives way when the window is narrow."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _duration(row: Row, now: float) -> str:
    if row.started_at is None or row.state in ("blocked", "ready"):
        return ""
    if row.took_s is not None:
        return seconds(row.took_s)
    until = now if row.state not in ENDED else row.ended_at or row.started_at
    passed = seconds(max(0.0, until - row.started_at))
    return f"{passed} of {seconds(row.schedule_s)}" if row.schedule_s and row.state == "running" else passed


def _auctions(auctions: list[Auction], *, wide: bool) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name, justify in (("auction", "left"), ("bid by", "left"), ("score", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]  # left or right
    table.add_column("reason")
    for auction in auctions:
        for number, bid in enumerate(auction.bids[:3]):
            how = f" ({auction.policy}, {auction.mode}, {auction.considered} bid{'s' if auction.considered > 1 else ''})" if wide else ""
            first = f"{auction.subtask}{how}" if number == 0 else ""
            won = Text("won", style="green") if bid.won else Text("")
            table.add_row(first, bid.agent, f"{bid.score:.3g}", won, _rest(bid.reason))
    return table
