"""The budget of a task that asks a model, counted where it is spent: at the server. Calls that run at once hold it together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentexecutor.agents.autogpt import MODEL_PLANNER, critic, llm, planner
from agentexecutor.agents.autogpt.scripted import Reply, Request, ScriptedModel, say, scripted
from agentexecutor.agents.autogpt.settings import ModelSettings, PlannerSettings
from agentexecutor.agents.autogpt.team import together
from agentexecutor.bus import Bus, EmbeddedServer, Task, TaskFailed, connect
from agentexecutor.schemas import Goal, Plan, Replan, Subtask

pytestmark = pytest.mark.anyio

LONG = 120
BUDGET = 6000
CHARS_A_TOKEN = 4
MIND = PlannerSettings(retries=1)


@asynccontextmanager
async def place(server: EmbeddedServer, script: Callable[[Request], Reply], **model: Any) -> AsyncIterator[tuple[Bus, ScriptedModel]]:
    """Two agents of the model, so that none of them knows of all calls, a critic and a planner."""
    async with scripted(script) as scripted_model, connect(server.url, name="me") as bus:
        settings = ModelSettings("scripted", scripted_model.url, **model)
        others = together("model-2", [llm.make(settings), critic.make(MIND), planner.make(MODEL_PLANNER, MIND)], capacity=8)
        async with llm.make(settings).serve(bus), others.serve(bus):
            yield bus, scripted_model


def as_long_as_allowed(request: Request) -> Reply:
    return say("x" * CHARS_A_TOKEN * request.body["max_completion_tokens"], finish="length", pause_s=0.02)


def broken_json(request: Request) -> Reply:
    return say('{"text": "' + "x" * (CHARS_A_TOKEN * request.body["max_completion_tokens"] - 10), pieces=2)


def made(model: ScriptedModel) -> int:
    """Tokens of all prompts, and of all answers that the server was allowed to make."""
    return sum(len(request.prompt) // CHARS_A_TOKEN + request.body["max_completion_tokens"] for request in model.requests)


async def spent(task: Task) -> float:
    usages = [event.data.get("usage") or {} async for event in task.events()]
    return float(sum(usage.get("tokens", 0) for usage in usages))


def asks(count: int, **options: Any) -> Plan:
    return Plan({f"ask-{number}": Subtask("llm.ask", {"instruction": f"write about {number}"}, **options) for number in range(count)})


async def test_twenty_asks_at_once_share_the_budget(server: EmbeddedServer) -> None:
    async with place(server, as_long_as_allowed) as (bus, model):
        task = await bus.submit(asks(20), budget={"tokens": BUDGET})
        result = await task.result(timeout_s=LONG)
        assert len(model.requests) == len(result) == 20
        assert all(one["cut"] for one in result.values()), "who gets a shortened text is told so"
        assert made(model) <= BUDGET
        assert 0.9 * BUDGET < await spent(task) <= BUDGET, "what is there is used"


async def test_a_plan_of_twenty_asks_leaves_something_to_the_planner(server: EmbeddedServer) -> None:
    def script(request: Request) -> Reply:
        if request.schema is None:
            return as_long_as_allowed(request)
        if request.schema == "verdict":
            return say({"text": "", "verdict": "accept"})
        finish = ": llm.ask {" in request.prompt
        step = {"capability": "llm.ask", "after": []}
        add = [] if finish else [{"name": f"a{number}", "input": f'{{"instruction": "write {number}"}}', **step} for number in range(20)]
        answer = "done" if finish else None
        return say({"thought": "", "learned": [], "add": add, "remove": [], "finish": finish, "answer": answer, "result": None})

    async with place(server, script) as (bus, model):
        task = await bus.submit(Goal("write"), {}, replan=Replan(planner=MODEL_PLANNER), budget={"tokens": 30_000})
        assert await task.result(timeout_s=LONG) == "done"
        asked = [request for request in model.requests if request.schema is None]
        assert len(asked) == 20
        assert sum(request.body["max_completion_tokens"] for request in asked) < 0.75 * 30_000
        poor = await bus.submit(Goal("write"), {}, replan=Replan(planner=MODEL_PLANNER), budget={"tokens": BUDGET})
        before = len(model.requests)
        with pytest.raises(TaskFailed, match="no room for another call of the model"):
            await poor.result(timeout_s=LONG)
        written = [request for request in model.requests[before:] if request.schema is None]
        assert len(written) == 20
        assert sum(len(request.prompt) // CHARS_A_TOKEN + request.body["max_completion_tokens"] for request in written) < BUDGET
        assert await spent(poor) <= BUDGET


async def test_more_asks_than_the_budget_pays_for_fail_and_do_not_spend(server: EmbeddedServer) -> None:
    async with place(server, as_long_as_allowed) as (bus, model):
        task = await bus.submit(asks(100, on_failure="skip", retries=0), budget={"tokens": BUDGET})
        await task.result(timeout_s=LONG)
        assert 20 <= len(model.requests) < 60
        assert made(model) <= BUDGET


async def test_money_is_shared_too(server: EmbeddedServer) -> None:
    async with place(server, as_long_as_allowed, price_in=1.0, price_out=1.0) as (bus, model):
        task = await bus.submit(asks(20), budget={"money": BUDGET / 1_000_000})
        await task.result(timeout_s=LONG)
        assert made(model) <= BUDGET


async def test_without_a_budget_an_answer_is_as_long_as_the_settings_say(server: EmbeddedServer) -> None:
    async with place(server, lambda _request: say("x")) as (bus, model):
        await bus.run(asks(2), wait_s=LONG)
        assert [request.body["max_completion_tokens"] for request in model.requests] == [4000, 4000]


async def test_a_call_that_breaks_off_counts_too(server: EmbeddedServer) -> None:
    def script(request: Request) -> Reply:
        return Reply("x", hangs=True) if request.number == 1 else as_long_as_allowed(request)

    async with place(server, script, silence_s=0.5) as (bus, model):
        one = Subtask("llm.ask", {"instruction": "write"}, timeout_s=30, retries=1)
        task = await bus.submit(Plan({"a": one, "b": Subtask("llm.ask", {"instruction": "on"}, after=["a"])}), budget={"tokens": BUDGET})
        await task.result(timeout_s=LONG)
        assert len(model.requests) == 3
        assert await spent(task) <= BUDGET


async def test_a_critic_whose_model_writes_broken_json_stays_within_the_budget(server: EmbeddedServer) -> None:
    async with place(server, broken_json) as (bus, model):
        task = await bus.submit("critic.judge", {"goal": "the goal", "answer": "an answer"}, budget={"tokens": 3000})
        with pytest.raises(TaskFailed, match="no room for another call of the model"):
            await task.result(timeout_s=LONG)
        assert made(model) <= 3000


async def test_a_caller_may_ask_for_less_than_the_budget_has(server: EmbeddedServer) -> None:
    async with place(server, as_long_as_allowed) as (bus, model):
        asked = {"messages": [{"role": "user", "content": "x" * 400}], "left": {"tokens": 500.0}}
        await bus.run("llm.chat", asked, budget={"tokens": BUDGET}, wait_s=LONG)
        assert model.requests[0].body["max_completion_tokens"] == 500 - 400 // CHARS_A_TOKEN - 4
