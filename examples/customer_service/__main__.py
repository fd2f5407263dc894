"""The commands: ``python -m examples.customer_service story``, ``chat``, ``desk``, ``report``. Each but `desk` starts a server and all agents."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
from examples.customer_service import desk as staff
from examples.customer_service.chat import chat as talk
from examples.customer_service.chat import typed
from examples.customer_service.crew import Crew, crew
from examples.customer_service.files import VARIABLE
from examples.customer_service.report import report as measure
from examples.customer_service.report import table
from examples.customer_service.roles import ROLES
from examples.customer_service.setting_up import set_up
from examples.customer_service.story import STORY, play
from rich.console import Console

from agentexecutor.bus import Bus, connect, embedded_server, telemetry
from agentexecutor.bus.errors import only_of
from agentexecutor.bus.loop import run
from agentexecutor.console.exits import Exit, exit_code, sentence
from agentexecutor.schemas.errors import AgentExecutorError

OWNER = "customers"
PROGRAM = "python -m examples.customer_service"
out = Console(highlight=False, soft_wrap=True)


@asynccontextmanager
async def _open(store: Path, *, all_of_it: bool, quiet: bool = False) -> AsyncIterator[tuple[Bus, Crew]]:
    """A server and everybody on it, with their files in `store`."""
    os.environ[VARIABLE] = str(store)
    say = Console(quiet=True).print if quiet else out.print
    say(f"[dim]learning from chatterbot-corpus, starting a NATS server and {len(ROLES)} agents, each a process of its own ...[/]")
    set_up(all_of_it=all_of_it)
    async with embedded_server(store / "nats") as server, connect(server.url, name=OWNER) as bus, crew(bus) as group:
        say(f"[dim]NATS is at {server.url}; the agents' logs are in {group.logs}[/]\n")
        yield bus, group


def _run(store: Path | None, task: Callable[[Bus, Crew], Awaitable[None]], *, all_of_it: bool = True, quiet: bool = False) -> None:
    telemetry.setup("customer-service")

    async def main(folder: Path) -> None:
        async with _open(folder, all_of_it=all_of_it, quiet=quiet) as (bus, group):
            await task(bus, group)

    if store is not None:
        run(main, store)
        return
    with tempfile.TemporaryDirectory(prefix="customer-service-") as folder:
        run(main, Path(folder))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """A customer service whose every part is an agent on the bus.

    \b
    Examples:
      python -m examples.customer_service story
      python -m examples.customer_service chat --store my-shop
      python -m examples.customer_service report --questions 100
    """


@cli.command()
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
def story(script: Path | None) -> None:
    """Play a script: lines `Name: text` by customers, `staff: text` by a colleague, `kill: agent`. Without SCRIPT the one that comes along.

    \b
    Examples:
      python -m examples.customer_service story
      python -m examples.customer_service story my-script.txt
    """
    lines = (STORY if script is None else script.read_text(encoding="utf-8")).splitlines()

    async def task(bus: Bus, group: Crew) -> None:
        await play(bus, group, lines, out.print)

    _run(None, task)


@cli.command()
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), help="Keep what is learnt and said in this folder; else it is forgotten."
)
def chat(store: Path | None) -> None:
    """Talk to it on the terminal.

    \b
    Examples:
      python -m examples.customer_service chat
      python -m examples.customer_service chat --store my-shop
    """

    async def task(bus: Bus, group: Crew) -> None:
        out.print(f"[dim]Another terminal can be the staff: {PROGRAM} desk --nats {bus.connection.url}[/]")
        await talk(bus, group, typed(), out.print)

    _run(store, task)


@cli.command()
@click.option("--nats", required=True, metavar="URL", help="The server that `chat` names.")
def desk(nats: str) -> None:
    """Be the staff: see who waits for a person, and answer.

    \b
    Example:
      python -m examples.customer_service desk --nats nats://127.0.0.1:4222
    """

    async def serve() -> None:
        async with connect(nats, name=OWNER) as bus:
            requests = await staff.waiting(bus)
            for request in requests:
                out.print(await staff.told(bus, request), markup=False)
                out.print("Your answer (empty: leave it):", style="bold")
                async for line in typed():
                    if line.strip():
                        await staff.answer(bus, request, line)
                    break
            out.print("Nobody else waits." if requests else "Nobody waits for a person.")

    run(serve)


@cli.command()
@click.option("--questions", type=click.IntRange(1), metavar="N", help="Ask so many of the held-out questions; else all.")
@click.option("--at-once", type=click.IntRange(1, 500), default=20, show_default=True, metavar="N", help="Conversations at the same time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(questions: int | None, at_once: int, *, as_json: bool) -> None:
    """Ask the held-out questions and say how good and how fast the answers are.

    \b
    Examples:
      python -m examples.customer_service report
      python -m examples.customer_service report --questions 100 --json
    """

    async def task(bus: Bus, _group: Crew) -> None:
        told = await measure(bus, questions, at_once)
        if as_json:
            click.echo(json.dumps(told))
            return
        for part in table(told):
            out.print(part)

    _run(None, task, all_of_it=False, quiet=as_json)


def main() -> None:
    """Run a command; what goes wrong is one sentence."""
    logging.basicConfig(format="%(name)s: %(message)s")
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        root = only_of(error)
        if not isinstance(root, AgentExecutorError):
            raise
        click.echo(sentence(root), err=True)
        sys.exit(exit_code(root))


if __name__ == "__main__":
    main()
