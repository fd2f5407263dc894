"""`make bench-takeover`: how long work stands still when a process dies, and whether anything is awarded wrongly when only the server is away.

Real processes with default settings; every death is kill -9. What is measured, by name:

    coordinator   the holder of a task's shard is killed. `claim`: from the kill to the end of a task whose agent finishes right then;
                  `submit`: from the kill to the first award of a task that is submitted to that shard right then
    agent         an agent is killed while it runs a subtask: from the kill to the subtask's next award, to another agent
    sharer        the same with agents that take their share of coordinating, as they do unless told otherwise: their shards are taken over too
    server        a single server is killed and started again (file storage), 20 subtasks run: awards to others although their agent was alive
    leader        the same with three servers and replicas 3; killed are, in turn, the leader of the offers, of the log, of the leases, and of the cluster

`--ended N` puts N ended tasks into the log before, copies of a real one under other names. `--coordinators N`: of which one dies.

What the settings trade (coordinator/agentexecutor/coordinator/settings.py). A coordinator is replaced `lease_silence_s` (2 s) after its last
renewal, which comes every 0.5 s. Less, and a shorter pause of a process or of the network makes others take its shards: harmless, the fence
decides, but work for everybody. An agent is lost `lost_after_s` (4 s) after its last offer, which comes every second: 3 to 4.3 s. Less, and
work that a busy agent still does is given to another one, that is: done twice.

docs/settings.md says more. It reports, it does not judge. Progress goes to stderr.

    python benchmarks/takeover.py                                                             # everything: about 20 minutes
    python benchmarks/takeover.py agent coordinator --kills 5                                 # a short look
    python benchmarks/takeover.py coordinator --coordinators 4 --ended 200000 --json          # a long log, one of four dies
    python benchmarks/takeover.py server leader --restarts 10                                 # nothing may be awarded again
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import nats
from measure import quit_on_sigterm
from nats.aio.msg import Msg
from rich.console import Console
from rich.table import Table

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import Bus, connect, embedded_server
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.loop import run_program
from agentexecutor.bus.server import find_server
from agentexecutor.bus.streams import INBOX, LEASE, LOG, OFFERS
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

PROGRAM = str(Path(sys.executable).with_name("agentexecutor"))
ENOUGH_S = 120.0
CAPACITY = 100
RUNNING = 20
WHAT = ("coordinator", "agent", "sharer", "server", "leader")
TRAFFIC_S = 0.25
SETTLE_S = 6.0
"""After a server is back: longer than an agent may be silent."""


# the agent's process


async def work(url: str, name: str, sharing: bool) -> None:
    """An agent that runs a subtask until it is told, on `bench.finish`, to end it; `sharing`: it takes its share of coordinating, as agents do."""
    agent = Agent(name, capacity=CAPACITY)
    told: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @agent.capability("bench.hold", estimate_s=1.0)
    async def hold(ctx: Context) -> str:
        await bus.connection.publish("bench.began", str(ctx.task).encode(), {})
        await told[str(ctx.task)].wait()
        return "done"

    async def finish(message: Msg) -> None:
        told[message.data.decode()].set()

    async with connect(url, name=name) as bus:
        await bus.connection.subscribe("bench.finish", finish)
        async with agent.serve(bus, coordinate=sharing):
            await quit_on_sigterm()


def tell(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


async def until(fits: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again: what is waited for happens in another process."""
    async with asyncio.timeout(ENOUGH_S):
        while not await fits():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.05)


# the processes


class Fleet:
    """Processes by name: started, killed, all killed in the end."""

    def __init__(self, url: str, sharing: bool) -> None:
        self._url = url
        self.sharing = sharing
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def kill_all(self) -> None:
        for name in list(self._processes):
            await self.kill(name)

    async def coordinator(self, name: str) -> None:
        await self._start(name, PROGRAM, "coordinator", "--nats", self._url)

    async def agent(self, name: str) -> None:
        await self._start(name, sys.executable, __file__, "--role", name, "--nats", self._url, *(["--sharing"] if self.sharing else []))

    async def _start(self, name: str, *command: str) -> None:
        null = asyncio.subprocess.DEVNULL
        environment = {**os.environ, "AGENTEXECUTOR_NAME": name}
        self._processes[name] = await asyncio.create_subprocess_exec(*command, env=environment, stdin=null, stdout=null, stderr=null)

    def named(self, peer: str) -> str | None:
        """The process that a peer's name belongs to: coordinators add something to the name that they are given."""
        return next((name for name in self._processes if peer == name or peer.startswith(f"{name}-")), None)

    async def kill(self, name: str) -> float:
        """kill -9; when that was, monotonic."""
        process = self._processes.pop(name)
        at = time.monotonic()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        return at


class Bench:
    """A client that watches all records of its tasks."""

    def __init__(self, bus: Bus, fleet: Fleet) -> None:
        self.bus = bus
        self.fleet = fleet
        self.log = TaskLog(bus.connection)
        self._seen: defaultdict[str, list[tuple[float, Any]]] = defaultdict(list)
        self._more = asyncio.Event()
        self.enough = asyncio.Event()
        self.begun: Counter[str] = Counter()
        """How often each task's subtask was begun."""
        self._number = 0

    async def watch(self) -> None:
        await self.bus.connection.subscribe(self.bus.connection.subjects.watch(TaskName(self.bus.name, "*")), self._record)
        await self.bus.connection.subscribe("bench.began", self._began)

    async def _began(self, message: Msg) -> None:
        self.begun[message.data.decode()] += 1

    async def _record(self, message: Msg) -> None:
        at = time.monotonic()
        task = ".".join(message.subject.split(".")[-2:])
        self._seen[task] += [(at, change) for change in decode_record(message.data).changes]
        self._more.set()
        self._more = asyncio.Event()

    async def until(self, task: str, fits: Callable[[Any], bool], after: float = 0.0) -> tuple[float, Any]:
        """The first change of a task that fits, and when it was heard."""
        async with asyncio.timeout(ENOUGH_S):
            while True:
                for at, change in self._seen[task]:
                    if at >= after and fits(change):
                        return at, change
                await self._more.wait()

    def awards(self, task: str) -> list[r.Awarded]:
        return [change for _, change in self._seen[task] if isinstance(change, r.Awarded)]

    async def submit(self, shard: int | None = None) -> str:
        """A task, of that shard."""
        while True:
            name = TaskName(self.bus.name, new_id())
            if shard is None or shard_of(name, self.bus.connection.shards) == shard:
                break
        return (await self.bus.submit("bench.hold", id=name.id, store_timeout_s=None)).name

    async def running(self) -> tuple[str, str]:
        """A task that runs, and its agent."""
        task = await self.submit()
        await self.until(task, lambda change: isinstance(change, r.Accepted))
        return task, self.awards(task)[-1].agent

    async def keep_submitting(self) -> list[str]:
        """A task every `TRAFFIC_S` until it is `enough`: awards and accepts are under way whenever the server is interrupted."""
        self.enough.clear()
        tasks: list[str] = []
        while not self.enough.is_set():
            tasks.append(await self.submit())
            await asyncio.sleep(TRAFFIC_S)
        return tasks

    async def finish(self, task: str) -> None:
        await self.bus.connection.publish("bench.finish", task.encode(), {})

    async def holders(self) -> dict[int, str | None]:
        """The process that holds each shard, as the leases say."""
        found: dict[int, str | None] = {}
        for shard in range(self.bus.connection.shards):
            last = await self.log.last_of(LEASE, self.bus.connection.subjects.lease(shard))
            lease = None if last is None or last.payload is None else msgspec.json.decode(last.payload, type=m.Lease)
            found[shard] = None if lease is None else self.fleet.named(lease.holder)
        return found

    async def until_shared(self, coordinators: int) -> None:
        """Every shard has a living holder, and each coordinator its part."""

        async def shared() -> bool:
            try:
                held = list((await self.holders()).values())
            except BusError:
                return False
            counts = [held.count(name) for name in set(held)]
            return None not in held and len(counts) == coordinators and min(counts) >= len(held) // coordinators

        await until(shared)

    async def until_agents(self, count: int) -> None:
        async def heard() -> bool:
            return len(await self.bus.agents()) == count

        await until(heard)


@asynccontextmanager
async def fleet_on(
    url: str, coordinators: int, agents: int, ended: int, replicas: int = 1, *, sharing: bool = False
) -> AsyncIterator[Bench]:
    """Coordinators that share the shards, agents that are heard, and a log that is not empty."""
    async with connect(url, name="bench", replicas=replicas) as bus, AsyncExitStack() as stack:
        fleet = Fleet(url, sharing)
        stack.push_async_callback(fleet.kill_all)
        bench = Bench(bus, fleet)
        await bench.watch()
        for number in range(agents):
            await fleet.agent(f"worker{number}")
        await fleet.coordinator("first")
        if ended:
            await bury(bench, url, ended)
        await fleet.kill("first")
        for number in range(coordinators):
            await fleet.coordinator(f"c{number}")
        await bench.until_shared(coordinators + agents * sharing)
        await bench.until_agents(agents)
        yield bench


async def bury(bench: Bench, url: str, count: int) -> None:
    """Put copies of a real ended task into the log."""
    task, _ = await bench.running()
    await bench.finish(task)
    await bench.until(task, lambda change: isinstance(change, r.Completed) and change.subtask is None)
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=2_000)
    name = TaskName.parse(task)
    subjects, shards = bench.bus.connection.subjects, bench.bus.connection.shards
    last = await js.get_last_msg(LOG, subjects.log(shard_of(name, shards), name))
    kept = {key: value for key, value in (last.headers or {}).items() if not key.startswith("Nats-Expected")}
    for number in range(count):
        copy = TaskName("past", f"{number:022d}")
        await js.publish_async(subjects.log(shard_of(copy, shards), copy), last.data or b"", headers=kept, wait_stall=60)
    await js.publish_async_completed()
    held = (await js.stream_info(LOG)).state
    tell(f"the log holds {held.messages} messages, {held.bytes >> 20} MiB")
    await client.close()


# what is measured


async def kill_coordinators(bench: Bench, kills: int, coordinators: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"claim": [], "submit": []}
    for number in range(kills):
        task, _ = await bench.running()
        shard = shard_of(TaskName.parse(task), bench.bus.connection.shards)
        holder = (await bench.holders())[shard]
        if holder is None:
            raise RuntimeError(f"nobody holds shard {shard}")
        killed = await bench.fleet.kill(holder)
        await bench.finish(task)
        other = await bench.submit(shard)
        ended, _ = await bench.until(task, lambda change: isinstance(change, r.Completed))
        awarded, _ = await bench.until(other, lambda change: isinstance(change, r.Awarded))
        found["claim"].append(ended - killed)
        found["submit"].append(awarded - killed)
        tell(f"coordinator {number + 1}/{kills}: claim {ended - killed:.2f} s, submit {awarded - killed:.2f} s")
        await bench.finish(other)
        await bench.fleet.coordinator(f"n{number}")
        await bench.until_shared(coordinators)
    return found


async def kill_agents(bench: Bench, what: str, kills: int, coordinators: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {what: []}
    for number in range(kills):
        task, agent = await bench.running()
        killed = await bench.fleet.kill(agent)
        awarded, award = await bench.until(task, lambda change: isinstance(change, r.Awarded), after=killed)
        if award.agent == agent:
            raise RuntimeError("the dead agent was awarded again")
        found[what].append(awarded - killed)
        tell(f"{what} {number + 1}/{kills}: {awarded - killed:.2f} s")
        await bench.finish(task)
        await bench.fleet.agent(f"w{number}")
        await bench.until_agents(2)
        await bench.until_shared(coordinators)
    return found


async def wrong_awards(bench: Bench, coordinators: int, interrupt: Callable[[], Any]) -> tuple[int, int]:
    """Interrupt the server while subtasks run, and more are submitted and awarded: how many began again though their agents live, of how many."""
    tasks = [(await bench.running())[0] for _ in range(RUNNING)]
    traffic = asyncio.create_task(bench.keep_submitting())
    await interrupt()
    await bench.until_shared(coordinators)
    await asyncio.sleep(SETTLE_S)
    bench.enough.set()
    tasks += await traffic
    for task in tasks:
        await bench.until(task, lambda change: isinstance(change, r.Accepted))
        await bench.finish(task)
        await bench.bus.task(task).result(str, timeout_s=ENOUGH_S)
    again = lost = 0
    for task in tasks:
        events = [event async for event in bench.bus.task(task).events()]
        again += bench.begun[task] - 1
        lost += sum(event.kind == "awarded" for event in events) - bench.begun[task]
        for event in events:
            if event.kind == "failed":
                tell(f"{event.time} {task}: {event.data['error']}")
    if lost:
        tell(f"{lost} awards never reached their agents, and were given again")
    return again, len(tasks)


async def restart_server(kills: int, coordinators: int) -> dict[str, Any]:
    again = runs = 0
    async with AsyncExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [Nats(Path(store), "single", free_port())]
        stack.push_async_callback(servers[0].kill)
        await servers[0].start()
        bench = await stack.enter_async_context(fleet_on(servers[0].url, coordinators, 2, 0))
        for _ in range(kills):

            async def interrupt() -> None:
                await servers[0].kill()
                await servers[0].start()

            wrong, of = await wrong_awards(bench, coordinators, interrupt)
            again, runs = again + wrong, runs + of
            tell(f"server: {again} of {runs} subtasks were awarded again")
    return {"what": "server", "kills": kills, "running": runs, "wrong_awards": again}


async def lose_leaders(kills: int, coordinators: int) -> dict[str, Any]:
    again = runs = 0
    async with AsyncExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        routes = [free_port() for _ in range(3)]
        servers = [Nats(Path(store), f"s{number}", free_port(), routes, number) for number in range(3)]
        for server in servers:
            stack.push_async_callback(server.kill)
            await server.start()
        url = ",".join(server.url for server in servers)
        await until_cluster(servers)
        bench = await stack.enter_async_context(fleet_on(url, coordinators, 2, 0, replicas=3))
        for number in range(kills):

            async def interrupt(number: int = number) -> None:
                leader = await leader_of(servers, bench, (OFFERS, LOG, LEASE, INBOX, None)[number % 5])
                await leader.kill()
                await bench.until_shared(coordinators)
                await leader.start()
                await until_cluster(servers)

            wrong, of = await wrong_awards(bench, coordinators, interrupt)
            again, runs = again + wrong, runs + of
            tell(f"{('offers', 'log', 'leases', 'inbox', 'cluster')[number % 5]}: {again} of {runs} subtasks were awarded again")
    return {"what": "leader", "kills": kills, "running": runs, "wrong_awards": again}


# servers that are killed


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class Nats:
    """A nats-server that can be killed and started again in its place, alone or in a cluster."""

    def __init__(self, store: Path, name: str, port: int, routes: list[int] | None = None, number: int = 0) -> None:
        self.name = name
        self.url = f"nats://127.0.0.1:{port}"
        self.monitor = free_port()
        self._command = [str(find_server()), "-js", "-sd", str(store / name), "-a", "127.0.0.1", "-p", str(port), "-n", name]
        self._command += ["-m", str(self.monitor), "-l", str(store / f"{name}.log")]
        if routes:
            others = ",".join(f"nats://127.0.0.1:{route}" for route in routes if route != routes[number])
            self._command += ["--cluster_name", "bench", "--cluster", f"nats://127.0.0.1:{routes[number]}", "--routes", others]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        null = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=null, stdout=null, stderr=null)
        await until(partial(self.says, "healthz?js-server-only=true"))

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def says(self, what: str) -> bool:
        return await self.ask(what) is not None

    async def ask(self, what: str) -> dict[str, Any] | None:
        """The server's own word, over its monitoring port; None while it has none."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.monitor)
            writer.write(f"GET /{what} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        said: dict[str, Any] = json.loads(body)
        return said if b" 200 " in head.splitlines()[0] else None


async def until_cluster(servers: list[Nats]) -> None:
    """All servers are healthy: every stream that they keep is up to date."""
    for server in servers:
        await until(partial(server.says, "healthz"))


async def leader_of(servers: list[Nats], bench: Bench, stream: str | None) -> Nats:
    """The server that leads a stream, or (None) the cluster."""
    found: list[Nats] = []

    async def known() -> bool:
        if stream is None:
            name = ((await servers[0].ask("jsz")) or {}).get("meta_cluster", {}).get("leader")
        else:
            name = (await bench.bus.connection.api(f"STREAM.INFO.{stream}", {}))["cluster"].get("leader")
        found.extend(server for server in servers if server.name == name)
        return bool(found)

    await until(known)
    return found[0]


# telling


@dataclass
class Line:
    """A distribution of seconds."""

    what: str
    kills: int
    median_s: float
    p90_s: float
    longest_s: float


def line(what: str, seconds: list[float]) -> Line:
    ranked = sorted(seconds)
    at = ranked[min(len(ranked) - 1, int(0.9 * len(ranked)))]
    return Line(what, len(ranked), round(statistics.median(ranked), 2), round(at, 2), round(ranked[-1], 2))


async def timed(what: str, kills: int, coordinators: int, ended: int) -> list[dict[str, Any]]:
    sharing = what == "sharer"
    async with embedded_server() as server, fleet_on(server.url, coordinators, 2, ended, sharing=sharing) as bench:
        if what == "coordinator":
            made = await kill_coordinators(bench, kills, coordinators)
        else:
            made = await kill_agents(bench, what, kills, coordinators + 2 * sharing)
    lines = [line(name, seconds) for name, seconds in made.items()]
    return [{**asdict(one), "coordinators": coordinators, "ended_tasks_in_log": ended} for one in lines]


async def bench(asked: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for what in asked.what:
        if what == "server":
            found.append(await restart_server(asked.restarts, asked.coordinators))
        elif what == "leader":
            found.append(await lose_leaders(asked.restarts, asked.coordinators))
        else:
            found += await timed(what, asked.kills, asked.coordinators, asked.ended)
        tell(json.dumps(found[-1]))
    return found


def show(found: list[dict[str, Any]]) -> None:
    """A table for people."""
    columns = list(dict.fromkeys(name for one in found for name in one))
    table = Table(*columns, title="take-over", title_justify="left")
    for one in found:
        table.add_row(*(str(one.get(name, "")) for name in columns))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{' '.join(WHAT)} (default: all)")
    parser.add_argument("--kills", type=int, default=50, help="of coordinators and of agents (default 50)")
    parser.add_argument("--restarts", type=int, default=10, help="of servers (default 10)")
    parser.add_argument("--coordinators", type=int, default=2, help="how many there are (default 2)")
    parser.add_argument("--ended", type=int, default=0, help="ended tasks in the log (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--sharing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--nats", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.what = asked.what or list(WHAT)
    if asked.role:
        run_program(work, asked.nats, asked.role, asked.sharing)
        return
    if not set(asked.what) <= set(WHAT):
        parser.error(f"{' '.join(asked.what)}: only {' '.join(WHAT)} can be measured")
    found = asyncio.run(bench(asked))
    if asked.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
