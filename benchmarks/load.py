"""`make bench-load`: 100,000 tasks submitted at once to a pool that is far too slow for them.

Two client processes submit as fast as they can, with random priorities; few agents take a fixed time for each task; one coordinator
(`agentexecutor coordinator`, default settings). It tells what the processes held in memory, at how many waiting submits the stream refused
more and how long submitters were blocked, and how long tasks of each priority waited: from the server's stamp of the submit to the stamp of
the record that holds its award, both read from the logs afterwards. `least`: what the ratio of the medians would be if all tasks came at the
same moment and went strictly by priority; no order of service can do better with such a mix.

It reports, it does not judge: no number makes it fail. A task that has not ended does. Progress goes to stderr.

    python benchmarks/load.py                                                 # 100,000 tasks: about four minutes
    python benchmarks/load.py --tasks 10000 --json                            # a short look
    python benchmarks/load.py --pool 200 --priorities 5:10,0:80,-5:10         # a slower pool, another mix (PRIORITY:WEIGHT)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import nats.errors
from measure import child, fresh_server, memory_peak, quit_on_sigterm
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from rich.console import Console
from rich.table import Table

from agentexecutor.agents import Agent
from agentexecutor.bus import connect
from agentexecutor.bus.loop import run_program
from agentexecutor.bus.streams import LOG, SUBMITS
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, from_rfc3339

CLIENTS = 2
AGENTS = 2
CAPACITY = 25
"""Of each agent: the pool has 50 places, and a task takes 50 / `--pool` seconds."""
IN_FLIGHT = 128
STALLED_S = 30.0
MIB = 1 << 20


async def work(url: str, name: str, pool: float) -> None:
    """An agent's process: every task takes its time."""
    agent = Agent(name, capacity=CAPACITY)
    takes_s = AGENTS * CAPACITY / pool

    @agent.capability("bench.slow", estimate_s=takes_s)
    async def slow(n: int) -> int:
        await asyncio.sleep(takes_s)
        return n

    async with connect(url, name=name) as bus, agent.serve(bus, coordinate=False):
        await quit_on_sigterm()


async def submit(url: str, name: str, tasks: int, mix: dict[int, float]) -> None:
    """A client's process: submits, then tells how long that took and the longest that a submit was blocked."""
    numbers = iter(range(tasks))
    draw = random.Random(name)  # noqa: S311  # no secret
    longest = 0.0

    async with connect(url, name=name) as bus:

        async def worker() -> None:
            nonlocal longest
            for n in numbers:
                begun = time.monotonic()
                priority = draw.choices(list(mix), list(mix.values()))[0]
                await bus.submit("bench.slow", {"n": n}, priority=priority, store_timeout_s=None)
                longest = max(longest, time.monotonic() - begun)

        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker())
        said = {"client": name, "seconds": round(time.monotonic() - begun, 1), "longest_block_s": round(longest, 1)}
        await bus.connection.publish("bench.submitted", json.dumps(said).encode(), {})
        await quit_on_sigterm()


@dataclass
class Seen:
    """What is looked at while it runs."""

    ended: int = 0
    moved: float = field(default_factory=time.monotonic)
    waiting: int = 0
    clients: list[dict[str, Any]] = field(default_factory=list)

    async def on_record(self, message: Msg) -> None:
        self.moved = time.monotonic()
        self.ended += (message.headers or {}).get("Ae-State") in {"completed", "failed", "cancelled"}

    async def on_submitted(self, message: Msg) -> None:
        self.clients.append(json.loads(message.data))


async def until_ended(client: Client, tasks: int, limit_s: float) -> Seen:
    """Wait until all have ended, nothing moves any more, or the time is over."""
    seen, js, begun = Seen(), client.jetstream(), time.monotonic()
    await client.subscribe("ae.v1.watch.*.*", cb=seen.on_record, pending_bytes_limit=-1, pending_msgs_limit=-1)
    await client.subscribe("bench.submitted", cb=seen.on_submitted)
    told = 0.0
    while seen.ended < tasks and time.monotonic() - seen.moved < STALLED_S and time.monotonic() - begun < limit_s:
        await asyncio.sleep(0.1)
        try:
            waiting = (await js.stream_info(SUBMITS)).state.messages
        except nats.errors.Error:  # not made yet, or the server is busy
            continue
        seen.waiting = max(seen.waiting, waiting)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{told - begun:.0f} s: {waiting} submits wait in the stream, {seen.ended} tasks have ended", file=sys.stderr)
    return seen


@dataclass
class Story:
    """A task as its log tells it; seconds since 1970 by the server's clock."""

    priority: int
    submitted: float
    taken: float
    awards: list[float]
    ended: float | None


async def stories(client: Client) -> list[Story]:
    """All tasks of the log."""
    js = client.jetstream()
    logs: dict[str, list[tuple[float, r.Record]]] = {}
    puller = await js.pull_subscribe("ae.v1.task.>", stream=LOG, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
    left = (await puller.consumer_info()).num_pending or 0
    while left > 0:
        for message in await puller.fetch(min(left, 500), timeout=10):
            left -= 1
            record = decode_record(message.data)
            stamp = message.metadata.timestamp.timestamp()
            told = [(from_rfc3339(entry.time), entry.record) for entry in record.history] + [(stamp, record)]
            logs.setdefault(message.subject, []).extend(told)
    return [_story(log) for log in logs.values()]


def _story(log: list[tuple[float, r.Record]]) -> Story:
    changes = [(at, change) for at, record in log for change in record.changes]
    first = next(change for _, change in changes if isinstance(change, r.Submitted))
    awards = [at for at, change in changes if isinstance(change, r.Awarded)]
    ended = next((at for at, change in changes if isinstance(change, r.Completed) and change.subtask is None), None)
    return Story(first.submit.priority, first.at, log[0][0], awards, ended)


def most_open(told: list[Story]) -> int:
    """The most tasks that the coordinator had open at a time: taken from the stream, not ended."""
    steps = sorted([(story.taken, 1) for story in told] + [(story.ended, -1) for story in told if story.ended])
    count = most = 0
    for _, step in steps:
        count += step
        most = max(most, count)
    return most


def by_priority(told: list[Story], now: float) -> list[dict[str, Any]]:
    """Waits, highest priority first. Who was never awarded has waited until `now`, at least."""
    begun = min(story.submitted for story in told)
    end = max((story.awards[0] for story in told if story.awards), default=now)
    lines = []
    for priority in sorted({story.priority for story in told}, reverse=True):
        mine = [story for story in told if story.priority == priority]
        waits = sorted((story.awards[0] if story.awards else now) - story.submitted for story in mine)
        tenths = Counter(min(9, int(10 * (story.awards[0] - begun) / (end - begun))) for story in mine if story.awards)
        line = {
            "priority": priority,
            "tasks": len(mine),
            "awarded": sum(bool(story.awards) for story in mine),
            "median_s": round(statistics.median(waits), 2),
            "p90_s": round(waits[int(0.9 * (len(waits) - 1))], 2),
            "longest_s": round(waits[-1], 2),
            "awards_by_tenth_of_the_run": [tenths[tenth] for tenth in range(10)],
        }
        lines.append(line)
    return lines


def least(lines: list[dict[str, Any]]) -> float:
    """The least ratio of the medians that any order reaches when all come at once."""
    tasks = [int(line["tasks"]) for line in lines]
    return (tasks[0] / 2) / (sum(tasks) - tasks[-1] / 2)


async def bench(tasks: int, pool: float, mix: dict[int, float], limit_s: float) -> dict[str, Any]:
    """Start the others, wait, read the logs."""
    program = str(Path(sys.executable).with_name("agentexecutor"))
    me = (sys.executable, __file__, "--pool", str(pool), "--priorities", ",".join(f"{key}:{value}" for key, value in mix.items()))
    async with AsyncExitStack() as stack:
        url, server = await stack.enter_async_context(fresh_server())
        client = await nats.connect(url)
        stack.push_async_callback(client.close)
        coordinator = await stack.enter_async_context(child(program, "coordinator", "--nats", url))
        for number in range(AGENTS):
            await stack.enter_async_context(child(*me, "--role", f"agent-{number}", "--nats", url))
        begun = time.monotonic()
        for number in range(CLIENTS):
            mine = tasks // CLIENTS + (number < tasks % CLIENTS)
            await stack.enter_async_context(child(*me, "--role", f"client-{number}", "--tasks", str(mine), "--nats", url))
        seen = await until_ended(client, tasks, limit_s)
        took, now = time.monotonic() - begun, time.time()
        memory = {"coordinator": memory_peak(coordinator), "server": memory_peak(server)}
        limit = (await client.jetstream().stream_info(SUBMITS)).config.max_msgs
        told = await stories(client)
    lines = by_priority(told, now)
    return {
        "tasks": tasks,
        "ended": sum(story.ended is not None for story in told),
        "awarded_more_than_once": sum(len(story.awards) > 1 for story in told),
        "seconds": round(took, 1),
        "ended_per_s": round(seen.ended / took, 1),
        "memory_peak_mib": {name: round(size / MIB, 1) for name, size in memory.items()},
        "most_open": most_open(told),
        "most_waiting_in_stream": seen.waiting,
        "stream_limit": limit,
        "clients": seen.clients,
        "ratio_of_medians": round(lines[0]["median_s"] / lines[-1]["median_s"], 4),
        "least": round(least(lines), 4),
        "waits": lines,
    }


def show(found: dict[str, Any]) -> None:
    """Tables for people, on stdout."""
    console = Console()
    table = Table("", "", title="load", title_justify="left")
    for name, value in found.items():
        if name != "waits":
            table.add_row(name, str(value))
    console.print(table)
    waits = Table(*found["waits"][0], title="waits by priority", title_justify="left")
    for line in found["waits"]:
        waits.add_row(*map(str, line.values()))
    console.print(waits)


def mix_of(text: str) -> dict[int, float]:
    """``5:2,0:60`` → {5: 2.0, 0: 60.0}."""
    pairs = (part.split(":") for part in text.split(","))
    return {int(priority): float(weight) for priority, weight in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="how many (default 100,000)")
    parser.add_argument("--pool", type=float, default=500.0, help="tasks that the pool can do in a second (default 500)")
    parser.add_argument("--priorities", type=mix_of, default=mix_of("5:2,1:8,0:60,-1:20,-5:10"), help="PRIORITY:WEIGHT,...")
    parser.add_argument("--limit", type=float, default=3600.0, help="give up after so many seconds (default 3600)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--nats", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role.startswith("agent"):
        run_program(work, asked.nats, asked.role, asked.pool)
    elif asked.role:
        run_program(submit, asked.nats, asked.role, asked.tasks, asked.priorities)
    else:
        found = asyncio.run(bench(asked.tasks, asked.pool, asked.priorities, asked.limit))
        if asked.json:
            print(json.dumps(found))
        else:
            show(found)
        if found["ended"] != asked.tasks:
            sys.exit(f"{asked.tasks - found['ended']} tasks have not ended.")


if __name__ == "__main__":
    main()
