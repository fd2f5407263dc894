"""examples/hello as its README starts it: three workers in terminals of their own, a submit in another; and without the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentexecutor.agents.testing import call
from agentexecutor.bus import connect
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.console.agent import load_agent
from agentexecutor.console.demo.rollcall import calling

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
HELLO = "examples/hello/agent.py"
PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")


def environment(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_"))}
    return kept | {"AGENTEXECUTOR_NATS_URL": url, "AGENTEXECUTOR_NAME": "tester", "PYTHONUNBUFFERED": "1"}


@contextmanager
def worker(url: str) -> Iterator[subprocess.Popen[str]]:
    """An agent that serves; stopped by SIGTERM, which it must survive in good order."""
    command = [PROGRAM, "agent", f"{HELLO}:agent"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        assert "offers greet" in running.stdout.readline()
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


def run(url: str, *arguments: str) -> list[Any]:
    ran = subprocess.run([PROGRAM, *arguments, "--json"], env=environment(url), capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def three_workers(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(worker(url))
        (shown,) = run(url, "submit", "greet", '{"name": "Ada"}')
        assert (shown["state"], shown["result"]) == ("completed", "Hello, Ada!")
        agents = run(url, "agents")
        names = [agent["name"] for agent in agents]
        assert len(set(names)) == 3
        assert all(name.startswith("greeter-") for name in names)
        assert shown["subtasks"]["main"]["agent"] in names


async def test_three_workers_greet(server: EmbeddedServer) -> None:
    await anyio.to_thread.run_sync(three_workers, server.url)


async def test_it_runs_without_the_command_line(server: EmbeddedServer) -> None:
    async with connect(server.url, name="ada") as bus, calling(bus.connection, lambda _name: None) as roll:
        command = [sys.executable, str(ROOT / HELLO)]
        async with await anyio.open_process(command, env=environment(server.url), stdout=None, stderr=subprocess.DEVNULL) as running:
            await roll.all_there(["tester"])
            assert await bus.run("greet", {"name": "Ada"}) == "Hello, Ada!"
            running.terminate()
            assert await running.wait() == 0


async def test_its_handler_greets() -> None:
    assert (await call(load_agent(str(ROOT / HELLO) + ":agent"), "greet", {"name": "Grace"})).result == "Hello, Grace!"
