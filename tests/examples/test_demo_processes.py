"""The demo's agents as processes: they end when their starter does, however it does; one that cannot start is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from agentexecutor.bus import connect
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.console.demo.crew import DemoFailed, Member, crew
from agentexecutor.console.demo.rollcall import calling

pytestmark = pytest.mark.anyio

STARTER = """
import sys
from pathlib import Path
import anyio
from agentexecutor.console.demo.crew import Member, crew

async def main():
    async with crew(sys.argv[1], Path(sys.argv[2]), (Member("one", "loader", ""), Member("two", "loader", ""))) as workers:
        print(*(worker.process.pid for worker in workers), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def lives(pid: int) -> bool:
    """Whether a process is there and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids: list[int]) -> None:
    """No event tells of the end of a process that is not one's child."""
    while any(lives(pid) for pid in pids):
        time.sleep(0.02)


@contextmanager
def starter(url: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that has started two agents, and their process ids."""
    with subprocess.Popen([sys.executable, "-c", STARTER, url, str(folder)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield running, [int(pid) for pid in running.stdout.readline().split()]


@pytest.mark.parametrize("serving", [True, False], ids=["serving", "just started"])
async def test_agents_end_when_their_starter_is_killed(server: EmbeddedServer, tmp_path: Path, *, serving: bool) -> None:
    async with connect(server.url, name="test") as bus, calling(bus.connection, lambda _name: None) as roll:
        with starter(server.url, tmp_path) as (running, pids):
            assert len(pids) == 2
            if serving:
                await roll.all_there(["one", "two"])
            running.kill()
        await anyio.to_thread.run_sync(wait_for_end, pids)


async def test_an_error_ends_the_agents_at_once(server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        async with crew(server.url, tmp_path, (Member("one", "loader", ""),)) as (worker,):
            raise RuntimeError("enough")
    assert worker.process.returncode == -signal.SIGKILL


async def test_agents_end_with_the_block_in_good_order(server: EmbeddedServer, tmp_path: Path) -> None:
    async with connect(server.url, name="test") as bus, calling(bus.connection, lambda _name: None) as roll:
        async with crew(server.url, tmp_path, (Member("one", "loader", ""),)) as (worker,):
            await roll.all_there(["one"])
        assert worker.process.returncode == 0
        assert "one stops" in worker.log.read_text(encoding="utf-8")


async def test_an_agent_that_cannot_start_is_told_with_its_last_lines(server: EmbeddedServer, tmp_path: Path) -> None:
    async with crew(server.url, tmp_path, (Member("one", "nobody", ""),)) as (worker,):
        with pytest.raises(DemoFailed, match=r"(?s)Agent one ended with code 2.*has no 'nobody'"):
            await worker.ended()
