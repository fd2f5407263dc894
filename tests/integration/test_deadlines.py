"""Deadlines expire with nobody running the task: in memory or parked, after a take-over, and late when no coordinator was there in time."""

from __future__ import annotations

import dataclasses
import os
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from peers import QUICK, Peer, Place, agent, client, coordinating, killable
from programs import killed

from agentexecutor.bus import EmbeddedServer, TaskFailed, connect
from agentexecutor.schemas import Plan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.names import TaskName

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")

NOTHING = b'{"unserved":[],"stalled":[]}'
"""What is unserved when all is over."""


async def expired(me: Peer, task: TaskName, deadline_s: float, about: str = "The task") -> dict[str, str]:
    """The task has failed by its deadline (or that of a subtask), and not before; gives the states of its subtasks."""
    result = await me.result(task)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == "deadline"
    assert result.error.message.startswith(about), result.error.message
    answer = await me.ask("task", task, what="log")
    records = (await me.value(task, answer, "body"))["records"]
    (submitted,) = [change["at"] for entry in records for change in entry["record"]["changes"] if change["kind"] == "submitted"]
    assert from_rfc3339(records[-1]["time"]) >= submitted + deadline_s, "by the server's stamps"
    view = await me.view(task)
    return {name: subtask.state for name, subtask in view.subtasks.items()}


def plan(**subtasks: Subtask) -> m.PlanSpec:
    return Plan(dict(subtasks)).spec()


SHARED = Subtask("nobody.does", {"texts": ["a", "b"]}, split=Split(over="texts", into=2, merge="nobody.merges"))
SPLIT = plan(
    split=SHARED,
    later=Subtask("nobody.does", after=["split"]),
)


async def test_without_any_agent(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        task = await me.submit("t1", plan=SPLIT, deadline_s=3.0)
        await me.until(task, lambda view: "split-merge" in view.subtasks)
        assert await expired(me, task, 3.0) == dict.fromkeys(("split", "split-1", "split-2", "split-merge", "later"), "cancelled")
        assert bytes((await me.ask("unserved")).body) == NOTHING, "nobody is asked for it any more"


async def test_of_a_subtask_that_nobody_runs(place: Place) -> None:
    """One that is blocked, one whose shares wait, one whose failure is passed over."""
    blocked = plan(first=Subtask("echo"), second=Subtask("echo", after=["first"], deadline_s=3.0))
    shared = plan(split=dataclasses.replace(SHARED, deadline_s=3.0), other=Subtask("nobody.does"))
    passed = plan(one=Subtask("nobody.does", deadline_s=3.0, on_failure="skip"), two=Subtask("echo", after=["one"]))
    async with coordinating(place), agent(place, "a1", "echo", capacity=9) as a1, client(place) as me:
        tasks = [await me.submit(f"t{n}", plan=given) for n, given in enumerate((blocked, shared, passed))]
        award = await a1.award("first")
        await a1.accept(award)
        assert await expired(me, tasks[0], 3.0, "Subtask 'second'") == {"first": "cancelled", "second": "failed"}
        assert (await a1.expect("cancel")).epoch == award.epoch
        states = await expired(me, tasks[1], 3.0, "Subtask 'split")
        assert states.pop("split") == "failed"
        assert set(states.values()) <= {"cancelled", "failed"}
        await a1.done(await a1.award("two"), "went on")
        assert (await me.result(tasks[2])).state == "completed"


async def test_of_tasks_that_have_left_memory(place: Place) -> None:
    """Parked ones are loaded to expire, or to be cancelled; nothing of them is left then."""
    small = dataclasses.replace(QUICK, open_tasks=200)
    async with coordinating(place, settings=small) as coordinator, client(place) as me:
        of_subtask = plan(one=Subtask("nobody.does", deadline_s=10.0), two=Subtask("nobody.does"))
        whole = [await me.submit(f"t{n}", capability="nobody.does", deadline_s=10.0) for n in range(40)]
        parts = [await me.submit(f"s{n}", plan=of_subtask) for n in range(40)]
        for_ever = [await me.submit(f"e{n}", capability="nobody.does") for n in range(40)]
        with anyio.fail_after(60):
            while not (len(coordinator._tasks) == 120 and coordinator._tasks.active <= 100):
                await anyio.sleep(0.02)
        for task in for_ever:
            await me.claim("cancel", task, m.CancelTask(reason="enough"))
        for task in for_ever:
            assert (await me.result(task)).state == "cancelled"
        for task in whole:
            assert await expired(me, task, 10.0) == {"main": "cancelled"}
        for task in parts:
            assert await expired(me, task, 10.0, "Subtask 'one'") == {"one": "failed", "two": "cancelled"}
        assert bytes((await me.ask("unserved")).body) == NOTHING
        with anyio.fail_after(60):
            while len(coordinator._tasks):
                await anyio.sleep(0.02)
        assert coordinator._desk.next_due() is None, "no timer is left"
        assert coordinator.counters["faults"] == 0


@pytest.mark.parametrize("when", ["before the deadline", "after the deadline"])
async def test_another_coordinator_comes(place: Place, when: str) -> None:
    """The first ends without a goodbye; the next one expires what is due, also a child that was added, and stops who runs something."""
    deadline_s = 8.0  # all is under way before it, also on a slow machine
    async with client(place) as me, agent(place, "a1", "echo", capacity=9) as a1:
        async with killable(place, "first") as (_, victim):
            idle = await me.submit("idle", plan=SPLIT, deadline_s=deadline_s)
            busy = await me.submit("busy", capability="echo", deadline_s=deadline_s)
            running = await a1.award()
            await a1.accept(running)
            parent = await me.submit("parent", plan=plan(top=Subtask("echo")))
            top = await a1.award("top")
            await a1.accept(top)
            child = m.SubtaskSpec(capability="nobody.does", deadline_s=deadline_s)
            await a1.claim("extend", parent, m.Extend(subtask="top", epoch=top.epoch, boot=a1.boot, call=1, child=child))
            await me.until(idle, lambda view: "split-merge" in view.subtasks)
            await me.until(busy, lambda view: view.subtasks["main"].state == "running")
            await me.until(parent, lambda view: "top-1" in view.subtasks)
            victim.cancel()
        if when == "after the deadline":
            await anyio.sleep(deadline_s)
        async with coordinating(place, "second") as second:
            assert await expired(me, busy, deadline_s) == {"main": "cancelled"}
            assert (await a1.expect("cancel")).epoch == running.epoch
            assert set((await expired(me, idle, deadline_s)).values()) == {"cancelled"}
            ended = await a1.expect("result")
            assert (ended.subtask, ended.call, ended.state, ended.error.code) == ("top", 1, "failed", "deadline")
            await a1.done(top, "without it")
            assert bytes((await me.result(parent)).result) == b'"without it"'
            assert {name for name, _ in await me.story(idle)} == {"first", "second"}
            assert second.counters["faults"] == 0


@asynccontextmanager
async def coordinator_program(url: str, name: str) -> AsyncIterator[Process]:
    """`agentexecutor coordinator` as a process; what is left of it is killed."""
    environment = os.environ | {"AGENTEXECUTOR_NATS_URL": url, "AGENTEXECUTOR_NAME": name}
    async with killed(await anyio.open_process([PROGRAM, "coordinator"], env=environment, stdout=None, stderr=None)) as process:
        yield process


async def test_a_killed_process_and_the_next_one(server: EmbeddedServer) -> None:
    """Who waits is told by the next process, and so is who asks only when all is over."""
    async with connect(server.url, name="me") as bus:
        async with coordinator_program(server.url, "first") as first:
            soon = await bus.submit("nobody.does", deadline_s=1.0)
            later = await bus.submit("nobody.does", deadline_s=5.0)
            with anyio.fail_after(60):
                while {(await task.state()).state for task in (soon, later)} - {"running", "failed"}:
                    await anyio.sleep(0.05)
            first.kill()
            await first.wait()
        async with coordinator_program(server.url, "second") as second:
            for task in (soon, later):
                with pytest.raises(TaskFailed, match="deadline") as raised:
                    await task.result(timeout_s=60)
                assert raised.value.fields["error"].code == "deadline"
                assert (await bus.task(task.name).view()).subtasks["main"].state == "cancelled"
            second.terminate()
            assert await second.wait() == 0
