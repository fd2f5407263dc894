"""A coordinator under fire: thousands of hostile messages, each accounted for, none fatal (`make fuzz COUNT=100000 SEED=2` for more)."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import msgspec
import pytest
from hostile import Attacker, Hostile
from peers import Peer, Place, ScriptedAgent, agent, client, coordinating

from agentexecutor.bus.complaints import KINDS
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.bus.streams import INBOX, SUBMITS
from agentexecutor.coordinator.entry import REMEMBERED
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.coordinator.states import ENDED
from agentexecutor.schemas.names import TaskName

pytestmark = pytest.mark.anyio

COUNT = int(os.environ.get("FUZZ_COUNT", "100000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
BATCH = 250
ACCOUNTED = (
    *("messages untyped", "messages unknown", "messages undecodable", "bids", "questions"),
    *("inputs applied", "inputs without effect", "claims refused"),
)
"""What becomes of a claim, a submit, a bid or a question: exactly one of these."""
PATIENCE_S = 30.0
SHOWN_MESSAGES = 100
LONGEST_SHOWN = 4000


class Wire:
    """A connection without a client library: what it sends need not be sensible."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    async def send(self, messages: list[Hostile]) -> None:
        """Send, and wait until the server has taken all."""
        await self._stream.send(b"".join(message.wire() for message in messages) + b"PING\r\n")
        heard = b""
        while b"PONG\r\n" not in heard:
            heard += await self._stream.receive()
            assert b"-ERR" not in heard, heard


@asynccontextmanager
async def a_wire(port: int) -> AsyncIterator[Wire]:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        yield Wire(stream)


class Books:
    """What the server has stored and subscribers have been sent, against what the coordinator says has become of it."""

    def __init__(self, coordinator: Coordinator, me: Peer) -> None:
        self._coordinator = coordinator
        self._me = me
        self.spoken = 0
        """Bids and questions: no stream counts them."""

    async def missing(self) -> int:
        """How many messages are not accounted for (yet). The questions of this test are its own, and counted with `spoken`."""
        stored = 0
        for name in (INBOX, SUBMITS):
            stored += (await self._me.connection.api(f"STREAM.INFO.{name}", {}))["state"]["last_seq"]
        return stored + self.spoken - sum(self._coordinator.counters[what] for what in ACCOUNTED)

    async def account(self) -> str:
        """What is known when the books do not balance."""
        waiting = {name: (await self._me.connection.api(f"STREAM.INFO.{name}", {}))["state"]["messages"] for name in (INBOX, SUBMITS)}
        return (
            f"{await self.missing()} are missing, {waiting} wait in the streams, the coordinator counts {dict(self._coordinator.counters)}"
        )

    async def balanced(self) -> bool:
        with anyio.move_on_after(PATIENCE_S):
            while await self.missing() != 0:
                await anyio.sleep(0.01)
            return self._coordinator.counters["faults"] == 0
        return False


async def fire(wire: Wire, books: Books, messages: list[Hostile]) -> bool:
    books.spoken += sum(message.where in ("bid", "ask") for message in messages)
    await wire.send(messages)
    return await books.balanced()


async def fire_all(wire: Wire, books: Books, make: Callable[[], Hostile], count: int) -> None:
    """So many messages, a batch at a time; of a batch that does harm each is named."""
    for _ in range(0, count, BATCH):
        batch = [make() for _ in range(BATCH)]
        if not await fire(wire, books, batch):
            named = "\n".join(repr(message)[:600] for message in batch)
            raise AssertionError(f"{await books.account()}, after one of these:\n{named}")


async def no_more_is_held_than_is_open(coordinator: Coordinator) -> None:
    """What came is not kept: in memory are the tasks whose logs are open, and of all else a bounded number."""
    with anyio.fail_after(PATIENCE_S):
        while any(entry.busy for entry in coordinator._tasks) or coordinator._driver._jobs._jobs or coordinator._checking:
            await anyio.sleep(0.02)
    open_tasks = {task async for task, _, head in coordinator._log.heads() if head.state not in ENDED}
    assert {entry.name for entry in coordinator._tasks} <= open_tasks
    waiting = [waiting for entry in coordinator._tasks for waiting in (*entry.inputs, *entry.soft, *entry.questions)]
    assert waiting == []
    assert len(coordinator._tasks._ended) <= REMEMBERED
    assert len(coordinator.unusable) <= SHOWN_MESSAGES
    assert max(len(subject) + len(why) + len(payload) for subject, why, payload in coordinator.unusable) < LONGEST_SHOWN
    for complaints in (coordinator._unusable._complaints, coordinator._answering._complaints):
        assert len(complaints._told) <= KINDS
    market = coordinator._market
    assert {key.task for key in market.awards._holdings} | {key.task for key in market.awards._orphans} | set(market._keys) <= open_tasks
    assert set(coordinator._desk.timers._current) <= open_tasks
    assert len(market._rounds) <= len(open_tasks)
    assert set(market._book.agents) <= {"worker", "victim"}
    assert coordinator._leases.members(time.monotonic()) == 1


async def run_one(me: Peer, worker: ScriptedAgent, id: str) -> None:
    """An ordinary task comes to its result."""
    task = await me.submit(id, capability="echo")
    award = await worker.award()
    assert award.task == str(task)
    await worker.accept(award)
    await worker.done(award, id)
    assert msgspec.json.decode((await me.result(task)).result) == id


async def test_hostile_messages_are_counted_and_none_is_fatal(server: EmbeddedServer) -> None:
    place = Place(server.url)
    async with (
        coordinating(place) as coordinator,
        client(place) as me,
        agent(place, "worker", "echo") as worker,
        agent(place, "victim", "suffer", capacity=10) as victim,
        a_wire(server.port) as wire,
    ):
        await me.until_held({"coord": me.connection.shards})
        targets = []
        for number in range(5):
            task = await me.submit(f"v{number}", capability="suffer")
            award = await victim.award()
            await victim.accept(award)
            targets.append((task, "victim", victim.boot, award.epoch))
        books = Books(coordinator, me)
        attacker = Attacker(SEED, place.prefix, me.connection.shards, targets, me.connection.max_payload)
        await run_one(me, worker, "before")
        for part in range(4):
            await fire_all(wire, books, attacker.counted, COUNT // 4)
            await run_one(me, worker, f"during-{part}")
            await me.until_held({"coord": me.connection.shards})
        assert await books.balanced()
        assert coordinator.counters["faults"] == 0
        await no_more_is_held_than_is_open(coordinator)
        print({what: coordinator.counters[what] for what in ACCOUNTED})  # noqa: T201 # what became of them; shown with -s


async def test_nonsense_among_offers_leases_progress_bodies_and_records(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    """What is kept as a last value is overwritten before it can be counted: none is fatal."""
    place = Place(server.url)
    async with (
        coordinating(place) as coordinator,
        client(place) as me,
        agent(place, "worker", "echo") as worker,
        a_wire(server.port) as wire,
    ):
        await run_one(me, worker, "before")
        targets = [(TaskName("nobody", f"t{number}"), f"stranger-{number}", "b", 1) for number in range(5)]
        attacker = Attacker(SEED, place.prefix, me.connection.shards, targets, me.connection.max_payload)
        for part in range(4):
            for _ in range(0, COUNT // 40, BATCH):
                await wire.send([attacker.uncounted() for _ in range(BATCH)])
            await me.until_held({"coord": me.connection.shards})
            await run_one(me, worker, f"during-{part}")
        assert coordinator.counters["faults"] == 0
        assert not [record for record in caplog.records if record.exc_info]
