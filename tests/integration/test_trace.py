"""One trace a task: a plan's whole tree is rebuilt from the spans of client, coordinator and agents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from traces import recorded

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import connect
from agentexecutor.bus import telemetry as t
from agentexecutor.schemas import Feedback, Plan, Ref, Subtask

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio


async def test_a_new_version_is_a_span_with_its_cause_and_its_difference(server: EmbeddedServer) -> None:
    agent = Agent("agent", capacity=2)

    @agent.capability("load")
    async def load(ctx: Context) -> int:
        return len(ctx.feedback_now())

    @agent.capability("critic")
    async def critic(ctx: Context, loaded: int) -> int:
        if loaded == 0:
            await ctx.say(Feedback("revise", "more", "load"))
        return loaded

    plan = Plan({"load": Subtask("load"), "critic": Subtask("critic", {"loaded": Ref("load")})})
    with recorded() as spans:
        async with connect(server.url, name="me") as bus, agent.serve(bus):
            assert await bus.run(plan, wait_s=30) == 1
    finished = spans.get_finished_spans()
    (replan,) = [span for span in finished if span.name == "replan"]
    attributes = dict(replan.attributes or {})
    assert (attributes[t.ATTR_PLAN_VERSION], attributes[t.ATTR_CAUSE]) == (2, "revise")
    events = {event.name: dict(event.attributes or {}) for event in replan.events}
    assert (events[t.EVENT_CAUSE][t.ATTR_ANSWER], events[t.EVENT_CAUSE][t.ATTR_SUBTASK]) == ("retry", "load")
    assert events[t.EVENT_AGAIN] == {t.ATTR_SUBTASKS: ("load", "critic")}
    (link,) = replan.links
    (first, _) = sorted((span for span in finished if span.name == "auction load"), key=lambda span: span.start_time or 0)
    assert link.context.span_id == first.context.span_id, "linked to the auction of the work that was the cause"


async def test_a_plans_tree_is_rebuilt_from_its_spans(server: EmbeddedServer) -> None:
    first, second = Agent("first", capacity=2), Agent("second", capacity=2)

    @first.capability("load", estimate_s=0.1)
    async def load(ctx: Context) -> list[int]:
        async with ctx.step("read"):
            return [1, 2, 3]

    @first.capability("sum", estimate_s=0.1)
    @second.capability("sum", estimate_s=0.2)
    async def total(ctx: Context, xs: list[int]) -> int:
        if ctx.attempt == 1:
            raise RuntimeError("not at first")
        return sum(xs)

    plan = Plan(result="sum")
    rows = plan.add("load", Subtask("load"))
    plan.add("sum", Subtask("sum", {"xs": rows}))
    with recorded() as spans:
        async with connect(server.url, name="me") as bus, first.serve(bus), second.serve(bus):
            task = await bus.submit(plan)
            assert await task.result(int, timeout_s=30) == 6
            trace_id = task.trace_id
    ours = [span for span in spans.get_finished_spans() if span.context.trace_id == int(trace_id or "0", 16)]
    by_id = {span.context.span_id: span for span in ours}
    roots = [span for span in ours if span.parent is None]
    assert [span.name for span in roots] == ["submit plan"], "one root"
    assert all(span.parent is None or span.parent.span_id in by_id for span in ours), "every parent resolves"
    counted = Counter(path(span, by_id) for span in ours)
    assert counted == {
        "submit plan": 1,
        "submit plan/plan": 1,
        "submit plan/auction load": 1,
        "submit plan/auction load/execute load": 1,
        "submit plan/auction load/execute load/step read": 1,
        "submit plan/auction sum": 2,
        "submit plan/auction sum/execute sum": 2,
        "submit plan/deliver": 1,
    }
    assert all(span.attributes is not None and span.attributes[t.ATTR_TASK] == task.name for span in ours)
    auctions = sorted((span for span in ours if span.name == "auction sum"), key=lambda span: span.start_time or 0)
    bids = [[(event.attributes[t.ATTR_BID_AGENT], event.attributes[t.ATTR_BID_WON]) for event in auction.events] for auction in auctions]  # type: ignore[index]
    assert bids == [[("first", True), ("second", False)], [("second", True), ("first", False)]], "every bid is an event, the winner marked"
    assert [link.context.span_id for link in auctions[1].links] == [auctions[0].context.span_id], "epochs are linked"
    executed = sorted((span for span in ours if span.name == "execute sum"), key=lambda span: span.start_time or 0)
    assert [span.status.status_code.name for span in executed] == ["ERROR", "UNSET"]
    assert [(span.attributes or {}).get(t.ATTR_ERROR) for span in executed] == ["RuntimeError", None]


async def test_what_is_said_while_it_runs_is_in_its_span(server: EmbeddedServer) -> None:
    agent = Agent("agent")

    @agent.capability("listen")
    async def listen(ctx: Context) -> str:
        async with ctx.step("wait"):
            ctx.progress(0.5, "half of it")
            async for said in ctx.feedback():
                return said.text
        return ""

    with recorded() as spans:
        async with connect(server.url, name="me") as bus, agent.serve(bus):
            task = await bus.submit("listen", {}, priority=3)
            async for event in task.events():
                if event.kind == "progress" and event.data.get("fraction"):
                    break
            await task.feedback(Feedback("accept", "go on"))
            assert await task.result(str, timeout_s=60) == "go on"
    found = {span.name: span for span in spans.get_finished_spans()}
    events = [
        (name, event.name, dict(event.attributes or {})) for name, span in found.items() for event in span.events if span.name[0] in "es"
    ]
    assert ("step wait", t.EVENT_PROGRESS, {t.ATTR_FRACTION: 0.5, t.ATTR_TEXT: "half of it"}) in events
    assert ("execute listen", t.EVENT_FEEDBACK, {t.ATTR_PEER: "me", t.ATTR_REASON: "accept", t.ATTR_TEXT: "go on"}) in events
    assert dict(found["execute listen"].attributes or {})[t.ATTR_OUTCOME] == "done"
    assert dict(found["submit listen"].attributes or {})[t.ATTR_PRIORITY] == 3


def path(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> str:
    """Names from the root down to a span."""
    if span.parent is None:
        return span.name
    return f"{path(by_id[span.parent.span_id], by_id)}/{span.name}"
