"""`doctor`: look at everything that must be right, and say what to do about what is not."""

from __future__ import annotations

import click

from agentexecutor.bus.loop import run
from agentexecutor.console.checks import Check, all_checks, no_bus
from agentexecutor.console.exits import Exit
from agentexecutor.console.options import command
from agentexecutor.console.output import Output, cell

__all__ = ["doctor"]

WIDTH = 16


@command("agentexecutor doctor", "agentexecutor doctor --nats nats://10.0.0.5:4222", "agentexecutor doctor --json | jq 'select(.ok | not)'")
def doctor(nats: str | None, *, as_json: bool) -> None:
    """Check this machine and the bus.

    One thing after another, each with what to do about it. Ends with 0 when all is well, 3 when there is no bus, 1 when something else is wrong.
    """
    checks = run(_doctor, Output(json=as_json), nats)
    if no_bus(checks):
        raise click.exceptions.Exit(Exit.NO_BUS)
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(Exit.FAILED)


async def _doctor(out: Output, nats: str | None) -> list[Check]:
    made = []
    async for check in all_checks(nats):
        made.append(check)
        if out.json:
            out.object(check)
        else:
            _print(out, check)
    return made


def _print(out: Output, check: Check) -> None:
    state = cell("ok" if check.ok else "problem")
    state.pad_right(9 - len(state))
    state.append(f"{check.check:<{WIDTH}}", style="bold")
    state.append(check.found, style="none")
    out.say(state)
    if check.todo:
        out.say(f"{'':9}{'':{WIDTH}}-> {check.todo}")
