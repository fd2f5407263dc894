"""What a power cut takes, and what comes of it: the server goes on with a folder as it was a moment before.

A server that writes through only every so often (`sync_interval`) loses what it has acknowledged since; here the copy of its folder stands for the disk.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import Task, connect
from agentexecutor.bus.server import EmbeddedServer, embedded_server

pytestmark = pytest.mark.anyio


def copy(server: EmbeddedServer, to: Path) -> None:
    """The folder as it is now; meanwhile the server stands still."""
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        shutil.copytree(server.store, to)
    finally:
        os.killpg(server.pid, signal.SIGCONT)


async def test_what_a_power_cut_takes_and_what_it_cannot(tmp_path: Path) -> None:
    agent, ran, released = Agent("worker", capacity=10), list[str](), anyio.Event()

    @agent.capability("work")
    async def work(ctx: Context, wait: bool) -> str:
        ran.append(str(ctx.task))
        if wait:
            await released.wait()
        return str(ctx.task)

    async with AsyncExitStack() as stack:
        async with embedded_server(tmp_path / "lost") as server:
            bus = await stack.enter_async_context(connect(server.url, name="me"))
            await stack.enter_async_context(agent.serve(bus))
            before = await bus.submit("work", {"wait": False}, id="before")
            assert await before.result(str) == "me.before"
            across = await bus.submit("work", {"wait": True}, id="across")
            while "me.across" not in ran:
                await anyio.sleep(0.01)
            copy(server, tmp_path / "kept")
            told = await bus.submit("work", {"wait": False}, id="told")
            assert await told.result(str) == "me.told"
            waited = await bus.submit("work", {"wait": True}, id="waited")
            while "me.waited" not in ran:
                await anyio.sleep(0.01)
        await stack.enter_async_context(embedded_server(tmp_path / "kept", server.port))

        async with anyio.create_task_group() as group:
            results = dict[str, str]()

            async def wait(task: Task) -> None:
                results[task.name] = await task.result(str)

            group.start_soon(wait, across)
            group.start_soon(wait, waited)
            released.set()
        assert results == {"me.across": "me.across", "me.waited": "me.waited"}, "who waits is told: what is gone was submitted again"
        assert (await before.state(timeout_s=60)).state == "completed", "what was written through stays"
        assert (await told.state(timeout_s=60)).state == "unknown", "its owner was told a result that no log knows any more"
        assert [ran.count(name) for name in ("me.before", "me.told")] == [1, 1]
        for task in (across, waited):
            view = await task.view()
            assert [event.kind async for event in task.events()].count("completed") == 2, "one for the subtask, one for the task"
            assert view.subtasks["main"].attempts[-1].state == "completed"
