"""Real programs send real OTLP: the tree of a task is rebuilt from what came, whoever was killed on the way (docs/adr/0014)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from otlp import Receiver, receiving
from programs import LONG, Programs, programs
from span_tree import bids_recorded, bids_told, tree_of
from take_over import PATIENT, TRACED, ended, stop_all, taken_over, until_accepted

from agentexecutor.bus import EmbeddedServer, connect
from agentexecutor.bus import telemetry as t

pytestmark = pytest.mark.anyio

PLAN = {
    "subtasks": {"load": {"capability": "load"}, "sum": {"capability": "sum", "input": {"xs": {"$ref": "load"}}}},
    "result": "sum",
}
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


async def test_a_plan_with_a_failed_attempt_and_a_take_over_is_one_tree(
    place: Programs, receiver: Receiver, server: EmbeddedServer
) -> None:
    view, victim, survivor = await taken_over(place, server, PLAN)
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
    assert {span.attributes[t.ATTR_TASK] for span in tree.spans.values()} == {"tester.t1"}
    assert bids_told(tree) == bids_recorded(view)
    assert Counter(bid[:2] for bid in bids_told(tree) if bid[5]) == {("load", 1): 1, ("sum", 2): 1, ("sum", 3): 1}, "one winner each"
    one, two = tree.named("auction sum")
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
