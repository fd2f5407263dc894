"""What both benchmarks share: one way to load a system, one way to read a process's CPU time, one form for the numbers.

Knows nothing of what is measured: it is given a coroutine function that takes one task from submit to result.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agentexecutor.bus.server import embedded_server

__all__ = ["Load", "Numbers", "child", "fresh_server", "measure", "memory_peak", "options", "quit_on_sigterm", "report"]

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """How long, and how many at once. `warm_s` of load come first and are not counted."""

    seconds: float
    in_flight: int
    warm_s: float = 1.0


@dataclass
class Numbers:
    """One load's outcome. CPU: milliseconds of processor time a task, by process."""

    in_flight: int
    tasks: int
    seconds: float
    tasks_per_s: float
    median_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms_per_task: dict[str, float]


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """Processor time so far of each process and its children, all threads, user and system. Empty where there is no /proc."""
    fields: dict[int, list[str]] = {}
    for file in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields[int(file.parent.name)] = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    if not fields:
        return {}

    def spent(pid: int) -> float:
        children = (child for child, after in fields.items() if int(after[1]) == pid)
        return (int(fields[pid][11]) + int(fields[pid][12])) / TICKS + sum(spent(child) for child in children)

    mine = os.getpid()
    return {name: spent(pid) if pid != mine else time.process_time() for name, pid in pids.items()}


def memory_peak(pid: int) -> int:
    """The most bytes of memory that a process or one of its children has held at a time; 0 where there is no /proc."""
    peaks = []
    for status in PROC.glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            said = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8", errors="replace").splitlines() if ":" in line)
            if pid in (int(said["Pid"]), int(said["PPid"])):
                peaks.append(int(said.get("VmHWM", "0 kB").split()[0]) * 1024)
    return max(peaks, default=0)


async def drive(one: Callable[[], Awaitable[None]], in_flight: int, seconds: float) -> list[float]:
    """Keep `in_flight` tasks under way for `seconds`; the latency of each, in seconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def worker() -> None:
        while (start := time.perf_counter()) < end:
            await one()
            latencies.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return latencies


async def measure(one: Callable[[], Awaitable[None]], load: Load, pids: dict[str, int]) -> Numbers:
    """Warm up, then load and count."""
    await drive(one, load.in_flight, load.warm_s)
    before = cpu_seconds(pids)
    start = time.perf_counter()
    latencies = await drive(one, load.in_flight, load.seconds)
    took = time.perf_counter() - start
    spent = {name: seconds - before[name] for name, seconds in cpu_seconds(pids).items()}
    ranked = statistics.quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    return Numbers(
        in_flight=load.in_flight,
        tasks=len(latencies),
        seconds=round(took, 3),
        tasks_per_s=round(len(latencies) / took, 1),
        median_ms=round(1000 * ranked[49], 3),
        p95_ms=round(1000 * ranked[94], 3),
        p99_ms=round(1000 * ranked[98], 3),
        cpu_ms_per_task={name: round(1000 * seconds / len(latencies), 3) for name, seconds in spent.items()},
    )


def options(description: str) -> argparse.ArgumentParser:
    """The options that both benchmarks understand."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each load (default 4)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[128, 1], help="loads, one after another (default 128 1)")
    parser.add_argument(
        "--sync", help="how often the server writes through to the disk: always, or a time such as 10s (default: its own, 2m)"
    )
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--nats", help=argparse.SUPPRESS)
    return parser


@contextlib.asynccontextmanager
async def fresh_server(sync: str | None = None) -> AsyncIterator[tuple[str, int]]:
    """A NATS server with an empty store of its own: its URL and process id."""
    async with embedded_server(sync=sync) as server:
        yield server.url, server.pid


@contextlib.asynccontextmanager
async def child(*command: str, **environment: str) -> AsyncIterator[int]:
    """A process of the system under test: started here, stopped with SIGTERM at the end. Its process id."""
    devnull = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, stdin=devnull, stdout=sys.stderr)
    try:
        yield process.pid
        if process.returncode is not None:
            raise RuntimeError(f"{' '.join(command)} ended early with exit code {process.returncode}")
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def quit_on_sigterm() -> None:
    """Return when this process is told to stop."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def report(name: str, loads: list[Numbers]) -> None:
    """One JSON object on stdout."""
    print(json.dumps({"name": name, "python": sys.version.split()[0], "loads": [asdict(numbers) for numbers in loads]}))
