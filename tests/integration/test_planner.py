"""The planner that needs no model, on the real bus: from a goal to its result by the annotations of the agents' handlers."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import pytest

from agentexecutor.agents import Agent, Fail
from agentexecutor.agents.planner import agent as planner
from agentexecutor.bus import Bus, EmbeddedServer, TaskFailed, connect
from agentexecutor.schemas import ApprovalPolicy, Feedback, Goal

pytestmark = pytest.mark.anyio

LONG = 60
DATA = {"texts": ["good", "bad"], "labels": [1, 0]}


class Features(TypedDict):
    rows: list[list[float]]


class Trained(TypedDict):
    model: dict[str, float]


class Evaluated(TypedDict):
    accuracy: float


class Answered(TypedDict):
    answer: str


class Crew:
    """Agents for a small chain; `calls` counts what their handlers did, `broken` are capabilities that fail for good."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.agent = agent = Agent("crew", capacity=4)

        @agent.capability("text.features", estimate_s=2)
        async def features(texts: list[str]) -> Features:
            self._called("features")
            return {"rows": [[float(len(text))] for text in texts]}

        @agent.capability("fast.train", estimate_s=1)
        async def fast(rows: list[list[float]], labels: list[int]) -> Trained:
            self._called("fast")
            return {"model": {"fast": sum(labels) + len(rows)}}

        @agent.capability("slow.train", estimate_s=9)
        async def slow(rows: list[list[float]], labels: list[int]) -> Trained:
            self._called("slow")
            return {"model": {"slow": sum(labels) + len(rows)}}

        @agent.capability("evaluate", estimate_s=1)
        async def evaluate(model: dict[str, float], rows: list[list[float]], labels: list[int], penalty: float = 0.0) -> Evaluated:
            self._called("evaluate")
            return {"accuracy": model.get("slow", 0.5 * model.get("fast", 0.0)) / len(rows) - penalty}

        @agent.capability("ask")
        async def ask(question: str) -> Answered:
            self._called("ask")
            return {"answer": question + "!"}

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.broken:
            raise Fail(f"{name} does not work")


@asynccontextmanager
async def working(server: EmbeddedServer, crew: Crew) -> AsyncIterator[Bus]:
    async with connect(server.url, name="me") as bus, crew.agent.serve(bus), planner.serve(bus, coordinate=False):
        yield bus


async def test_a_goal_is_reached_the_cheapest_way(server: EmbeddedServer) -> None:
    crew = Crew()
    async with working(server, crew) as bus:
        assert await bus.run(Goal("accuracy"), DATA, timeout_s=LONG) == {"accuracy": 0.75}
        both = await bus.run(Goal("accuracy and answer"), {**DATA, "question": "?"}, timeout_s=LONG)
        assert both == {"evaluate": {"accuracy": 0.75}, "ask": {"answer": "?!"}}
    assert crew.calls == {"features": 2, "fast": 2, "evaluate": 2, "ask": 1}


async def test_it_goes_around_what_has_failed_and_keeps_what_was_done(server: EmbeddedServer) -> None:
    crew = Crew()
    crew.broken = {"fast"}
    async with working(server, crew) as bus:
        task = await bus.submit(Goal("accuracy"), DATA)
        assert await task.result(timeout_s=LONG) == {"accuracy": 1.5}
        view = await task.view()
    assert crew.calls == {"features": 1, "fast": 1, "slow": 1, "evaluate": 1}
    assert {name: subtask.capability for name, subtask in view.subtasks.items() if subtask.capability != "plan"} == {
        "features": "text.features",
        "train": "slow.train",
        "evaluate": "evaluate",
    }


async def test_when_there_is_no_other_way_the_task_fails_and_says_why(server: EmbeddedServer) -> None:
    crew = Crew()
    crew.broken = {"features"}
    async with working(server, crew) as bus:
        with pytest.raises(
            TaskFailed, match=r"The only way is text\.features with the input that 'features' has had: features does not work"
        ):
            await bus.run(Goal("accuracy"), DATA, timeout_s=LONG)
        with pytest.raises(TaskFailed, match=r"Nothing gives 'labels', which evaluate needs\..* On offer are ask, evaluate, fast\.train"):
            await bus.run(Goal("accuracy"), {"texts": []}, timeout_s=LONG)
    assert crew.calls == {"features": 1}


async def test_a_value_that_feedback_brings_is_used(server: EmbeddedServer) -> None:
    """Before it is evaluated a person is asked, and says something else; then `evaluate` is planned anew, and the person agrees."""
    crew = Crew()
    async with working(server, crew) as bus:
        task = await bus.submit(Goal("accuracy"), DATA, approval=ApprovalPolicy(capabilities=["evaluate"]))
        asked = 0
        async for event in task.events():
            if event.kind == "asked":
                asked += 1
                first = asked == 1
                said = Feedback(text="stricter", data={"penalty": 0.25}) if first else Feedback(verdict="accept", subtask="evaluate")
                await task.feedback(said)
        assert await task.result(timeout_s=LONG) == {"accuracy": 0.5}
