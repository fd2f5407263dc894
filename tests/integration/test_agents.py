"""Agents on a real server with a real coordinator: what a handler can do, and what it can do wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from msgspec.structs import replace

from agentexecutor.agents import Agent, AgentError, Asked, ChildFailed, Context, Fail, NameTaken, Retry
from agentexecutor.agents.hosting import Hosting
from agentexecutor.bus import NoAnswer, TaskCancelled, TaskFailed, connect
from agentexecutor.schemas import Event, Feedback, Plan, Subtask
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.views import BidView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentexecutor.agents.book import LastClaim
    from agentexecutor.bus import Bus, EmbeddedServer

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parent / "programs" / "agent.py"


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as connected:
        yield connected


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for a condition of another process or thread, which nobody tells us of."""
    with anyio.fail_after(seconds):
        while not (found := condition()):
            await anyio.sleep(0.02)
    return found


async def wait_for_state(bus: Bus, name: str, subtask: str, state: str) -> None:
    with anyio.fail_after(60):
        while (found := (await bus.task(name).view()).subtasks.get(subtask)) is None or found.state != state:  # none while its submit waits
            await anyio.sleep(0.05)


async def test_all_kinds_of_handlers(bus: Bus) -> None:
    agent = Agent("worker", capacity=4, labels={"zone": "eu"})

    @agent.capability("a.async")
    async def asynchronous(ctx: Context, x: int) -> int:
        assert ctx.task.startswith("me.")
        assert (ctx.subtask, ctx.epoch, ctx.attempt, ctx.plan_version) == ("main", 1, 1, 1)
        return x + 1

    @agent.capability("a.blocking")
    def blocking(x: int, y: int = 2) -> dict[str, Any]:
        return {"sum": x + y, "thread": threading.current_thread() is not threading.main_thread()}

    async with agent.serve(bus):
        assert await bus.run("a.async", {"x": 1}) == 2
        assert await bus.run("a.blocking", {"x": 1}, labels={"zone": "eu"}) == {"sum": 3, "thread": True}
        (view,) = await bus.agents()
        assert (view.name, view.capacity, view.labels) == ("worker", 4, {"zone": "eu"})


async def test_what_a_handler_can_do_wrong(bus: Bus) -> None:
    agent = Agent("worker", capacity=4)
    calls: list[str] = []

    @agent.capability("raises")
    async def raises(ctx: Context) -> str:
        calls.append("raises")
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return "at last"

    @agent.capability("fails")
    async def fails() -> None:
        calls.append("fails")
        raise Fail("no way", why="test")

    @agent.capability("retries")
    def retries(ctx: Context) -> float:
        if ctx.attempt == 1:
            raise Retry("later", after_s=0.3)
        return time.time()

    @agent.capability("not.json")
    async def not_json() -> Any:
        calls.append("not.json")
        return object()

    @agent.capability("never.ends")
    async def never_ends() -> None:
        calls.append("never.ends")
        await anyio.sleep_forever()

    @agent.capability("strict")
    async def strict(count: int) -> int:
        calls.append("strict")
        return count

    async with agent.serve(bus):
        assert await bus.run("raises") == "at last"
        with pytest.raises(TaskFailed) as failed:
            await bus.run("fails")
        assert (failed.value.fields["error"].code, failed.value.fields["error"].details["why"]) == ("handler", "test")
        task = await bus.submit("retries")
        await task.result(timeout_s=60)
        attempts = (await task.view()).subtasks["main"].attempts
        assert [attempt.state for attempt in attempts] == ["failed", "completed"]
        with pytest.raises(TaskFailed, match="returned a object, which has no JSON form"):
            await bus.run("not.json")
        with pytest.raises(TaskFailed) as late:
            await bus.run("never.ends", timeout_s=0.3, retries=1)
        assert late.value.fields["error"].code == "deadline"
        with pytest.raises(TaskFailed) as refused:
            await bus.run("strict", {"count": "many"})
        assert (refused.value.fields["error"].code, "'count'" in str(refused.value)) == ("input", True)
    assert calls.count("raises") == 3
    assert calls.count("fails") == calls.count("not.json") == 1
    assert calls.count("never.ends") == 2
    assert "strict" not in calls


async def test_a_handler_that_blocks_the_loop_is_warned_about_and_nothing_is_lost(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("blocker", capacity=2)

    @agent.capability("block")
    async def block(seconds: float) -> str:
        time.sleep(seconds)  # noqa: ASYNC251  # this is the mistake
        return "done"

    with caplog.at_level(logging.WARNING, logger="agentexecutor.agents"):
        async with agent.serve(bus):
            assert await bus.run("block", {"seconds": 10.0}) == "done"
    assert "blocks the event loop" in caplog.text


async def test_a_schedule_before_the_loop_is_blocked_does_not_keep_the_accept_back(bus: Bus) -> None:
    """The accept was made, and stands in the way of the loop that is blocked: the side thread says it."""
    agent = Agent("blocker", capacity=2)
    runs: list[int] = []

    @agent.capability("block")
    async def block(ctx: Context) -> str:
        runs.append(ctx.epoch)
        await ctx.schedule(("fit", 6.0))
        time.sleep(6.0)  # noqa: ASYNC251  # this is the mistake
        return "done"

    async with agent.serve(bus):
        task = await bus.submit("block")
        assert await task.result() == "done"
        attempts = (await task.view()).subtasks["main"].attempts
    assert (len(runs), [attempt.state for attempt in attempts]) == (1, ["completed"])


async def test_children_that_are_awaited_one_beside_the_other_take_one_slot_back(bus: Bus) -> None:
    """One has its result and queues for the slot while the other begins to wait; the slot comes back in between."""
    agent, children = Agent("parent", capacity=1), Agent("children", capacity=4)
    late, first, second, hog_has_it, hog_ends = (asyncio.Event() for _ in range(5))

    @agent.capability("parent")
    async def parent(ctx: Context) -> str:
        one, two = await ctx.submit("child", {"which": "first"}), await ctx.submit("child", {"which": "second"})

        async def wait_for_two() -> str:
            await late.wait()
            return await two.result(str)

        return "+".join(await asyncio.gather(one.result(str), wait_for_two()))

    @agent.capability("hog")
    async def hog() -> None:
        hog_has_it.set()
        await hog_ends.wait()

    @children.capability("child")
    async def child(which: str) -> str:
        await {"first": first, "second": second}[which].wait()
        return which

    async with agent.serve(bus) as hosting, children.serve(bus, coordinate=False):
        task = await bus.submit("parent")
        await until(lambda: any(held.state == "waiting" for held in hosting.book.held.values()))
        hogs = await bus.submit("hog")
        await hog_has_it.wait()
        first.set()
        await until(lambda: hosting.slots.queued == 1)  # the parent queues for its slot
        late.set()
        await until(lambda: all(held.host.waiting_for == 1 for held in hosting.book.held.values() if held.award.capability == "parent"))
        hog_ends.set()
        await hogs.result(timeout_s=60)
        second.set()
        assert await task.result(timeout_s=60) == "first+second"
        await until(lambda: hosting.slots.free == 1)


async def test_an_agent_whose_offers_cannot_be_kept_ends(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor starts it again; as a process that nobody hears it would be of no use."""
    agent = Agent("mute")
    agent.capability("work")(lambda: None)
    broken = asyncio.Event()
    offer = Hosting.offer

    def break_when_told(hosting: Hosting) -> Any:
        if broken.is_set():
            raise RuntimeError("no offer")
        return offer(hosting)

    monkeypatch.setattr(Hosting, "offer", break_when_told)
    with pytest.raises(AgentError, match="cannot keep its offers"):
        async with agent.serve(bus):
            broken.set()
            await anyio.sleep_forever()


@pytest.mark.parametrize("size", [300_000, 10_000_000], ids=["300kB", "10MB"])
async def test_large_inputs_and_results_travel_by_reference(bus: Bus, size: int) -> None:
    agent = Agent("mirror", capacity=2)

    @agent.capability("mirror")
    async def mirror(text: str) -> dict[str, str]:
        return {"back": text[::-1]}

    text = "ab" * (size // 2)
    plan = Plan(result="second")
    first = plan.add("first", Subtask("mirror", {"text": text}))
    plan.add("second", Subtask("mirror", {"text": first["back"]}))
    async with agent.serve(bus):
        assert await bus.run("mirror", {"text": text}) == {"back": text[::-1]}
        assert await bus.run(plan) == {"back": text}


async def test_children(bus: Bus) -> None:
    agent = Agent("family", capacity=1)

    @agent.capability("sum.tree")
    async def sum_tree(ctx: Context, depth: int) -> int:
        if depth == 0:
            return 1
        children = [await ctx.submit("sum.tree", {"depth": depth - 1}) for _ in range(2)]
        return sum([await child.result(int) for child in children])

    @agent.capability("child.fails")
    async def child_fails(ctx: Context) -> str:
        child = await ctx.submit("unwilling", retries=0)
        try:
            await child.result()
        except ChildFailed as error:
            return str(error.fields["error"].message)
        return "?"

    @agent.capability("unwilling")
    async def unwilling() -> None:
        raise Fail("I will not")

    async with agent.serve(bus):
        task = await bus.submit("sum.tree", {"depth": 3})
        assert await task.result(int, timeout_s=30) == 8, "one slot is enough: who waits gives it back"
        assert len((await task.view()).subtasks) == 15
        assert await bus.run("child.fails") == "I will not"


async def test_a_second_attempt_finds_the_children_of_the_first(bus: Bus) -> None:
    agent = Agent("family", capacity=4)
    ran: list[int] = []

    @agent.capability("parent")
    async def parent(ctx: Context) -> int:
        child = await ctx.submit("child", {"x": 20})
        result: int = await child.result(int)
        if ctx.attempt == 1:
            raise RuntimeError("after the child")
        return result + 1

    @agent.capability("child")
    async def child(x: int) -> int:
        ran.append(x)
        return x * 2

    async with agent.serve(bus):
        assert await bus.run("parent") == 41
    assert ran == [20]


async def test_feedback_reaches_a_running_handler(bus: Bus) -> None:
    agent = Agent("listener")
    running = anyio.Event()

    @agent.capability("listen")
    async def listen(ctx: Context) -> dict[str, Any]:
        running.set()
        async for said in ctx.feedback():
            return {"text": said.text, "verdict": said.verdict, "sender": said.sender}
        return {}

    async with agent.serve(bus):
        task = await bus.submit("listen")
        await running.wait()
        await wait_for_state(bus, task.name, "main", "running")
        await task.feedback(Feedback(verdict="revise", text="use bigrams", subtask="main"))
        assert await task.result(timeout_s=60) == {"text": "use bigrams", "verdict": "revise", "sender": "me"}


async def test_cancel_stops_a_running_handler(bus: Bus) -> None:
    agent = Agent("worker")
    running, stopped = anyio.Event(), anyio.Event()

    @agent.capability("long")
    async def long() -> None:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with agent.serve(bus):
        task = await bus.submit("long")
        await running.wait()
        await task.cancel("enough")
        with anyio.fail_after(60):
            await stopped.wait()
        with pytest.raises(TaskCancelled, match="enough"):
            await task.result(timeout_s=60)


async def test_bids_made_for_the_input(bus: Bus) -> None:
    quick, slow = Agent("quick"), Agent("slow")

    def bid(factor: float) -> Callable[[Asked], float | None]:
        return lambda asked: None if asked.input["x"] < 0 else factor * asked.input["x"]

    @quick.capability("work", bid=bid(1.0))
    async def work_quickly(x: int, text: str = "") -> str:
        return "quick"

    @slow.capability("work", bid=bid(5.0))
    async def work_slowly(x: int, text: str = "") -> str:
        return "slow"

    async def both_bid(input: dict[str, Any]) -> list[BidView]:
        """Submit until both bids have come in time for the round."""
        with anyio.fail_after(60):
            while True:
                task = await bus.submit("work", input, tailored=True)
                winner = await task.result(timeout_s=60)
                bids = (await task.view()).subtasks["main"].bids
                if len(bids) == 2:
                    assert winner == "quick"
                    return bids

    async with quick.serve(bus), slow.serve(bus):
        assert [(bid.agent, bid.source, bid.score, bid.won) for bid in await both_bid({"x": 2})] == [
            ("quick", "call", 2.0, True),
            ("slow", "call", 10.0, False),
        ]
        assert await bus.run("work", {"x": 3}, auction="broadcast") in ("quick", "slow")
        bids = await both_bid({"x": 3, "text": "x" * 400_000})
        assert [(bid.agent, bid.source) for bid in bids] == [("quick", "call"), ("slow", "call")], "the input was fetched for the bid"


async def test_lifespan_is_entered_once_and_its_value_is_the_state(bus: Bus) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def model() -> AsyncIterator[dict[str, int]]:
        events.append("loaded")
        yield {"weights": 7}
        events.append("unloaded")

    agent = Agent("model", lifespan=model)

    @agent.capability("predict")
    async def predict(ctx: Context) -> int:
        weights: int = ctx.state["weights"]
        return weights

    async with agent.serve(bus):
        assert await bus.run("predict") == 7
        assert await bus.run("predict") == 7
    assert events == ["loaded", "unloaded"]


async def test_errors_of_the_body_come_out_unwrapped(bus: Bus) -> None:
    agent = Agent("worker")
    agent.capability("x")(lambda: 1)
    with pytest.raises(KeyError):
        async with agent.serve(bus):
            raise KeyError("mine")
    with pytest.raises(AgentError, match="no capabilities"):
        async with Agent("empty").serve(bus):
            pytest.fail("it must not serve")


async def test_of_two_processes_with_one_name_the_older_stops(bus: Bus) -> None:
    older, newer = Agent("twin"), Agent("twin")
    older.capability("who")(lambda: "older")
    newer.capability("who")(lambda: "newer")
    with pytest.raises(NameTaken, match="newer process"):
        async with older.serve(bus):
            assert await bus.run("who") == "older"
            async with newer.serve(bus):
                assert await bus.run("who") == "newer"
                await anyio.sleep_forever()


def start(server: EmbeddedServer, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments], env={**os.environ, "AGENTEXECUTOR_NATS_URL": server.url, **environment}
    )


async def test_a_handler_that_exits_its_process_is_given_up_and_the_work_goes_on(server: EmbeddedServer, bus: Bus) -> None:
    agent = Agent("survivor")
    agent.capability("maybe.exit")(lambda: "survived")
    victim = start(server, "exit", AGENTEXECUTOR_NAME="a-victim")
    try:
        with anyio.fail_after(60):
            while not await bus_agents(bus):
                await anyio.sleep(0.05)
        task = await bus.submit("maybe.exit")
        await until(lambda: victim.poll() is not None)
        async with agent.serve(bus):
            assert await task.result(timeout_s=40) == "survived"
        attempts = (await lone_view(server, task.name)).subtasks["main"].attempts
        assert [(attempt.agent, attempt.state) for attempt in attempts] == [("a-victim", "lost"), ("survivor", "completed")]
    finally:
        victim.kill()
        victim.wait()


async def until_agents(bus: Bus, count: int) -> None:
    with anyio.fail_after(60):
        while len(await bus_agents(bus)) < count:
            await anyio.sleep(0.05)


async def bus_agents(bus: Bus) -> list[Any]:
    try:
        return await bus.agents()
    except Exception:  # no coordinator yet
        return []


async def lone_view(server: EmbeddedServer, name: str) -> Any:
    """The view of a task when its agents are gone: with a coordinator of one's own."""
    looker = Agent("looker")
    looker.capability("look")(lambda: None)
    async with connect(server.url, name="me") as bus, looker.serve(bus):
        return await bus.task(name).view()


@pytest.mark.parametrize(
    ("how", "seconds"), [("sleep", "3.0"), ("sleep", "60"), ("block", "600")], ids=["finishes", "releases", "leaves a blocked thread"]
)
async def test_sigterm_finishes_or_releases(server: EmbeddedServer, bus: Bus, how: str, seconds: str) -> None:
    program = start(server, how, AGENTEXECUTOR_NAME="sleeper")
    agent = Agent("other", capacity=1)
    agent.capability("sleep")(lambda seconds: "slept elsewhere")
    try:
        await until_agents(bus, 1)
        task = await bus.submit("sleep", {"seconds": float(seconds)})
        await wait_for_state(bus, task.name, "main", "running")
        async with agent.serve(bus):
            program.send_signal(signal.SIGTERM)
            result = await task.result(timeout_s=40)
        await until(lambda: program.poll() is not None)
        assert program.returncode == 0
        assert result == ("slept" if seconds == "3.0" else "slept elsewhere")
    finally:
        program.kill()
        program.wait()


async def test_sigterm_ends_an_agent_whose_handler_swallows_every_cancel(server: EmbeddedServer, bus: Bus) -> None:
    program = start(server, "stubborn", AGENTEXECUTOR_NAME="sleeper")
    agent = Agent("other", capacity=1)
    agent.capability("sleep")(lambda seconds: "slept elsewhere")
    try:
        await until_agents(bus, 1)
        task = await bus.submit("sleep", {"seconds": 600.0})
        await wait_for_state(bus, task.name, "main", "running")
        async with agent.serve(bus):
            program.send_signal(signal.SIGTERM)
            assert await task.result(timeout_s=40) == "slept elsewhere"
        await until(lambda: program.poll() is not None)
        assert program.returncode == 0
    finally:
        program.kill()
        program.wait()


async def test_a_process_whose_name_is_taken_ends_though_a_handler_blocks(server: EmbeddedServer, bus: Bus) -> None:
    older = start(server, "block", AGENTEXECUTOR_NAME="twin")
    try:
        await until_agents(bus, 1)
        task = await bus.submit("sleep", {"seconds": 600.0})
        await wait_for_state(bus, task.name, "main", "running")
        newer = start(server, "block", AGENTEXECUTOR_NAME="twin")
        try:
            await until(lambda: older.poll() is not None)
            assert older.returncode == 1
        finally:
            newer.kill()
            newer.wait()
    finally:
        older.kill()
        older.wait()


async def test_a_running_agent_hears_feedback_revises_its_schedule_and_says_what_it_did_with_it(bus: Bus) -> None:
    agent = Agent("listener", capacity=1)

    @agent.capability("listen")
    async def listen(ctx: Context) -> str:
        await ctx.schedule(("count words", 60.0))
        async for said in ctx.feedback():
            await ctx.schedule(("count bigrams", 0.1))
            ctx.progress(text=f"counts {said.text} now", feedback=said)
            return said.text
        return ""

    async with agent.serve(bus):
        task = await bus.submit("listen")
        events: list[Event] = []
        async for event in task.events():
            events.append(event)
            if event.kind == "accepted":
                await task.feedback(Feedback(verdict="revise", text="bigrams", subtask="main"))
        assert await task.result(timeout_s=60) == "bigrams"
    (given,) = [event.data["id"] for event in events if event.kind == "feedback"]
    answers = [event.data["text"] for event in events if event.kind == "progress" and event.data.get("feedback") == given]
    assert answers == ["counts bigrams now"]
    schedules = [event.data["schedule"] for event in events if event.data.get("schedule")]
    assert [step["name"] for steps in schedules for step in steps] == ["count words", "count bigrams"]


async def test_feedback_that_comes_before_the_handler_has_begun_is_kept(bus: Bus) -> None:
    agent = Agent("listener", capacity=1)

    @agent.capability("listen")
    async def listen(ctx: Context) -> str:
        async for said in ctx.feedback():
            return said.text
        return ""

    async with agent.serve(bus):
        for _ in range(5):
            task = await bus.submit("listen")
            await task.feedback(Feedback(text="at once", subtask="main"))
            assert await task.result(timeout_s=60) == "at once"


async def test_what_cannot_be_read_is_counted_and_passed_over(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("worker")

    @agent.capability("echo")
    async def echo(x: int) -> int:
        return x

    bodies = (b"", b"\xff\x00", b"[" * 5000, b'{"task": 1}', b"null", b'{"task": "no name", "epoch": 1e999}')
    async with agent.serve(bus) as hosting:
        worker = hosting.bus
        assert await bus.run("echo", {"x": 1}) == 1
        places = [(f"to.worker.{kind}.me.t1", kind) for kind in ("award", "call", "cancel", "feedback")] + [("call.echo", "call")]
        for subject, kind in places:
            for body in bodies:
                await bus.connection.publish(f"{bus.connection.prefix}.{subject}", body, headers(kind))
        await until(lambda: worker.counters["undecodable"] == len(places) * len(bodies))
        assert await bus.run("echo", {"x": 2}) == 2
    assert "could not be handled" not in caplog.text


async def test_a_subtask_is_named_until_its_last_claim_is_stored(bus: Bus) -> None:
    """Else it would be missed, and given to another, though its result is on its way."""
    agent = Agent("worker")
    agent.capability("echo")(lambda x: x)
    asked, stored = asyncio.Event(), asyncio.Event()
    async with agent.serve(bus) as hosting:
        store = hosting.store

        async def held_up(task: TaskName, claim: LastClaim) -> None:
            if claim.kind == "done":
                asked.set()
                await stored.wait()
            await store(task, claim)

        hosting.store = held_up  # type: ignore[method-assign]
        task = await bus.submit("echo", {"x": 1})
        await asked.wait()
        assert [entry.subtask for entry in hosting.offer().running] == ["main"]
        stored.set()
        assert await task.result(timeout_s=60) == 1
        await until(lambda: not hosting.offer().running)


async def test_a_newer_award_of_the_same_subtask_ends_the_older(bus: Bus) -> None:
    agent = Agent("worker", capacity=2)
    ended: list[int] = []

    @agent.capability("wait")
    async def wait(ctx: Context) -> int:
        try:
            if ctx.epoch < 100:
                await anyio.sleep_forever()
        finally:
            ended.append(ctx.epoch)
        return ctx.epoch

    async with agent.serve(bus) as hosting:
        task = await bus.submit("wait")
        await wait_for_state(bus, task.name, "main", "running")
        (held,) = hosting.book.held.values()
        newer = replace(held.award, epoch=100)
        await bus.connection.publish(
            bus.connection.subjects.to("worker", "award", TaskName.parse(task.name)), encode(newer), headers("award")
        )
        await until(lambda: sorted(ended) == [held.award.epoch, 100])
        await task.cancel()


async def test_an_input_that_cannot_be_fetched_is_released(bus: Bus) -> None:
    """That is no failure of the handler: another agent, or a later try, may get it."""
    agent = Agent("worker")

    @agent.capability("size")
    async def size(text: str) -> int:
        return len(text)

    async with agent.serve(bus) as hosting:
        fetch, failures = hosting.bus.fetch, iter([NoAnswer("nobody"), NoAnswer("nobody")])

        async def away_twice(*arguments: Any, **options: Any) -> bytes:
            for failure in failures:
                raise failure
            return await fetch(*arguments, **options)

        hosting.bus.fetch = away_twice  # type: ignore[method-assign]
        task = await bus.submit("size", {"text": "x" * 300_000}, retries=0)
        assert await task.result(timeout_s=60) == 300_000
        attempts = (await task.view()).subtasks["main"].attempts
    assert [attempt.state for attempt in attempts] == ["released", "released", "completed"]
