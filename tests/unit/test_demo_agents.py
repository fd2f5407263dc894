"""What each agent of the demo does with its input, called as the bus would; its bids; the plan that asks for it."""

from __future__ import annotations

import msgspec
import pytest

from agentexecutor.agents import Agent, Asked, Retry
from agentexecutor.agents.testing import call
from agentexecutor.console.demo import features
from agentexecutor.console.demo.agents import a1, a2, evaluator, loader, seconds_for, trainer
from agentexecutor.console.demo.crew import CREW
from agentexecutor.console.demo.plan import make_plan
from agentexecutor.schemas.messages import Load
from agentexecutor.schemas.plans import dependencies

pytestmark = pytest.mark.anyio

TEXTS = ["a lovely day", "what a lovely song", "an awful day", "what an awful song"]
LABELS = ["positive", "positive", "negative", "negative"]


def asked(capacity: int, texts: int, *, by_reference: bool) -> Asked:
    given = {"texts": None if by_reference else ["x"] * texts}
    return Asked(capability="text.features", input=given, sizes={"texts": texts} if by_reference else {}, capacity=capacity, load=Load())


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_bid_grows_with_the_share_and_falls_with_the_capacity(*, by_reference: bool) -> None:
    small, large = asked(5, 9_931, by_reference=by_reference), asked(10, 19_863, by_reference=by_reference)
    assert seconds_for(small) == pytest.approx(seconds_for(large), rel=0.001)
    assert seconds_for(asked(10, 9_931, by_reference=by_reference)) == pytest.approx(seconds_for(small) / 2)
    assert seconds_for(small) > 0


def test_the_seeds_two_agents_have_its_capacities() -> None:
    assert [(agent.name, agent.capacity) for agent in (a1, a2)] == [("A1", 5), ("A2", 10)]
    assert all(agent.handlers["text.features"].offered().tailored for agent in (a1, a2))


async def test_features_are_counted_in_steps_with_progress() -> None:
    called = await call(a1, "text.features", {"texts": TEXTS})
    counted = msgspec.convert(called.result, features.Features)
    assert counted.shares == [4]
    assert (features.unpack(counted) != features.count(TEXTS)).nnz == 0
    assert called.steps == ["count", "pack"]
    assert [step.name for step in called.schedule] == ["count", "pack"]
    fractions = [told["fraction"] for told in called.progress if "fraction" in told]
    assert fractions == [0.25, 0.5, 0.75, 1.0]


async def test_a_share_of_nothing_is_features_of_nothing() -> None:
    called = await call(a2, "text.features", {"texts": []})
    assert (called.result["texts"], called.result["shares"]) == (0, [0])


async def test_the_first_attempt_at_training_fails_and_the_second_does_not() -> None:
    given = {"counts": (await call(a1, "text.features", {"texts": TEXTS * 5})).result, "labels": LABELS * 5}
    with pytest.raises(Retry, match="on purpose"):
        await call(trainer, "text.train", given, attempt=1)
    classifier = (await call(trainer, "text.train", given, attempt=2)).result
    score = (await call(evaluator, "text.evaluate", {"classifier": classifier, "texts": TEXTS, "labels": LABELS})).result
    assert score["accuracy"] == 1.0
    assert score["shares"] == [20]


async def test_shares_are_merged_in_their_order() -> None:
    parts = [(await call(a1, "text.features", {"texts": part})).result for part in (TEXTS[:1], TEXTS[1:])]
    merged = msgspec.convert((await call(trainer, "text.merge", {"parts": parts})).result, features.Features)
    assert merged.shares == [1, 3]
    assert (features.unpack(merged) != features.count(TEXTS)).nnz == 0


async def test_the_loader_holds_a_fifth_out() -> None:
    corpus = (await call(loader, "data.load")).result
    assert len(corpus["train"]["texts"]) == 29_794
    assert len(corpus["held_out"]["texts"]) == 7_449
    assert len(msgspec.json.encode(corpus)) > 256 * 1024, "it is to travel by reference"


def test_every_capability_of_the_plan_has_an_agent_and_training_never_sees_what_is_held_out() -> None:
    spec = make_plan().spec()
    agents: dict[str, Agent] = {"a1": a1, "a2": a2, "loader": loader, "trainer": trainer, "evaluator": evaluator}
    assert {member.agent for member in CREW} == set(agents)
    offered = {capability for agent in agents.values() for capability in agent.handlers}
    assert {subtask.capability for subtask in spec.subtasks.values()} | {"text.merge"} == offered
    assert {name: dependencies(subtask) for name, subtask in spec.subtasks.items()} == {
        "load": [],
        "features": ["load"],
        "train": ["features", "load"],
        "evaluate": ["train", "load"],
    }
    assert [name for name, subtask in spec.subtasks.items() if b"held_out" in bytes(subtask.input)] == ["evaluate"]
    split = spec.subtasks["features"].split
    assert split is not None
    assert (split.by, split.merge) == ("capacity", "text.merge")
