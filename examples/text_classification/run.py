"""A plan that thinks again: a critic finds the classifier too weak, and version 2 of the plan counts more of more texts, with the data that is loaded already.

Run it: .venv/bin/python examples/text_classification/run.py
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from anyio.to_thread import run_sync

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import connect, embedded_server
from agentexecutor.console.demo import data, features, model
from agentexecutor.schemas import Feedback, Plan, Subtask

FEW = 1000
"""So many texts are used at first."""
TARGET = 0.7


class Training(msgspec.Struct):
    """What a classifier learns from: the counts of texts, and their labels."""

    counts: features.Features
    labels: list[str]


loader, counter, trainer, critic = Agent("loader"), Agent("counter"), Agent("trainer"), Agent("critic")


@loader.capability("data.load", estimate_s=1)
async def load() -> data.Corpus:
    """All tweets, a fifth of them held out."""
    return data.hold_out(await run_sync(data.read_tweets, data.find_csv()))


@counter.capability("text.features", estimate_s=2)
async def count(ctx: Context, texts: list[str], labels: list[str]) -> Training:
    """Single words of a few texts; what a critic says of that leads to pairs of words too, and to all the texts."""
    if not any(said.verdict == "revise" for said in ctx.feedback_now()):
        ctx.progress(text=f"words of {FEW:,} texts")
        return Training(features.pack(await run_sync(features.count_words, texts[:FEW])), labels[:FEW])
    for said in ctx.feedback_now():
        ctx.progress(text=f"words and pairs of {len(texts):,} texts", feedback=said)
    return Training(features.pack(await run_sync(features.count, texts)), labels)


@trainer.capability("text.train", estimate_s=2)
async def train(training: Training) -> model.Model:
    """Tf-idf and logistic regression."""
    rows, weights = await run_sync(lambda: model.weigh(features.unpack(training.counts)))
    return await run_sync(model.fit, rows, training.labels, weights, training.counts.shares)


@critic.capability("text.criticise", estimate_s=1)
async def criticise(ctx: Context, classifier: model.Model, texts: list[str], labels: list[str], target: float) -> model.Score:
    """How good the classifier is on texts that it has not seen. Too weak, and there are more texts: it says so, and its own work is superseded."""
    score = model.score(classifier, labels, await run_sync(model.predict, classifier, texts))
    if score.accuracy < target and score.trained_on == FEW:
        text = f"accuracy {score.accuracy:.3f} is below {target}: use pairs of words too, and more texts"
        await ctx.say(Feedback("revise", text, "features", data={"accuracy": score.accuracy}))
    return score


def make_plan() -> Plan:
    """load -> features -> train -> critic."""
    plan = Plan(result="critic")
    tweets = plan.add("load", Subtask("data.load"))
    training = plan.add("features", Subtask("text.features", {"texts": tweets["train"]["texts"], "labels": tweets["train"]["labels"]}))
    classifier = plan.add("train", Subtask("text.train", {"training": training}))
    held_out = {"texts": tweets["held_out"]["texts"], "labels": tweets["held_out"]["labels"]}
    plan.add("critic", Subtask("text.criticise", {"classifier": classifier, **held_out, "target": TARGET}))
    return plan


async def main() -> dict[str, Any]:
    """Run it, and say what happens; gives the accuracies by version, and how often each subtask was awarded."""
    accuracies: dict[int, float] = {}
    async with (
        embedded_server() as server,
        connect(server.url, name="me") as bus,
        loader.serve(bus),
        counter.serve(bus, coordinate=False),
        trainer.serve(bus, coordinate=False),
        critic.serve(bus, coordinate=False),
    ):
        task = await bus.submit(make_plan())
        version = 1
        async for event in task.events():
            said = event.data
            if event.kind == "feedback":
                accuracies[version] = said["data"]["accuracy"]
                print(f"version {version}: {said['sender']} says: {said['text']}")
            elif event.kind == "replanned":
                version = said["version"]
                print(f"version {version}: {', '.join(said['again'])} run again, the rest is kept")
            elif event.kind == "completed" and event.subtask is not None and said.get("took_s") is not None:
                print(f"version {version}: {event.subtask} is done in {said['took_s']:.2f} s")
        score = await task.result(model.Score)
        accuracies[version] = score.accuracy
        view = await task.view()
        plans = [made.version for made in await task.plan_versions()]
    print("\nversion  accuracy")
    for number, accuracy in accuracies.items():
        print(f"{number:<8} {accuracy:.3f}")
    print(f"always the most frequent label: {score.baseline:.3f}")
    awards = {name: len(subtask.attempts) for name, subtask in view.subtasks.items()}
    print("awards:", json.dumps(awards))
    return {"accuracies": accuracies, "awards": awards, "versions": plans, "baseline": score.baseline}


if __name__ == "__main__":
    asyncio.run(main())
