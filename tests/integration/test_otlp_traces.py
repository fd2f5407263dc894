"""Real programs send real OTLP: the tree of a task is rebuilt from what came, whoever was killed on the way (docs/adr/0014)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from otlp import Receiver, Span, receiving
from programs import LONG, Program, Programs, programs
from span_tree import Tree, tree_of

from agentexecutor.bus import EmbeddedServer, connect
from agentexecutor.bus import telemetry as t
from agentexecutor.bus.client import Bus
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE
from agentexecutor.schemas.codec import decode_as
from agentexecutor.schemas.messages import Lease
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

pytestmark = pytest.mark.anyio

TRACED = str(Path(__file__).with_name("programs") / "traced.py")
PLAN = {
    "subtasks": {"load": {"capability": "load"}, "sum": {"capability": "sum", "input": {"xs": {"$ref": "load"}}}},
    "result": "sum",
}
PATIENT = "accept_timeout_s=60,lost_after_s=8,lease_silence_s=6,lease_valid_s=5"
"""On a machine that stutters nobody is given up who lives: the tree would be another."""
ERROR = 2
"""OTLP's code of a span that went wrong."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
async def place(request: pytest.FixtureRequest, server: EmbeddedServer, receiver: Receiver, tmp_path: Path) -> AsyncIterator[Programs]:
    """Programs that send soon and by HTTP, and programs that send by gRPC and so late that what one of them has when it is killed never came."""
    late = request.param == "grpc"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc if late else receiver.http,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if late else "http/protobuf",
        "OTEL_EXPORTER_OTLP_TIMEOUT": str(LONG),
        "OTEL_METRICS_EXPORTER": "none",
        "AGENTEXECUTOR_SETTINGS": PATIENT,
    }
    if not late:
        variables["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
    else:
        variables["OTEL_BSP_SCHEDULE_DELAY"] = str(LONG * 1000)
    async with programs(server.url, tmp_path, **variables) as running:
        yield running


async def holders(bus: Bus) -> Counter[str]:
    """How many shards each coordinator holds."""
    return Counter([await holder(bus, number) for number in range(bus.connection.shards)])


async def holder(bus: Bus, shard: int) -> str:
    last = await TaskLog(bus.connection).last_of(LEASE, bus.connection.subjects.lease(shard))
    return "" if last is None or last.payload is None else decode_as(Lease, last.payload).holder


async def two_coordinators(place: Programs, bus: Bus) -> dict[str, Program]:
    """Two, by name, that have shared the shards between them: from now on a shard moves only when one is gone."""
    started = [await place.start("coordinator") for _ in range(2)]
    named = {one.ready["coordinator"]: one for one in started}
    half = bus.connection.shards // 2
    with anyio.fail_after(LONG):
        while await holders(bus) != dict.fromkeys(named, half):
            await anyio.sleep(0.05)
    return named


async def until_accepted(bus: Bus, task: str, subtask: str, epoch: int) -> str:
    """Wait until this award is accepted; the agent's name."""
    with anyio.fail_after(LONG):
        async with aclosing(bus.task(task).events()) as events:
            async for event in events:
                if (event.kind, event.subtask) == ("accepted", subtask) and (event.epoch or 0) >= epoch:
                    return event.agent or ""
    raise AssertionError("the task ended")


async def ended(place: Programs) -> Any:
    """What `show` says of the task, once it has ended."""
    await place.run("watch", "t1")
    view, _ = await place.run("show", "t1")
    return view


async def stop_all(*running: Program) -> None:
    for program in running:
        assert await program.stop() == 0, program.said


def auctions(tree: Tree, capability: str) -> list[Span]:
    return tree.named(f"{t.SPAN_AUCTION} {capability}")


def bids_told(tree: Tree) -> list[Any]:
    """Every bid in the trace: subtask, epoch, agent, source, score, won, reason."""
    names = (t.ATTR_BID_AGENT, t.ATTR_BID_SOURCE, t.ATTR_BID_SCORE, t.ATTR_BID_WON, t.ATTR_BID_REASON)
    return [
        (span.attributes[t.ATTR_SUBTASK], span.attributes[t.ATTR_EPOCH], *(told[name] for name in names))
        for span in tree.spans.values()
        for event, _, told in span.events
        if event == t.EVENT_BID
    ]


def bids_recorded(view: Any) -> list[Any]:
    """The same, from what `show` says."""
    return [
        (name, bid["epoch"], bid["agent"], bid["source"], bid["score"], bid["won"], bid["reason"])
        for name, subtask in view["subtasks"].items()
        for bid in subtask["bids"]
    ]


async def test_a_plan_with_a_failed_attempt_and_a_take_over_is_one_tree(
    place: Programs, receiver: Receiver, server: EmbeddedServer
) -> None:
    plan = Path(server.store) / "plan.json"
    plan.write_text(json.dumps(PLAN), encoding="utf-8")
    name = TaskName("tester", "t1")
    async with connect(server.url, name="watcher") as bus:
        coordinators = await two_coordinators(place, bus)
        agents = [await place.start("agent", f"{TRACED}:{agent}", "--no-coordinate", "--name", agent) for agent in ("first", "second")]
        await place.run("submit", "--plan", str(plan), "--id", "t1", "--no-wait")
        await until_accepted(bus, str(name), "sum", 3)
        victim = await holder(bus, shard_of(name, bus.connection.shards))
        coordinators.pop(victim).kill()
        ((survivor, left),) = coordinators.items()
        await place.run("feedback", "t1", "--subtask", "sum", "--verdict", "accept")
        view = await ended(place)
        await stop_all(*agents, left)
    assert (view["state"], view["result"]) == ("completed", 6)

    tree = tree_of(receiver.spans, view["trace_id"])
    assert [span.name for span in tree.roots] == ["submit plan"]
    assert (tree.orphans, tree.dangling) == ([], [])
    assert len({span.process for span in tree.spans.values()}) >= 4, "submit, a coordinator, two agents"
    assert {span.by for span in receiver.spans} == ({"grpc"} if "grpc" in place.environment.values() else {"gzip"})
    assert Counter(tree.path(span) for span in tree.spans.values()) == {
        "submit plan": 1,
        "submit plan/plan": 1,
        "submit plan/auction load": 1,
        "submit plan/auction load/execute load": 1,
        "submit plan/auction load/execute load/step read": 1,
        "submit plan/auction sum": 2,
        "submit plan/auction sum/execute sum": 2,
        "submit plan/auction sum/execute sum/step add": 1,
        "submit plan/deliver": 1,
    }
    assert {span.attributes[t.ATTR_TASK] for span in tree.spans.values()} == {str(name)}
    assert sorted(bids_told(tree)) == sorted(bids_recorded(view))
    assert Counter(bid[:2] for bid in bids_told(tree) if bid[5]) == {("load", 1): 1, ("sum", 2): 1, ("sum", 3): 1}, "one winner each"
    one, two = auctions(tree, "sum")
    assert tree.linked(two, t.LINK_EPOCH) == [one]
    assert [span.attributes[t.ATTR_OUTCOME] for span in tree.named("execute sum")] == ["failed", "done"]
    (deliver,) = tree.named("deliver")
    assert {span.attributes[t.ATTR_COORDINATOR] for span in (one, two, *tree.named("plan"))} == {victim}
    assert deliver.attributes[t.ATTR_COORDINATOR] == survivor
    assert tree.linked(deliver, t.LINK_TAKEOVER) == [two], "the take-over is linked to the last award of the one before"


async def test_the_span_of_a_killed_agent_is_told_by_its_coordinator(place: Programs, receiver: Receiver, server: EmbeddedServer) -> None:
    soon = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    async with connect(server.url, name="watcher") as bus:
        coordinator = await place.start("coordinator")
        agents = {
            name: await place.start("agent", f"{TRACED}:{name}", "--no-coordinate", "--name", name, **soon) for name in ("first", "second")
        }
        await place.run("submit", "hold", "{}", "--id", "t1", "--no-wait")
        winner = await until_accepted(bus, "tester.t1", "main", 1)
        await anyio.to_thread.run_sync(receiver.wait, lambda got: [span for span in got.spans if span.name == "step prepare"])
        agents.pop(winner).kill()
        view = await ended(place)
        await stop_all(*agents.values(), coordinator)
    tree = tree_of(receiver.spans, view["trace_id"])
    assert (len(tree.roots), tree.orphans, tree.dangling) == (1, [], [])
    lost, done = tree.named("execute hold")
    assert (lost.attributes[t.ATTR_OUTCOME], lost.attributes[t.ATTR_AGENT], lost.status) == ("lost", winner, ERROR)
    assert (done.attributes[t.ATTR_OUTCOME], lost.attributes[t.ATTR_AGENT] != done.attributes[t.ATTR_AGENT]) == ("done", True)
    assert lost.process[0] == "agentexecutor-coordinator", "told by the coordinator"
    steps = tree.named("step prepare")
    assert [step.parent_id for step in steps] == [lost.span_id, done.span_id]
    assert [attempt["state"] for attempt in view["subtasks"]["main"]["attempts"]] == ["lost", "completed"]
