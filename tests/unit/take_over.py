"""A plan with a failed attempt whose coordinator is killed while the second one runs, on real processes; for tests of what that leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from programs import LONG, Program, Programs

from agentexecutor.bus import EmbeddedServer, connect
from agentexecutor.bus.client import Bus
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE
from agentexecutor.schemas.codec import decode_as
from agentexecutor.schemas.messages import Lease
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["PATIENT", "TRACED", "TakenOver", "ended", "stop_all", "taken_over", "until_accepted"]

TRACED = str(Path(__file__).parents[1] / "integration" / "programs" / "traced.py")
PATIENT = "accept_timeout_s=60,lost_after_s=8,lease_silence_s=6,lease_valid_s=5"
"""On a machine that stutters nobody is given up who lives: the story would be another."""


class TakenOver(NamedTuple):
    """What became of it. `view`: what `show` says; `victim`, `survivor`: the coordinators' names."""

    view: Any
    victim: str
    survivor: str


async def taken_over(place: Programs, server: EmbeddedServer, plan: dict[str, Any], others: Sequence[Program] = ()) -> TakenOver:
    """Play it with the agents of traced.py, and others. The plan has a subtask `sum`; all before it takes one attempt each."""
    file = Path(server.store) / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    task = TaskName("tester", "t1")
    async with connect(server.url, name="watcher") as bus:
        coordinators = await _two_coordinators(place, bus)
        agents = [await place.start("agent", f"{TRACED}:{agent}", "--no-coordinate", "--name", agent) for agent in ("first", "second")]
        await place.run("submit", "--plan", str(file), "--id", task.id, "--no-wait")
        await until_accepted(bus, str(task), "sum", 1 + len(plan["subtasks"]))
        victim = await _holder(bus, shard_of(task, bus.connection.shards))
        coordinators.pop(victim).kill()
        ((survivor, left),) = coordinators.items()
        await place.run("feedback", task.id, "--subtask", "sum", "--verdict", "accept")
        view = await ended(place)
        await stop_all(*agents, *others, left)
    return TakenOver(view, victim, survivor)


async def _two_coordinators(place: Programs, bus: Bus) -> dict[str, Program]:
    """Two, by name, that have shared the shards between them: from now on a shard moves only when one is gone."""
    started = [await place.start("coordinator") for _ in range(2)]
    named = {one.ready["coordinator"]: one for one in started}
    shards = bus.connection.shards
    with anyio.fail_after(LONG):
        while Counter([await _holder(bus, number) for number in range(shards)]) != dict.fromkeys(named, shards // 2):
            await anyio.sleep(0.05)
    return named


async def _holder(bus: Bus, shard: int) -> str:
    last = await TaskLog(bus.connection).last_of(LEASE, bus.connection.subjects.lease(shard))
    return "" if last is None or last.payload is None else decode_as(Lease, last.payload).holder


async def until_accepted(bus: Bus, task: str, subtask: str, epoch: int) -> str:
    """Wait until this award, or a later one, is accepted; the agent's name."""
    with anyio.fail_after(LONG):
        async with aclosing(bus.task(task).events()) as events:
            async for event in events:
                if (event.kind, event.subtask) == ("accepted", subtask) and (event.epoch or 0) >= epoch:
                    return event.agent or ""
    raise AssertionError("the task ended")


async def ended(place: Programs, task: str = "t1") -> Any:
    """What `show` says of the task, once it has ended."""
    await place.run("watch", task)
    view, _ = await place.run("show", task)
    return view


async def stop_all(*running: Program) -> None:
    """Ask them to end, one after another; each must end well."""
    for program in running:
        assert await program.stop() == 0, program.said
