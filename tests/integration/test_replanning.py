"""Plans that change on the real bus: a trigger leads to a new version, what was done is kept, and the coordinator may die in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus
from msgspec import Raw
from peers import Peer, Place, ScriptedAgent, agent, client, coordinating, killable

from agentexecutor.bus.log import TaskLog
from agentexecutor.coordinator import lateness
from agentexecutor.schemas import Plan, Ref, Replan, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, encode, headers
from agentexecutor.schemas.names import TaskName

pytestmark = pytest.mark.anyio


@pytest.fixture
async def me(place: Place) -> AsyncIterator[Peer]:
    async with client(place) as peer:
        yield peer


async def changes(me: Peer, task: TaskName) -> list[r.Change]:
    """All that is stored of a task."""
    answer = await me.ask("task", task, what="log")
    records = (await me.value(task, answer, "body"))["records"]
    return [change for entry in records for change in decode_record(encode(entry["record"])).changes]


async def versions(me: Peer, task: TaskName) -> list[r.Planned]:
    return [change for change in await changes(me, task) if isinstance(change, r.Planned) and change.cause in ("submit", "replan")]


async def until_version(me: Peer, task: TaskName, version: int) -> None:
    await me.until(task, lambda view: view.plan_version >= version)


@asynccontextmanager
async def doomed(place: Place, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A coordinator, and what ends it without a goodbye."""
    kill, dead = anyio.Event(), anyio.Event()

    async def live(*, task_status: TaskStatus[None]) -> None:
        async with killable(place, name) as (_, scope):
            task_status.started()
            await kill.wait()
            scope.cancel()
        dead.set()

    async def end() -> None:
        kill.set()
        await dead.wait()

    async with anyio.create_task_group() as group:
        await group.start(live)
        yield end
        kill.set()


def plan(**options: Any) -> Plan:
    """`load` is done when the trigger comes; `work` is what it is about; `end` waits for both."""
    return Plan(
        {
            "load": Subtask("load"),
            "work": Subtask("work", {"rows": Ref("load"), "way": "old"}, retries=0, **options),
            "end": Subtask("end", {"rows": Ref("load"), "done": Ref("work")}),
        },
        result="end",
    )


NEW = m.SubtaskSpec(capability="other", input=Raw(b'{"rows":{"$ref":"load"},"way":"new"}'))


class Stage:
    """A task whose `load` is done, the agents of all capabilities, and what a trigger needs."""

    def __init__(self, me: Peer, worker: ScriptedAgent, planner: ScriptedAgent) -> None:
        self.me = me
        self.worker = worker
        self.planner = planner
        self.awarded: Counter[str] = Counter()
        self.epoch = 0
        self.task = TaskName("me", "t")

    async def begin(self, submit: m.Submit) -> None:
        self.task = await self.me.submit("t", submit)
        award = await self.next("load")
        await self.worker.done(award, [1, 2])

    async def next(self, subtask: str, *, accept: bool = True) -> m.Award:
        """The worker's next award of a subtask; one that comes again is not another."""
        while True:
            award = await self.worker.award(subtask)
            if award.epoch > self.epoch:
                break
        self.epoch = award.epoch
        self.awarded[subtask] += 1
        if accept:
            await self.worker.accept(award)
        return award

    async def say(self, peer: Peer | None = None, **fields: Any) -> None:
        await (peer or self.me).claim("feedback", self.task, m.FeedbackClaim(**fields))


async def failed(stage: Stage) -> None:
    award = await stage.next("work")
    await stage.worker.failed(award)


async def lost(stage: Stage) -> None:
    await stage.next("work")
    stage.worker.running.clear()  # it does not name it any more, as if it had died and come back


async def late(stage: Stage) -> None:
    award = await stage.next("work", accept=False)
    claim = m.Accept(subtask="work", epoch=award.epoch, boot=stage.worker.boot, schedule=[m.Step(name="long", duration_s=3600)])
    stage.worker.running[award.task, "work"] = m.Running(task=award.task, subtask="work", epoch=award.epoch)
    await stage.worker.claim("accept", stage.task, claim)


async def unserved(stage: Stage) -> None:
    """Nobody offers `work`: see `capabilities`."""


async def revise(stage: Stage) -> None:
    await stage.worker.done(await stage.next("work"), "old")
    await stage.next("end")
    await stage.say(subtask="work", verdict="revise", text="better, please")


async def reject(stage: Stage) -> None:
    await stage.next("work")
    await stage.say(subtask="work", verdict="reject", text="not like this")


async def message(stage: Stage) -> None:
    await stage.next("work")
    await stage.say(text="there is another way", data=Raw(b'{"way":"new"}'))


async def changed(stage: Stage) -> None:
    await stage.next("work")
    await stage.say(deadline_s=3000, priority=3)


TRIGGERS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "failed": failed,
    "lost": lost,
    "late": late,
    "unserved": unserved,
    "revise": revise,
    "reject": reject,
    "message": message,
    "changed": changed,
}


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_a_trigger_leads_to_a_version_by_the_planner(place: Place, me: Peer, trigger: str, killed: bool) -> None:
    """The new version replaces `work`, whatever has become of it; `load` is kept. Killed: the coordinator dies while the planner thinks."""
    offered = ["load", "end", "other"] + ([] if trigger == "unserved" else ["work"])
    replan = msgspec.convert({trigger: "plan", "unserved_s": 0.3}, Replan)
    submit = m.Submit(plan=plan(deadline_s=1000 if trigger == "late" else None).spec(), replan=replan)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(agent(place, "worker", *offered, capacity=10))
        planner = await stack.enter_async_context(agent(place, "planner", "plan"))
        kill = await stack.enter_async_context(doomed(place, "first"))
        stage = Stage(me, worker, planner)
        await stage.begin(submit)
        await TRIGGERS[trigger](stage)
        asked = await planner.award()
        told = msgspec.json.decode(asked.input)
        assert ([why["trigger"] for why in told["why"]], told["version"]) == ([trigger], 1)
        assert told["plan"]["subtasks"]["load"]["result"] == [1, 2]
        await planner.accept(asked)
        if killed:
            await kill()
            await stack.enter_async_context(coordinating(place, "second"))
        await planner.done(asked, r.Revision(add={"work": NEW}, finish=True, text="the other way"))
        new = await stage.next("work")
        assert (new.capability, new.plan_version, msgspec.json.decode(new.input)) == ("other", 2, {"rows": [1, 2], "way": "new"})
        await worker.done(new, "new")
        end = await stage.next("end")
        assert msgspec.json.decode(end.input) == {"rows": [1, 2], "done": "new"}
        await worker.done(end, "all")
        assert bytes((await me.result(stage.task)).result) == b'"all"'
        old, now = await versions(me, stage.task)
        assert (old.version, list(old.add)) == (1, ["load", "work", "end"])
        assert (now.version, now.base, list(now.add), now.remove, now.planner) == (2, 1, ["work"], [], "plan-1")
        assert now.again == (["end"] if trigger == "revise" else [])
        assert [(why.trigger, why.answer) for why in now.why] == [(trigger, "plan")]
        assert stage.awarded["load"] == 1
        results = Counter(change.subtask for change in await changes(me, stage.task) if isinstance(change, r.Completed))
        assert results["load"] == results["end"] == 1


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
async def test_revise_without_a_planner(place: Place, me: Peer, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """What was completed runs again with the text. Killed: the coordinator dies with the feedback read and the version not yet stored."""
    stuck = anyio.Event()
    append = TaskLog.append

    async def append_until_told(self: TaskLog, shard: int, task: TaskName, payload: bytes, made: dict[str, str], *, expected: int) -> int:
        if killed and not stuck.is_set() and b'"replan"' in payload:
            stuck.set()
            await anyio.sleep_forever()
        return await append(self, shard, task, payload, made, expected=expected)

    monkeypatch.setattr(TaskLog, "append", append_until_told)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(agent(place, "worker", "load", "work", "end", capacity=10))
        planner = await stack.enter_async_context(agent(place, "planner"))
        kill = await stack.enter_async_context(doomed(place, "first"))
        stage = Stage(me, worker, planner)
        await stage.begin(m.Submit(plan=plan().spec()))
        await revise(stage)
        if killed:
            await stuck.wait()
            await kill()
            await stack.enter_async_context(coordinating(place, "second"))
        again = await stage.next("work")
        assert [given.text for given in again.feedback] == ["better, please"]
        assert (again.plan_version, again.attempt) == (2, 1)
        await worker.done(again, "new")
        await worker.done(await stage.next("end"), "all")
        assert bytes((await me.result(stage.task)).result) == b'"all"'
        _, now = await versions(me, stage.task)
        assert (now.again, list(now.add), stage.awarded) == (["work", "end"], [], {"load": 1, "work": 2, "end": 2})
        said = [change for change in await changes(me, stage.task) if isinstance(change, r.FeedbackGiven)]
        assert len(said) == 1


async def test_a_goal_from_plan_to_result(place: Place, me: Peer) -> None:
    async with agent(place, "worker", "one", "two", capacity=10) as worker, agent(place, "planner", "plan") as planner, coordinating(place):
        task = await me.submit("t", goal="two", input=Raw(b'{"n":1}'))
        asked = await planner.award()
        told = msgspec.json.decode(asked.input)
        assert (told["goal"], told["input"], [offer["name"] for offer in told["offers"]]) == ("two", {"n": 1}, ["one", "two"])
        await planner.done(asked, Raw(b'{"add":{"a":{"capability":"three"}}}'))
        asked = await planner.award()
        told = msgspec.json.decode(asked.input)
        assert "Nobody offers 'three'" in told["errors"][0]
        await planner.done(asked, Raw(b'{"add":{"a":{"capability":"one","input":{"n":1}}}}'))
        await worker.done(await worker.award("a"), 2)
        asked = await planner.award()
        told = msgspec.json.decode(asked.input)
        assert ([why["trigger"] for why in told["why"]], told["plan"]["subtasks"]["a"]["result"]) == (["continue"], 2)
        await planner.done(asked, Raw(b'{"add":{"b":{"capability":"two","input":{"n":{"$ref":"a"}}}},"finish":true}'))
        await worker.done(await worker.award("b"), 3)
        assert bytes((await me.result(task)).result) == b"3"


ANSWERS = {
    "retry": ({"again": ["work"]}, "work"),
    "another": ({"add": ["work"]}, "work"),
    "wait": (None, "work"),
    "skip": (None, "end"),
    "fail": (None, None),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_every_answer_to_a_failure(place: Place, me: Peer, answer: Any) -> None:
    """`plan` is tried with every trigger above, `split` below."""
    difference, then = ANSWERS[answer]
    async with (
        agent(place, "worker", "load", "work", "end", capacity=10) as worker,
        agent(place, "other", "work", capacity=10) as other,
        coordinating(place),
    ):
        await me.until_agents(2)
        submit = m.Submit(plan=plan(prefer="worker").spec(), replan=msgspec.convert({"failed": answer}, Replan))
        stage = Stage(me, worker, other)
        await stage.begin(submit)
        await failed(stage)
        if answer == "wait":
            await me.until_state(stage.task, "waiting")
            await stage.say(subtask="work", verdict="accept")
        if answer == "fail":
            error = (await me.result(stage.task)).error
            assert error is not None
            assert (error.code, error.details["subtask"]) == ("handler", "work")
            return
        if answer == "another":
            again = await other.award("work")
            await other.done(again, "new")
        elif then == "work":
            await worker.done(await stage.next("work"), "new")
        end = await stage.next("end")
        assert msgspec.json.decode(end.input)["done"] == (None if answer == "skip" else "new")
        await worker.done(end, "all")
        assert bytes((await me.result(stage.task)).result) == b'"all"'
        made = await versions(me, stage.task)
        assert len(made) == (1 if difference is None else 2)
        if difference is not None:
            assert {"add": list(made[1].add), "again": made[1].again} == {"add": [], "again": []} | difference
        assert stage.awarded["load"] == 1


@pytest.mark.parametrize("answer", ["retry", "another", "split", "wait", "skip", "fail"])
async def test_every_answer_to_feedback_with_the_coordinator_killed(
    place: Place, me: Peer, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """It dies with the feedback read and its answer not yet stored; whoever takes over answers, once."""
    stuck = anyio.Event()
    append = TaskLog.append

    async def append_until_told(self: TaskLog, shard: int, task: TaskName, payload: bytes, made: dict[str, str], *, expected: int) -> int:
        if not stuck.is_set() and b"not like this" in payload:
            stuck.set()
            await anyio.sleep_forever()
        return await append(self, shard, task, payload, made, expected=expected)

    monkeypatch.setattr(TaskLog, "append", append_until_told)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(agent(place, "worker", "load", "work", "end", capacity=10))
        other = await stack.enter_async_context(agent(place, "other", "work" if answer == "another" else "nothing", capacity=10))
        kill = await stack.enter_async_context(doomed(place, "first"))
        await me.until_agents(2)
        stage = Stage(me, worker, other)
        policy = msgspec.convert({"reject": answer, "split": {"over": "rows", "into": 2}}, Replan)
        await stage.begin(m.Submit(plan=plan(prefer="worker").spec(), replan=policy))
        await reject(stage)
        await stuck.wait()
        await kill()
        await stack.enter_async_context(coordinating(place, "second"))
        if answer == "wait":
            await me.until_state(stage.task, "waiting")
            await stage.say(subtask="work", verdict="accept")
        if answer == "another":
            await other.done(await other.award("work"), "new")
        elif answer == "split":
            for name in ("work-1", "work-2"):
                award = await worker.award(name)
                await worker.done(award, msgspec.json.decode(award.input)["rows"])
        elif answer in ("retry", "wait"):
            await worker.done(await stage.next("work"), "new")
        if answer != "fail":
            end = await stage.next("end")
            assert msgspec.json.decode(end.input)["done"] == {"skip": None, "split": [1, 2]}.get(answer, "new")
            await worker.done(end, "all")
        result = await me.result(stage.task)
        assert result.state == ("failed" if answer == "fail" else "completed")
        assert len(await versions(me, stage.task)) == (2 if answer in ("retry", "another", "split") else 1)
        said = [change.verdict for change in await changes(me, stage.task) if isinstance(change, r.FeedbackGiven)]
        assert said == (["reject", "accept"] if answer == "wait" else ["reject"])
        assert stage.awarded["load"] == 1


async def test_lateness_is_told_from_progress(place: Place, me: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its schedule it would be in time; by what it says on its way it would not."""
    monkeypatch.setattr(lateness, "NEARER", 0.0)  # it is looked again at once, not after a quarter of the time
    submit = m.Submit(plan=plan(prefer="worker", deadline_s=1000.0).spec(), replan=Replan(late="another"))
    async with (
        agent(place, "worker", "load", "work", "end", capacity=10) as worker,
        agent(place, "other", "work", capacity=10) as other,
        coordinating(place),
    ):
        await me.until_agents(2)
        stage = Stage(me, worker, other)
        await stage.begin(submit)
        award = await stage.next("work", accept=False)
        schedule = [m.Step(name="fit", duration_s=10.0)]
        worker.running[award.task, "work"] = m.Running(task=award.task, subtask="work", epoch=award.epoch)
        await worker.claim("accept", stage.task, m.Accept(subtask="work", epoch=award.epoch, boot=worker.boot, schedule=schedule))
        await me.until(stage.task, lambda view: view.subtasks["work"].state == "running")
        said = m.Progress(subtask="work", epoch=award.epoch, boot=worker.boot, at="2026-01-01T00:00:00Z", fraction=1e-9)
        connection = worker.connection
        await connection.store(connection.subjects.progress("worker", stage.task), encode(said), headers("progress"))
        assert "late with 'work'" in (await worker.expect("cancel", partial(_is_of, award.epoch))).reason
        await other.done(await other.award("work"), "new")
        await worker.done(await stage.next("end"), "all")
        assert bytes((await me.result(stage.task)).result) == b'"all"'
        _, now = await versions(me, stage.task)
        assert ([why.trigger for why in now.why], now.add["work"].avoid) == (["late"], ["worker"])


async def test_what_is_too_much_for_one_is_split(place: Place, me: Peer) -> None:
    async with agent(place, "a1", "count", "join", capacity=10) as worker, coordinating(place):
        subtask = m.SubtaskSpec(capability="count", input=Raw(b'{"rows":[1,2,3,4]}'), retries=0)
        policy = Replan(failed="split", split=m.Split(over="rows", into=2))
        task = await me.submit("t", plan=m.PlanSpec(subtasks={"all": subtask}), replan=policy)
        await worker.failed(await worker.award("all"))
        for name, rows in (("all-1", [1, 2]), ("all-2", [3, 4])):
            award = await worker.award(name)
            assert (msgspec.json.decode(award.input), award.plan_version) == ({"rows": rows}, 2)
            await worker.done(award, rows)
        assert msgspec.json.decode((await me.result(task)).result) == [1, 2, 3, 4]


async def test_feedback_while_a_planner_repairs_something_else(place: Place, me: Peer) -> None:
    """What has failed is left to the planner, who is asked anew about the version that the feedback has made."""
    both = {"work": Subtask("work", retries=0), "other": Subtask("other"), "end": Subtask("end", {"a": Ref("work"), "b": Ref("other")})}
    async with (
        agent(place, "worker", "work", "other", "end", capacity=10) as worker,
        agent(place, "planner", "plan", capacity=10) as planner,
        coordinating(place),
    ):
        task = await me.submit("t", m.Submit(plan=Plan(both, result="end").spec(), replan=Replan(failed="plan")))
        await worker.failed(await worker.award("work"))
        await worker.done(await worker.award("other"), "old")
        first = await planner.award()
        await planner.accept(first)
        await me.claim("feedback", task, m.FeedbackClaim(subtask="other", verdict="revise", text="better"))
        await planner.expect("cancel", partial(_is_of, first.epoch))
        second = await planner.award()
        told = msgspec.json.decode(second.input)
        assert ([why["subtask"] for why in told["why"]], told["version"]) == (["work"], 2)
        assert told["plan"]["subtasks"]["work"]["state"] == "failed"
        await worker.done(await worker.award("other"), "new")
        await planner.done(second, r.Revision(add={"work": m.SubtaskSpec(capability="other")}, finish=True))
        await worker.done(await worker.award("work"), "mended")
        end = await worker.award("end")
        assert msgspec.json.decode(end.input) == {"a": "mended", "b": "new"}
        await worker.done(end, "all")
        assert bytes((await me.result(task)).result) == b'"all"'


async def test_approval_outlives_its_coordinator(place: Place, me: Peer) -> None:
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(agent(place, "worker", "pay"))
        kill = await stack.enter_async_context(doomed(place, "first"))
        task = await me.submit("t", capability="pay", approval=m.ApprovalPolicy(capabilities=["pay"], text="Pay Ada?"))
        await me.until_state(task, "waiting")
        await kill()
        await stack.enter_async_context(coordinating(place, "second"))
        answer = await me.ask("tasks")
        assert [(line["task"], line["state"]) for line in msgspec.json.decode(answer.body)["tasks"]] == [("me.t", "waiting")]
        assert (await me.view(task)).subtasks["main"].state == "approval"
        await me.claim("feedback", task, m.FeedbackClaim(subtask="main", verdict="accept"))
        await worker.done(await worker.award(), "paid")
        assert bytes((await me.result(task)).result) == b'"paid"'
        asked = [change for change in await changes(me, task) if isinstance(change, r.Asked | r.Approved)]
        assert [type(change).__name__ for change in asked] == ["Asked", "Approved"]


async def test_a_large_proposal_waits_and_outlives_its_coordinator(place: Place, me: Peer) -> None:
    """It is larger than what the server stores as one message."""
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(agent(place, "worker", "work", capacity=30))
        planner = await stack.enter_async_context(agent(place, "planner", "plan"))
        kill = await stack.enter_async_context(doomed(place, "first"))
        await me.until_agents(2)
        wanted = {f"s{n}": {"capability": "work", "input": {"n": n, "text": "x" * 70_000}} for n in range(20)}
        ref = await planner.put(TaskName("me", "t"), {"add": wanted, "finish": True})
        task = await me.submit("t", goal="much", approval=m.ApprovalPolicy(versions=True))
        await planner.done(await planner.award(), None, result_blob=ref)
        await me.until_state(task, "waiting")
        await kill()
        await stack.enter_async_context(coordinating(place, "second"))
        await me.claim("feedback", task, m.FeedbackClaim(verdict="accept"))
        for number in range(20):
            await worker.done(await worker.award(f"s{number}"), number)
        assert len(msgspec.json.decode((await me.result(task)).result)) == 20
        proposed = [change for change in await changes(me, task) if isinstance(change, r.Proposed)]
        assert [(change.revision, change.revision_blob is not None) for change in proposed] == [(None, True)]


async def test_a_planner_ends_the_task_with_a_large_result(place: Place, me: Peer) -> None:
    async with agent(place, "planner", "plan") as planner, coordinating(place):
        ref = await planner.put(TaskName("me", "t"), {"finish": True, "output": "x" * 1_500_000})
        task = await me.submit("t", goal="much")
        await planner.done(await planner.award(), None, result_blob=ref)
        result = await me.result(task)
        assert (result.state, result.result_blob is not None and result.result_blob.bytes) == ("completed", 1_500_002)


async def test_a_planner_is_awarded_however_much_was_said(place: Place, me: Peer) -> None:
    """More than the server stores or sends as one message: it is in the input, which then goes by reference."""
    async with agent(place, "worker", "work") as worker, agent(place, "planner", "plan") as planner, coordinating(place):
        task = await me.submit("t", m.Submit(capability="work", replan=Replan(revise="plan")))
        await worker.accept(await worker.award())
        for _ in range(5):
            await me.claim("feedback", task, m.FeedbackClaim(text="x" * 240_000))
        await me.claim("feedback", task, m.FeedbackClaim(verdict="revise", text="plan anew"))
        asked = await planner.award()
        assert (asked.feedback, asked.epoch) == ([], 2)
        told = await planner.value(task, asked, "input")
        assert [len(given["text"]) for given in told["feedback"]] == [240_000] * 5 + [9]


async def test_a_budget_is_kept_for_agents_of_any_language(place: Place, me: Peer) -> None:
    async with agent(place, "worker", "one", "two", capacity=10) as worker, coordinating(place):
        two = Plan({"a": Subtask("one"), "b": Subtask("two", after=["a"])})
        task = await me.submit("t", m.Submit(plan=two.spec(), budget={"tokens": 1000}))
        await worker.done(await worker.award("a"), 1, usage={"tokens": 1200.0}, took_s=2.0)
        error = (await me.result(task)).error
        assert error is not None
        assert (error.code, error.details["exceeded"], error.details["by"]) == (
            "budget",
            "tokens",
            {"one": {"tokens": 1200.0, "seconds": 2.0}},
        )


def _is_of(epoch: int, message: m.Cancel) -> bool:
    return message.epoch == epoch


@pytest.mark.parametrize("how", ["nonsense", "100,000 subtasks", "too late", "for ever"])
async def test_a_planner_that_is_of_no_use(place: Place, me: Peer, how: str) -> None:
    """It is told what was wrong (or given up, when it takes too long), and the third time the task fails with the reason."""
    async with agent(place, "planner", "plan", capacity=10) as planner, coordinating(place):
        task = await me.submit("t", goal="happiness", replan=Replan(planner_timeout_s=0.5), retries=2)
        large = {"add": {f"s{number}": {"capability": "plan"} for number in range(100_000)}}
        for count in range(3):
            asked = await planner.award()
            told = msgspec.json.decode(asked.input)
            assert len(told["errors"]) == count
            if how == "nonsense":
                await planner.done(asked, {"add": "everything"})
            elif how == "100,000 subtasks":
                await planner.done(asked, None, result_blob=await planner.put(task, large))
            else:
                await planner.accept(asked)
                cancelled = await planner.expect("cancel", partial(_is_of, asked.epoch))
                assert "timeout_s" in cancelled.reason
                if how == "too late":
                    await planner.done(asked, {"finish": True, "output": 7})
        error = (await me.result(task)).error
        assert error is not None
        words = {"nonsense": "Expected `object`", "100,000 subtasks": "more than 20000"}
        assert words.get(how, "timeout_s of 0.5 s") in error.message


@pytest.mark.parametrize("who", ["a stranger", "nobody's task", "nobody's subtask", "an ended task"])
async def test_feedback_that_cannot_be_used_is_refused_to_its_sender(place: Place, me: Peer, who: str) -> None:
    async with agent(place, "worker", "work") as worker, client(place, "eve") as eve, coordinating(place):
        task = await me.submit("t", capability="work")
        award = await worker.award()
        if who == "an ended task":
            await worker.done(award, 1)
            await me.result(task)
        peer = eve if who == "a stranger" else me
        about = TaskName("me", "nothing") if who == "nobody's task" else task
        said = m.FeedbackClaim(subtask="nobody" if who == "nobody's subtask" else None, verdict="revise", text="?")
        id = await peer.claim("feedback", about, said)
        refused = await peer.expect("refused", lambda refused: refused.id == id)
        assert refused.error.code == "refused"
        words = {
            "a stranger": "eve is neither",
            "nobody's task": "There is no task",
            "nobody's subtask": "no subtask 'nobody'",
            "an ended task": "has ended",
        }
        assert words[who] in refused.error.message
