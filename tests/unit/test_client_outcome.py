"""What is told about a task reaches everybody who waits for it, and nobody else."""

from __future__ import annotations

import math

import anyio
import anyio.lowlevel
import pytest

from agentexecutor.bus.outcome import Outcome
from agentexecutor.schemas import messages as m

pytestmark = pytest.mark.anyio

DONE = m.Result(task="me.t1", state="completed")
FAILED = m.Result(task="me.t1", state="failed")
ERROR = m.ErrorInfo(code="refused", message="no")


async def test_who_waits_is_woken() -> None:
    outcome = Outcome()
    woken = 0

    async def wait() -> None:
        nonlocal woken
        await outcome.wait(math.inf)
        woken += 1

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        outcome.ended(DONE)
    assert woken == 3
    assert outcome.result == DONE


async def test_patience_ends() -> None:
    with anyio.fail_after(5):
        await Outcome().wait(0.01)


def test_the_first_word_counts() -> None:
    outcome = Outcome()
    outcome.ended(DONE)
    outcome.ended(FAILED)
    assert outcome.result == DONE


def test_only_expected_refusals_are_kept() -> None:
    outcome = Outcome()
    outcome.expect("mine")
    outcome.refused("theirs", ERROR)
    assert (outcome.refusal("mine"), outcome.refusal("theirs")) == (None, None)
    outcome.refused("mine", ERROR)
    outcome.expect("mine")
    assert outcome.refusal("mine") == ERROR
    outcome.forget("mine")
    assert outcome.refusal("mine") is None


async def test_a_block_is_left_when_something_is_told() -> None:
    outcome = Outcome()
    after = False
    async with anyio.create_task_group() as group:
        with outcome.interrupting():
            group.start_soon(_end, outcome)
            await anyio.sleep_forever()
        after = True
    assert after
    with outcome.interrupting():
        await anyio.lowlevel.checkpoint()
    outcome.wake()


async def _end(outcome: Outcome) -> None:
    outcome.close()
    assert outcome.closed


def test_wakers_are_called_while_their_block_runs() -> None:
    outcome = Outcome()
    calls: list[str] = []
    with outcome.waking(lambda: calls.append("one")):
        outcome.wake()
    outcome.wake()
    assert calls == ["one"]
