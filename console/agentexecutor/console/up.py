"""`up`: a NATS server of one's own, a coordinator and the planner that needs no model, until stopped."""

from __future__ import annotations

import fcntl
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

from agentexecutor.agents import planner
from agentexecutor.bus import telemetry
from agentexecutor.bus.client import connect, own_name
from agentexecutor.bus.connection import DEFAULT_URL, open_connection
from agentexecutor.bus.loop import run_program
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.console.coordinator import coordinate_until_stopped
from agentexecutor.console.exits import UsageError
from agentexecutor.console.keeping import kept_server
from agentexecutor.console.options import command, log_to_stderr, unique_name
from agentexecutor.console.output import Output

__all__ = ["up"]

DEFAULT_PORT = 4222


def _check_sync(_context: click.Context, _option: click.Parameter, sync: str | None) -> str | None:
    if sync is not None and not re.fullmatch(r"always|\d+(ms|s|m|h)", sync):
        raise click.BadParameter(f"{sync!r} is neither `always` nor a time such as 500ms, 10s or 2m.")
    return sync


@command(
    "agentexecutor up",
    "agentexecutor up --store /var/lib/agentexecutor --port 4333 --sync always",
    "agentexecutor up --no-planner",
)
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), default=Path(".agentexecutor"), show_default=True, metavar="DIR",
              help="Where the streams are kept.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65_535), show_default=str(DEFAULT_PORT), metavar="N", help="0 takes a free one.")
@click.option("--sync", metavar="always|TIME", callback=_check_sync,
              help="How often the server writes through to the disk, such as 10s: a power cut takes what came since. Default: 2m.")  # fmt: skip
@click.option("--no-planner", is_flag=True, help="Leave goals to planners of your own.")
def up(store: Path, port: int | None, sync: str | None, nats: str | None, *, no_planner: bool, as_json: bool) -> None:
    """Start a NATS server, a coordinator and a planner, until stopped.

    The server listens on 127.0.0.1 only. What is submitted, decided and done is kept in the store and is there again the next time. A server
    that dies is started again. The planner needs no model: it reaches what a goal names by what the agents on offer take and give.
    """
    if nats is not None and port is not None:
        raise UsageError("--nats and --port exclude each other.", hint="Give one of them.")
    if port is None:
        port = DEFAULT_PORT if nats is None else _port_of(nats)
    log_to_stderr()
    telemetry.setup("agentexecutor-up")
    run_program(_up, Output(json=as_json), store, port, sync, not no_planner)


def _port_of(nats: str) -> int:
    """The port of an address on this machine, as --nats gives it. Raises UsageError."""
    try:
        address = urlsplit(nats if "://" in nats else f"nats://{nats}")
        if address.hostname in ("127.0.0.1", "localhost"):
            return address.port or DEFAULT_PORT
    except ValueError:
        pass
    raise UsageError(f"`up` cannot serve at {nats}: it listens on 127.0.0.1 only.", hint="Use --port N, or `agentexecutor coordinator`.")


async def _up(out: Output, store: Path, port: int, sync: str | None, plans: bool) -> None:
    _refuse_taken(port)
    peer = unique_name(planner.agent.name) if plans else None
    with _locked(store):
        async with (
            kept_server(store, port, sync=sync) as server,
            open_connection(server.url, name=unique_name(own_name())) as connection,
            _planning(server.url, peer),
        ):
            await coordinate_until_stopped(connection, lambda: _announce(out, server, connection.name, peer))


@asynccontextmanager
async def _planning(url: str, peer: str | None) -> AsyncIterator[None]:
    """The planner serves under this name; None: there is none."""
    if peer is None:
        yield
        return
    async with connect(url, name=f"{peer}-main") as bus, planner.agent.serve(bus, name=peer, coordinate=False):
        yield


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be used: {error.strerror}.",
                hint="If a NATS server runs there, use it as it is (`agentexecutor coordinator`); else choose another with --port N.",
            ) from error


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Keep a second server out of the store: two would spoil it."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = (store / "up.lock").open("w")
    except OSError as error:
        raise UsageError(f"{store} cannot be used: {error.strerror or error}.", hint="Choose another folder with --store DIR.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another `agentexecutor up` uses {store}.", hint="Stop it, or choose another folder with --store DIR."
            ) from error
        yield


def _announce(out: Output, server: EmbeddedServer, name: str, peer: str | None) -> None:
    if out.json:
        out.object({"nats": server.url, "port": server.port, "store": str(server.store), "coordinator": name, "planner": peer})
    planning = f", planning as {peer}" if peer else ""
    out.say(f"NATS is up at {server.url}, its streams are kept in {server.store}; coordinating as {name}{planning}.")
    out.say("Next, in other terminals:")
    if server.url != DEFAULT_URL:
        out.say(f"  export AGENTEXECUTOR_NATS_URL={server.url}")
    out.say("  agentexecutor agent FILE.py:NAME")
    out.say('  agentexecutor submit CAPABILITY \'{"key": "value"}\'')
    if peer:
        out.say('  agentexecutor submit --goal WHAT \'{"key": "value"}\'')
    out.say("Stop with Ctrl-C.")
