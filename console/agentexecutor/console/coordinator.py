"""`coordinator` and what `up` shares with it: coordinate until stopped, and say so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import anyio
import click

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import own_name
from agentexecutor.bus.connection import MOST_REPLICAS, Connection, open_connection
from agentexecutor.bus.loop import run_program
from agentexecutor.console.options import command, log_to_stderr, unique_name
from agentexecutor.console.output import Output
from agentexecutor.coordinator.settings import NAMES, Settings, settings_of
from agentexecutor.coordinator.shell import Coordinator

__all__ = ["coordinate_until_stopped", "coordinator"]


@command(
    "agentexecutor coordinator",
    "agentexecutor coordinator --nats nats://10.0.0.5:4222",
    "agentexecutor coordinator --set lost_after_s=10 --set accept_timeout_s=5",
    "agentexecutor coordinator --nats nats://n1:4222,nats://n2:4222,nats://n3:4222 --replicas 3",
    "agentexecutor coordinator --settings",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE",
              help="A setting (docs/settings.md), as often as needed. Else AGENTEXECUTOR_SETTINGS says (commas between), else the default.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1, MOST_REPLICAS), metavar="N",
              help="How many servers keep a copy of each stream, if the streams are not there yet. Else AGENTEXECUTOR_REPLICAS says, else 1.")  # fmt: skip
@click.option("--settings", "show", is_flag=True, help="Print the settings as they would be, and end.")
def coordinator(
    pairs: tuple[str, ...], replicas: int | None, show: bool, nats: str | None, *, as_json: bool
) -> None:  # click gives it by name
    """Coordinate until stopped, without being an agent.

    Every Python agent takes a share of coordinating by default; this is for a bus whose agents do not. Several may run: they share the
    work, and when one dies the others take over. All on one server need the same settings; agents read AGENTEXECUTOR_SETTINGS too.
    """
    out = Output(json=as_json)
    settings = settings_of(os.environ, pairs)
    if show:
        _show(out, settings)
        return
    log_to_stderr()
    telemetry.setup("agentexecutor-coordinator")
    run_program(_coordinator, out, nats, replicas, settings)


def _show(out: Output, settings: Settings) -> None:
    values = {name: getattr(settings, name) for name in NAMES}
    if out.json:
        out.object(values)
        return
    defaults = Settings()
    changed = [(name, value, getattr(defaults, name)) for name, value in values.items()]
    out.table(("setting", "value", "default"), [(name, f"{value:g}", "" if value == old else f"{old:g}") for name, value, old in changed])


async def _coordinator(out: Output, nats: str | None, replicas: int | None, settings: Settings) -> None:
    async with open_connection(nats, name=unique_name(own_name()), replicas=replicas) as connection:

        def announce() -> None:
            if out.json:
                out.object({"coordinator": connection.name, "nats": connection.url, "shards": connection.shards})
            out.say(f"Coordinating as {connection.name} on {connection.url}. Stop with Ctrl-C.")

        await coordinate_until_stopped(connection, announce, settings)


async def coordinate_until_stopped(connection: Connection, announce: Callable[[], None], settings: Settings | None = None) -> None:
    """Coordinate until SIGTERM or SIGINT, then finish what is in flight and give the leases back. `announce` is called once it runs."""
    coordinator = Coordinator(connection, settings=settings)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            await group.start(coordinator.run)
            announce()
            async for _ in signals:
                break
            coordinator.stop()
