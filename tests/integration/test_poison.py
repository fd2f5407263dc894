"""An input that kills every agent that gets it is given up after `losses`, with its history; the pool lives on and does the rest."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import anyio.abc
import pytest
from peers import QUICK, Place, coordinating
from programs import killed

from agentexecutor.bus import TaskFailed, connect
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.bus.task import Task

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
FRAGILE = f"{Path(__file__).parent / 'programs' / 'fragile.py'}:agent"
SETTINGS = dataclasses.replace(QUICK, heartbeat_s=1.0, accept_timeout_s=2.0, lost_after_s=3.5)
"""The agents beat once a second. Who dies before it accepts is silent for 3 s at most when the accept is overdue: not yet dead."""
AT_ONCE = {"food": "poison"}
WHILE_RUNNING = {"food": "poison", "after_s": 0.3}


class Pool:
    """Agent processes, each of which is started again as soon as it dies, as a supervisor does. `deaths`: how many were."""

    def __init__(self, url: str) -> None:
        self.deaths = 0
        self._environment = {**os.environ, "AGENTEXECUTOR_NATS_URL": url}

    async def keep(self, *options: str) -> None:
        """One process after another."""
        while True:
            command = [PROGRAM, "agent", FRAGILE, "--no-coordinate", *options]
            process = await anyio.open_process(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            async with killed(process):
                assert await process.wait() == -signal.SIGKILL
                self.deaths += 1


@asynccontextmanager
async def pool(url: str, *, named: bool) -> AsyncIterator[Pool]:
    """Three agents that come back under their own names, or each time under another."""
    made = Pool(url)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(made.keep, *(("--name", f"fragile-{number}") if named else ()))
        yield made
        group.cancel_scope.cancel()


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_poison_is_given_up_and_the_pool_lives_on(server: EmbeddedServer, named: bool) -> None:
    async with (
        coordinating(Place(server.url), settings=SETTINGS) as coordinator,
        pool(server.url, named=named) as agents,
        connect(server.url, name="me") as bus,
        anyio.create_task_group() as group,
    ):
        poison = [await bus.submit("digest", food) for food in (AT_ONCE, WHILE_RUNNING)]
        eaten = 0

        async def eat() -> None:
            nonlocal eaten
            for number in count():
                try:
                    assert await bus.run("digest", {"food": f"meal {number}"}, type=str) == f"digested meal {number}"
                except TaskFailed as error:
                    if error.error.code != "lost":  # five times it was beside the poison
                        raise
                else:
                    eaten += 1

        group.start_soon(eat)
        with anyio.fail_after(120):
            for task in poison:
                await given_up(task)
        assert eaten > 0, "the pool worked all the time"
        assert agents.deaths >= SETTINGS.losses, "one process can die of both"
        before = eaten
        with anyio.fail_after(60):
            while eaten < before + 20:
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
        assert coordinator.counters["faults"] == 0


async def given_up(task: Task) -> None:
    """The task fails as lost, and its story names every process that died of it."""
    with pytest.raises(TaskFailed, match="the last allowed") as failed:
        await task.result()
    assert failed.value.error.code == "lost"
    view = await task.view()
    main = view.subtasks["main"]
    lost = [attempt for attempt in main.attempts if attempt.state == "lost"]
    assert (view.state, main.state, len(lost)) == ("failed", "failed", SETTINGS.losses)
    assert len({(attempt.agent, attempt.boot) for attempt in lost}) == SETTINGS.losses, "each life of an agent is lost once"
    assert [attempt.epoch for attempt in main.attempts] == sorted({attempt.epoch for attempt in main.attempts})
    assert all(attempt.error is not None and attempt.error.code == "lost" for attempt in lost)
