"""The Python side of AgentExecutor in one file. `python examples/quickstart.py` starts a server of its own, runs everything below and prints it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread

from agentexecutor.agents import Agent, Context, Fail, Retry
from agentexecutor.agents.testing import call
from agentexecutor.bus import Bus, TaskFailed, TaskTimeout, blocking, connect, embedded_server
from agentexecutor.schemas import Feedback, Plan, Ref, Split, Subtask

# An agent: a name, a capacity (how many subtasks at once), labels that a task may ask for.


@asynccontextmanager
async def model() -> AsyncIterator[dict[str, int]]:
    """Entered once before the first subtask: load what takes long here. Handlers find it as ctx.state."""
    yield {"long_from": 6}


agent = Agent("classifier", capacity=10, labels={"zone": "eu"}, lifespan=model)


@agent.capability("text.classify", estimate_s=0.2)
async def classify(ctx: Context, texts: list[str]) -> list[str]:
    await ctx.schedule(("vectorise", 0.1), ("predict", 0.1))  # publishes the schedule; optional
    async with ctx.step("vectorise"):
        words = [text.split() for text in texts]
    async with ctx.step("predict"):
        return ["long" if len(found) >= ctx.state["long_from"] else "short" for found in words]


@agent.capability("text.features")
async def features(ctx: Context, texts: list[str]) -> list[list[str]]:
    """Works on; feedback that comes meanwhile is given to it."""
    async for said in ctx.feedback():
        if said.text == "use bigrams":
            return [[f"{one} {two}" for one, two in pairwise(words)] for words in map(str.split, texts)]
    raise Fail("nobody said what to use")


@agent.capability("text.train")
def train(x: list[list[str]]) -> dict[str, int]:
    """A plain function runs in a thread; one without `ctx` gets its input alone."""
    known = sorted({feature for features in x for feature in features})
    return {feature: index for index, feature in enumerate(known)}


@agent.capability("text.count")
def count(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@agent.capability("fetch")
async def fetch(ctx: Context, url: str) -> str:
    if not url.startswith("https://"):
        raise Fail("only https", url=url)  # for good: no other try
    if ctx.attempt == 1:
        raise Retry("busy", after_s=0.1)  # again, not before 0.1 s; any other exception is tried again too
    return f"{url} at attempt {ctx.attempt}, key {ctx.key.partition('/')[2]}"  # ctx.key is the same for every attempt


async def main() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    async with embedded_server() as server, connect(server.url, name="me") as bus, agent.serve(bus):
        seen["labels"] = await bus.run("text.classify", {"texts": ["a b", "c"]})  # submit and wait

        task = await bus.submit("text.classify", {"texts": ["a"]}, id="first", deadline_s=30, priority=5, labels={"zone": "eu"})
        seen["events"] = [event.kind async for event in task.events()]  # from the first, ends with the task
        seen["typed"] = await task.result(list[str], timeout_s=60)
        seen["again"] = await bus.task(task.name).result()  # from anywhere, any time
        seen["bids"] = [(bid.agent, bid.won, bid.reason) for bid in (await task.view()).subtasks["main"].bids]

        seen["plan"] = await a_plan(bus)
        seen["shares"] = await bus.run(Plan({"count": Subtask("text.count", {"texts": ["a b", "c"]}, split=Split(over="texts", into=2))}))

        seen["retried"] = await bus.run("fetch", {"url": "https://example.org"})
        for url in ("gopher://example.org", 7):
            try:
                await bus.run("fetch", {"url": url})
            except TaskFailed as failed:
                error = failed.error
                seen.setdefault("errors", []).append((error.code, error.message))

        waiting = await bus.submit("nobody.does.this")
        try:
            await waiting.result(timeout_s=0.2)
        except TaskTimeout:  # our patience ended, the task goes on: the agent for it may come tomorrow
            await waiting.cancel("not needed any more")
        seen["waited"] = (await waiting.state()).state

        seen["blocking"] = await anyio.to_thread.run_sync(without_asyncio, server.url)
    seen["handler"] = await a_unit_test()
    return seen


async def a_plan(bus: Bus) -> list[dict[str, int]]:
    """Two subtasks, the second takes the first one's result; a word from outside reaches the one that runs. Twice the same plan."""
    built = Plan(result="model")
    counted = built.add("features", Subtask("text.features", {"texts": ["a b c", "b c"]}))  # a Ref
    built.add("model", Subtask("text.train", {"x": counted}, after=[], retries=2))
    written = Plan(
        {
            "features": Subtask("text.features", {"texts": ["a b c", "b c"]}),
            "model": Subtask("text.train", {"x": Ref("features")}, retries=2),
        },
        result="model",
    )
    results = []
    for plan in (built, written):
        task = await bus.submit(plan)
        await task.feedback(Feedback(verdict="revise", text="use bigrams", subtask="features"))
        results.append(await task.result(dict[str, int]))
    return results


def without_asyncio(url: str) -> list[str]:
    """The same methods for programs without asyncio."""
    with blocking.connect(url, name="script") as bus:
        return bus.run("text.classify", {"texts": ["one two three four five six"]}, list[str])


async def a_unit_test() -> tuple[Any, list[str]]:
    """A handler called as the bus would, without a bus: its result, the steps it took, the schedule it made."""
    called = await call(agent, "text.classify", {"texts": ["a b c d e f g"]}, state={"long_from": 6})
    return called.result, called.steps


if __name__ == "__main__":
    for what, value in anyio.run(main).items():
        print(f"{what:<10} {value}")
