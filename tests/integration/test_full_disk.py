"""A disk that is really full, on a file system of a few megabytes: what the server refuses, who says so, and what brings it back."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from agentexecutor.agents import Agent
from agentexecutor.bus import StoreTimeout, connect
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.errors import NoBus
from agentexecutor.bus.server import find_server
from agentexecutor.console.checks import all_checks

pytestmark = pytest.mark.anyio

SIZE = "24m"
READY_S = 60.0
agent = Agent("worker", capacity=4)


@agent.capability("echo")
async def echo(x: str) -> str:
    return x


class Disk:
    """A small file system in a mount namespace of its own, which the kernel removes with its last process."""

    def __init__(self, keeper: int, at: Path) -> None:
        self._keeper = keeper
        self.at = at
        self.seen = Path(f"/proc/{keeper}/root{at}")
        """The same folder, from outside."""

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", "--target", str(self._keeper), "--mount", *command]

    def fill(self) -> None:
        with pytest.raises(OSError, match="No space left"), (self.seen / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def make_room(self) -> None:
        (self.seen / "fill").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt install util-linux mount)")
    at = tmp_path / "disk"
    at.mkdir()
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo mounted && exec sleep infinity'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", SIZE, str(at)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as keeper:
        try:
            assert keeper.stdout is not None
            if keeper.stdout.readline() != "mounted\n":
                assert keeper.stderr is not None
                pytest.skip(f"nothing can be mounted here: {keeper.stderr.read().strip()}")
            yield Disk(keeper.pid, at)
        finally:
            keeper.kill()


@asynccontextmanager
async def serving(disk: Disk, port: int) -> AsyncIterator[str]:
    """A server with its streams on that disk."""
    command = disk.inside(str(find_server()), "-js", "-sd", str(disk.at / "js"), "-a", "127.0.0.1", "-p", str(port))
    async with await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            await until_it_answers(f"nats://127.0.0.1:{port}")
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()


async def until_it_answers(url: str) -> None:
    with anyio.fail_after(READY_S):
        while True:
            with suppress(NoBus):
                async with open_connection(url, name="first", make_streams=False):
                    return
            await anyio.sleep(0.05)


async def test_a_disk_that_is_full_and_has_room_again(disk: Disk) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    async with serving(disk, port) as url, connect(url, name="me") as bus, agent.serve(bus):
        assert await bus.run("echo", {"x": "before"}, id="before") == "before", (
            "although the disk is far too small for what streams reserve"
        )
        assert (await storage(url)).startswith("ok")
        disk.fill()
        with pytest.raises(StoreTimeout, match="restarted"):
            await bus.submit("echo", {"x": "y" * 20_000}, store_timeout_s=1.0)
        disk.make_room()
        with pytest.raises(StoreTimeout, match="restarted"):
            await bus.submit("echo", {"x": "y" * 20_000}, store_timeout_s=1.0)
        assert "AE_SUBMITS" in (said := await storage(url))
        assert "restart it" in said
    async with serving(disk, port) as url, connect(url, name="me") as bus, agent.serve(bus):
        assert await bus.run("echo", {"x": "after"}) == "after"
        assert await bus.task("me.before").result() == "before"
        assert (await storage(url)).startswith("ok")


async def storage(url: str) -> str:
    """What doctor says of it."""
    (found,) = [check async for check in all_checks(url) if check.check == "storage"]
    return f"{'ok' if found.ok else 'problem'} {found.found} {found.todo}"
