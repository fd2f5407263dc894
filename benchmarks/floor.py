"""The floor: AgentExecutor's wire by hand in plain nats-py, and nothing else.

One coordinator, one agent and one client, each a process. A no-op task goes: submit (stored in a work queue) -> a fenced append to
the task's log -> award -> done (stored in a work queue) -> the last record, with history, roll-up and TTL -> result. Everything
stored is acknowledged, everything taken from a queue is acknowledged explicitly, headers are those of docs/protocol.md, storage is file.
There is no auction, no lease, no offer, no timer, no recovery: what is left is the price of the wire in this language.

    python benchmarks/floor.py             prints one JSON object
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats
from measure import Load, child, fresh_server, measure, options, quit_on_sigterm, report
from nats.aio.client import Client
from nats.aio.msg import Msg

from agentexecutor.bus.loop import run_program
from agentexecutor.bus.streams import INBOX, LOG, SUBMITS, stream_settings
from agentexecutor.schemas.subjects import DEFAULT_PREFIX

STREAMS = [settings for settings in stream_settings(DEFAULT_PREFIX, 16, 1) if settings["name"] in {SUBMITS, INBOX, LOG}]
"""The definitions are AgentExecutor's own, so both sides have the same; all else here is by hand."""

KEEP = "604800"
BOOT = "1763892000123-x7Gh2kQa"
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def headers(kind: str, message: Msg | None = None) -> dict[str, str]:
    """Type, random id, trace context (handed on where there is a message to take it from)."""
    trace = (message.headers or {}).get("traceparent") if message else None
    return {"Ae-Type": kind, "Ae-Id": os.urandom(11).hex(), "traceparent": trace or f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"}


def in_background(group: asyncio.TaskGroup, work: Callable[[Msg], Coroutine[Any, Any, None]]) -> Callable[[Msg], Coroutine[Any, Any, None]]:
    """nats-py calls back one message after another: each is worked on in a task of its own."""

    async def called(message: Msg) -> None:
        group.create_task(work(message))

    return called


async def consume(client: Client, stream: str, work: Callable[[Msg], Coroutine[Any, Any, None]]) -> None:
    """A push consumer with explicit acknowledgements."""
    deliver = client.new_inbox()
    await client.subscribe(deliver, cb=work)
    config = {"deliver_subject": deliver, "ack_policy": "explicit", "deliver_policy": "all", "max_ack_pending": 20_000, "max_deliver": -1}
    answer = await client.request(f"$JS.API.CONSUMER.CREATE.{stream}", encode({"stream_name": stream, "config": config}))
    if "error" in decode(answer.data):
        raise RuntimeError(f"{stream}: {answer.data.decode()}")


class Coordinator:
    """Two appends a task."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.js = client.jetstream()
        self.logs: dict[str, tuple[str, int, bytes, str, str]] = {}

    async def append(self, subject: str, payload: bytes, head: dict[str, str], expected: int) -> int:
        head["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        future = await self.js.publish_async(subject, payload, headers=head)
        return (await future).seq

    async def submitted(self, message: Msg) -> None:
        _, _, _, shard, _, owner, task_id = message.subject.split(".")
        task, at, head = f"{owner}.{task_id}", now(), headers("record", message)
        submit, digest = decode(message.data), hashlib.sha256(message.data).hexdigest()
        spec = {"capability": submit["capability"], "input": submit["input"]}
        bid = {"agent": "agent", "boot": BOOT, "epoch": 1, "score": 0.0, "won": True, "reason": "the only one", "capacity": 512}
        record = encode(
            {
                "coordinator": "coordinator",
                "at": at,
                "changes": [
                    {"kind": "submitted", "submit": submit, "digest": digest, "at": 1.0, "traceparent": head["traceparent"]},
                    {"kind": "planned", "version": 1, "cause": "submit", "add": {"main": spec}},
                    {"kind": "ready", "subtasks": ["main"]},
                    {"kind": "awarded", "subtask": "main", "epoch": 1, "agent": "agent", "boot": BOOT, "bids": [bid], "considered": 1},
                ],
                "applied": [(message.headers or {})["Ae-Id"]],
            }
        )
        subject = f"ae.v1.task.{shard}.{owner}.{task_id}"
        seq = await self.append(subject, record, head | {"Ae-State": "running"}, 0)
        self.logs[task] = (subject, seq, record, at, digest)
        award = {"task": task, "subtask": "main", "capability": spec["capability"], "epoch": 1, "boot": BOOT, "input": spec["input"]}
        await self.client.publish(f"ae.v1.to.agent.award.{task}", encode(award), headers=headers("award", message))
        await message.ack()

    async def claimed(self, message: Msg) -> None:
        owner, task_id = message.subject.split(".")[5:7]
        task = f"{owner}.{task_id}"
        subject, seq, first, at, digest = self.logs.pop(task)
        done = decode(message.data)
        last = encode(
            {
                "coordinator": "coordinator",
                "at": now(),
                "changes": [
                    {"kind": "completed", "subtask": "main", "epoch": 1, "agent": "agent", "result": done["result"]},
                    {"kind": "completed", "of": "main"},
                ],
                "applied": [(message.headers or {})["Ae-Id"]],
                "history": [{"seq": seq, "time": at, "record": msgspec.Raw(first)}],
                "digest": digest,
            }
        )
        head = headers("record", message) | {"Ae-State": "completed", "Nats-Rollup": "sub", "Nats-TTL": KEEP}
        await self.append(subject, last, head, seq)
        result = {"task": task, "state": "completed", "result": done["result"]}
        await self.client.publish(f"ae.v1.to.{owner}.result.{task}", encode(result), headers=headers("result", message))
        await message.ack()


async def coordinate(url: str) -> None:
    """The coordinator's process."""
    client = await nats.connect(url)
    for stream in STREAMS:
        answer = await client.request(f"$JS.API.STREAM.CREATE.{stream['name']}", encode(stream))
        if "error" in decode(answer.data):
            raise RuntimeError(answer.data.decode())
    coordinator = Coordinator(client)
    async with asyncio.TaskGroup() as group:
        await consume(client, INBOX, in_background(group, coordinator.claimed))
        await consume(client, SUBMITS, in_background(group, coordinator.submitted))
        await say_ready(client, "coordinator")
        await quit_on_sigterm()
    await client.close()


async def work(url: str) -> None:
    """The agent's process: every award is done at once."""
    client = await nats.connect(url)

    async def awarded(message: Msg) -> None:
        award = decode(message.data)
        done = {"subtask": award["subtask"], "epoch": award["epoch"], "boot": award["boot"], "result": award["input"]["n"], "took_s": 0.0}
        subject = f"ae.v1.from.agent.done.{award['task']}"
        await client.request(subject, encode(done), timeout=5, headers=headers("done", message))

    async with asyncio.TaskGroup() as group:
        await client.subscribe("ae.v1.to.agent.>", cb=in_background(group, awarded))
        await say_ready(client, "agent")
        await quit_on_sigterm()
    await client.close()


class Submitter:
    """The client: submits, and waits for the result."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self.count = 0

    async def on_result(self, message: Msg) -> None:
        result = decode(message.data)
        self.waiting.pop(result["task"]).set_result(result["result"])

    async def one(self) -> None:
        self.count += 1
        task_id, n = os.urandom(11).hex(), self.count
        result = self.waiting[f"client.{task_id}"] = asyncio.get_running_loop().create_future()
        submit = encode({"capability": "bench.noop", "input": {"n": n}})
        stored = await self.client.request(f"ae.v1.submit.client.normal.{task_id}", submit, timeout=5, headers=headers("submit"))
        if "error" in decode(stored.data):
            raise RuntimeError(stored.data.decode())
        if await result != n:
            raise RuntimeError("a wrong result")


async def say_ready(client: Client, role: str) -> None:
    """Answer to `ready.<role>` from now on."""

    async def asked(message: Msg) -> None:
        await message.respond(b"")

    await client.subscribe(f"ready.{role}", cb=asked)


async def all_ready(client: Client) -> None:
    """Wait for the two other processes."""
    for role in ("coordinator", "agent"):
        for _ in range(400):
            try:
                await client.request(f"ready.{role}", timeout=5)
                break
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.05)
        else:
            raise RuntimeError(f"the {role} did not start")


async def bench(seconds: float, in_flight: list[int], sync: str | None) -> None:
    """Start the others, load them, print the numbers."""
    me = (sys.executable, __file__)
    async with (
        fresh_server(sync) as (url, server),
        child(*me, "--role", "coordinator", "--nats", url) as coordinator,
        child(*me, "--role", "agent", "--nats", url) as agent,
    ):
        client = await nats.connect(url)
        submitter = Submitter(client)
        await client.subscribe("ae.v1.to.client.>", cb=submitter.on_result)
        await all_ready(client)
        pids = {"server": server, "coordinator": coordinator, "agent": agent, "client": os.getpid()}
        loads = [await measure(submitter.one, Load(seconds, count), pids) for count in in_flight]
        await check(client, submitter.count)
        report("floor", loads)
        await client.close()


async def check(client: Client, tasks: int) -> None:
    """Nothing was left out: the queues are empty, and the log holds one rolled-up message a task."""
    wanted = {SUBMITS: 0, INBOX: 0, LOG: tasks}
    for _ in range(20):  # the last acknowledgements may be on their way
        held = {name: decode((await client.request(f"$JS.API.STREAM.INFO.{name}", timeout=5)).data)["state"]["messages"] for name in wanted}
        if held == wanted:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the streams hold {held}, expected {wanted}")


def main() -> None:
    asked = options(__doc__ or "").parse_args()
    if asked.role == "coordinator":
        run_program(coordinate, asked.nats)
    elif asked.role == "agent":
        run_program(work, asked.nats)
    else:
        run_program(bench, asked.seconds, asked.in_flight, asked.sync)


if __name__ == "__main__":
    main()
