"""Where a run takes place: the bus, whoever offers the capability, the processes that the bench brings itself. Measures nothing."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from nats.aio.msg import Msg

from agentexecutor.bus.client import Bus, attached
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.queries import NoAnswer
from agentexecutor.bus.server import embedded_server
from agentexecutor.console.bench.helper import COORDINATE, ECHO, agent_names
from agentexecutor.console.exits import UsageError
from agentexecutor.console.processes import Process, processes
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import new_id

__all__ = ["Asked", "BenchFailed", "Place", "Served", "served", "take_place"]

START_S = 90.0
"""For slow machines."""
HELPER = "from agentexecutor.console.bench.helper import main; main()"
LEAST_CAPACITY = 16


class BenchFailed(AgentExecutorError):
    """The run cannot begin: a process of the bench has ended, or does not get ready."""


@dataclass(frozen=True)
class Asked:
    """The command's options. `capability` None: the bench brings agents of its own. `auctions`: as tasks ask for them; `counted`: whose messages are."""

    nats: str | None
    embedded: bool
    capability: str | None
    input: dict[str, Any]
    tasks: int | None
    seconds: float | None
    in_flight: tuple[int, ...]
    auctions: tuple[str, ...]
    counted: tuple[str, ...]
    agents: int
    wait_s: float
    keep: bool


@dataclass(frozen=True)
class Served:
    """Who offers the capability right now, and how much they take at once."""

    agents: int
    slots: int


@dataclass
class Place:
    """A run's client and a second connection, for what another peer has to do. `served`: at the beginning."""

    bus: Bus
    other: Connection
    capability: str
    served: Served


async def served(bus: Bus, capability: str) -> Served:
    """Ask a coordinator who is there. Raises NoAnswer."""
    offering = [agent for agent in await bus.agents() if capability in agent.capabilities]
    return Served(len(offering), sum(agent.capacity for agent in offering))


@asynccontextmanager
async def take_place(asked: Asked) -> AsyncIterator[Place]:
    """Start what has to be started, and look who is there; all of it ends with the block.

    Raises NoBus, NoAnswer (nobody coordinates), UsageError (nobody offers the capability), BenchFailed.
    """
    name = f"bench-{new_id(8)}"
    capability = asked.capability or f"{name}.echo"
    async with AsyncExitStack() as stack:
        url = (await stack.enter_async_context(embedded_server())).url if asked.embedded else asked.nats
        connection = await stack.enter_async_context(open_connection(url, name=name, make_streams=asked.embedded))
        bus = await stack.enter_async_context(attached(connection))
        other = await stack.enter_async_context(open_connection(url, name=f"{name}-other", make_streams=False))
        if not asked.embedded:
            await bus.agents()  # is anybody coordinating?
        await stack.enter_async_context(_company(asked, bus, capability))
        found = await served(bus, capability)
        if not found.agents:
            raise UsageError(
                f"No agent offers {capability}, so nothing was submitted.",
                hint="`agentexecutor agents` lists who offers what; without --capability the bench brings agents of its own.",
            )
        yield Place(bus, other, capability, found)


@asynccontextmanager
async def _company(asked: Asked, bus: Bus, capability: str) -> AsyncIterator[None]:
    """Our own coordinator and agents, where they are wanted, ready."""
    folder = Path(tempfile.mkdtemp(prefix="agentexecutor-bench-"))
    try:
        async with processes(bus.connection.url) as starter:
            started: list[Process] = []
            names: list[str] = []
            if asked.embedded:
                started.append(await starter.start([sys.executable, "-c", HELPER, COORDINATE, bus.name], folder / "coordinator.log"))
            if asked.capability is None:
                names = agent_names(bus.name, asked.agents)
                capacity = max(LEAST_CAPACITY, 2 * max(asked.in_flight) // asked.agents)
                command = [sys.executable, "-c", HELPER, ECHO, bus.name, capability, str(asked.agents), str(capacity)]
                started.append(await starter.start(command, folder / "agents.log"))
            await _ready(bus, names, started)
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _known(bus: Bus) -> set[str]:
    """The agents that a coordinator knows; none while our own coordinator starts."""
    with suppress(NoAnswer):
        return {agent.name for agent in await bus.agents()}
    return set()


async def _ready(bus: Bus, names: list[str], started: list[Process]) -> None:
    """Wait until a coordinator knows all agents; it is asked again with each offer that comes. Raises BenchFailed."""
    news = anyio.Event()

    async def offered(_message: Msg) -> None:
        news.set()

    async def ended(process: Process) -> None:
        code, lines = await process.ended()
        raise BenchFailed(f"A process of the bench ended with code {code}. Its last lines:\n{lines}", code=code)

    missing = set(names)
    subscription = await bus.connection.subscribe(bus.connection.subjects.all_offers(), offered)
    try:
        with anyio.fail_after(START_S):
            async with anyio.create_task_group() as group:
                for process in started:
                    group.start_soon(ended, process)
                while missing := set(names) - await _known(bus):
                    await news.wait()
                    news = anyio.Event()
                group.cancel_scope.cancel()
    except TimeoutError:
        raise BenchFailed(
            f"After {START_S:g} s {len(missing)} of {len(names)} agents are missing.", hint="Is the machine very busy?"
        ) from None
    finally:
        await subscription.unsubscribe()
