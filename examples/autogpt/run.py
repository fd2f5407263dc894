"""AutoGPT on the bus: a goal, a tool that fails, a critic that says no, a budget that is nearly used up; the story is printed as it happens.

Run it: make autogpt

The model is scripted, on 127.0.0.1. With AGENTEXECUTOR_LLM_MODEL (and _BASE_URL or _API_KEY) set a real one is asked, and the story is another each time.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agentexecutor.agents.autogpt import MODEL_PLANNER, critic, llm, memory, planner
from agentexecutor.agents.autogpt.scripted import Reply, Request, say, scripted
from agentexecutor.agents.autogpt.settings import ModelSettings
from agentexecutor.agents.autogpt.tools import calculator, files, http
from agentexecutor.bus import Bus, TaskFailed, connect, embedded_server
from agentexecutor.schemas import Goal, Replan
from agentexecutor.schemas.views import Event

GOAL = "Find out what our stock (stock.csv, prices in dollars) is worth in euros, and write it to report.md."
STOCK = "item;count;price\nlathe;12;340\nmill;4;1250\ndrill bit;300;1.85\n"
NOTES = "Ask the finance team before you change this.\n1 dollar = 0.92 euros\n"
RATES = "https://rates.example/usd-eur"
TOKENS = {"scripted": 7200, "real": 150_000}
"""Of the budget."""


# the model, as it is scripted: what it says depends on what it is shown


def think(request: Request) -> Reply:
    """The critic's and the planner's answers, by what is done already."""
    return judge(request.prompt) if request.schema == "verdict" else plan(request.prompt)


def judge(shown: str) -> Reply:
    """The critic's."""
    if "report.md" in shown.partition("THE ANSWER:")[2].partition("Does it reach")[0]:
        return say({"text": "it is computed, and written", "verdict": "accept"})
    return say({"text": "the goal asks for report.md, and nothing was written", "verdict": "reject"})


def plan(shown: str) -> Reply:
    """The planner's."""
    if "- report: files.write" in shown:
        thought = "it is written, and the budget is nearly used up" if "NEARLY USED UP" in shown else "it is written"
        return finish(thought, "The stock is worth 8864.2 euros; that is in report.md, too.")
    if "has not accepted your answer" in shown.lower():
        text = "# Stock\n\nWorth 8864.2 euros, at 0.92 euros a dollar (rates.txt).\n"
        return steps("the critic is right, the report is missing", report=("files.write", {"path": "report.md", "text": text}))
    total = re.search(r'- total: .*"text":"([^"]+)"', shown)
    if total is not None:
        return finish("the total is known", f"The stock is worth {total[1]} euros.")
    if "- rate: files.read" in shown:
        return steps(
            "all numbers are there", total=("calculator.evaluate", {"expression": "round((12*340 + 4*1250 + 300*1.85) * 0.92, 2)"})
        )
    if "not on the list of hosts" in shown:
        return steps("the web cannot be asked; rates.txt may do", rate=("files.read", {"path": "rates.txt"}))
    what = {"stock": ("files.read", {"path": "stock.csv"}), "folder": ("files.list", {}), "web": ("http.get", {"url": RATES})}
    return steps("the stock and a rate are needed", **what)


def steps(thought: str, **add: tuple[str, dict[str, Any]]) -> Reply:
    """More to be done."""
    listed = [
        {"name": name, "capability": capability, "input": msgspec.json.encode(input).decode(), "after": []}
        for name, (capability, input) in add.items()
    ]
    return answer(thought, add=listed)


def finish(thought: str, words: str) -> Reply:
    """The end, in words."""
    return answer(thought, finish=True, answer=words)


def answer(thought: str, **more: Any) -> Reply:
    """As the planner's JSON Schema wants it."""
    return say({"thought": thought, "learned": [], "add": [], "remove": [], "finish": False, "answer": None, "result": None, **more})


# the story


class Story:
    """Prints what happens; counts what was done and what it cost."""

    def __init__(self, tokens: float) -> None:
        self.limit = tokens
        self.tokens = 0.0
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.said: list[str] = []
        self._capabilities: dict[str, str] = {}

    def tell(self, event: Event) -> None:
        """One line for what matters."""
        said, name = event.data, event.subtask or ""
        self._capabilities |= {step: made["capability"] for step, made in said.get("subtasks", {}).items()}
        capability = self._capabilities.get(name, "")
        if event.kind == "replanned":
            new = ", ".join(f"{step} ({made['capability']})" for step, made in said.get("subtasks", {}).items())
            print(f"version {said['version']}: {new or 'nothing more'}")
        elif event.kind == "progress" and capability in (MODEL_PLANNER, "critic.judge") and said.get("text"):
            self._progress("planner" if capability == MODEL_PLANNER else "critic", said["text"])
        elif event.kind == "failed" and name:
            print(f"  {name} failed: {said['error']['message']}")
            self.failed.append(name)
        elif event.kind == "completed" and capability == "llm.chat":
            self.tokens += said["usage"]["tokens"]
            print(f"  the model has answered: {self.tokens:,.0f} of {self.limit:,.0f} tokens ({self.tokens / self.limit:.0%})")
        elif event.kind == "completed" and capability not in ("", MODEL_PLANNER, "memory.search", "memory.note", "critic.judge"):
            print(f"  {name} is done ({capability}) by {event.agent}")
            self.done[capability] += 1

    def _progress(self, who: str, text: str) -> None:
        if text not in ("asks the model", "looks for what is known"):
            print(f"  {who}: {text}")
            self.said.append(text)


@asynccontextmanager
async def working(folder: Path, model: ModelSettings) -> AsyncIterator[Bus]:
    """A bus with everybody on it; in earnest each is a program of its own."""
    (folder / "stock.csv").write_text(STOCK)
    (folder / "rates.txt").write_text(NOTES)
    agents = [llm.make(model), critic.agent, memory.make(folder / "memory.db"), calculator.agent, files.make(folder), http.make([])]
    async with embedded_server() as server, connect(server.url, name="me") as bus, planner.make().serve(bus), asyncio.TaskGroup() as group:
        ready, over = [asyncio.Event() for _ in agents], asyncio.Event()
        for agent, event in zip(agents, ready, strict=True):
            group.create_task(serve(agent, bus, event, over))
        for event in ready:
            await event.wait()
        try:
            yield bus
        finally:
            over.set()


async def serve(agent: Any, bus: Bus, ready: asyncio.Event, over: asyncio.Event) -> None:
    """One agent, until it is over."""
    async with agent.serve(bus, coordinate=False):
        ready.set()
        await over.wait()


async def main() -> dict[str, Any]:
    """Run it; gives what became of it."""
    real = os.environ.get("AGENTEXECUTOR_LLM_MODEL") is not None
    story = Story(TOKENS["real" if real else "scripted"])
    async with scripted(think) as fake:
        settings = ModelSettings.from_environment() if real else ModelSettings.from_environment(fake.environment)
        with tempfile.TemporaryDirectory() as folder:
            async with working(Path(folder), settings) as bus:
                print(f"the goal: {GOAL}\nthe model: {settings.model}\n")
                task = await bus.submit(Goal(GOAL), {}, replan=Replan(planner=MODEL_PLANNER), budget={"tokens": story.limit, "replans": 20})
                async for event in task.events():
                    story.tell(event)
                try:
                    result = await task.result()
                except TaskFailed as error:
                    result = None
                    print(f"\nit was not reached: {error}")
            report = Path(folder) / "report.md"
            written = report.read_text() if report.exists() else None
    print(f"\nthe answer: {result}\n\nreport.md:\n{written}")
    print(f"steps: {dict(sorted(story.done.items()))}")
    return {"result": result, "report": written, "story": story}


if __name__ == "__main__":
    asyncio.run(main())
