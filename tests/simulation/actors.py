"""Agents and clients of a simulated run: agents as a foreign language would write them from docs/protocol.md, clients with the real client's code.

Work is such that its result can be foretold: see `work`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from simbus import Msg, SimConnection

from agentexecutor.agents.book import Book, Held, LastClaim, What
from agentexecutor.bus.client import Bus, attached
from agentexecutor.bus.errors import TaskError
from agentexecutor.coordinator.policy import SENSIBLE
from agentexecutor.schemas import Approval, ApprovalPolicy, Feedback, Goal, Plan, Ref, Replan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_TYPE, TYPE_OF, decode, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName, new_boot

__all__ = ["SimAgent", "Wish", "random_wish", "submit_and_wait", "work"]

CAPABILITIES = ("a", "b", "c")
TRIGGERS = ("failed", "lost", "late", "unserved", "revise", "reject", "message", "changed")
ANSWERS = ("retry", "another", "split", "plan", "wait", "skip", "fail")
HANGS = 0.3
"""So much luck, and less, makes work that has a time-out go on for ever."""
TIMEOUT_S = 5.0
BUDGETS = (("subtasks", 5, 12), ("replans", 0, 3), ("seconds", 5, 60), ("tokens", 5, 60))
"""Limits, and how narrow they are; no plan has more than five subtasks."""
PEOPLE_S = 8.0
"""So long a person is waited for."""


class SimAgent:
    """Offers all capabilities; how each execution goes is drawn. `executed` counts finished work by (task, subtask, epoch)."""

    def __init__(self, connection: SimConnection, drawn: random.Random, world: Any) -> None:
        self.connection = connection
        self.drawn = drawn
        self.world = world
        self.boot = new_boot()
        self.book = Book(self.boot, 4)
        self.children: dict[tuple[str, str], asyncio.Event] = {}
        """Parents that wait for a child."""

    async def run(self) -> None:
        """Live."""
        await self.connection.start()
        subjects = self.connection.subjects
        await self.connection.subscribe(subjects.all_to(self.connection.name), self._heard)
        while True:
            await self._offer()
            await asyncio.sleep(1.0)

    async def _offer(self) -> None:
        capabilities = [m.Capability(name=name, estimate_s=0.2) for name in (*CAPABILITIES, "plan")]
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
        elif isinstance(said, m.Result) and (said.task, said.subtask) in self.children:
            self.children[said.task, said.subtask or ""].set()

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
        if self.drawn.random() < 0.03:
            await self._store(task, self._claim(self._nonsense(award)))
        if luck < 0.03:
            held.last = self._claim(m.Decline(**of, reason="not now"))
            await self._store(task, held.last)
            self.book.end(held)
            return
        if luck < 0.8:
            held.last = self._claim(m.Accept(**of))
            await self._store(task, held.last)
            held.state = "running"
            if luck > 0.75:
                await self._extend(task, held)
            elif award.timeout_s == TIMEOUT_S and luck < HANGS:
                await asyncio.Event().wait()  # until it is told to stop
            await asyncio.sleep(self.drawn.expovariate(2.0) + (12.0 if luck < 0.04 else 0.0))
        self.world.executed[award.task, award.subtask] += 1
        if 0.3 < luck < 0.36:
            error = m.ErrorInfo(code="handler", message="no luck", retryable=True)
            held.last = self._claim(m.Failed(**of, error=error, usage={"tokens": float(self.drawn.randint(1, 50))}))
        elif 0.36 < luck < 0.38:
            held.last = self._claim(m.Release(**of, reason="stopping"))
        else:
            input = msgspec.json.decode(award.input)
            result = self._revision(input) if award.capability == "plan" else work(input, award.task, award.subtask)
            held.last = self._claim(m.Done(**of, result=Raw(encode(result)), usage={"tokens": float(self.drawn.randint(1, 50))}))
        await self._store(task, held.last)
        self.book.end(held)

    def _revision(self, told: dict[str, Any]) -> Any:
        """What a planner answers: something new, something again, something less; sometimes the end, or nonsense."""
        drawn = self.drawn
        present = sorted(told["plan"]["subtasks"])
        if drawn.random() < 0.1:
            return drawn.choice(
                (
                    7,
                    {"finish": True, "output": "early"},
                    {"again": ["nobody"]},
                    {"add": {"x": {"capability": "nowhere"}}},
                    {"add": {"x": {"capability": "a", "after": ["x"]}}},
                )
            )
        made: dict[str, Any] = {"finish": drawn.random() < 0.7, "add": {}}
        for number in range(drawn.randint(0, 2)):
            input = {name: {"$ref": name} for name in drawn.sample(present, min(len(present), 1))}
            made["add"][f"v{told['version']}-{number}"] = {"capability": drawn.choice(CAPABILITIES), "input": input, "retries": 4}
        for name in present:
            luck = drawn.random()
            if luck < 0.2 or told["plan"]["subtasks"][name]["state"] == "failed":
                made["add"][name] = {"capability": drawn.choice(CAPABILITIES), "retries": 4}
            elif luck < 0.4:
                made.setdefault("again", []).append(name)
            elif luck < 0.5:
                kept = told["plan"]["subtasks"][name]
                made["add"][name] = {key: kept[key] for key in ("capability", "input", "after") if key in kept}
            elif luck < 0.55:
                made.setdefault("remove", []).append(name)
        if drawn.random() < 0.05:
            made["output"] = "the planner's own"
        return made

    def _nonsense(self, award: m.Award) -> m.Claim:
        """A claim that its sender has no right to: of another life, of an award or a subtask that there never was."""
        of: dict[str, Any] = self.drawn.choice(
            (
                {"subtask": award.subtask, "epoch": award.epoch, "boot": new_boot()},
                {"subtask": award.subtask, "epoch": award.epoch + 10**12, "boot": self.boot},
                {"subtask": "nobody", "epoch": award.epoch, "boot": self.boot},
            )
        )
        kind = self.drawn.choice((m.Accept, m.Decline, m.Done, m.Failed, m.Release, m.Extend))
        if kind is m.Failed:
            return m.Failed(**of, error=m.ErrorInfo(code="handler", message="nonsense"))
        if kind is m.Extend:
            return m.Extend(**of, call=1, child=m.SubtaskSpec(capability="a"))
        return kind(**of)

    async def _extend(self, task: TaskName, held: Held) -> None:
        """Add a child, and wait for it; asked again until its result comes (there may be none: it is refused, or a message was lost too often)."""
        award = held.award
        child = m.SubtaskSpec(capability=self.drawn.choice(CAPABILITIES), retries=4)
        extend = self._claim(m.Extend(subtask=award.subtask, epoch=award.epoch, boot=self.boot, call=1, child=child))
        ended = self.children[held.pair] = asyncio.Event()
        held.state = "waiting"
        for _ in range(5):
            await self._store(task, extend)
            try:
                await asyncio.wait_for(ended.wait(), 3.0)
                break
            except TimeoutError:
                continue
        held.state = "running"
        del self.children[held.pair]


def work(input: dict[str, Any], task: str, subtask: str) -> Any:
    """What every agent makes of an input: the rows, the parts one after another, or who it was."""
    if "rows" in input:
        return input["rows"]
    if "parts" in input:
        return [row for part in input["parts"] for row in part]
    return f"{task}/{subtask}"


class Wish(NamedTuple):
    """A task that somebody wants, and when. `steer`: (verdict or cancel, seconds after it is stored, subtask), one after another."""

    plan: str | Plan | Goal
    options: dict[str, Any]
    at: float
    steer: list[tuple[str, float, str | None]]
    waits: bool


def random_wish(drawn: random.Random, at: float) -> Wish:
    """A task with a bit of everything."""
    options: dict[str, Any] = {"retries": 4, "priority": drawn.randint(-1, 1)}
    if drawn.random() < 0.1:
        options["deadline_s"] = drawn.uniform(0.5, 60)
    if drawn.random() < 0.4:
        options["replan"] = random_policy(drawn)
    if drawn.random() < 0.2:
        name, least, most = drawn.choice(BUDGETS)
        options["budget"] = {name: float(drawn.randint(least, most))}
    if drawn.random() < 0.15 or "wait" in msgspec.structs.astuple(options.get("replan", Replan())):
        options["approval"] = ApprovalPolicy(
            timeout_s=PEOPLE_S,
            otherwise=drawn.choice(("accept", "reject")),
            capabilities=drawn.sample(CAPABILITIES, drawn.randint(0, 1)),
            versions=drawn.random() < 0.5,
        )
    plan = random_plan(drawn)
    if isinstance(plan, Goal) and options.get("budget", {}).get("replans") == 0:
        options["budget"] = {"replans": 1.0}  # its first plan counts
    names = ["main"] if isinstance(plan, str) else list(plan.subtasks) if isinstance(plan, Plan) else ["v1-0"]
    steer: list[tuple[str, float, str | None]] = []
    while drawn.random() < 0.5:
        what = drawn.choice(("cancel", "revise", "revise", "accept", "reject", "message", "changed"))
        steer.append((what, drawn.choice((0.0, drawn.expovariate(0.5))), drawn.choice((None, *names))))
    if drawn.random() < 0.15:  # a planner is asked, and before it answers the plan changes
        options["replan"] = Replan(message="plan", revise="retry", planner_timeout_s=8.0)
        steer = [("message", drawn.expovariate(2.0), None), ("revise", drawn.expovariate(4.0), drawn.choice(names))]
    return Wish(plan, options, at, steer, drawn.random() < 0.8)


def random_policy(drawn: random.Random) -> Replan:
    """Answers to some triggers. Whoever waits for a person is let go after a while."""
    said = {trigger: drawn.choice(SENSIBLE.get(trigger, ANSWERS)) for trigger in TRIGGERS if drawn.random() < 0.4}
    return msgspec.convert({**said, "unserved_s": 5.0, "planner_timeout_s": 8.0, "split": {"over": "rows", "into": 2}}, Replan)


def random_plan(drawn: random.Random) -> str | Plan | Goal:
    """One capability, a goal, or a few subtasks that wait for each other, some split, some that may be skipped."""
    if drawn.random() < 0.1:
        return Goal("whatever the planner likes")
    if drawn.random() < 0.3:
        return drawn.choice(CAPABILITIES)
    plan = Plan()
    names: list[str] = []
    lists: list[str] = []
    for number in range(drawn.randint(2, 5)):
        name = f"s{number}"
        waits = drawn.sample(names, min(len(names), drawn.randint(0, 2)))
        input: dict[str, Any] = {other: Ref(other) for other in waits if drawn.random() < 0.5}
        options: dict[str, Any] = {"after": [other for other in waits if other not in input]}
        if drawn.random() < 0.2:
            options["on_failure"] = "skip"
        if drawn.random() < 0.1:
            options["timeout_s"] = TIMEOUT_S
        if drawn.random() < 0.1:
            options["deadline_s"] = drawn.uniform(0.1, 30)
        if drawn.random() < 0.2 and options.get("on_failure") != "skip":
            input["rows"] = Ref(drawn.choice(lists)) if lists and drawn.random() < 0.5 else list(range(drawn.randint(0, 9)))
            options["split"] = Split(over="rows", into=drawn.choice((None, 2, 3)), merge=drawn.choice((None, "c")))
            lists.append(name)
        if drawn.random() < 0.05:
            options["approval"] = Approval(timeout_s=PEOPLE_S, otherwise=drawn.choice(("accept", "reject")))
        plan.add(name, Subtask(drawn.choice(CAPABILITIES), input, retries=4, priority=drawn.randint(-1, 1), **options))
        names.append(name)
    return plan


async def submit_and_wait(connection: SimConnection, world: Any, ids: list[str]) -> None:
    """A client: submits its tasks (again, with the same id, after it was killed), steers some, waits for most."""
    await connection.start()
    async with attached(connection) as bus:
        await asyncio.gather(*(_one(bus, world, id) for id in ids if id not in world.told))
        world.clients_done.add(connection.name)


async def _one(bus: Bus, world: Any, id: str) -> None:
    wish = world.wanted[id]
    await asyncio.sleep(max(0.0, wish.at - world.loop.now))
    task = await bus.submit(wish.plan, None if isinstance(wish.plan, Plan) else {}, id=id, store_timeout_s=None, **wish.options)
    for what, after_s, subtask in wish.steer:
        await asyncio.sleep(after_s)
        try:
            if what == "cancel":
                await task.cancel("enough")
            elif what == "changed":
                await task.feedback(Feedback(text="later", deadline_s=600.0, priority=1))
            else:
                await task.feedback(Feedback(text="faster", verdict=None if what == "message" else what, subtask=subtask))
        except AgentExecutorError:
            world.counts["steering refused"] += 1
    if not wish.waits:
        world.told[id] = None
        return
    try:
        world.told[id] = "completed", await task.result()
    except TaskError as error:
        world.told[id] = type(error).__name__.removeprefix("Task").lower(), None
