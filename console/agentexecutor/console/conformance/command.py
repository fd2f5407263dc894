"""`conformance`: play a coordinator to an agent in any language, and say what it does wrong."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import click
from rich.text import Text

from agentexecutor.bus.loop import run
from agentexecutor.console.conformance.kit import Verdict, play
from agentexecutor.console.conformance.scenarios import SCENARIOS, Scenario
from agentexecutor.console.exits import Exit, UsageError
from agentexecutor.console.options import Finite, command
from agentexecutor.console.output import Output

__all__ = ["conformance"]

SLOW = 3.0
"""The patience that is proposed when something was late."""


@command(
    "agentexecutor conformance -- node examples/node/agent.mjs",
    "agentexecutor conformance --scenario obeys-cancel --scenario runs-once -- ./agent",
    """agentexecutor conformance -- sh -c 'exec agentexecutor agent FILE.py:agent --no-coordinate --name "$AGENTEXECUTOR_NAME"'""",
    "agentexecutor conformance --list",
    bus=False,
)
@click.option(
    "--scenario", "names", multiple=True, type=click.Choice([*SCENARIOS]), metavar="NAME", help="Only this one; may be given again."
)
@click.option("--list", "listing", is_flag=True, help="Say what the scenarios are.")
@click.option(
    "--patience",
    type=Finite(1, 100),
    default=1.0,
    show_default=True,
    metavar="X",
    help="All waits are X times as long.",
)
@click.argument("program", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED)
def conformance(
    program: tuple[str, ...], names: tuple[str, ...], patience: float, nats: str | None, *, listing: bool, as_json: bool
) -> None:
    """Check whether an agent, in any language, does what the wire asks for.

    Starts a NATS server of its own, and COMMAND once for each scenario, with AGENTEXECUTOR_NATS_URL, AGENTEXECUTOR_NAME and
    AGENTEXECUTOR_CAPABILITY in its environment; docs/protocol.md section 12 says what the agent is asked to do. Ends with 0 when all
    scenarios pass, else with 1.
    """
    out = Output(json=as_json)
    chosen = [SCENARIOS[name] for name in names or SCENARIOS]
    if listing:
        _list(out, chosen)
        return
    if nats is not None:
        raise UsageError("The scenarios need a bus of their own, so --nats has no meaning here.", hint="Leave it out.")
    if not program:
        raise UsageError("No agent is given.", hint="For example: agentexecutor conformance -- node examples/node/agent.mjs")
    if shutil.which(program[0]) is None:
        raise UsageError(f"There is no program {program[0]!r} that may be run.", hint="Give its path, as in ./agent.")

    async def main() -> int:
        fallen = []
        async with aclosing(cast("AsyncGenerator[Verdict]", play(program, chosen, patience))) as verdicts:
            async for verdict in verdicts:
                fallen.append(verdict)
                _tell(out, verdict)
        out.table(["scenario", "", "what is expected"], [[v.scenario, "passed" if v.passed else "FAILED", v.expected] for v in fallen])
        failed = sum(not verdict.passed for verdict in fallen)
        out.say(f"{len(chosen) - failed} of {len(chosen)} passed.")
        if any(verdict.late for verdict in fallen) and patience < SLOW:
            out.say(f"Something did not come in time. If this machine is slow, or busy, try `--patience {SLOW:g}`.")
        return failed

    if run(main):
        raise click.exceptions.Exit(Exit.FAILED)


def _list(out: Output, chosen: list[Scenario]) -> None:
    if out.json:
        for scenario in chosen:
            out.object({"scenario": scenario.name, "expected": scenario.expected})
    else:
        out.table(["scenario", "what is expected"], [[scenario.name, scenario.expected] for scenario in chosen])


def _tell(out: Output, verdict: Verdict) -> None:
    """As soon as it is known."""
    if out.json:
        out.object(verdict)
        return
    out.say(Text.assemble(("passed", "green") if verdict.passed else ("FAILED", "red"), f"  {verdict.scenario}"))
    if verdict.seen:
        out.say(f"        expected {verdict.expected},\n        but {verdict.seen}.")
    for problem in verdict.messages:
        out.say(f"        wrong message: {problem}")
    if verdict.stderr:
        out.say(Text("        the last that it printed to stderr:", style="dim"))
        out.say(Text("\n".join(f"        | {line}" for line in verdict.stderr.splitlines()[-15:]), style="dim"))
