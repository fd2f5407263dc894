"""Planner, coordinator, tool and model agent are killed while a goal is worked towards: the model is not asked again for what it has answered.

One task goes through every moment: a kill while the model thinks, right after it has answered, while a tool works. What the model is asked is told by
its content, so a question that is asked twice is seen, also when its wording has changed a little.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from place import GUARD, PROGRAM, Process, until

from agentexecutor.agents.autogpt import MODEL_PLANNER
from agentexecutor.agents.autogpt.scripted import Reply, Request, ScriptedModel, broken, hang, say, scripted
from agentexecutor.bus import connect, embedded_server
from agentexecutor.schemas import Goal, Replan

pytestmark = pytest.mark.anyio

LONG = 240
THINKS_S = 1.0
"""So long the model takes for an answer: long enough to be killed in."""
TOOLS = """
from agentexecutor.agents.autogpt import memory
from agentexecutor.agents.autogpt.team import together
from agentexecutor.agents.autogpt.tools import calculator, http

agent = together("tools", [memory.agent, calculator.agent, http.agent])
"""


def phase(request: Request) -> str:
    """What is asked, by what is done already."""
    if "This answer cannot be used" in request.prompt:
        return "corrected"
    done = [("finish", "- third:"), ("third", "- second:"), ("second", "- page:")]
    return next((name for name, step in done if step in request.prompt), "first")


def steps(name: str, capability: str, **input: Any) -> Reply:
    add = [{"name": name, "capability": capability, "input": msgspec.json.encode(input).decode(), "after": []}]
    return say({"thought": name, "add": add}, delay_s=THINKS_S)


class Web:
    """A page that the first time comes only when it is released."""

    def __init__(self) -> None:
        self.asked, self.released = asyncio.Event(), asyncio.Event()
        self.host = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            first = not self.asked.is_set()
            self.asked.set()
            if first:
                gone, released = asyncio.ensure_future(reader.read()), asyncio.ensure_future(self.released.wait())
                await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                released.cancel()
            if not first or self.released.is_set():
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage")
                await writer.drain()
        writer.close()


@asynccontextmanager
async def a_web() -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    web.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield web


@contextmanager
def processes(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Process]]:
    """The programs, none of which outlives the block."""
    (folder / "tools.py").write_text(TOOLS)
    agents = {
        "planner": "agentexecutor.agents.autogpt.planner:agent",
        "model": "agentexecutor.agents.autogpt.llm:agent",
        "tool": f"{folder / 'tools.py'}:agent",
    }
    with subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, process_group=0) as guard:
        made = {name: ["agent", where, "--name", name, "--no-coordinate"] for name, where in agents.items()} | {
            "coordinator": ["coordinator"]
        }
        started = {
            name: Process(name, [*PROGRAM, *arguments], {**environment, "AGENTEXECUTOR_NAME": name}, folder, guard.pid)
            for name, arguments in made.items()
        }
        try:
            for process in started.values():
                process.start()
            yield started
        finally:
            for process in started.values():
                process.kill()
            os.killpg(guard.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "victims",
    [
        ("planner", "coordinator", "tool", "planner", "coordinator", "model"),
        ("coordinator", "planner", "coordinator", "tool", "planner", "model"),
    ],
    ids=" ".join,
)
async def test_nothing_that_was_answered_is_asked_again(tmp_path: Path, victims: tuple[str, ...]) -> None:
    """Killed are, one after the other, at: the model thinks, it thinks again, the tool works, it has just answered, it has just answered, it thinks."""
    answers = {
        "first": broken(delay_s=THINKS_S),
        "second": steps("second", "calculator.evaluate", expression="1+1"),
        "third": steps("third", "calculator.evaluate", expression="2+2"),
        "finish": say({"finish": True, "answer": "the page is read"}),
    }
    last = iter([hang(), answers["finish"]])  # the first is killed with the agent that waits for it
    async with (
        a_web() as web,
        scripted(lambda request: next(last) if phase(request) == "finish" else answers[phase(request)]) as model,
        embedded_server() as server,
        connect(server.url, name="me") as bus,
    ):
        answers["corrected"] = steps("page", "http.get", url=f"http://{web.host}/")
        own = {
            "AGENTEXECUTOR_NATS_URL": server.url,
            "AGENTEXECUTOR_HTTP_ALLOW": web.host,
            "AGENTEXECUTOR_MEMORY_FILE": str(tmp_path / "memory.db"),
        }
        with processes(tmp_path, {**os.environ, **model.environment, **own}) as running:
            for process in running.values():
                await until(process.serves, f"{process.name} does not serve; see {process.log}")
            task = await bus.submit(Goal("read the page"), {}, replan=Replan(planner=MODEL_PLANNER))
            async with asyncio.timeout(LONG):
                async for victim in at_each_moment(model, web, victims):
                    running[victim].kill()
                    running[victim].start()
                    await until(running[victim].serves, f"{victim} does not serve again; see {running[victim].log}")
            assert await task.result(timeout_s=LONG) == "the page is read"
            view = await task.view()
    asked = Counter(phase(request) for request in model.requests)
    assert asked == {"first": 1, "corrected": 1, "second": 1, "third": 1, "finish": 2}, f"the processes' logs are in {tmp_path}"
    assert view.subtasks["page"].state == "completed"
    assert len(view.subtasks["page"].attempts) >= (2 if victims[2] == "tool" else 1)


async def at_each_moment(model: ScriptedModel, web: Web, victims: tuple[str, ...]) -> AsyncIterator[str]:
    """The victims, each when its moment has come."""
    for number, victim in enumerate(victims):
        if number < 2:
            await model.asked(number + 1)
        elif number == 2:
            await web.asked.wait()
        elif number < 5:
            await (await model.asked(number)).answered.wait()
        else:
            await model.asked(number)
        yield victim
        if number == 2:
            web.released.set()
