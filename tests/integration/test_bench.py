"""`agentexecutor bench` as people run it: on a bus that is theirs, with agents that are theirs or its own, stopped on the way. Numbers are not judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from anyio.to_thread import run_sync

from agentexecutor.agents import Agent, Fail
from agentexecutor.bus import Bus, EmbeddedServer, connect

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
LONG = 240
"""Seconds after which something hangs."""
QUICK = ("--tasks", "6", "--in-flight", "1,3", "--json")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def lines(self, measure: str) -> list[dict[str, Any]]:
        """What was told of one kind."""
        return [line for line in map(json.loads, self.out.splitlines()) if line["measure"] == measure]


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_"))}
    environment = kept | {"AGENTEXECUTOR_NATS_URL": url, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([PROGRAM, "bench", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def ended(process: subprocess.Popen[str]) -> Ran:
    try:
        out, err = await run_sync(partial(process.communicate, timeout=LONG))
    finally:
        process.kill()
        process.wait()
    return Ran(process.returncode, out, err)


async def bench(url: str, *arguments: str) -> Ran:
    return await ended(start(url, *arguments))


async def stored(url: str) -> dict[str, int]:
    """Stream → messages, of those that hold tasks, and of streams that are not ours."""
    client = await nats.connect(url)
    try:
        found = {info.config.name or "": info.state.messages for info in await client.jetstream().streams_info()}
    finally:
        await client.close()
    return {name: count for name, count in found.items() if name not in ("AE_LEASE", "AE_OFFERS")}


NOTHING = dict.fromkeys(("AE_SUBMITS", "AE_INBOX", "AE_LOG", "AE_PROGRESS", "AE_BLOBS"), 0)

mine = Agent("mine", capacity=2)


@mine.capability("double")
async def double(x: int) -> int:
    if x < 0:
        raise Fail("negative")
    return 2 * x


@mine.capability("sometimes")
async def sometimes(odd: list[int]) -> None:
    odd.append(0)
    calls.append(len(calls))
    if len(calls) % 4 == 0:
        raise Fail("every fourth")


@mine.capability("wait")
async def wait() -> None:
    waiting["begun"].set()
    try:
        await anyio.sleep_forever()
    finally:
        waiting["ended"].set()


calls: list[int] = []
waiting: dict[str, anyio.Event] = {}


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    """A bus with a coordinator and an agent of the user's."""
    calls.clear()
    waiting.update(begun=anyio.Event(), ended=anyio.Event())
    async with connect(server.url, name="me") as connected, mine.serve(connected):
        assert await connected.run("double", {"x": 1}) == 2
        yield connected


async def test_its_own_agents_come_and_go_and_nothing_stays(bus: Bus) -> None:
    before = await stored(bus.connection.url)
    ran = await bench(bus.connection.url, *QUICK, "--agents", "3")
    assert (ran.code, ran.err) == (0, "")
    (setup,) = ran.lines("setup")
    assert (setup["agents"], setup["own_agents"], setup["input_bytes"]) == (3, True, len('{"data":""}') + 32)
    assert [(line["what"], line["in_flight"]) for line in ran.lines("floor")] == [
        ("request", 1),
        ("request", 3),
        ("append", 1),
        ("append", 3),
    ]
    tasks = ran.lines("tasks")
    assert [(line["auction"], line["in_flight"], line["done"], line["failed"]) for line in tasks] == [
        ("auto", 1, 6, {}),
        ("auto", 3, 6, {}),
    ]
    for line in tasks:
        assert 0 < line["stored_median_ms"] < line["median_ms"] <= line["p90_ms"] <= line["p99_ms"] <= line["max_ms"]
        assert line["ratio"]["request"] > 0
        assert line["ratio"]["append"] > 0
        assert not line["interrupted"]
    (left,) = ran.lines("left")
    assert (left["tasks"], left["unfinished"]) == (0, 0)
    assert await stored(bus.connection.url) == before, "its own stream is gone, and so are its tasks"


async def test_messages_are_counted_by_auction(bus: Bus) -> None:
    """Standing offers: the same number for any number of agents; a call to all: one more for each."""
    ran = await bench(bus.connection.url, *QUICK, "--agents", "5", "--auction", "standing", "--auction", "broadcast")
    standing, broadcast = ran.lines("messages")
    assert (standing["auction"], broadcast["auction"]) == ("standing", "broadcast")
    assert standing["agents"] == broadcast["agents"] == 5
    for line in (standing, broadcast):
        per_task = line["per_task"]
        assert (per_task["submit"], per_task["from.done"]) == (1.0, 1.0)
        assert per_task["task"] >= 2
        assert per_task["to.award"] >= 1
        assert per_task["to.result"] >= 1
        assert line["published"] == pytest.approx(sum(per_task.values()), abs=0.05)
        assert line["offers_per_s"] > 0
    assert not {"call", "to.call", "bid"} & set(standing["per_task"])
    assert standing["delivered"] == standing["published"]
    assert broadcast["per_task"]["call"] >= 1
    assert broadcast["per_task"]["bid"] >= 5
    assert broadcast["delivered"] - broadcast["published"] == pytest.approx(4 * broadcast["per_task"]["call"], abs=0.05)


async def test_the_user_s_agents_are_measured_and_too_few_slots_are_told(bus: Bus) -> None:
    before = await stored(bus.connection.url)
    ran = await bench(bus.connection.url, *QUICK, "--capability", "double", "--input", '{"x": 3}')
    assert ran.code == 0
    (setup,) = ran.lines("setup")
    assert (setup["capability"], setup["agents"], setup["slots"], setup["own_agents"]) == ("double", 1, 2, False)
    assert "Warning: The 1 agent for double can do 2 at once; with 3 in flight" in ran.err
    assert [line["done"] for line in ran.lines("tasks")] == [6, 6]
    assert await stored(bus.connection.url) == before


async def test_bodies_by_reference_are_counted_and_removed(bus: Bus) -> None:
    ran = await bench(bus.connection.url, "--tasks", "2", "--in-flight", "1", "--payload", "300000", "--auction", "standing", "--json")
    assert (ran.code, ran.err) == (0, "")
    (line,) = ran.lines("messages")
    assert line["per_task"]["blob"] == 4.0, "two chunks of the input, two of the result"
    assert (await stored(bus.connection.url))["AE_BLOBS"] == 0


async def test_without_agents_nothing_is_submitted(bus: Bus) -> None:
    before = await stored(bus.connection.url)
    ran = await bench(bus.connection.url, "--capability", "nobody.does", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "No agent offers nobody.does" in ran.err
    assert await stored(bus.connection.url) == before


async def test_a_task_that_cannot_be_done_ends_it_and_can_be_looked_at(bus: Bus) -> None:
    ran = await bench(bus.connection.url, "--capability", "double", "--input", '{"x": -1}', "--json")
    assert ran.code == 1
    assert "negative" in ran.err
    (left,) = ran.lines("left")
    assert left["tasks"] == 1
    assert "1 did not complete" in left["text"]
    (task,) = [line for line in (await bus.tasks()).tasks if line.task.startswith("bench-")]
    assert task.state == "failed"


async def test_failures_are_counted_and_kept(bus: Bus) -> None:
    ran = await bench(
        bus.connection.url, "--capability", "sometimes", "--input", '{"odd": []}', "--tasks", "8", "--in-flight", "1", "--json"
    )
    assert ran.code == 1
    (line,) = ran.lines("tasks")
    assert line["failed"] == {"handler": 2}
    assert line["done"] == 6
    (left,) = ran.lines("left")
    assert left["tasks"] == len([line for line in (await bus.tasks(limit=1000)).tasks if line.task.startswith("bench-")])


async def test_what_shall_be_kept_is_kept(bus: Bus) -> None:
    ran = await bench(bus.connection.url, "--tasks", "2", "--in-flight", "1", "--auction", "standing", "--keep", "--json")
    (left,) = ran.lines("left")
    assert (ran.code, left["tasks"]) == (0, 6), "one to see, one to warm up, two and two"
    assert (await stored(bus.connection.url))["AE_LOG"] == 6 + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_cancels_what_is_under_way_and_tells_what_there_is(bus: Bus, number: signal.Signals) -> None:
    before = await stored(bus.connection.url)
    process = start(bus.connection.url, "--seconds", "600", "--in-flight", "2")
    assert process.stdout is not None
    heard = await bus.connection.nats.subscribe(f"{bus.connection.prefix}.submit.*.*.*")
    first = await run_sync(process.stdout.readline)
    assert "4 agents of the bench's own" in first
    with anyio.fail_after(LONG):
        for _ in range(20):  # the first, two to warm up: now it is measuring
            await heard.next_msg(timeout=LONG)
    await heard.unsubscribe()
    process.send_signal(number)
    ran = await ended(process)
    assert ran.code == 128 + number
    assert "Interrupted" in ran.err
    assert "task (auto), 2 at once: interrupted." in ran.out
    assert "Nothing stays" in ran.out
    assert await stored(bus.connection.url) == before


async def test_an_interruption_while_agents_work_cancels_their_work(bus: Bus) -> None:
    before = await stored(bus.connection.url)
    process = start(bus.connection.url, "--capability", "wait", "--json")
    with anyio.fail_after(LONG):
        await waiting["begun"].wait()
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert ran.code == 130
    with anyio.fail_after(LONG):
        await waiting["ended"].wait()
    (left,) = ran.lines("left")
    assert (left["tasks"], left["unfinished"]) == (0, 0)
    assert await stored(bus.connection.url) == before


async def test_a_bus_without_coordinators_is_left_as_it_is(server: EmbeddedServer) -> None:
    ran = await bench(server.url, "--json")
    assert (ran.code, ran.out) == (3, "")
    assert "No coordinator answered" in ran.err
    assert await stored(server.url) == {}


async def test_without_a_bus_it_says_how_to_get_one() -> None:
    ran = await bench("nats://127.0.0.1:1")
    assert (ran.code, ran.out) == (3, "")
    assert "No NATS server answers" in ran.err


async def test_embedded_needs_nothing() -> None:
    ran = await bench("nats://127.0.0.1:1", "--embedded", "--tasks", "4", "--in-flight", "2", "--agents", "2")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("2 agents of the bench's own, on an embedded NATS ")
    for word in ("request", "append", "task (auto)", "Messages a task", "standing", "call", "broadcast", "award", "Nothing stays"):
        assert word in ran.out
