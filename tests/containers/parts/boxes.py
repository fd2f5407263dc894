"""NATS in containers that can be stopped, killed, frozen and started again: one by testcontainers, or the services of compose.yaml.

Calls to the engine block, so they run in threads. Knows nothing of tasks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.to_thread
from docker.errors import APIError
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from agentexecutor.schemas.names import new_id

__all__ = ["IMAGE", "NODES", "Compose", "Nats"]

ROOT = Path(__file__).parents[3]
IMAGE = "nats:2"
NODES = ("nats-1", "nats-2", "nats-3")
"""The services of the profile `cluster`, which call themselves so."""
STOP_S = 10
"""After so long an engine kills what it has told to stop."""


class Nats:
    """One server with JetStream. Its port stays the same when it is started again, which a port that the engine chooses does not."""

    def __init__(self, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._container = DockerContainer(IMAGE).with_command("--jetstream").waiting_for(LogMessageWaitStrategy("Server is ready"))
        self._container.ports["4222/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment]  # with_bind_ports would bind every address
        self._signalled = False

    def __enter__(self) -> Self:
        self._container.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._container.stop()

    @property
    def _box(self) -> Any:
        return self._container.get_wrapped_container()

    def log(self) -> str:
        """What the server has written in all its lives."""
        return str(self._box.logs().decode(errors="replace"))

    async def stop(self) -> None:
        """SIGTERM: it says goodbye."""
        await _in_thread(self._box.stop, timeout=STOP_S)

    async def kill(self) -> None:
        await _in_thread(self._box.kill)

    async def start(self) -> None:
        await _in_thread(self._box.start)

    async def restart(self) -> None:
        await _in_thread(self._box.restart, timeout=STOP_S)

    async def freeze(self) -> None:
        """As `docker pause`; where the engine has no cgroups for that, by a signal, which does the same to the one process in it."""
        try:
            await _in_thread(self._box.pause)
        except APIError as error:
            if "cgroup" not in str(error).lower():
                raise
            self._signalled = True
            await _in_thread(self._box.kill, signal="SIGSTOP")

    async def thaw(self) -> None:
        await _in_thread(*([self._box.kill, "SIGCONT"] if self._signalled else [self._box.unpause]))


class Compose:
    """Some services of compose.yaml under a project name of their own, gone with their volumes at the end; the log is kept in `folder`."""

    monitor = 0

    def __init__(self, command: list[str], folder: Path, services: list[str], environment: dict[str, str], ports: list[int]) -> None:
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self._command = [*command, "--project-name", f"aetest{new_id(8).lower()}"]
        self._services = services
        self._environment = {**os.environ, **environment}
        self._log = folder / "compose.log"

    async def __aenter__(self) -> Self:
        try:
            await self("up", "--detach", *self._services)
        except BaseException:
            await self._down()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        await self._down()

    async def __call__(self, *arguments: str) -> None:
        """One command of compose. Raises CalledProcessError; what it wrote is printed then."""
        run = partial(subprocess.run, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        done = await anyio.to_thread.run_sync(partial(run, [*self._command, *arguments], check=False))
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(arguments)}\n{done.stdout}\n")
        if done.returncode:
            print(done.stdout, file=sys.stderr)  # noqa: T201 - pytest shows it
            done.check_returncode()

    async def _down(self) -> None:
        with anyio.CancelScope(shield=True):
            await self("logs", *self._services)
            await self("down", "--volumes", "--timeout", "2")


async def _in_thread(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    await anyio.to_thread.run_sync(partial(call, *arguments, **options))
