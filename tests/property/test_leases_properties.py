"""Several processes and one fenced subject a shard, under random delays, losses and pauses: never two holders, and in the end each has its part."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from agentexecutor.coordinator.leases import Beat, Confirm, GiveUp, Leases, Renew, Take
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m

SHARDS = 4
STEP = 0.05


@dataclass
class Process:
    """A process with its own clock (the same rate, another origin), which may sleep."""

    name: str
    leases: Leases
    origin: float
    asleep_until: float = 0.0
    released: set[int] = field(default_factory=set)
    """Shards whose release was sent: it acts no more for them, whatever the answer will be."""
    inbox: list[tuple[float, int, str, tuple[object, ...]]] = field(default_factory=list)


class World:
    """The server's subjects, and a network that delays and loses."""

    def __init__(self, seed: int, count: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.numbers = 0
        self.subjects: dict[int, tuple[int, m.Lease]] = {}
        self.sequence = 0
        names = [f"p{number}" for number in range(count)]
        self.processes = [Process(name, Leases(name, "1", SHARDS, Settings()), self.random.uniform(0, 1e6)) for name in names]
        self.faults = True

    def deliver(self, process: Process, what: str, *arguments: object, lossy: bool = True) -> None:
        if self.faults and lossy and self.random.random() < 0.05:
            return
        delay = self.random.uniform(0.0, 0.3) if self.faults else 0.005
        self.numbers += 1
        heapq.heappush(process.inbox, (self.now + delay, self.numbers, what, arguments))

    def append(self, process: Process, shard: int, expected: int, holder: str) -> None:
        """A fenced append: the server decides now; the answer may be lost."""
        sent_at = self.now + process.origin
        if self.faults and self.random.random() < 0.05:
            self.deliver(process, "lost", shard, lossy=False)
            return
        current = self.subjects.get(shard, (0, m.Lease(holder="", boot="")))[0]
        if current != expected:
            self.deliver(process, "lost", shard, lossy=False)
            return
        self.sequence += 1
        self.subjects[shard] = self.sequence, m.Lease(holder=holder, boot="1" if holder else "")
        for other in self.processes:
            self.deliver(other, "lease", shard, self.sequence)
        unanswered = self.faults and self.random.random() < 0.05
        if unanswered:
            self.deliver(process, "lost", shard, lossy=False)
        elif holder:
            self.deliver(process, "won", sent_at, shard, self.sequence, lossy=False)
        else:
            self.deliver(process, "released", shard, lossy=False)

    def act(self, process: Process) -> None:
        now = self.now + process.origin
        for action in process.leases.due(now, self.random.getrandbits(20)):
            if isinstance(action, Beat):
                for other in self.processes:
                    self.deliver(other, "member", process.name)
            elif isinstance(action, Confirm):
                seq, lease = self.subjects.get(action.shard, (None, None))
                self.deliver(process, "confirmed", action.shard, seq, lease, lossy=False)
            elif isinstance(action, Renew | Take):
                self.append(process, action.shard, action.expected, process.name)
            elif isinstance(action, GiveUp) and action.shard not in process.released:
                process.released.add(action.shard)
                self.append(process, action.shard, action.expected, "")

    def hear(self, process: Process) -> None:
        now = self.now + process.origin
        leases = process.leases
        while process.inbox and process.inbox[0][0] <= self.now:
            _, _, what, arguments = heapq.heappop(process.inbox)
            if what == "lease":
                shard, seq = arguments
                if self.subjects[shard][0] == seq:  # type: ignore[index]  # a shard
                    leases.lease_seen(now, shard, self.subjects[shard][1], seq)  # type: ignore[arg-type,index]
            elif what == "member":
                leases.member_seen(now, str(arguments[0]), m.Member(boot="1"))
            elif what == "won":
                leases.won(*arguments)  # type: ignore[arg-type]
            else:
                getattr(leases, what)(now, *arguments)
            if what in ("won", "lost", "released"):
                process.released.discard(int(str(arguments[-2 if what == "won" else 0])))

    def step(self) -> None:
        self.now += STEP
        for process in self.processes:
            if process.asleep_until > self.now:
                continue
            if self.faults and self.random.random() < 0.003:
                process.asleep_until = self.now + self.random.choice([0.5, 1.6, 3.0, 30.0])
                continue
            # A process that wakes up looks at its clock before it reads its socket: the worst order.
            self.act(process)
            self.hear(process)

    def holders(self) -> dict[int, list[str]]:
        """Who would act for each shard right now; a sleeper acts for nothing until it has looked at its clock."""
        awake = [process for process in self.processes if process.asleep_until <= self.now]
        return {
            shard: [
                process.name
                for process in awake
                if shard not in process.released and process.leases.holds(self.now + process.origin, shard)
            ]
            for shard in range(SHARDS)
        }


@pytest.mark.parametrize("seed", range(40))
def test_one_holder_at_most_and_all_shards_held_in_the_end(seed: int) -> None:
    world = World(seed, count=3)
    for _ in range(1200):
        world.step()
        for shard, holders in world.holders().items():
            assert len(holders) <= 1, f"seed {seed}, {world.now:.2f} s: shard {shard} is held by {holders}"
    world.faults = False
    for process in world.processes:
        process.asleep_until = 0.0
    for _ in range(400):
        world.step()
    ended = world.holders()
    assert all(len(names) == 1 for names in ended.values()), ended
    counts = sorted(sum(names == [process.name] for names in ended.values()) for process in world.processes)
    assert counts == [1, 1, 2]
