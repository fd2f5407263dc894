"""A cluster of which all machines go at once: what it had in memory is gone, and nobody gives the number of an award twice."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from place import BACK_S, a_place

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus, connect
from agentexecutor.bus.errors import ApiError
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE

pytestmark = pytest.mark.anyio


async def made_and_kept(bus: Bus) -> tuple[str, int]:
    info = await bus.connection.api(f"STREAM.INFO.{LEASE}", {})
    return info["created"], info["state"]["last_seq"]


async def restarted_ms(log: TaskLog) -> int:
    """As a coordinator asks it: again, while the servers elect a stream's leader."""
    with anyio.fail_after(BACK_S):
        while True:
            with suppress(ApiError):
                return await log.restarted_ms()
            await anyio.sleep(0.1)


async def epoch_of(bus: Bus, id: str) -> int:
    """The number of the award by which a new task was done."""
    task = await bus.submit("echo", {"x": id}, id=id)
    assert await task.result(str, timeout_s=120) == id
    epoch = (await task.view(timeout_s=60)).subtasks["main"].epoch
    assert epoch is not None
    return epoch


async def test_a_cluster_that_loses_all_machines_is_known_as_restarted(tmp_path: Path) -> None:
    agent = Agent("worker", capacity=5)

    @agent.capability("echo")
    async def echo(x: str) -> str:
        return x

    async with a_place(tmp_path, 3, sync_always=False) as place, connect(place.url, name="me", replicas=3) as bus:
        log = TaskLog(bus.connection)
        before = await restarted_ms(log)
        async with agent.serve(bus):
            assert await epoch_of(bus, "first") == max(1, before)

            place.servers[0].kill()
            await place.start(place.servers[:1])
            assert await restarted_ms(log) == before, "the other two have kept what was in memory"

            created, last = await made_and_kept(bus)
            for server in place.servers:
                server.kill()
            await place.start(place.servers)
            while not bus.connection.connected:
                await anyio.sleep(0.05)
            again = await epoch_of(bus, "second")
            assert await restarted_ms(log) == again > max(1, before)
            assert (await made_and_kept(bus))[0] == created, "why the time of the making tells nothing"

        async with connect(place.url, name="later") as later:
            assert await restarted_ms(TaskLog(later.connection)) == again, "whoever comes later reads the same"
    assert last > 0
