"""Agents and clients of a simulated run: agents as a foreign language would write them from docs/protocol.md, clients with the real client's code."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from msgspec import Raw
from simbus import Msg, SimConnection

from agentexecutor.agents.book import Book, Held, LastClaim, What
from agentexecutor.bus.client import Bus, attached
from agentexecutor.bus.errors import TaskError
from agentexecutor.schemas import Feedback, Plan, Ref, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, TYPE_OF, decode, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName, new_boot

__all__ = ["SimAgent", "random_plan", "submit_and_wait"]

CAPABILITIES = ("a", "b", "c")


class SimAgent:
    """Offers all capabilities; how each execution goes is drawn. `executed` counts finished work by (task, subtask, epoch)."""

    def __init__(self, connection: SimConnection, drawn: random.Random, world: Any) -> None:
        self.connection = connection
        self.drawn = drawn
        self.world = world
        self.boot = new_boot()
        self.book = Book(self.boot, 4)

    async def run(self) -> None:
        """Live."""
        await self.connection.start()
        subjects = self.connection.subjects
        await self.connection.subscribe(subjects.all_to(self.connection.name), self._heard)
        while True:
            await self._offer()
            await asyncio.sleep(1.0)

    async def _offer(self) -> None:
        capabilities = [m.Capability(name=name, estimate_s=0.2) for name in CAPABILITIES]
        offer = m.Offer(boot=self.boot, capabilities=capabilities, capacity=4, running=self.book.running())
        await self.connection.publish(self.connection.subjects.offer(self.connection.name), encode(offer), headers("offer"))

    async def _heard(self, message: Msg) -> None:
        kind = (message.headers or {}).get(H_TYPE)
        _, _, task = self.connection.subjects.parse_to(message.subject)
        said = decode(kind, message.data)
        if isinstance(said, m.Award):
            self._award(task, said)
        elif isinstance(said, m.Cancel):
            held = self.book.cancelled((said.task, said.subtask), said.epoch)
            if held is not None:
                held.host.cancel()
                self.book.end(held)
        elif isinstance(said, m.Call):
            bid = m.Bid(subtask=said.subtask, call=said.call, boot=self.boot, estimate_s=self.drawn.uniform(0.1, 1))
            await self.connection.publish(self.connection.subjects.bid(self.connection.name, said.shard, task), encode(bid), headers("bid"))
        elif isinstance(said, m.Refused):
            self.world.checker.refused.add(said.id)

    def _award(self, task: TaskName, award: m.Award) -> None:
        what, older, again = self.book.judge(award)
        if what is What.AGAIN and again is not None:
            self._later(self._store(task, again))
        elif what is What.DECLINE:
            decline = m.Decline(subtask=award.subtask, epoch=award.epoch, boot=self.boot, reason="full")
            self._later(self._store(task, self._claim(decline)))
        elif what is What.RUN:
            if older is not None:
                older.host.cancel()
            held = Held(award)
            self.book.take(held)
            held.host = self._later(self._execute(task, held))

    def _later(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        return task

    def _claim(self, message: m.Claim) -> LastClaim:
        kind = TYPE_OF[type(message)]
        return LastClaim(kind, encode(message), headers(kind))

    async def _store(self, task: TaskName, claim: LastClaim) -> None:
        await self.connection.store(self.connection.subjects.claim(self.connection.name, claim.kind, task), claim.payload, claim.headers)

    async def _execute(self, task: TaskName, held: Held) -> None:
        award = held.award
        of: dict[str, Any] = {"subtask": award.subtask, "epoch": award.epoch, "boot": self.boot}
        luck = self.drawn.random()
        if luck < 0.03:
            held.last = self._claim(m.Decline(**of, reason="not now"))
            await self._store(task, held.last)
            self.book.end(held)
            return
        if luck < 0.8:
            held.last = self._claim(m.Accept(**of))
            await self._store(task, held.last)
            held.state = "running"
            await asyncio.sleep(self.drawn.expovariate(2.0) + (20.0 if luck < 0.04 else 0.0))
        self.world.executed[award.task, award.subtask] += 1
        if 0.3 < luck < 0.36:
            error = m.ErrorInfo(code="handler", message="no luck", retryable=True)
            held.last = self._claim(m.Failed(**of, error=error))
        elif 0.36 < luck < 0.38:
            held.last = self._claim(m.Release(**of, reason="stopping"))
        else:
            held.last = self._claim(m.Done(**of, result=Raw(encode(f"{award.task}/{award.subtask}"))))
        await self._store(task, held.last)
        self.book.end(held)


def random_plan(drawn: random.Random) -> str | Plan:
    """One capability, or a few subtasks that wait for each other, some split, some that may be skipped."""
    if drawn.random() < 0.3:
        return drawn.choice(CAPABILITIES)
    plan = Plan()
    names: list[str] = []
    for number in range(drawn.randint(2, 5)):
        waits = drawn.sample(names, min(len(names), drawn.randint(0, 2)))
        refers = {name: Ref(name) for name in waits if drawn.random() < 0.5}
        options: dict[str, Any] = {"after": [name for name in waits if name not in refers]}
        if drawn.random() < 0.2:
            options["on_failure"] = "skip"
        if drawn.random() < 0.1:
            options["timeout_s"] = 5.0
        plan.add(f"s{number}", Subtask(drawn.choice(CAPABILITIES), refers, retries=4, priority=drawn.randint(-1, 1), **options))
        names.append(f"s{number}")
    return plan


async def submit_and_wait(connection: SimConnection, drawn: random.Random, world: Any, ids: list[str]) -> None:
    """A client: submits its tasks (again, with the same id, after it was killed), steers some, and compares each result with the log."""
    await connection.start()
    async with attached(connection) as bus:
        await asyncio.gather(*(_one(bus, drawn, world, id) for id in ids))
        world.clients_done.add(connection.name)


async def _one(bus: Bus, drawn: random.Random, world: Any, id: str) -> None:
    plan, options, at, steer = world.wanted[id]
    await asyncio.sleep(max(0.0, at - world.loop.now))
    world.expected.add(TaskName(bus.name, id))
    task = await bus.submit(plan, {} if isinstance(plan, str) else None, id=id, store_timeout_s=None, **options)
    if steer is not None:
        await asyncio.sleep(steer[1])
        try:
            if steer[0] == "cancel":
                await task.cancel("enough")
            else:
                await task.feedback(Feedback(text="faster", verdict=steer[0]))
        except AgentExecutorError:
            world.counts["steering refused"] += 1
    try:
        result = "completed", await task.result()
    except TaskError as error:
        result = type(error).__name__.removeprefix("Task").lower(), None
    world.told[id] = result
