"""What the live view draws: the rows on a terminal, the lines elsewhere, and how it follows a task through interruptions."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from typing import Any, cast

import anyio
import pytest
from events import START, a_run, event
from rich.console import Console

from agentexecutor.bus.errors import BusClosed, BusError
from agentexecutor.bus.task import Task
from agentexecutor.console import live
from agentexecutor.console.live import LivePlan, draw, follow
from agentexecutor.console.plan_state import PlanState, reduce
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.views import Event, SubtaskView, TaskView


def console(*, terminal: bool = False, width: int = 140) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=40, highlight=False, markup=False, color_system=None)


def written(to: Console) -> str:
    return cast("io.StringIO", to.file).getvalue()


def picture(state: PlanState, *, now: float = START + 5, height: int = 40, **options: Any) -> str:
    to = console()
    to.print(draw(state, now, height, **options))
    return written(to)


def after(events: list[Event]) -> PlanState:
    state = PlanState()
    for one in events:
        reduce(state, one)
    return state


# drawing


def test_the_picture_in_the_middle_of_a_run() -> None:
    lines = picture(after(a_run()[:10]), now=START + 1.5, title="Demo").splitlines()
    assert lines[0] == "Demo"
    assert "ada.t1  running  1.5 s  plan version 2: 1 awarded, 1 blocked, 2 running  " in lines[1] + "  "
    (share,) = [line for line in lines if line.lstrip().startswith("features-1 ") and "running" in line]
    assert share.startswith("  features-1"), "shares stand below what was split"
    assert "a2" in share
    assert "1.3 s of 4 s" in share, "counted from the award: the record of an accept may be a second late"
    assert "count 400 of 1000" in share
    (waits,) = [line for line in lines if line.startswith("model")]
    assert "blocked" in waits


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_window_keeps_states_agents_and_scores(width: int) -> None:
    to = console(width=width)
    to.print(draw(after(a_run()[:10]), START + 1.5, 24, width))
    shown = written(to)
    for word in ("features-1", "running", "awarded", "1.3 s of 4 s", "bid by", "score", "won", "a1", "a2", "-10"):
        assert word in shown
    assert ("text.features" in shown) == (width == 120)
    assert all(len(line) <= width for line in shown.splitlines())


def test_auctions_show_winner_and_reason() -> None:
    text = picture(after(a_run()[:10]))
    assert "features-1 (capacity, call, 9 bids)" in text
    (won,) = [line for line in text.splitlines() if "won" in line]
    assert "a2" in won
    assert "capacity 10 is the largest" in won
    assert "capacity 5" in text


def test_a_failure_and_its_next_attempt_are_seen() -> None:
    assert "handler: RuntimeError: out of memory" in picture(after(a_run()[:11]))
    assert "a2 (attempt 2)" in picture(after(a_run()[:12]))


def test_the_end_is_seen() -> None:
    text = picture(after(a_run()), now=START + 1000)
    assert "ada.t1  completed  4 s" in text
    assert "coordinators: 2" in text
    failed = after([*a_run()[:5], event("failed", at=2, error={"code": "deadline", "message": "30 s are over"})])
    assert "deadline: 30 s are over" in picture(failed)


def test_a_note_is_shown() -> None:
    assert "nobody answers" in picture(PlanState(), note="nobody answers")


def test_thousands_of_subtasks_fit_into_the_window() -> None:
    plan = {f"s{n}": {"capability": "x"} for n in range(5000)}
    state = after([event("submitted"), event("planned", subtasks=plan), event("awarded", "s4999", agent="a1", epoch=1)])
    text = picture(state, height=24)
    assert len(text.splitlines()) <= 24
    assert "s4999" in text, "what moves is shown first"
    assert "4999 more subtasks" in text
    text = picture(after([event("planned", subtasks=plan)]), height=24)
    assert len(text.splitlines()) <= 24
    assert "s0 " in text


def test_what_agents_write_is_text_and_nothing_else() -> None:
    state = after([event("awarded", "main", agent="a1", epoch=1), event("progress", "main", seq=0, epoch=1, text="[bold]:smile: [/x]")])
    assert "[bold]:smile: [/x]" in picture(state)


# where it is shown


def test_without_a_terminal_each_event_is_a_line() -> None:
    to = console(width=40)
    with LivePlan(to) as view:
        for one in a_run():
            view.show(one)
        view.redraw()
    lines = written(to).splitlines()
    assert len(lines) == len(a_run())
    assert all(one.kind in line for one, line in zip(a_run(), lines, strict=True))
    assert "\x1b" not in written(to)


def test_without_a_terminal_a_note_is_said_once() -> None:
    to = console()
    with LivePlan(to) as view:
        view.note("nobody answers")
        view.note("nobody answers")
        view.show(event("submitted"))
        view.note("nobody answers")
    assert [line for line in written(to).splitlines() if "submitted" not in line] == ["nobody answers"] * 2


def test_on_a_terminal_the_last_picture_stays() -> None:
    to = console(terminal=True)
    with LivePlan(to, title="Demo", clock=lambda: START + 4) as view:
        for one in a_run():
            view.show(one)
    assert "Demo" in written(to)
    assert "ada.t1  completed" in written(to)


# following


class Script:
    """Stands for a task: each run of `events` gives the next list, then raises or ends."""

    def __init__(self, *runs: tuple[list[Event], BaseException | None]) -> None:
        self.runs = list(runs)
        self.closed = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        events, error = self.runs.pop(0)
        try:
            for one in events:
                yield one
            if error is not None:
                raise error
        finally:
            self.closed += 1


async def followed(script: Script) -> tuple[PlanState, list[str]]:
    to = console()
    with LivePlan(to) as view:
        state = await follow(cast("Task", script), view)
    return state, written(to).splitlines()


@pytest.mark.anyio
async def test_following_to_the_end() -> None:
    state, lines = await followed(Script((a_run(), None)))
    assert state.state == "completed"
    assert len(lines) == len(a_run())


@pytest.mark.anyio
async def test_after_an_interruption_nothing_is_shown_twice_and_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AGAIN_S", 0.0)
    run = a_run()
    again = [one for one in run if one.seq != 0]
    script = Script(([], BusError("No coordinator answered.")), (run[:12], BusError("No coordinator answered.")), (again, None))
    state, lines = await followed(script)
    assert state.state == "completed"
    assert lines.count("No coordinator answered.") == 2
    assert len([line for line in lines if "No coordinator" not in line]) == len(run)
    assert script.closed == 3


@pytest.mark.anyio
async def test_a_closed_connection_is_the_end() -> None:
    with pytest.raises(BusClosed):
        await followed(Script((a_run()[:3], BusClosed("The connection was closed."))))


@pytest.mark.anyio
async def test_what_this_version_cannot_read_is_the_end_and_an_error_that_can_be_told() -> None:
    with pytest.raises(DecodeFailed):
        await followed(Script((a_run()[:3], DecodeFailed("no event", kind="event", reason="x"))))


@pytest.mark.anyio
async def test_running_times_run_without_events() -> None:
    drawn = anyio.Event()
    ticks = 0

    def clock() -> float:
        nonlocal ticks
        ticks += 1
        if ticks > 3:
            drawn.set()
        return START + ticks

    to = console(terminal=True)
    with LivePlan(to, clock=clock) as view:
        view.show(event("submitted"))
        async with anyio.create_task_group() as group:
            group.start_soon(view.keep_drawing)
            await drawn.wait()
            group.cancel_scope.cancel()
    assert "  1 s" in written(to)
    assert "  3 s" in written(to)


class Patient(LivePlan):
    """Tells when it was given a note."""

    def __init__(self, to: Console) -> None:
        super().__init__(to)
        self.noted = anyio.Event()

    def note(self, text: str) -> None:
        super().note(text)
        self.noted.set()
        self.noted = anyio.Event()


class Slow:
    """Stands for a task of which nothing is heard until a note has said why."""

    def __init__(self, view: Patient) -> None:
        self.patient = view

    async def events(self) -> AsyncGenerator[Event, None]:
        await self.patient.noted.wait()
        yield event("submitted")
        yield event("planned", subtasks={"a": {"capability": "x"}, "b": {"capability": "y"}})
        yield event("ready", "a", seq=2)
        yield event("ready", "b", seq=2)
        await self.patient.noted.wait()
        yield event("cancelled", seq=3)

    async def view(self) -> TaskView:
        states = {"a": SubtaskView(capability="x", state="ready"), "b": SubtaskView(capability="y", state="parked")}
        return TaskView(task="ada.t1", state="running", subtasks=states)


@pytest.mark.anyio
async def test_silence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUIET_S", 0.001)
    to = console()
    view = Patient(to)
    with view:
        await follow(cast("Task", Slow(view)), view)
    lines = written(to).splitlines()
    assert lines[0].startswith("No coordinator has taken the task yet")
    assert "submitted" in lines[1]
    assert lines[-2].startswith("No agent fits b (y).")
    assert "cancelled" in lines[-1]
