"""A cancel ends all that is under its task, on every agent and at every depth; agents may clean up; whoever crosses it is told the same."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from typing import Any

import anyio
import pytest
from peers import Place, agent, client, coordinating, killable
from programs import killed

from agentexecutor.agents import Agent, Context, Fail
from agentexecutor.bus import EmbeddedServer, Task, TaskCancelled, TaskFailed, connect
from agentexecutor.bus.connection import Headers
from agentexecutor.bus.consumers import Inbound
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import Plan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what happens in another task or thread."""
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.02)


class Works:
    """Handlers that never end by themselves, and what became of each."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.cancelled: set[str] = set()
        self.cleaned: set[str] = set()
        self.may_clean = asyncio.Event()

    async def wait(self, ctx: Context, *children: str) -> None:
        """Add the children and wait for them, or for ever; clean up when that is cancelled, which takes several steps."""
        self.began.append(ctx.subtask)
        try:
            for capability in children:
                await ctx.submit(capability)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.add(ctx.subtask)
            await self.may_clean.wait()
            await asyncio.sleep(0)
            self.cleaned.add(ctx.subtask)
            raise

    def agent(self, name: str, capacity: int = 16) -> Agent:
        agent = Agent(name, capacity=capacity)

        @agent.capability("share")
        async def share(ctx: Context, texts: list[str]) -> None:
            await self.wait(ctx)

        @agent.capability("top")
        async def top(ctx: Context) -> None:
            await self.wait(ctx, "middle", "nobody.does")

        @agent.capability("middle")
        async def middle(ctx: Context) -> None:
            await self.wait(ctx, "leaf", "leaf")

        @agent.capability("leaf")
        async def leaf(ctx: Context) -> None:
            await self.wait(ctx)

        @agent.capability("quick")
        async def quick() -> str:
            return "quick"

        return agent


DEEP = Plan(
    {
        "split": Subtask("share", {"texts": ["a", "b", "c", "d"]}, split=Split(over="texts", into=4, merge="merge")),
        "top": Subtask("top"),
        "unserved": Subtask("nobody.does"),
        "later": Subtask("leaf", after=["top"]),
    }
)
HANDLED = {"split-1", "split-2", "split-3", "split-4", "top", "top-1", "top-1-1", "top-1-2"}
REST = {"split", "split-merge", "top-2", "unserved", "later"}


@pytest.fixture
async def offers(server: EmbeddedServer) -> AsyncIterator[dict[str, m.Offer]]:
    """The last offer of each agent, as it comes by."""
    heard: dict[str, m.Offer] = {}
    async with client(Place(server.url), "looker") as looker:

        async def came(message: Any) -> None:
            offer = decode("offer", message.data)
            assert isinstance(offer, m.Offer)
            heard[looker.subjects.last_token(message.subject)] = offer

        await looker.connection.subscribe(looker.subjects.all_offers(), came)
        await looker.connection.nats.flush()
        yield heard


@pytest.fixture
async def cancels(server: EmbeddedServer) -> AsyncIterator[dict[str, str]]:
    """The reason of the first cancel that an agent is sent about each subtask."""
    heard: dict[str, str] = {}
    async with client(Place(server.url), "listener") as listener:

        async def came(message: Any) -> None:
            if listener.subjects.parse_to(message.subject).second == "cancel":
                cancel = decode("cancel", message.data)
                assert isinstance(cancel, m.Cancel)
                heard.setdefault(cancel.subtask, cancel.reason)

        for name in ("left", "right"):
            await listener.connection.subscribe(listener.subjects.all_to(name), came)
        await listener.connection.nats.flush()
        yield heard


def named(offers: dict[str, m.Offer], task: str) -> Iterator[str]:
    """What the offers name of a task."""
    return (running.subtask for offer in offers.values() for running in offer.running if running.task == task)


async def kinds(task: Task) -> list[str]:
    return [event.kind async for event in task.events()]


async def test_a_cancel_reaches_every_depth(server: EmbeddedServer, offers: dict[str, m.Offer], cancels: dict[str, str]) -> None:
    """Each is told by the cancel itself; that agents are stopped for what no award backs comes later, and only if that is lost."""
    works = Works()
    async with connect(server.url, name="me") as bus, works.agent("left").serve(bus), works.agent("right").serve(bus):
        await until(lambda: len(offers) == 2)
        task = await bus.submit(DEEP, id="t1")
        await until(lambda: set(works.began) == HANDLED and set(named(offers, "me.t1")) == HANDLED)
        before = await task.view()
        assert {before.subtasks[name].agent for name in HANDLED} == {"left", "right"}
        await task.cancel("changed my mind")
        with pytest.raises(TaskCancelled, match="changed my mind"):
            await task.result(timeout_s=60)
        await until(lambda: works.cancelled == HANDLED and set(cancels) == HANDLED)
        assert cancels == dict.fromkeys(HANDLED, "changed my mind")
        assert not works.cleaned, "they are still cleaning up, and are let do so"
        works.may_clean.set()
        await until(lambda: works.cleaned == HANDLED)
        await until(lambda: not list(named(offers, "me.t1")))
        view = await task.view()
        assert view.state == "cancelled"
        assert {name: subtask.state for name, subtask in view.subtasks.items()} == dict.fromkeys(HANDLED | REST, "cancelled")
        assert sorted(works.began) == sorted(HANDLED), "nothing began afterwards"
        assert (await kinds(task))[-1] == "cancelled"


async def test_who_does_not_end_within_the_grace_is_given_up(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cleans up for too long, one ignores every cancel, one blocks a thread: each gives its slot and its name in the offer back."""
    ending, leave = threading.Event(), asyncio.Event()
    began, ended = set[str](), set[str]()
    agent = Agent("worker", capacity=3)

    @agent.capability("cleans.for.ever")
    async def cleans(ctx: Context) -> None:
        began.add("cleans")
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                ended.add("cleans")

    @agent.capability("ignores")
    async def ignores(ctx: Context) -> str:
        began.add("ignores")
        while not leave.is_set():
            with suppress(asyncio.CancelledError):
                await leave.wait()
        ended.add("ignores")
        return "done after all"

    @agent.capability("blocks")
    def blocks(ctx: Context) -> str:
        began.add("blocks")
        ending.wait()
        ended.add("blocks")
        return str(ctx.cancelled)

    @agent.capability("quick")
    async def quick() -> str:
        return "quick"

    monkeypatch.setattr(Settings, "__init__", partialmethod(Settings.__init__, grace_s=0.5))
    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        try:
            names = ["cleans.for.ever", "ignores", "blocks"]
            task = await bus.submit(Plan({name.split(".")[0]: Subtask(name) for name in names}))
            await until(lambda: len(began) == 3)
            await task.cancel("enough")
            assert len(hosting.book.held) == 3, "they have their grace"
            assert hosting.slots.free == 0
            await until(lambda: not hosting.book.held)
            assert ended == {"cleans"}
            assert hosting.slots.free == 3
            assert [await bus.run("quick") for _ in range(3)] == ["quick"] * 3
        finally:
            ending.set()
            leave.set()
        await until(lambda: len(ended) == 3)
        assert hosting.slots.free == 3, "no slot is given back twice"
        assert (await task.view()).state == "cancelled"
        assert await bus.run("quick") == "quick"


async def test_a_cancelled_parent_waits_for_no_slot(server: EmbeddedServer) -> None:
    """It gave its slot back while it waited for children, and others have it now: it cleans up nevertheless."""
    agent = Agent("worker", capacity=1)
    took, cleaned, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent.capability("parent")
    async def parent(ctx: Context) -> None:
        children = [await ctx.submit("nobody.does") for _ in range(2)]
        try:
            await asyncio.gather(*(child.result() for child in children))
        finally:
            cleaned.set()

    @agent.capability("long")
    async def long() -> str:
        took.set()
        await leave.wait()
        return "long"

    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        task = await bus.submit("parent")
        await until(lambda: any(held.state == "waiting" for held in hosting.book.held.values()))
        other = await bus.submit("long")
        await took.wait()
        assert hosting.load().running == 1, "two results are waited for, one slot was given back"
        await task.cancel()
        with anyio.fail_after(60):
            await cleaned.wait()
        await until(lambda: [held.award.task for held in hosting.book.held.values()] == [other.name])
        leave.set()
        assert await other.result(timeout_s=60) == "long"
        assert hosting.slots.free == 1


async def test_what_an_agent_that_stops_takes_back_may_clean_up_too(server: EmbeddedServer) -> None:
    """Its subtasks are released, also that of a handler that does not obey, and another agent does them."""
    stopping, other = Agent("stopping", capacity=9), Agent("other", capacity=9)
    began, cleaned, leave = set[str](), set[str](), asyncio.Event()

    @stopping.capability("tidy")
    async def tidy(ctx: Context) -> None:
        began.add("tidy")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.add("tidy")

    @stopping.capability("ignores")
    async def ignores(ctx: Context) -> None:
        began.add("ignores")
        while not leave.is_set():
            with suppress(asyncio.CancelledError):
                await leave.wait()

    @other.capability("tidy")
    async def tidy_too() -> str:
        return "tidy"

    @other.capability("ignores")
    async def ignores_too() -> str:
        return "ignores"

    async with coordinating(Place(server.url)), connect(server.url, name="me") as bus, stopping.serve(bus, coordinate=False) as hosting:
        task = await bus.submit(Plan({"tidy": Subtask("tidy"), "ignores": Subtask("ignores")}))
        await until(lambda: len(began) == 2 and all(held.last is not None for held in hosting.book.held.values()))
        await hosting.drain(1.0)
        assert cleaned == {"tidy"}
        assert not hosting.book.held
        async with other.serve(bus, coordinate=False):
            assert await task.result(timeout_s=60) == {"tidy": "tidy", "ignores": "ignores"}
        failures = [event.data["error"]["message"] async for event in task.events() if event.kind == "failed"]
        assert failures == ["Agent stopping released it: the agent stops."] * 2
        leave.set()


@pytest.mark.parametrize(("raises", "result"), [(RuntimeError("rolled back"), "done by the other"), (Fail("it cannot be done"), None)])
async def test_an_error_of_a_clean_up_while_the_agent_stops(server: EmbeddedServer, raises: Exception, result: str | None) -> None:
    """It is the stop that ended the work, so no try is used up; what a handler says on purpose counts."""
    stopping, other = Agent("stopping"), Agent("other")
    began = asyncio.Event()

    @stopping.capability("job")
    async def job() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise raises from None
        return "not reached"

    @other.capability("job")
    async def job_too() -> str:
        return "done by the other"

    async with coordinating(Place(server.url)), connect(server.url, name="me") as bus, stopping.serve(bus, coordinate=False) as hosting:
        task = await bus.submit(Plan({"job": Subtask("job", retries=0)}))
        await began.wait()
        await until(lambda: all(held.last is not None for held in hosting.book.held.values()))
        await hosting.drain(1.0)
        async with other.serve(bus, coordinate=False):
            if result is None:
                with pytest.raises(TaskFailed, match="it cannot be done"):
                    await task.result(timeout_s=60)
            else:
                assert await task.result(timeout_s=60) == result


async def test_a_blocking_handler_sees_that_it_is_cancelled(server: EmbeddedServer) -> None:
    """It keeps its slot until it has ended, which it may take its grace for."""
    agent = Agent("worker")
    began, cleaning, ending = threading.Event(), threading.Event(), threading.Event()

    @agent.capability("blocks")
    def blocks(ctx: Context) -> str:
        began.set()
        while not ctx.cancelled:
            ending.wait(0.01)
        cleaning.set()
        ending.wait()
        return "too late"

    async with connect(server.url, name="me") as bus, agent.serve(bus) as hosting:
        task = await bus.submit("blocks")
        await until(began.is_set)
        await task.cancel()
        await until(cleaning.is_set)
        assert hosting.slots.free == 0
        ending.set()
        await until(lambda: hosting.slots.free == 1 and not hosting.book.held)
        with pytest.raises(TaskCancelled):
            await task.result(timeout_s=60)


async def test_cancels_that_a_dead_coordinator_did_not_send(
    server: EmbeddedServer, offers: dict[str, m.Offer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recorded the cancel and died: the next holder hears agents name what no award backs, and stops them."""
    works, place = Works(), Place(server.url)
    works.may_clean.set()
    async with (
        connect(server.url, name="me") as bus,
        works.agent("left").serve(bus, coordinate=False),
        works.agent("right").serve(bus, coordinate=False),
    ):
        async with killable(place, "first") as (first, victim):
            publish = first._connection.publish

            async def silent(subject: str, payload: bytes, made: Headers) -> None:
                if ".cancel." not in subject:
                    await publish(subject, payload, made)

            await until(lambda: len(offers) == 2)
            task = await bus.submit(DEEP, id="t1")
            await until(lambda: set(works.began) == HANDLED and set(named(offers, "me.t1")) == HANDLED)
            monkeypatch.setattr(first._connection, "publish", silent)
            await task.cancel("changed my mind")
            victim.cancel()
        assert not works.cancelled
        with pytest.raises(TaskCancelled, match="changed my mind"):
            await task.result(timeout_s=60)
        async with coordinating(place, "second"):
            await until(lambda: works.cleaned == HANDLED)
            await until(lambda: not list(named(offers, "me.t1")))
            assert await bus.run("quick") == "quick", "their slots are free"
        assert sorted(works.began) == sorted(HANDLED), "nothing began afterwards"


class Wire:
    """The way to a server, which can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[asyncio.StreamWriter] = set()
        self._cut = False

    async def came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._open |= {writer, far_writer}
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        self._cut = True
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def mend(self) -> None:
        self._cut = False


FAR = """
import asyncio
from agentexecutor.agents import Agent, Context

agent = Agent("far", capacity=16)

async def wait(ctx):
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        print("cleaned", ctx.subtask, flush=True)

@agent.capability("parent")
async def parent(ctx: Context) -> None:
    await ctx.submit("leaf")
    await wait(ctx)

@agent.capability("leaf")
async def leaf(ctx: Context) -> None:
    await wait(ctx)

@agent.capability("quick")
async def quick() -> str:
    return "quick"

agent.run(name="far", coordinate=False)
"""


async def test_an_agent_that_was_cut_off_stops_when_it_is_back(server: EmbeddedServer, offers: dict[str, m.Offer], tmp_path: Path) -> None:
    """A process whose network is away while its task is cancelled: nothing is sent to it again, its own offers bring it out."""
    program, wire, running = tmp_path / "far.py", Wire(server.port), {"main", "main-1"}
    program.write_text(FAR)
    listener = await asyncio.start_server(wire.came, "127.0.0.1")
    environment = os.environ | {"AGENTEXECUTOR_NATS_URL": f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"}
    async with (
        listener,
        coordinating(Place(server.url), settings=Settings()),
        connect(server.url, name="me") as bus,
        killed(await anyio.open_process([sys.executable, str(program)], env=environment, stderr=None)) as process,
    ):
        assert process.stdout is not None
        task = await bus.submit("parent", id="t1")
        await until(lambda: set(named(offers, "me.t1")) == running)
        wire.cut()
        await task.cancel("while it is away")
        with pytest.raises(TaskCancelled, match="while it is away"):
            await task.result(timeout_s=60)
        wire.mend()
        said = b""
        with anyio.fail_after(60):
            while said.count(b"\n") < len(running):
                said += await process.stdout.receive()
        assert {line.split()[1] for line in said.decode().splitlines()} == running
        await until(lambda: not list(named(offers, "me.t1")))
        assert await bus.run("quick") == "quick"
        process.terminate()
        with anyio.fail_after(60):
            assert await process.wait() == 0


async def cli(server: EmbeddedServer, *arguments: str, name: str = "me") -> tuple[int, str]:
    """The real program, and what it says."""
    environment = os.environ | {"AGENTEXECUTOR_NATS_URL": server.url, "AGENTEXECUTOR_NAME": name}
    with anyio.fail_after(60):
        done = await anyio.run_process([PROGRAM, *arguments], env=environment, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_the_command_tells_that_the_cancel_is_on_record(server: EmbeddedServer, offers: dict[str, m.Offer]) -> None:
    works = Works()
    works.may_clean.set()
    async with connect(server.url, name="me") as bus, works.agent("left").serve(bus), works.agent("right").serve(bus):
        await until(lambda: len(offers) == 2)
        task = await bus.submit(DEEP, id="t1")
        await until(lambda: set(works.began) == HANDLED)
        assert await cli(server, "cancel", "t1", "--reason", "by hand") == (0, "me.t1 is cancelled.\n")
        await until(lambda: works.cleaned == HANDLED)
        with pytest.raises(TaskCancelled, match="by hand"):
            await task.result(timeout_s=60)


async def test_the_command_does_not_say_more_than_it_knows(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No coordinator has recorded the cancel yet: that is no success, and it is stored all the same."""
    place = Place(server.url)
    async with connect(server.url, name="me") as bus, coordinating(place) as coordinator:
        task = await bus.submit("nobody.does", id="t1")
        with anyio.fail_after(60):
            while (await task.state()).state != "running":
                await anyio.sleep(0.02)
        held: list[Inbound] = []

        async def hold(inbound: Inbound) -> None:
            held.append(inbound)

        take = coordinator._claim_came
        for shard in coordinator._shards.values():
            assert shard.consumers is not None
            monkeypatch.setattr(shard.consumers, "_on_claim", hold)
        code, said = await cli(server, "cancel", "t1")
        assert (code, len(held)) == (4, 1), said
        assert "stored" in said
        await take(held[0])
        with pytest.raises(TaskCancelled):
            await task.result(timeout_s=60)


async def test_a_stranger_cancels_nothing(server: EmbeddedServer) -> None:
    place = Place(server.url)
    works = Works()
    works.may_clean.set()
    async with client(place, "stranger") as stranger, connect(server.url, name="me") as bus, works.agent("left").serve(bus):
        task = await bus.submit(Plan({"top": Subtask("top")}), id="t1")
        await until(lambda: len(works.began) == 4)
        id = await stranger.claim("cancel", task.task_name, m.CancelTask(reason="mine now"))
        refused = await stranger.expect("refused")
        assert (refused.id, refused.error.code) == (id, "refused")
        code, said = await cli(server, "cancel", "t1", name="stranger")
        assert (code, "stranger.t1" in said) == (2, True), "the name alone means a task of one's own"
        assert (await task.state()).state == "running"
        assert not works.cancelled
        await task.cancel()
        await until(lambda: len(works.cleaned) == 4)


@pytest.mark.parametrize("first", ["done", "cancel"])
async def test_the_first_in_the_log_wins(server: EmbeddedServer, first: str) -> None:
    """Result and cancel wait in the inbox, and a coordinator comes: canceller, waiter and agent are told one story."""
    place = Place(server.url)
    async with (
        connect(server.url, name="me") as bus,
        connect(server.url, name="me") as other,
        agent(place, "a1", "echo") as a1,
        anyio.create_task_group() as group,
    ):
        async with killable(place, "early") as (_, victim):
            task = await bus.submit("echo", id="t1")
            award = await a1.award()
            await a1.accept(award)
            with anyio.fail_after(60):
                while (await task.view()).subtasks["main"].state != "running":
                    await anyio.sleep(0.02)
            victim.cancel()

        async def cancels() -> None:
            await other.task("me.t1").cancel("too late?")

        async def stored(count: int) -> None:
            with anyio.fail_after(60):
                while (await bus.connection.api("STREAM.INFO.AE_INBOX", {}))["state"]["messages"] < count:
                    await anyio.sleep(0.02)

        if first == "done":
            await a1.done(award, "here it is")
            group.start_soon(cancels)
        else:
            group.start_soon(cancels)
            await stored(1)
            await a1.done(award, "here it is")
        await stored(2)
        async with coordinating(place, "late"):
            for handle in (task, other.task("me.t1"), bus.task("me.t1")):
                if first == "done":
                    assert await handle.result(timeout_s=60) == "here it is"
                else:
                    with pytest.raises(TaskCancelled, match="too late"):
                        await handle.result(timeout_s=60)
            assert (await kinds(task))[-1] == ("completed" if first == "done" else "cancelled")
            assert (await other.task("me.t1").state()).state == ("completed" if first == "done" else "cancelled")
            if first == "cancel":
                assert (await a1.expect("cancel")).epoch == award.epoch


async def test_many_cancels_cross_many_results(server: EmbeddedServer) -> None:
    """Whatever the order: the log has one end, and the waiter, the canceller and the agent's work agree with it."""
    worker = Agent("worker", capacity=50)

    @worker.capability("short")
    async def short(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 5))
        return n

    async with connect(server.url, name="me") as bus, connect(server.url, name="me") as other, worker.serve(bus) as hosting:
        assert await bus.run("short", {"n": 0}) == 0
        ends: dict[str, list[Any]] = {}

        async def one(n: int) -> None:
            task = await bus.submit("short", {"n": n})
            told = ends[task.name] = []

            async def waits(handle: Task) -> None:
                try:
                    told.append(await handle.result(timeout_s=60) == n and "completed")
                except TaskCancelled:
                    told.append("cancelled")

            async def cancels() -> None:
                handle = other.task(task.name)
                await handle.cancel()
                await waits(handle)

            async with anyio.create_task_group() as both:
                both.start_soon(waits, task)
                both.start_soon(cancels)

        async with anyio.create_task_group() as group:
            for n in range(60):
                group.start_soon(one, n)
        for name, told in ends.items():
            log = await kinds(bus.task(name))
            assert told == [log[-1]] * 2, log
            assert log.count("cancelled") + log.count("completed") <= 2, "a subtask's end and the task's"
        await until(lambda: not hosting.book.held)
        assert hosting.slots.free == 50
