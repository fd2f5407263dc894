"""An agent in JavaScript takes part in a plan with a failed attempt and a take-over: its spans have their place in the one tree."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from otlp import receiving
from programs import LONG, programs
from span_tree import bids_recorded, bids_told, tree_of
from take_over import PATIENT, taken_over

from agentexecutor.bus import EmbeddedServer, connect
from agentexecutor.bus import telemetry as t

pytestmark = pytest.mark.anyio

PLAN = {
    "subtasks": {
        "work": {"capability": "node.work", "input": {"do": "steps", "steps": ["load", "fit"], "seconds": 0.1}},
        "load": {"capability": "load", "after": ["work"]},
        "sum": {"capability": "sum", "input": {"xs": {"$ref": "load"}}},
    },
    "result": "sum",
}


async def test_a_node_agent_has_its_place_in_the_tree(server: EmbeddedServer, node: Path, tmp_path: Path) -> None:
    with receiving() as receiver:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(LONG),
            "AGENTEXECUTOR_SETTINGS": PATIENT,
        }
        in_milliseconds = {"OTEL_EXPORTER_OTLP_TIMEOUT": str(LONG * 1000)}
        async with programs(server.url, tmp_path, **variables) as place:
            command = ("node", str(node / "agent.mjs"))
            agent = await place.begin(*command, AGENTEXECUTOR_NAME="js", AGENTEXECUTOR_CAPABILITY="node.work", **in_milliseconds)
            view, _, survivor = await taken_over(place, server, PLAN, [agent])
    assert (view["state"], view["result"]) == ("completed", 6)
    tree = tree_of(receiver.spans, view["trace_id"])
    assert ([span.name for span in tree.roots], tree.orphans, tree.dangling) == (["submit plan"], [], [])
    paths = Counter(tree.path(span) for span in tree.spans.values())
    below = "submit plan/auction node.work/execute node.work"
    assert {path: count for path, count in paths.items() if "node.work" in path} == {
        "submit plan/auction node.work": 1,
        below: 1,
        f"{below}/step load": 1,
        f"{below}/step fit": 1,
    }
    (execute,) = tree.named("execute node.work")
    assert execute.process[0] == "agentexecutor-node"
    assert {
        name: execute.attributes[name] for name in (t.ATTR_TASK, t.ATTR_SUBTASK, t.ATTR_EPOCH, t.ATTR_PLAN_VERSION, t.ATTR_OUTCOME)
    } == {
        t.ATTR_TASK: "tester.t1",
        t.ATTR_SUBTASK: "work",
        t.ATTR_EPOCH: 1,
        t.ATTR_PLAN_VERSION: 1,
        t.ATTR_OUTCOME: "done",
    }
    assert len({span.process[0] for span in tree.spans.values()}) >= 5, "submit, a coordinator, two agents, and Node"
    assert bids_told(tree) == bids_recorded(view)
    one, two = tree.named("auction sum")
    assert tree.linked(two, t.LINK_EPOCH) == [one]
    (deliver,) = tree.named("deliver")
    assert (deliver.attributes[t.ATTR_COORDINATOR], tree.linked(deliver, t.LINK_TAKEOVER)) == (survivor, [two])


async def test_the_span_of_a_killed_node_agent_is_told_by_the_coordinator(server: EmbeddedServer, node: Path, tmp_path: Path) -> None:
    """Its id is the one that the accept named: the steps that had been sent have their parent."""
    with receiving() as receiver:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http, "OTEL_METRICS_EXPORTER": "none", "AGENTEXECUTOR_SETTINGS": PATIENT}
        async with programs(server.url, tmp_path, **variables) as place, connect(server.url, name="watcher") as bus:
            coordinator = await place.start("coordinator")
            soon = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": str(LONG * 1000)}
            command = ("node", str(node / "agent.mjs"))
            doomed = await place.begin(*command, AGENTEXECUTOR_NAME="js", AGENTEXECUTOR_CAPABILITY="node.work", **soon)
            steps = '{"do": "steps", "steps": ["short", "long"], "seconds": 4}'
            await place.run("submit", "node.work", steps, "--id", "t1", "--no-wait")
            await anyio.to_thread.run_sync(receiver.wait, lambda got: [span for span in got.spans if span.name == "step short"])
            doomed.kill()
            with anyio.fail_after(LONG):
                async with aclosing(bus.task("tester.t1").events()) as events:
                    async for event in events:
                        if event.kind == "failed":
                            break
            view, _ = await place.run("show", "t1")
            await coordinator.stop()
    tree = tree_of(receiver.spans, view["trace_id"])
    assert (len(tree.roots), tree.orphans) == (1, [])
    (lost,) = tree.named("execute node.work")
    (short,) = tree.named("step short")
    assert short.parent_id == lost.span_id
    assert (lost.attributes[t.ATTR_OUTCOME], lost.process[0]) == ("lost", "agentexecutor-coordinator")
