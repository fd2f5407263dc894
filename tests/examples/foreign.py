"""Agents and clients in other languages: how they are built and run here, and a wire between them and the server that can be cut."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

__all__ = ["ROOT", "Wire", "built", "conformance", "environment", "installed", "tool", "wired"]

ROOT = Path(__file__).parents[2]
NODE = (18, 19)
NO_NETWORK = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH")


def environment(url: str, name: str, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AGENTEXECUTOR_", "OTEL_"))}
    return kept | {"AGENTEXECUTOR_NATS_URL": url, "AGENTEXECUTOR_NAME": name} | more


def tool(name: str) -> str:
    """The path of a program that a user may lack; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def installed(where: Path) -> Path:
    """A copy of examples/node with what its package.json names, which npm fetches."""
    version = subprocess.run([tool("node"), "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < NODE:
        pytest.skip(f"node is {version.strip()}, and examples/node asks for {'.'.join(map(str, NODE))}")
    folder = where / "node"
    shutil.copytree(ROOT / "examples/node", folder, ignore=shutil.ignore_patterns("node_modules"))
    npm = [tool("npm"), "install", "--no-audit", "--no-fund"]
    ran = subprocess.run(npm, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if ran.returncode and NO_NETWORK.search(ran.stderr):
        pytest.skip(f"npm reaches no registry: {ran.stderr.strip().splitlines()[0]}")
    assert ran.returncode == 0, ran.stderr
    return folder


def built(where: Path, *flags: str) -> Path:
    """The program that examples/c makes, with more flags for the compiler."""
    tool("cc")
    found = subprocess.run([tool("pkg-config"), "--exists", "libnats", "jansson", "libcrypto"], check=False)
    if found.returncode:
        pytest.skip("libnats-dev, libjansson-dev or libssl-dev is not installed")
    folder = where / "c"
    shutil.copytree(ROOT / "examples/c", folder, ignore=shutil.ignore_patterns("agent"))
    command = [tool("make"), "--silent", f"CFLAGS={' '.join(flags)}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    return folder / "agent"


def conformance(*command: str) -> list[str]:
    """What the agent does wrong, in every scenario; none: it passes."""
    main = "from agentexecutor.console.main import main; main()"
    kit = [sys.executable, "-c", main, "conformance", "--json", "--patience", "5", "--", *command]
    ran = subprocess.run(kit, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    verdicts = [json.loads(line) for line in ran.stdout.splitlines()]
    wrong = [json.dumps(verdict, ensure_ascii=False) for verdict in verdicts if not verdict["passed"]]
    assert wrong or (ran.returncode == 0 and verdicts), ran.stderr
    return wrong


class Wire:
    """What lies between a program and the server, so that it can be cut; it stays cut until `mend`."""

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self._open: set[asyncio.StreamWriter] = set()
        self._cut_before = self._deaf_after = b""
        self._is_deaf = False
        self.url = ""
        self.is_cut = anyio.Event()
        self.is_whole = True

    def cut(self) -> None:
        self._cut_before = self._deaf_after = b""
        self._is_deaf = self.is_whole = False
        self.is_cut.set()
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def mend(self) -> None:
        self.is_cut = anyio.Event()
        self.is_whole = True

    def cut_before(self, text: bytes) -> None:
        """Cut when the program sends this: the server does not get it."""
        self._cut_before = text

    def deaf_after(self, text: bytes) -> None:
        """When the program has sent this, nothing that the server says reaches it until the wire was cut."""
        self._deaf_after = text

    async def came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_whole:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._open |= {writer, far_writer}
        await asyncio.gather(self._to_server(reader, far_writer), self._to_program(far_reader, writer))

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self._cut_before and self._cut_before in data:
                    self.cut()
                    return
                self._is_deaf = self._is_deaf or (bool(self._deaf_after) and self._deaf_after in data)
                writer.write(data)
        writer.close()

    async def _to_program(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self._is_deaf:
                    writer.write(data)
        writer.close()


@asynccontextmanager
async def wired(server: str) -> AsyncIterator[Wire]:
    """A wire to this server, for a program that is given its `url`."""
    wire = Wire(server)
    listener = await asyncio.start_server(wire.came, "127.0.0.1")
    wire.url = f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        listener.close()
        wire.cut()
