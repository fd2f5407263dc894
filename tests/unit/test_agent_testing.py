"""The helper with which users test their handlers, and what a Context gives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from msgspec import Raw

from agentexecutor.agents import Agent, AgentError, Asked, ChildFailed, Context, Fail, InputRefused
from agentexecutor.agents.bidding import answer_call
from agentexecutor.agents.slots import Slots
from agentexecutor.agents.testing import call
from agentexecutor.schemas import Feedback
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

pytestmark = pytest.mark.anyio


async def test_a_handler_is_called_as_the_bus_would() -> None:
    agent = Agent("classifier")

    @agent.capability("text.classify")
    async def classify(ctx: Context, texts: list[str]) -> list[str]:
        await ctx.schedule(("vectorise", 0.1), ("predict", 0.2))
        async with ctx.step("vectorise"):
            words = [text.split() for text in texts]
        ctx.progress(0.5, "half")
        with ctx.step("predict"):
            return ["long" if len(w) > 1 else "short" for w in words]

    called = await call(agent, "text.classify", {"texts": ["a", "a b"]})
    assert called.result == ["short", "long"]
    assert [(step.name, step.start_s) for step in called.schedule] == [("vectorise", 0.0), ("predict", 0.1)]
    assert called.steps == ["vectorise", "predict"]
    assert {"fraction": 0.5, "text": "half"} in called.progress


async def test_blocking_handlers_attempts_state_and_feedback() -> None:
    agent = Agent("worker")

    @agent.capability("work")
    def work(ctx: Context, x: int) -> dict[str, object]:
        if ctx.attempt == 1:
            raise Fail("not at first", reason="test")
        return {"x": x, "state": ctx.state, "said": [said.text for said in ctx.feedback_now()], "key": ctx.key}

    with pytest.raises(Fail) as failed:
        await call(agent, "work", {"x": 1})
    assert failed.value.fields == {"reason": "test"}
    called = await call(agent, "work", {"x": 1}, attempt=2, state="loaded", feedback=[Feedback(text="use bigrams")])
    assert called.result == {"x": 1, "state": "loaded", "said": ["use bigrams"], "key": "test.task/main/1"}
    with pytest.raises(InputRefused):
        await call(agent, "work", {"x": "one"})


async def test_children_are_answered_by_a_function() -> None:
    agent = Agent("parent")

    @agent.capability("parent")
    async def parent(ctx: Context) -> int:
        first = await ctx.submit("double", {"x": 1})
        second = await ctx.submit("double", {"x": 2}, retries=5)
        return await first.result(int) + await second.result(int)

    called = await call(agent, "parent", child=lambda _capability, given: given["x"] * 2)
    assert called.result == 6
    assert [child.retries for child in called.children] == [None, 5]


async def test_what_a_critic_says_is_told() -> None:
    agent = Agent("critic")

    @agent.capability("criticise")
    async def criticise(ctx: Context, score: float) -> float:
        await ctx.say(Feedback("revise", "too low", "features", data={"score": score}))
        return score

    called = await call(agent, "criticise", {"score": 0.5})
    (said,) = called.said
    assert (said.verdict, said.text, said.subtask, bytes(said.data)) == ("revise", "too low", "features", b'{"score":0.5}')


async def test_a_childs_failure_is_raised() -> None:
    context = Context(m.Award(task="me.t", subtask="main", capability="c", epoch=1, boot="b"), _Deaf())
    child = await context.submit("x")
    error = m.ErrorInfo(code="handler", message="broke")
    context.child_ended(m.Result(task="me.t", subtask="main", call=1, state="failed", error=error))
    with pytest.raises(ChildFailed, match="broke"):
        await child.result()


class _Deaf:
    """A host that does nothing."""

    def tell(self, **progress: object) -> None: ...
    def scheduled(self, steps: list[m.Step]) -> None: ...
    async def say(self, said: m.FeedbackClaim) -> None: ...
    async def extend(self, call: int, child: m.SubtaskSpec) -> None: ...
    @asynccontextmanager
    async def waits(self) -> AsyncIterator[None]:
        yield

    async def body(self, result: m.Result) -> bytes:
        return bytes(result.result)

    async def records(self) -> AsyncGenerator[r.LogEntry, None]:
        entries: list[r.LogEntry] = []
        for entry in entries:
            yield entry


async def test_feedback_is_given_once_and_in_order() -> None:
    context = Context(m.Award(task="me.t", subtask="main", capability="c", epoch=1, boot="b"), _Deaf())
    for id in ("1", "2", "1"):
        context.take_feedback(m.FeedbackMessage(task="me.t", id=id, text=id))
    seen = []
    async for said in context.feedback():
        seen.append(said.text)
        if len(seen) == 2:
            break
    assert seen == ["1", "2"]


CALL = m.Call(task="me.t", subtask="s", capability="c", call="1", shard=0, reply_by_s=0.2, input=Raw(b'{"texts":["a","b"]}'))


async def test_bids_come_from_the_estimate_or_the_own_function() -> None:
    load = m.Load(queue_s=1.5)
    bid = await answer_call(CALL, "b1", 2, load, 0.5, 3.0, None)
    assert isinstance(bid, m.Bid)
    assert (bid.estimate_s, bid.queue_s, bid.cost, bid.call, bid.boot) == (0.5, 1.5, 3.0, "1", "b1")

    def per_text(asked: Asked) -> float:
        return asked.size("texts") / asked.capacity

    tailored = await answer_call(CALL, "b1", 4, load, None, 0.0, per_text)
    assert isinstance(tailored, m.Bid)
    assert tailored.estimate_s == 0.5


async def test_refusals() -> None:
    assert isinstance(await answer_call(CALL, "b1", 2, m.Load(), None, 0.0, lambda _asked: None), m.Refusal)
    full = await answer_call(CALL, "b1", 1, m.Load(running=1, queued=1), 0.1, 0.0, None)
    assert isinstance(full, m.Refusal)
    assert "1 queued" in full.reason


async def test_a_large_lists_size_is_known_from_its_share() -> None:
    fill = m.Fill(at=["texts"], blob=m.BlobRef(digest="d", bytes=1, chunks=1), slice=(10, 25))
    large = m.Call(task="me.t", subtask="s", capability="c", call="1", shard=0, reply_by_s=0.2, input=Raw(b'{"texts":null}'), fill=[fill])
    bid = await answer_call(large, "b1", 1, m.Load(), None, 0.0, lambda asked: float(asked.size("texts")))
    assert isinstance(bid, m.Bid)
    assert bid.estimate_s == 15.0


@asynccontextmanager
async def taken(slots: Slots, order: tuple[int, str]) -> AsyncIterator[None]:
    await slots.take(order)
    try:
        yield
    finally:
        slots.give_back()


async def test_slots_go_to_the_most_urgent_and_to_those_that_resume_first() -> None:
    slots = Slots(1)
    order: list[str] = []
    started = anyio.Event()

    async def work(name: str, priority: int) -> None:
        async with taken(slots, (-priority, "9")):
            order.append(name)

    async def parent() -> None:
        async with taken(slots, (0, "9")):
            slots.give_back()
            started.set()
            await anyio.lowlevel.checkpoint()
            await slots.take_again()
            order.append("resumed")

    async with anyio.create_task_group() as group, taken(slots, (0, "9")):
        for name, priority in (("low", -1), ("high", 5), ("normal", 0)):
            group.start_soon(work, name, priority)
        await anyio.wait_all_tasks_blocked()
    assert order == ["high", "normal", "low"]
    await parent()
    assert order[-1] == "resumed"


async def test_what_a_handler_has_used_is_told() -> None:
    agent = Agent("spender")

    @agent.capability("spend")
    def spend(ctx: Context, money: float) -> None:
        ctx.spend(tokens=3)
        ctx.spend(tokens=4, money=money)

    assert (await call(agent, "spend", {"money": 0.5})).usage == {"tokens": 7, "money": 0.5}
    with pytest.raises(AgentError, match="cannot be spent"):
        await call(agent, "spend", {"money": -1})


async def test_what_the_coordinator_counts_cannot_be_spent() -> None:
    agent = Agent("spender")

    @agent.capability("spend")
    def spend(ctx: Context) -> None:
        ctx.spend(seconds=3)

    with pytest.raises(AgentError, match="counted by the coordinator"):
        await call(agent, "spend")
