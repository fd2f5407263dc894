"""One run: coordinators, agents and clients on a simulated bus, faults drawn from a seed, a checker that looks at every step."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

from actors import SimAgent, Wish, random_wish, submit_and_wait
from broken import broken
from checker import OLD_WRITER, Checker, Violation
from msgspec.structs import replace
from simbus import Faults, Server, SimConnection, Stored
from truth import plain
from virtual import Process, VirtualLoop, running

from agentexecutor.bus.streams import INBOX, SUBMITS
from agentexecutor.coordinator import records, turns
from agentexecutor.coordinator.inbound import read_submit
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.coordinator.states import UNPLANNED
from agentexecutor.schemas.codec import H_EXPECTED, INLINE_LIMIT, to_rfc3339
from agentexecutor.schemas.messages import EMPTY
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.records import Submitted

__all__ = ["Report", "simulate"]

OPEN = 10
OLD = 0.2
"""In so many of the runs an earlier version has taken some of the submits, and has died before it planned them."""
COORDINATORS, AGENTS, CLIENTS, TASKS = 3, 5, 2, 20
FAULTS_S = 12.0
KINDS = {"kill": 5, "pause": 4, "part": 4, "server": 1, "power": 1.5, "skew": 1, "jump": 0.3, "deaf": 1, "consumer": 1.5}
"""What goes wrong, and how often."""
QUIET_S = 400.0
YOUNG_S = 2.5
"""A server that is started anew within its first second is not known as such (docs/adr/0011): then no power is cut."""
CLUSTERS = 0.5
"""So many of the servers that go are clusters of which all members go: streams in memory are emptied, and keep the time of their making."""
RECORDS = (*5 * [INLINE_LIMIT], 1, 300)
"""Bytes of a record, in a part of the runs so few that most turns need several."""
SETTINGS = Settings(backoff_max_s=5.0, suspend_max_s=5.0, open_tasks=OPEN)


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
        self.coordinators: dict[str, Coordinator] = {}
        self.checker = Checker(self.server, self.coordinators)
        self.counts = self.server.counts
        if drawn.random() < OLD:
            self.server.on_stored = partial(self._half_planned, self.server.on_stored, random.Random(drawn.getrandbits(64)))
        self.executed: Counter[tuple[str, str]] = Counter()
        self.told: dict[str, tuple[str, Any] | None] = {}
        """How each task ended, for whom it was submitted; None: it did not wait."""
        self.clients_done: set[str] = set()
        self.processes: dict[str, tuple[Process, SimConnection]] = {}
        self.agents: dict[str, SimAgent] = {}
        self.began = loop.now
        self.calm_at = 0.0
        """Since when nothing has been killed, paused or cut."""
        self.wanted: dict[str, Wish] = {}
        self.ids: dict[str, list[str]] = {}
        for number in range(TASKS):
            id, owner = f"t{number}", f"client-{number % CLIENTS}"
            self.wanted[id] = random_wish(drawn, loop.now + drawn.uniform(0, FAULTS_S / 2))
            self.ids.setdefault(owner, []).append(id)

    def _half_planned(self, tell: Callable[[str, Stored], None], drawn: random.Random, stream: str, stored: Stored) -> None:
        """What earlier versions left where they died between `submitted` and `planned`."""
        tell(stream, stored)
        if stream != SUBMITS or drawn.random() < 0.7:
            return
        subjects = self.server.subjects
        shard, _, task, input = read_submit(subjects, stored.subject, stored.payload, stored.headers, stored.stamp)
        submit = replace(input.submit, plan=None, input=EMPTY)
        change = records.encode_change(Submitted(submit=submit, digest=input.digest, at=input.stamp))
        made = {**records.record_headers("running"), H_EXPECTED: "0"}
        record = records.encode_record(OLD_WRITER, to_rfc3339(stored.stamp), [change])
        self.server.put(subjects.log(shard, task), record, made)

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
            agent = self.agents[name] = SimAgent(connection, own, self)
            await agent.run()

        async def ask() -> None:
            await submit_and_wait(connection, self, self.ids[name])

        self.calm_at = max(self.calm_at, self.loop.now)
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
        kind = drawn.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "kill":
            self.kill(name)
            loop.call_later(drawn.uniform(0, 8), self.start, name)
        elif kind == "pause" and not process.paused:
            process.pause()
            loop.call_later(drawn.choices((0.7, 3.0, 10.0, 30.0), (4, 4, 2, 1))[0], self._wake, process)
        elif kind == "part":
            connection.part(drawn.uniform(0.2, 10))
        elif kind in ("server", "power") and self.server.up:
            kind = kind if loop.now > self.began + YOUNG_S else "server"
            self.server.crash(lose_s=1.0 if kind == "power" else 0.0, cluster=drawn.random() < CLUSTERS)
            if kind == "power":
                self.checker.power_cut()
            loop.call_later(drawn.choice((0.02, drawn.uniform(0.2, 4))), self._restart)
        elif kind == "deaf" and self.coordinators:
            connection = self.processes[drawn.choice(sorted(self.coordinators))][1]
            connection.offers_lost_until = loop.now + drawn.uniform(3, 10)
            self.calm_at = max(self.calm_at, connection.offers_lost_until)
        elif kind == "consumer" and self.server.up:
            self.server.lose_consumer()
        elif kind == "skew":
            process.skew_s += drawn.uniform(-3600, 3600)
        elif kind == "jump":
            self.server.skew_s += drawn.choice((-1, 1)) * drawn.choice((0.5, 30.0, 3600.0))
            self.checker.clock_jumped = True
        else:
            return
        self.counts[f"fault {kind}"] += 1

    def _wake(self, process: Process) -> None:
        self.calm_at = max(self.calm_at, self.loop.now)
        process.wake()

    def _restart(self) -> None:
        self.calm_at = max(self.calm_at, self.loop.now)
        self.server.restart()

    async def run(self) -> None:
        """Faults for a while, then quiet until all tasks have ended and nothing of them is left."""
        for kind, count in (("coord", COORDINATORS), ("agent", AGENTS), ("client", CLIENTS)):
            for number in range(count):
                self.start(f"{kind}-{number}")
        end = self.loop.now + FAULTS_S
        while self.loop.now < end and self.checker.violation is None:
            await asyncio.sleep(self.drawn.expovariate(1.2))
            self.fault()
            self._look()
        self.faults.lose = self.faults.double = self.faults.lose_request = self.faults.lose_ack = self.faults.late = 0.0
        self.calm_at = max(self.calm_at, self.loop.now)
        self.checker.history.append(f"{self.loop.now:.3f} quiet")
        end = self.loop.now + QUIET_S
        while self.loop.now < end and self.checker.violation is None and self._left() is not None:
            await asyncio.sleep(1.0)
            self._look()
            calm_at = max([self.calm_at, *(link.deaf_at for link in self.server.links)])
            self.checker.nothing_waits_long(calm_at)
            self.checker.what_is_held_is_fenced(calm_at)
        left = self._left()
        if self.checker.violation is None and left is not None:
            self.checker.fail(*left)
        if self.checker.violation is None:
            self._compare_results()

    def _left(self) -> tuple[str, str] | None:
        """What is still to be done: the invariant that it hurts when it stays so, and what it is."""
        stuck = self.checker.stuck(self._expected())
        if stuck:
            return "every task ends once faults stop", stuck
        if len(self.clients_done) < CLIENTS:
            return "who waits is told", f"nothing of {sorted(set(self.wanted) - set(self.told))}"
        for name, agent in self.agents.items():
            if agent.book.held and not self.processes[name][0].dead:
                return "no agent goes on with what has ended", f"{name} holds {sorted(agent.book.held)}"
        queued = [stored.subject for name in (SUBMITS, INBOX) for stored in self.server.streams[name].messages.values()]
        return ("nothing is left in a queue", f"{queued[:3]}") if queued else None

    def _expected(self) -> set[TaskName]:
        """The tasks that must end: all, but what a power cut took after its client was told that it is stored or done."""
        wanted = {TaskName(client, id): id for client, ids in self.ids.items() for id in ids}
        planned = {name for name, state in self.checker.states.items() if state.state not in UNPLANNED}
        return {name for name, id in wanted.items() if name in planned or not (self.counts["power cuts"] and id in self.told)}

    def _look(self) -> None:
        for coordinator in self.coordinators.values():
            self.checker.compare(coordinator)
            if coordinator.counters["faults"]:
                self.checker.fail("nothing stops a coordinator", f"{coordinator._me} has {coordinator.counters['faults']} faults")

    def _compare_results(self) -> None:
        """What clients were told is what the log says."""
        if self.counts["power cuts"]:
            return
        for client, ids in self.ids.items():
            for id in ids:
                name, told = TaskName(client, id), self.told[id]
                state = self.checker.states[name]
                logged = state.state, plain(state.result) if state.state == "completed" else None
                if told is not None and told != logged:
                    self.checker.fail("who waits is told what the log says", f"{name}: told {told}, logged {logged}")


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


@contextmanager
def short_records(drawn: random.Random) -> Iterator[None]:
    """In a part of the runs a record holds little, and in half of those a turn ends as soon as it has that much."""
    limit, turn = drawn.choice(RECORDS), drawn.random() < 0.5
    with (
        mock.patch.object(records, "pages", partial(records.pages, limit=limit)),
        mock.patch.object(turns, "INLINE_LIMIT", limit if turn else INLINE_LIMIT),
    ):
        yield


def simulate(seed: int, rule: str | None = None) -> Report:
    """One run; the same seed gives the same history. `rule`: broken on purpose."""
    logging.disable(logging.CRITICAL)
    try:
        with running(seed) as (loop, drawn), short_records(drawn), broken(rule):
            asyncio._set_running_loop(None)
            world: World | None = None

            async def main() -> None:
                nonlocal world
                world = World(loop, drawn)
                with world.checker.counted_claims(), world.checker.watched_suspects():
                    await world.run()

            asyncio.set_event_loop(loop)
            loop.run_until_complete(main())
            assert world is not None
            return Report(seed, world.checker.violation, world.counts, world.checker.rows, world.checker.history, loop.now - 1000.0)
    finally:
        asyncio.set_event_loop(None)
        logging.disable(logging.NOTSET)
