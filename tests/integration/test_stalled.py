"""Stalled is told apart from lost, on a real server: agents whose offers come and whose work stands still."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from peers import QUICK, Place, a_place, coordinating

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio
PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
SETTINGS = dataclasses.replace(QUICK, stall_min_s=0.3, lost_after_s=4.0, accept_timeout_s=2.0)


@pytest.fixture
async def place(server: EmbeddedServer) -> AsyncIterator[Place]:
    async with a_place(server.url) as made:
        yield made


def worker(name: str, until: anyio.Event, began: anyio.Event) -> Agent:
    agent = Agent(name)

    @agent.capability("model.fit")
    async def fit(ctx: Context) -> str:
        await ctx.schedule(("load", 0.05), ("fit", 0.05))
        async with ctx.step("load"):
            began.set()
            await until.wait()
        return name

    return agent


async def test_a_stalled_agent_is_shown_and_its_work_goes_on(server: EmbeddedServer) -> None:
    place = Place(server.url)
    until, began = anyio.Event(), anyio.Event()
    async with (
        connect(place.url, name="me", prefix=place.prefix) as bus,
        coordinating(place, settings=SETTINGS),
        worker("slow", until, began).serve(bus, coordinate=False),
    ):
        task = await bus.submit("model.fit")
        with anyio.fail_after(60):
            await began.wait()
            while (await task.view()).subtasks["main"].state != "stalled":
                await anyio.sleep(0.05)
        (line,) = await bus.stalled()
        assert (line.task, line.subtask, line.agent, line.epoch) == (task.name, "main", "slow", 1)
        assert line.silent_s >= line.allowed_s > 0
        command = [PROGRAM, "agents", "--nats", server.url]
        table = await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, check=True, text=True))
        assert f"{task.name}/main (stalled)" in " ".join(table.stdout.split())
        lines = await anyio.to_thread.run_sync(lambda: subprocess.run([*command, "--json"], capture_output=True, check=True, text=True))
        assert json.loads(lines.stdout)["running"] == [{"task": task.name, "subtask": "main", "epoch": 1, "state": "stalled"}]
        until.set()
        assert await task.result(str, timeout_s=20) == "slow"
        assert await bus.stalled() == []
        assert [attempt.state for attempt in (await task.view()).subtasks["main"].attempts] == ["completed"]


async def test_a_stalled_agents_work_is_released_when_the_policy_says_so(place: Place) -> None:
    never, at_once = anyio.Event(), anyio.Event()
    at_once.set()
    began = anyio.Event()
    async with (
        connect(place.url, name="me", prefix=place.prefix) as bus,
        connect(place.url, name="other", prefix=place.prefix) as other,
        coordinating(place, settings=SETTINGS),
        worker("stuck", never, began).serve(bus, coordinate=False),
    ):
        task = await bus.submit("model.fit", on_stall="release")
        with anyio.fail_after(60):
            await began.wait()
        async with worker("quick", at_once, anyio.Event()).serve(other, coordinate=False):
            assert await task.result(str, timeout_s=30) == "quick"
            attempts = [(attempt.agent, attempt.state) for attempt in (await task.view()).subtasks["main"].attempts]
            assert attempts[-1] == ("quick", "completed")
            assert ("stuck", "stalled") in attempts
            with anyio.fail_after(60):  # the one that was released was told to stop: its offer names nothing any more
                while any(agent.running for agent in await bus.agents()):
                    await anyio.sleep(0.05)
