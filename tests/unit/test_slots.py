"""An agent's slots: whose turn it is, and that none is ever lost."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from agentexecutor.agents.slots import Slots

pytestmark = pytest.mark.anyio


async def test_the_most_urgent_first_and_who_resumes_before_all() -> None:
    slots = Slots(1)
    await slots.take((0, ""))
    turns: list[str] = []

    async def wait(name: str, order: tuple[int, str] | None) -> None:
        await (slots.take_again() if order is None else slots.take(order))
        turns.append(name)
        slots.give_back()

    async with anyio.create_task_group() as group:
        for name, order in (("low", (5, "")), ("high", (-5, "")), ("resumed", None)):
            group.start_soon(wait, name, order)
        await anyio.wait_all_tasks_blocked()
        assert slots.queued == 3
        slots.give_back()
    assert turns == ["resumed", "high", "low"]
    assert (slots.free, slots.queued) == (1, 0)


@pytest.mark.parametrize("its_turn", [False, True])
async def test_who_is_cancelled_while_waiting_takes_no_slot_along(its_turn: bool) -> None:
    slots = Slots(1)
    await slots.take((0, ""))
    waiting = asyncio.create_task(slots.take((1, "")))
    await anyio.wait_all_tasks_blocked()
    if its_turn:
        slots.give_back()  # the turn has come, and the cancel comes before it is noticed
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (slots.free, slots.queued) == (1 if its_turn else 0, 0)
