"""Real processes on 127.0.0.1 that can be killed, stopped and started again: servers, coordinators, agents. Knows nothing of tasks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.abc
from verdict import Fault

from agentexecutor.bus.server import find_server
from agentexecutor.schemas.codec import to_rfc3339

__all__ = ["BACK_S", "Crew", "Place", "Planned", "a_place", "free_ports", "schedule", "until"]

PROGRAM = (sys.executable, "-c", "from agentexecutor.console.main import main; main()")
WORKER = Path(__file__).with_name("worker.py")
COORDINATORS = 3
AGENTS = 5
VICTIMS = ("agent", "coordinator", "server")
SIGNALS = ("SIGKILL", "SIGSTOP")
STOPPED_S = (0.5, 8.0)
"""Shorter and longer than a lease is valid and than an agent may be silent."""
DOWN_S = (0.0, 3.0)
BACK_S = 120.0
"""By then a process must be back."""
LOOK_S = 0.05
NO_BUS = 3
"""The exit code of a program that finds no bus."""
SERVES = "Stop with Ctrl-C"
"""Is in a program's output from when it serves."""
LAST_LINES = 15
GUARD = "import os, signal; os.read(0, 1); os.killpg(0, signal.SIGKILL)"
"""Ends its whole process group when stdin closes, which the kernel does when the owner dies, however it dies."""


class Crew(NamedTuple):
    """How many processes there are of each."""

    coordinators: int
    agents: int


ALL = Crew(COORDINATORS, AGENTS)


class Planned(NamedTuple):
    """A fault to come, once so many more tasks have ended; the victim is down or stopped for `pause_s`."""

    victim: str
    number: int
    signal: str
    pause_s: float
    after_tasks: int


def schedule(seed: int, kills: int, nodes: int) -> list[Planned]:
    """Faults, until so many of them are kills: first every victim with every signal, then as drawn; a third are stops."""
    drawn = random.Random(seed)
    pairs = [(victim, name) for victim in VICTIMS for name in SIGNALS]
    drawn.shuffle(pairs)
    made: list[Planned] = []
    while pairs or sum(one.signal == "SIGKILL" for one in made) < kills:
        victim, name = pairs.pop() if pairs else (drawn.choice(VICTIMS), drawn.choice(("SIGKILL", "SIGKILL", "SIGSTOP")))
        number = drawn.randrange({"agent": AGENTS, "coordinator": COORDINATORS, "server": nodes}[victim])
        pause_s = drawn.uniform(*(STOPPED_S if name == "SIGSTOP" else DOWN_S))
        made.append(Planned(victim, number, name, round(pause_s, 2), drawn.choice((0, 5, 20, 50))))
    return made


@dataclass
class Process:
    """A process by its name, through all its lives; each life writes a log of its own."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    folder: Path
    group: int
    lives: int = 0
    meant: bool = False
    """It ought to run: if it does not, it ended by itself."""
    stopped: bool = False
    running: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What its present life has written."""
        return self.folder / f"{self.name}.{self.lives}.log"

    def start(self) -> None:
        self.lives += 1
        with self.log.open("wb") as written:
            self.running = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                process_group=self.group,
            )
        self.meant = True

    def kill(self) -> None:
        self.meant = False
        if self.running is not None:
            self.running.kill()
            self.running.wait()

    def stop(self, *, go_on: bool = False) -> None:
        """SIGSTOP, or SIGCONT."""
        self.stopped = not go_on
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(signal.SIGCONT if go_on else signal.SIGSTOP)

    def ended(self) -> int | None:
        """The exit code when it ended by itself."""
        return self.running.poll() if self.meant and self.running is not None else None

    def has_served(self) -> bool:
        return SERVES in self.log.read_text(errors="replace")

    async def serves(self) -> bool:
        return self.meant and not self.stopped and self.ended() is None and self.has_served()


@dataclass
class Server(Process):
    """A nats-server, alone or in a cluster."""

    port: int = 0
    monitor: int = 0

    async def serves(self) -> bool:
        """By its own word: every stream that it keeps is there and up to date."""
        if self.stopped or not self.meant:
            return False
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.monitor)
                try:
                    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        return False


class Place:
    """All processes. `unexpected`: who ended by itself, with its last lines; `no_bus`: starts that found no server, by name.

    With a `url` the servers are somebody else's: `nodes` is 0 then.
    """

    def __init__(self, folder: Path, group: int, nodes: int, *, sync_always: bool, url: str | None, crew: Crew) -> None:
        self.folder = folder
        self.effects = folder / "effects.jsonl"
        self.unexpected: list[str] = []
        self.no_bus: Counter[str] = Counter()
        self._group = group
        self.servers = self._make_servers(nodes, "always" if sync_always else "2m")
        self.url = url or ",".join(f"nats://127.0.0.1:{server.port}" for server in self.servers)
        self.coordinators = [self._program(f"c{number}", "coordinator") for number in range(crew.coordinators)]
        self.agents = [self._agent(number) for number in range(crew.agents)]
        self.victims: dict[str, Sequence[Process]] = {"agent": self.agents, "coordinator": self.coordinators, "server": self.servers}

    def _agent(self, number: int) -> Process:
        """Every other one takes a share of coordinating besides, as agents do unless they are told otherwise."""
        alone = ["--no-coordinate"] if number % 2 else []
        return self._program(f"w{number}", "agent", f"{WORKER}:agent", "--name", f"w{number}", *alone)

    def _program(self, name: str, *arguments: str) -> Process:
        own = {"AGENTEXECUTOR_NATS_URL": self.url, "AGENTEXECUTOR_NAME": name, "CHAOS_EFFECTS": str(self.effects)}
        return Process(name, [*PROGRAM, *arguments], {**os.environ, **own}, self.folder, self._group)

    def _make_servers(self, nodes: int, sync: str) -> list[Server]:
        with free_ports(3 * nodes) as free:
            ports, monitors, routes = free[:nodes], free[nodes : 2 * nodes], free[2 * nodes :]
        made = []
        for number, (port, monitor, route) in enumerate(zip(ports, monitors, routes, strict=True)):
            name = f"s{number}"
            lines = [f"server_name: {name}", f"listen: 127.0.0.1:{port}", f"http: 127.0.0.1:{monitor}"]
            lines.append(f'jetstream {{ store_dir: "{self.folder / name}", sync_interval: {sync} }}')
            if nodes > 1:
                others = ", ".join(f"nats://127.0.0.1:{other}" for other in routes if other != route)
                lines.append(f"cluster {{ name: chaos, listen: 127.0.0.1:{route}, routes: [{others}] }}")
            config = self.folder / f"{name}.conf"
            config.write_text("\n".join(lines) + "\n")
            made.append(
                Server(name, [str(find_server()), "-c", str(config)], {**os.environ}, self.folder, self._group, port=port, monitor=monitor)
            )
        return made

    async def start(self, processes: Sequence[Process]) -> None:
        """Start them, and wait until they serve."""
        for process in processes:
            process.start()
        await self.until_serving(processes)

    async def until_serving(self, processes: Sequence[Process]) -> None:
        for process in processes:
            await until(process.serves, f"{process.name} does not serve; see {process.log}")

    async def until_all_serve(self) -> None:
        for processes in self.victims.values():
            await self.until_serving(processes)

    async def inflict(self, planned: Planned, group: anyio.abc.TaskGroup) -> Fault:
        """Kill or stop somebody who serves, as soon as it does; of servers only one at a time. What brings it back runs in `group`."""
        victim = self.victims[planned.victim][planned.number]
        await self.until_serving(self.servers if planned.victim == "server" else [victim])
        fault = Fault(time.time(), planned.victim, victim.name, planned.signal)
        with (self.folder / "faults.log").open("a") as log:
            log.write(f"{to_rfc3339(fault.at)} {victim.name} {planned.signal} for {planned.pause_s:g} s\n")
        if planned.signal == "SIGKILL":
            victim.kill()
        else:
            victim.stop()
        group.start_soon(self._bring_back, victim, planned)
        return fault

    async def _bring_back(self, victim: Process, planned: Planned) -> None:
        await anyio.sleep(planned.pause_s)
        if planned.signal == "SIGKILL":
            victim.start()
        else:
            victim.stop(go_on=True)

    async def keep(self) -> None:
        """Start again whoever ends by itself. Only one that has found no bus may."""
        while True:
            for processes in self.victims.values():
                for process in processes:
                    self._look_after(process)
            await anyio.sleep(0.2)

    def _look_after(self, process: Process) -> None:
        code = process.ended()
        if code is None:
            return
        if code == NO_BUS and not process.has_served():
            self.no_bus[process.name] += 1
        else:
            lines = process.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            self.unexpected.append(f"{process.name} ended by itself with code {code} ({process.log}):\n  " + "\n  ".join(lines))
        process.start()


@asynccontextmanager
async def a_place(folder: Path, nodes: int, *, sync_always: bool, url: str | None = None, crew: Crew = ALL) -> AsyncIterator[Place]:
    """Servers that serve; nothing of it is left at the end, however this process ends."""
    with subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, process_group=0) as guard, ExitStack() as stack:
        stack.callback(os.killpg, guard.pid, signal.SIGKILL)
        place = Place(folder, guard.pid, nodes, sync_always=sync_always, url=url, crew=crew)
        for processes in place.victims.values():
            for process in processes:
                stack.callback(process.kill)
        await place.start(place.servers)
        yield place


async def until(fits: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again: what is waited for happens in another process."""
    try:
        async with asyncio.timeout(BACK_S):
            while not await fits():
                await anyio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"after {BACK_S:g} s {what}") from None


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Different ones; they are free once the block ends."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]
