"""The demo's agents, each for a process of its own: ``agentexecutor agent agentexecutor.console.demo.agents:a1 --name A1``.

What they compute is in data.py, features.py and model.py; this file says who offers what, in which steps, and how a share is bid for.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

import msgspec
from anyio.to_thread import run_sync

from agentexecutor.agents import Agent, Asked, Context, Retry
from agentexecutor.console.demo import data, features, model
from agentexecutor.console.lifeline import hold_on

__all__ = ["MODULES", "a1", "a2", "evaluator", "loader", "seconds_for", "trainer"]

SLOT_S = 2.5e-4
"""Seconds in which one slot of a feature agent does one text: what it bids with."""
COUNT_S = 2e-5
PACK_S = 5e-6
"""Seconds a text when it has the machine for itself: what its schedule says."""
BATCHES = 12
"""A share is counted in so many batches, so that its progress is seen."""
MODULES = ("sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.preprocessing", "scipy.sparse")
"""Slow to import, so agents do it before they offer anything."""


@asynccontextmanager
async def prepared() -> AsyncIterator[None]:
    """The lifespan of every agent here: ends with the demo, and has its libraries loaded before the first subtask comes."""
    hold_on()
    for name in MODULES:
        await run_sync(import_module, name)
    yield


@asynccontextmanager
async def unprepared() -> AsyncIterator[None]:
    """The same for agents that need no library."""
    hold_on()
    yield


# A1 and A2: features


def seconds_for(asked: Asked) -> float:
    """The bid of a feature agent: the texts of this share, over the slots that it has for them."""
    return asked.size("texts") * SLOT_S / asked.capacity


async def count_features(ctx: Context, texts: list[str]) -> features.Features:
    """Hashed counts of words and pairs of words."""
    await ctx.schedule(("count", len(texts) * COUNT_S), ("pack", len(texts) * PACK_S))
    size = max(1, math.ceil(len(texts) / BATCHES))
    parts: list[features.Features] = []
    async with ctx.step("count"):
        for start in range(0, len(texts), size):
            parts.append(await run_sync(_count, texts[start : start + size]))
            done = min(start + size, len(texts))
            ctx.progress(done / len(texts), f"{done:,} of {len(texts):,} texts")
    async with ctx.step("pack"):
        stacked = await run_sync(features.stack, parts)
    return msgspec.structs.replace(stacked, shares=[len(texts)])


def _count(texts: list[str]) -> features.Features:
    return features.pack(features.count(texts))


def _feature_agent(name: str, capacity: int) -> Agent:
    agent = Agent(name, capacity=capacity, lifespan=prepared)
    agent.capability("text.features", estimate_s=0.5, bid=seconds_for)(count_features)
    return agent


a1 = _feature_agent("A1", 5)
a2 = _feature_agent("A2", 10)


# the others

loader = Agent("loader", lifespan=unprepared)
trainer = Agent("trainer", lifespan=prepared)
evaluator = Agent("evaluator", lifespan=prepared)


@loader.capability("data.load", estimate_s=0.5)
async def load(ctx: Context) -> data.Corpus:
    """All tweets, a fifth of them held out."""
    await ctx.schedule(("read", 0.3), ("hold out", 0.2))
    async with ctx.step("read"):
        tweets = await run_sync(data.read_tweets, data.find_csv())
    async with ctx.step("hold out"):
        corpus = await run_sync(data.hold_out, tweets)
    ctx.progress(1.0, f"{len(corpus.train.texts):,} tweets to learn from, {len(corpus.held_out.texts):,} held out")
    return corpus


@trainer.capability("text.merge", estimate_s=0.3)
async def merge(ctx: Context, parts: list[features.Features]) -> features.Features:
    """The shares put together in their order."""
    await ctx.schedule(("stack", 0.3))
    async with ctx.step("stack"):
        merged = await run_sync(features.stack, parts)
    ctx.progress(1.0, f"{merged.texts:,} texts from {len(parts)} shares")
    return merged


@trainer.capability("text.train", estimate_s=1.5)
async def train(ctx: Context, counts: features.Features, labels: list[str]) -> model.Model:
    """Tf-idf and logistic regression. The first attempt fails: the demo wants a retry to be seen."""
    await ctx.schedule(("weigh", 0.3), ("fit", 1.2))
    async with ctx.step("weigh"):
        rows, weights = await run_sync(lambda: model.weigh(features.unpack(counts)))
        if ctx.attempt == 1:
            raise Retry("fails on purpose")
    async with ctx.step("fit"):
        return await run_sync(model.fit, rows, labels, weights, counts.shares, ctx.progress)


@evaluator.capability("text.evaluate", estimate_s=0.3)
async def evaluate(ctx: Context, classifier: model.Model, texts: list[str], labels: list[str]) -> model.Score:
    """What the classifier says of texts that it has not seen, against what people said."""
    await ctx.schedule(("predict", 0.25), ("compare", 0.05))
    async with ctx.step("predict"):
        said = await run_sync(model.predict, classifier, texts)
    async with ctx.step("compare"):
        return model.score(classifier, labels, said)
