"""More tasks than can be done: submitters are blocked at a stated number and go on, urgent tasks pass by, the lowest still moves, memory has a limit."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from statistics import median

import anyio
import msgspec
import pytest
from msgspec import Raw
from peers import QUICK, Peer, Place, ScriptedAgent, a_place, agent, client, coordinating

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errors import StoreTimeout
from agentexecutor.bus.server import embedded_server
from agentexecutor.bus.streams import SUBMITS, WAITING, stream_name
from agentexecutor.coordinator.entry import Entry, Tasks
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import class_of

pytestmark = pytest.mark.anyio

PATIENT = dataclasses.replace(QUICK, accept_timeout_s=60, lost_after_s=60)
"""Each award is to be done by whoever got it, however slow the machine is."""


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with embedded_server() as server, a_place(server.url) as made:
        yield made


async def stream(connection: Connection) -> tuple[int, int]:
    """How many submits wait in the stream, and how many may."""
    info = await connection.api(f"STREAM.INFO.{stream_name(SUBMITS, connection.prefix)}", {})
    return info["state"]["messages"], info["config"]["max_msgs"]


async def allow(connection: Connection, waiting: int) -> None:
    """Have an installation's own limit."""
    name = stream_name(SUBMITS, connection.prefix)
    config = (await connection.api(f"STREAM.INFO.{name}", {}))["config"]
    await connection.api(f"STREAM.UPDATE.{name}", {**config, "max_msgs": waiting})


async def submit(peer: Peer, number: int, priority: int, timeout_s: float) -> None:
    task = TaskName(peer.name, f"t{number}")
    payload = encode(m.Submit(capability="echo", priority=priority, input=Raw(b'{"n":%d}' % number)))
    await peer.connection.store(peer.subjects.submit(task, class_of(priority)), payload, headers("submit"), timeout_s=timeout_s)


async def test_submitters_are_blocked_at_the_stated_number_and_go_on(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty may wait: ten of thirty are blocked, and told so, until a coordinator takes some; each is done once."""
    async with client(place) as me:
        assert await stream(me.connection) == (0, WAITING)
        await allow(me.connection, 20)
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(submit, me, number, 0, 60.0)
            with anyio.fail_after(60):
                while "is full" not in caplog.text:
                    await anyio.sleep(0.02)
            assert await stream(me.connection) == (20, 20)
            with pytest.raises(StoreTimeout, match="maximum messages") as blocked:
                await submit(me, 30, 0, 0.5)
            assert "more agents" in str(blocked.value)
            assert await stream(me.connection) == (20, 20)
            patient = coordinating(place, settings=PATIENT)
            async with patient, agent(place, "a1", "echo", capacity=10) as a1, anyio.create_task_group() as working:
                working.start_soon(a1.work, lambda award: msgspec.json.decode(award.input)["n"])
                for number in range(30):
                    task = TaskName(me.name, f"t{number}")
                    assert bytes((await me.result(task)).result) == str(number).encode()
                    assert [kind for _, kind in await me.story(task)].count("awarded") == 1
                working.cancel_scope.cancel()
        assert (await stream(me.connection))[0] == 0


async def test_a_load_ends_in_order_of_priority_within_the_memory_s_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,600 tasks wait, 300 fit into memory, and an agent does 4 at a time in 20 ms each."""
    count, limit, most = 1_600, 300, 0
    opened = Tasks.open

    def counted(tasks: Tasks, name: TaskName, shard: int) -> Entry:
        nonlocal most
        entry = opened(tasks, name, shard)
        most = max(most, tasks.active)
        return entry

    monkeypatch.setattr(Tasks, "open", counted)
    priorities = [5, 1, *[0] * 14, -1, -1, -5, -5] * (count // 20)
    order: list[int] = []
    taken: set[tuple[str, int]] = set()

    async def work(a1: ScriptedAgent) -> None:
        while True:
            award = await a1.award()
            if (award.task, award.epoch) in taken:  # sent again, as the first ones wait for the load to be in memory
                continue
            taken.add((award.task, award.epoch))
            number = msgspec.json.decode(award.input)["n"]
            order.append(number)
            await anyio.sleep(0.02)
            await a1.done(award, number)

    async with client(place) as me, agent(place, "a1", "echo", capacity=4) as a1:
        async with anyio.create_task_group() as group:
            for number, priority in enumerate(priorities):
                group.start_soon(submit, me, number, priority, 20.0)
        full = coordinating(place, settings=dataclasses.replace(PATIENT, open_tasks=limit))
        async with full as coordinator, anyio.create_task_group() as group:
            # until then it does not know all that it could
            while coordinator._market.survey.waiting().get("echo", 0) < limit - a1.capacity:
                await anyio.sleep(0.02)
            for _ in range(4):
                group.start_soon(work, a1)
            for number in range(count):
                assert bytes((await me.result(TaskName(me.name, f"t{number}"))).result) == str(number).encode()
            group.cancel_scope.cancel()
    assert sorted(order) == list(range(count)), "each once"
    assert most <= limit
    places = {priority: [at for at, number in enumerate(order) if priorities[number] == priority] for priority in set(priorities)}
    assert median(places[5]) < median(places[1]) < median(places[0]) < median(places[-1]) < median(places[-5])
    assert 10 * median(places[5]) < median(places[-5])
    assert places[-5][0] < places[0][-1] / 2, "the lowest moves while higher ones wait"
