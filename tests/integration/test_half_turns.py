"""A coordinator dies between two records of one turn, on a real server: its successor neither loses the other half nor does the first one twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from msgspec import Raw
from peers import Peer, Place, ScriptedAgent, a_place, agent, client, coordinating, killable

from agentexecutor.bus.client import attached
from agentexecutor.bus.connection import Headers
from agentexecutor.bus.events import read_log
from agentexecutor.bus.server import embedded_server
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode_record, encode
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts

pytestmark = pytest.mark.anyio

PATIENCE_S = 60.0
LARGE = 200_000
"""Characters: two such changes take two records."""
PLAN = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="echo"), "b": m.SubtaskSpec(capability="echo", after=["a"])})


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with embedded_server() as server, a_place(server.url) as made:
        yield made


class Victim:
    """A coordinator that is gone, without a goodbye, as soon as it has stored half of a turn. `held_back`: it stores nothing until `go`."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.held_back = anyio.Event()
        self.half = anyio.Event()
        self.go = anyio.Event()
        self.go.set()
        self._append = coordinator._log.append
        coordinator._log.append = self._until_half  # type: ignore[method-assign]  # it dies there

    async def _until_half(self, shard: int, task: TaskName, payload: bytes, headers: Headers, *, expected: int) -> int:
        self.held_back.set()
        await self.go.wait()
        seq = await self._append(shard, task, payload, headers, expected=expected)
        if decode_record(payload).part:
            self.half.set()
            await anyio.sleep_forever()
        return seq


@asynccontextmanager
async def dying(place: Place) -> AsyncIterator[Victim]:
    async with killable(place, "victim") as (coordinator, scope):
        victim = Victim(coordinator)
        yield victim
        with anyio.fail_after(PATIENCE_S):
            await victim.half.wait()
        scope.cancel()


async def running(me: Peer, a1: ScriptedAgent) -> tuple[TaskName, m.Award]:
    """A task whose first subtask runs."""
    await me.until_held({"victim": me.connection.shards})
    task = await me.submit("t", plan=PLAN)
    award = await a1.award("a")
    await a1.accept(award)
    await me.until(task, lambda view: view.subtasks["a"].state == "running")
    return task, award


async def ended(me: Peer, task: TaskName, state: str) -> None:
    """Wait for the task's result: longer than a successor needs on a busy machine."""
    with anyio.fail_after(PATIENCE_S):
        while (seen := (await me.state(task)).state) != state:
            assert seen in ("running", state)
            await anyio.sleep(0.05)


async def counting(me: Peer, task: TaskName) -> tuple[Counter[str], Counter[str]]:
    """Of the whole log the kinds of change that count, and the kinds that stand in parts which nobody has ended."""
    async with attached(me.connection) as bus:
        found = [entry.record for entry in await read_log(bus, task)]
    parts = Parts()
    whole = [made for record in found if (made := parts.whole(record)) is not None]
    count, written = (Counter(type(change).__name__ for record in of for change in record.changes) for of in (whole, found))
    return count, written - count


async def test_a_final_failure_is_recorded_whole_or_not_at_all(place: Place) -> None:
    """The subtask's failure stands in the first record, the task's in the second: it must not stay open for ever."""
    async with client(place) as me, agent(place, "a1", "echo", capacity=10) as a1:
        async with dying(place):
            task, award = await running(me, a1)
            await a1.failed(award, "x" * LARGE, retryable=False)
        async with coordinating(place, "next"):
            await ended(me, task, "failed")
            count, dead = await counting(me, task)
        assert count["FailedChange"] == 2
        assert dead == Counter(FailedChange=1)


async def test_an_input_of_half_a_turn_is_applied_once(place: Place) -> None:
    """Feedback stands in the first record, a result that came at the same time in the second."""
    async with client(place) as me, agent(place, "a1", "echo", capacity=10) as a1:
        async with dying(place) as victim:
            task, award = await running(me, a1)
            victim.held_back, victim.go = anyio.Event(), anyio.Event()
            await me.claim("feedback", task, m.FeedbackClaim(text="small"))
            await victim.held_back.wait()
            await me.claim("feedback", task, m.FeedbackClaim(text="f" * LARGE))
            await a1.done(award, "r" * LARGE)
            entry = victim.coordinator._tasks.get(task)
            assert entry is not None
            with anyio.fail_after(PATIENCE_S):
                while len(entry.inputs) < 2:
                    await anyio.sleep(0.01)
            victim.go.set()
        async with coordinating(place, "next"):
            await a1.done(await a1.award("b"), 2)
            await ended(me, task, "completed")
            count, dead = await counting(me, task)
        assert (count["FeedbackGiven"], count["Completed"]) == (2, 3)
        assert dead == Counter(FeedbackGiven=1)


async def test_a_plan_of_half_a_turn_is_made_anew(place: Place) -> None:
    """A submit whose records are cut in two waits in its queue, and whoever takes over plans it from the beginning."""
    plan = m.PlanSpec(
        subtasks={"a": m.SubtaskSpec(capability="echo", input=Raw(encode("x" * 60_000))), "b": m.SubtaskSpec(capability="echo")}
    )
    async with client(place) as me, agent(place, "a1", "echo", capacity=10) as a1:
        async with dying(place):
            await me.until_held({"victim": me.connection.shards})
            task = await me.submit("t", plan=plan, critics=[f"critic-{number:040}" for number in range(4100)])
        async with coordinating(place, "next"):
            for _ in plan.subtasks:
                await a1.done(await a1.award(), 1)
            await ended(me, task, "completed")
            count, dead = await counting(me, task)
        assert (count["Submitted"], count["Planned"]) == (1, 1)
        assert dead["Submitted"] == 1
