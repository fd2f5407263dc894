"""`coordinator` and what `up` shares with it: coordinate until stopped, and say so."""

from __future__ import annotations

import signal
from collections.abc import Callable

import anyio

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import own_name
from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.bus.loop import run_program
from agentexecutor.console.options import command, log_to_stderr, unique_name
from agentexecutor.console.output import Output
from agentexecutor.coordinator.shell import Coordinator

__all__ = ["coordinate_until_stopped", "coordinator"]


@command("agentexecutor coordinator", "agentexecutor coordinator --nats nats://10.0.0.5:4222")
def coordinator(nats: str | None, *, as_json: bool) -> None:
    """Coordinate until stopped, without being an agent.

    Every Python agent takes a share of coordinating by default; this is for a bus whose agents do not. Several may run: they share the
    work, and when one dies the others take over.
    """
    log_to_stderr()
    telemetry.setup("agentexecutor-coordinator")
    run_program(_coordinator, Output(json=as_json), nats)


async def _coordinator(out: Output, nats: str | None) -> None:
    async with open_connection(nats, name=unique_name(own_name())) as connection:

        def announce() -> None:
            if out.json:
                out.object({"coordinator": connection.name, "nats": connection.url, "shards": connection.shards})
            out.say(f"Coordinating as {connection.name} on {connection.url}. Stop with Ctrl-C.")

        await coordinate_until_stopped(connection, announce)


async def coordinate_until_stopped(connection: Connection, announce: Callable[[], None]) -> None:
    """Coordinate until SIGTERM or SIGINT, then finish what is in flight and give the leases back. `announce` is called once it runs."""
    coordinator = Coordinator(connection)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            await group.start(coordinator.run)
            announce()
            async for _ in signals:
                break
            coordinator.stop()
