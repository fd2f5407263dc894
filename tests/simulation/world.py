"""One run: coordinators, agents and clients on a simulated bus, faults drawn from a seed, a checker that looks at every step."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from actors import SimAgent, random_plan, submit_and_wait
from broken import broken
from checker import Checker, Violation
from simbus import Faults, Server, SimConnection
from virtual import Process, VirtualLoop, running

from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas.names import TaskName

__all__ = ["Report", "simulate"]

COORDINATORS, AGENTS, CLIENTS, TASKS = 3, 5, 2, 20
FAULTS_S = 16.0
QUIET_S = 400.0
SETTINGS = Settings(backoff_max_s=5.0, suspend_max_s=5.0)


@dataclass
class Report:
    """What a run was like. `violation`: the invariant that was hurt, None when none was."""

    seed: int
    violation: Violation | None
    counts: Counter[str]
    rows: Counter[str]
    history: list[str] = field(repr=False)
    seconds: float = 0.0


class World:
    """All processes of a run."""

    def __init__(self, loop: VirtualLoop, drawn: random.Random) -> None:
        self.loop = loop
        self.drawn = drawn
        self.faults = Faults(
            lose=drawn.choice((0.0, 0.01, 0.05)),
            double=drawn.choice((0.0, 0.02)),
            lose_request=drawn.choice((0.0, 0.01, 0.03)),
            lose_ack=drawn.choice((0.0, 0.01, 0.05)),
            delay_s=drawn.choice((0.002, 0.02)),
            late=drawn.choice((0.0, 0.01)),
        )
        self.server = Server(loop, random.Random(drawn.getrandbits(64)), self.faults)
        self.checker = Checker(self.server)
        self.counts = self.server.counts
        self.executed: Counter[tuple[str, str]] = Counter()
        self.expected: set[TaskName] = set()
        self.told: dict[str, Any] = {}
        self.clients_done: set[str] = set()
        self.coordinators: dict[str, Coordinator] = {}
        self.processes: dict[str, tuple[Process, SimConnection]] = {}
        self.wanted: dict[str, Any] = {}
        self.ids: dict[str, list[str]] = {}
        for number in range(TASKS):
            options: dict[str, Any] = {"retries": 4, "priority": drawn.randint(-1, 1)}
            if drawn.random() < 0.1:
                options["deadline_s"] = drawn.uniform(5, 60)
            steer = None
            if drawn.random() < 0.25:
                steer = drawn.choice(("cancel", "revise", "accept", "reject")), drawn.uniform(0, 5)
            id = f"t{number}"
            self.wanted[id] = random_plan(drawn), options, loop.now + drawn.uniform(0, FAULTS_S / 2), steer
            self.ids.setdefault(f"client-{number % CLIENTS}", []).append(id)

    # processes

    def start(self, name: str) -> None:
        """(Re)start a process."""
        drawn = self.drawn
        process = Process(name, self.loop, skew_s=drawn.uniform(-5, 5), boot_s=drawn.uniform(0, 1e5))
        connection = SimConnectionIn(self.server, process, name)
        self.processes[name] = process, connection
        own = random.Random(drawn.getrandbits(64))

        async def coordinate() -> None:
            await connection.start()
            began = _Began()
            coordinator = self.coordinators[name] = Coordinator(connection, settings=SETTINGS)
            try:
                await coordinator.run(task_status=began)
            except Exception as error:  # a program that cannot begin ends, and is started again
                if began.yes:
                    self.checker.fail("nothing stops a coordinator", f"{name}: {error!r}")
                self.counts["could not begin"] += 1
                self.kill(name)
                self.loop.call_later(1.0, self.start, name, context=contextvars.Context())

        async def act() -> None:
            await SimAgent(connection, own, self).run()

        async def ask() -> None:
            await submit_and_wait(connection, own, self, self.ids[name])

        process.start(coordinate if name.startswith("coord") else act if name.startswith("agent") else ask)

    def kill(self, name: str) -> None:
        """Kill -9."""
        process, connection = self.processes[name]
        process.kill()
        self.server.links.remove(connection)
        self.coordinators.pop(name, None)
        self.checker.history.append(f"{self.loop.now:.3f} killed {name}")

    # faults

    def fault(self) -> None:
        """Something goes wrong now."""
        drawn, loop = self.drawn, self.loop
        name = drawn.choice([name for name, (process, _) in sorted(self.processes.items()) if not process.dead])
        process, connection = self.processes[name]
        kind = drawn.choices(("kill", "pause", "part", "server", "power", "skew"), (5, 4, 4, 1.5, 0.5, 1))[0]
        self.counts[f"fault {kind}"] += 1
        if kind == "kill":
            self.kill(name)
            loop.call_later(drawn.uniform(0, 8), self.start, name)
        elif kind == "pause" and not process.paused:
            process.pause()
            loop.call_later(drawn.choices((0.7, 3.0, 10.0, 30.0), (4, 4, 2, 1))[0], process.wake)
        elif kind == "part":
            connection.part(drawn.uniform(0.2, 10))
        elif kind in ("server", "power") and self.server.up:
            self.server.crash(lose_s=1.0 if kind == "power" else 0.0)
            if kind == "power":
                self.checker.power_cut()
            loop.call_later(drawn.uniform(0.2, 4), self.server.restart)
        elif kind == "skew":
            process.skew_s += drawn.uniform(-3600, 3600)

    async def run(self) -> None:
        """Faults for a while, then quiet until all tasks have ended."""
        for kind, count in (("coord", COORDINATORS), ("agent", AGENTS), ("client", CLIENTS)):
            for number in range(count):
                self.start(f"{kind}-{number}")
        end = self.loop.now + FAULTS_S
        while self.loop.now < end and self.checker.violation is None:
            await asyncio.sleep(self.drawn.expovariate(0.9))
            self.fault()
            self._look()
        self.faults.lose = self.faults.double = self.faults.lose_request = self.faults.lose_ack = self.faults.late = 0.0
        self.checker.history.append(f"{self.loop.now:.3f} quiet")
        end = self.loop.now + QUIET_S
        while self.loop.now < end and self.checker.violation is None and not self._over():
            await asyncio.sleep(1.0)
            self._look()
        if self.checker.violation is None and not self._over():
            waiting = sorted(set(self.wanted) - set(self.told))
            if all(TaskName(client, id) in self.checker.ended for client, ids in self.ids.items() for id in ids):
                self.checker.fail("who waits is told", f"nothing of {waiting}")
        if self.checker.violation is None:
            self.checker.finish(
                {
                    TaskName(client, id)
                    for client, ids in self.ids.items()
                    for id in ids
                    if not (id in self.told and self.counts["power cuts"])  # its result was delivered, and then a power cut took the log
                }
            )
            self._compare_results()

    def _over(self) -> bool:
        return len(self.clients_done) == CLIENTS

    def _look(self) -> None:
        for coordinator in self.coordinators.values():
            self.checker.compare(coordinator)
            if coordinator.counters["faults"]:
                self.checker.fail("nothing stops a coordinator", f"{coordinator._me} has {coordinator.counters['faults']} faults")

    def _compare_results(self) -> None:
        for client, ids in self.ids.items():
            for id in ids:
                told, logged = self.told.get(id), self.checker.ended.get(TaskName(client, id))
                if told is not None and told[0] != logged and not self.counts["power cuts"]:
                    self.checker.fail("who waits is told what the log says", f"{client}.{id}: told {told[0]}, logged {logged}")


class _Began:
    """A task's status: whether it has begun."""

    yes = False

    def started(self, _value: object = None) -> None:
        """It has."""
        self.yes = True


class SimConnectionIn(SimConnection):
    """A connection whose own answers are awaited in its process's context."""

    def __init__(self, server: Server, process: Process, name: str) -> None:
        process.context.run(super().__init__, server, process, name)


def simulate(seed: int, rule: str | None = None) -> Report:
    """One run; the same seed gives the same history. `rule`: broken on purpose."""
    logging.disable(logging.CRITICAL)
    try:
        with running(seed) as (loop, drawn), broken(rule):
            asyncio._set_running_loop(None)
            world: World | None = None

            async def main() -> None:
                nonlocal world
                world = World(loop, drawn)
                await world.run()

            asyncio.set_event_loop(loop)
            loop.run_until_complete(main())
            assert world is not None
            return Report(seed, world.checker.violation, world.counts, world.checker.rows, world.checker.history, loop.now - 1000.0)
    finally:
        asyncio.set_event_loop(None)
        logging.disable(logging.NOTSET)
