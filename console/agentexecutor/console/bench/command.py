"""`bench`: how fast a user's own server and agents are, beside what the server alone does, and which messages a task is made of."""

from __future__ import annotations

import signal
from typing import Any

import anyio
import click

from agentexecutor.bus.loop import run_program
from agentexecutor.console.bench.load import AUTO
from agentexecutor.console.bench.place import Asked, take_place
from agentexecutor.console.bench.report import Report
from agentexecutor.console.bench.session import Session
from agentexecutor.console.exits import Exit, UsageError
from agentexecutor.console.options import Seconds, command
from agentexecutor.console.output import Output
from agentexecutor.console.submit import what_is_meant
from agentexecutor.console.wishes import AUCTIONS

__all__ = ["bench"]

COUNTED = ("standing", "call", "broadcast")
SECONDS = 5.0
PAYLOAD = 32
AGENTS = 4


def _levels(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError:
        levels = (0,)
    if min(levels) < 1 or max(levels) > 10_000:  # noqa: PLR2004 - more than anybody's machine keeps in flight
        raise click.BadParameter(f"{text!r} is no list of numbers from 1 to 10000, such as 1,32.")
    return tuple(dict.fromkeys(levels))


@command(
    "agentexecutor bench --embedded",
    "agentexecutor bench --in-flight 1,32,128 --seconds 10",
    "agentexecutor bench --capability text.classify --input @texts.json --tasks 200",
    "agentexecutor bench --agents 50 --auction standing --auction broadcast",
    "agentexecutor bench --json | jq -c 'select(.measure == \"tasks\") | [.in_flight, .per_s, .p99_ms]'",
)
@click.option("--capability", metavar="C", help="Measure this one, with your agents; else the bench brings agents of its own.")
@click.option("--input", "given", metavar="JSON", help="The input for it: the text itself, @FILE, or - for stdin; {} when not given.")
@click.option("--tasks", type=click.IntRange(1), metavar="N", help="End each measurement after so many tasks.")
@click.option("--seconds", type=Seconds(), metavar="S", help="... or after so long; 5 when neither is given.")
@click.option("--in-flight", default="1,32", show_default=True, callback=_levels, metavar="N[,N...]", help="So many tasks at a time.")
@click.option("--auction", "auctions", multiple=True, type=click.Choice(AUCTIONS), metavar="MODE",
              help="standing, call, broadcast or auto; may be given again. Default: auto, and messages of the first three.")  # fmt: skip
@click.option(
    "--agents", type=click.IntRange(1, 500), metavar="N", help=f"So many agents of the bench's own, in one process; else {AGENTS}."
)
@click.option(
    "--payload", type=click.IntRange(0, 100_000_000), metavar="BYTES", help=f"Size of the text that they give back; else {PAYLOAD}."
)
@click.option("--wait", "wait_s", type=Seconds(), default=60.0, show_default=True, metavar="S",
              help="How long one task may take; then it counts as unfinished.")  # fmt: skip
@click.option("--embedded", is_flag=True, help="Start a NATS server and a coordinator for this run only.")
@click.option("--keep", is_flag=True, help="Leave the tasks in the log, to be looked at with `tasks` and `show`.")
def bench(nats: str | None, *, as_json: bool, **options: Any) -> None:
    """Measure throughput, latency and messages of your own server and agents.

    First the floor, in the same run: a request with its reply through the server, and a fenced append to a JetStream stream stored as the
    tasks' log is. Then tasks, each from submit to result, so many in flight; their latency is told as a multiple of the floor's, too. Then some
    tasks more whose messages are counted by kind, heard by a second connection: what clients, agents and coordinators publish about them. Not
    counted: acknowledgements of the server, leases, its copies of records for `watch`; offers are told a second, as they come without tasks, too.

    When all tasks completed nothing stays behind: they are removed from the log. Otherwise, or with --keep, they stay for the keeping time. Ctrl-C ends it and
    prints what there is; tasks under way are cancelled. Ends with 0 when all tasks completed, else with 1.
    """
    asked = _asked(nats, **options)
    code = run_program(_until_stopped, Output(json=as_json), asked)
    if code != Exit.DONE:
        raise click.exceptions.Exit(code)


def _asked(
    nats: str | None, *, capability: str | None, given: str | None, payload: int | None, agents: int | None, **options: Any
) -> Asked:
    """The options, checked. Raises UsageError, NameRefused."""
    if capability is None and given is not None:
        raise UsageError("--input is for a --capability.", hint="For the bench's own agents there is --payload BYTES.")
    for name, said in (("--payload", payload), ("--agents", agents), ("--embedded", options["embedded"] or None)):
        if capability is not None and said is not None:
            raise UsageError(f"{name} is for the bench's own agents, --capability for yours.", hint="Leave one of them out.")
    if options["embedded"] and nats is not None:
        raise UsageError("--embedded starts a server of its own, so --nats has no meaning here.", hint="Leave one of them out.")
    value: Any = {"data": "x" * (PAYLOAD if payload is None else payload)}
    if capability is not None:
        _, value = what_is_meant("bench --capability", capability, given or "{}", None)
    auctions = options.pop("auctions")
    seconds = options.pop("seconds") or (None if options["tasks"] else SECONDS)
    return Asked(
        nats=nats,
        capability=capability,
        input=value,
        seconds=seconds,
        auctions=auctions or (AUTO,),
        counted=auctions or COUNTED,
        agents=agents or AGENTS,
        **options,
    )


async def _until_stopped(out: Output, asked: Asked) -> int:
    """A run; the first SIGINT or SIGTERM ends the measuring, in good order, the second all of it. Gives the exit code."""
    measuring = anyio.CancelScope()
    stopped = 0
    failed = 0

    async def listen(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                again, stopped = bool(stopped), number
                (scope if again or not begun.is_set() else measuring).cancel()

    begun = anyio.Event()
    report = Report(out)
    async with anyio.create_task_group() as group:
        group.start_soon(listen, group.cancel_scope)
        async with take_place(asked) as place:
            session = Session(asked, place, report)
            begun.set()
            try:
                with measuring:
                    await session.measure()
            finally:
                if stopped:
                    report.note("Interrupted: here is what was measured so far.")
                await session.end()
                report.close()
            failed = session.failed
        group.cancel_scope.cancel()
    return 128 + stopped if stopped else Exit.FAILED if failed else Exit.DONE
