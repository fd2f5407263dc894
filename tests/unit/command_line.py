"""A bus with agents and the commands as people run them: programs of their own, for the tests of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["HELLO", "LONG", "OWNER", "PROGRAM", "ROOT", "WORKER", "Place", "Ran", "environment", "place", "program", "until"]

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
ROOT = Path(__file__).parents[2]
HELLO = "examples/hello/agent.py:agent"
OWNER = "tester"
LONG = 60
"""Seconds after which something hangs; nothing is expected to take a tenth of it."""

WORKER = """
from __future__ import annotations
import asyncio
from agentexecutor.agents import Agent, Context, Fail

agent = Agent("worker", capacity=4, labels={"zone": "eu"})

@agent.capability("echo")
def echo(text: str) -> str:
    return text

@agent.capability("never")
async def never(ctx: Context) -> None:
    await ctx.schedule(("wait", 60.0))
    async with ctx.step("wait"):
        async for said in ctx.feedback():
            ctx.progress(0.25, said.text, feedback=said)
        await asyncio.Event().wait()

@agent.capability("listen")
async def listen(ctx: Context) -> str:
    async for said in ctx.feedback():
        return f"{said.sender}: {said.verdict}: {said.text}"

@agent.capability("fail")
def fail() -> str:
    raise Fail("this never works")
"""


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What --json printed: every line an object."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> Any:
        (only,) = self.lines
        return only


def environment(url: str | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_"))}
    return kept | {"AGENTEXECUTOR_NAME": OWNER, "PYTHONUNBUFFERED": "1"} | ({"AGENTEXECUTOR_NATS_URL": url} if url else {})


@contextmanager
def program(*arguments: str, url: str | None = None, cwd: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A command that stays, and the JSON line by which it says that it is ready. It must end well when it is asked to."""
    process = subprocess.Popen(
        [PROGRAM, *arguments, "--json"], env=environment(url), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            _, said = process.communicate(timeout=LONG)
            raise AssertionError(f"{arguments} ended with {process.returncode}: {said}")
        yield process, json.loads(line)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        rest, said = process.communicate(timeout=LONG)
        assert (process.returncode, rest) == (0, ""), said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@dataclass
class Place:
    """A bus with agents, and a way to run commands on it."""

    url: str
    store: Path
    names: list[str]
    planner: str | None = None

    def run(self, *arguments: str, text: str = "", cwd: Path = ROOT) -> Ran:
        done = subprocess.run(
            [PROGRAM, *arguments], env=environment(self.url), input=text, cwd=cwd, capture_output=True, text=True, timeout=LONG, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs beside the test, and no longer than the block."""
        process = subprocess.Popen(
            [PROGRAM, *arguments], env=environment(self.url), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`up`, two workers for hello, one for what the tests need."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "worker.py").write_text(WORKER)
    with ExitStack() as stack:
        _, started = stack.enter_context(program("up", "--store", str(folder / "store"), "--port", "0"))
        assert set(started) == {"nats", "port", "store", "coordinator", "planner"}
        url = started["nats"]
        hello = [stack.enter_context(program("agent", HELLO, url=url))[1] for _ in range(2)]
        worker = stack.enter_context(
            program("agent", "worker:agent", "--name", "w1", "--capacity", "8", "--no-coordinate", url=url, cwd=folder)
        )[1]
        assert worker == {"name": "w1", "capabilities": ["echo", "never", "listen", "fail"], "capacity": 8, "nats": url}
        yield Place(url, Path(started["store"]), [made["name"] for made in hello], started["planner"])


def until(process: subprocess.Popen[str], kind: str, subtask: str | None = None) -> None:
    """Read what a `watch --json` prints up to an event of this kind, of this subtask if one is given."""
    assert process.stdout is not None
    seen = (json.loads(line) for line in process.stdout)
    assert any(event["kind"] == kind and subtask in (None, event["subtask"]) for event in seen), f"it ended without {kind!r}"
