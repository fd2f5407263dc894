"""`plan`: the forecast of a task, and its plan as a file that can be changed and submitted. Nothing is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

from agentexecutor.bus.client import connect
from agentexecutor.bus.loop import run
from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import command
from agentexecutor.console.output import Output, seconds
from agentexecutor.console.submit import what_is_meant
from agentexecutor.console.wishes import bus_options, task_options
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.messages import PlanSpec
from agentexecutor.schemas.views import Forecast, ForecastLine

__all__ = ["plan"]


@command(
    'agentexecutor plan greet \'{"name": "Ada"}\'',
    "agentexecutor plan text.classify @texts.json --save plan.json",
    "agentexecutor plan --plan plan.json --award cheapest",
    "agentexecutor plan --plan plan.json --json | jq .finish_s",
)
@task_options
@click.option(
    "--save", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan there, for `submit --plan FILE`."
)
def plan(
    capability: str | None, input: str | None, plan: str | None, save: Path | None, nats: str | None, *, as_json: bool, **options: Any
) -> None:
    """Show who would do what, and when; nothing is executed.

    The task is given as for `submit`: a CAPABILITY with its INPUT, or a plan. The agents are chosen as they would be now, from what they offer; times
    are counted from now. With --save the plan can be changed, looked at again, and submitted. Ends with 0 also when nobody would do a part of it, with 2
    when the plan cannot run.
    """
    what, value = what_is_meant("plan", capability, input, plan, options["goal"])
    run(_plan, Output(json=as_json), nats, what, value, bus_options(options), save)


async def _plan(out: Output, nats: str | None, what: str | PlanSpec, value: Any, how: dict[str, Any], save: Path | None) -> None:
    async with connect(nats) as bus:
        await bus.agents()  # is anybody there? a forecast may take a while
        forecast = await bus.plan(what, value, **how)
    if save is not None:
        _save(save, forecast.plan)
    if out.json:
        out.object(forecast)
        return
    out.table(["subtask", "capability", "agent", ">start", ">finish", ">cost", "why"], (_cells(line) for line in forecast.subtasks))
    for misfit in forecast.misfits:
        out.say(Text(f"It may fail: {misfit}", style="red"))
    out.say(_summary(forecast, how["deadline_s"]))
    if save is not None:
        out.say(f"The plan is in {save}. Submit it with: agentexecutor submit --plan {save}")


def _save(file: Path, plan: PlanSpec) -> None:
    try:
        file.write_bytes(msgspec.json.format(encode(plan), indent=2) + b"\n")
    except OSError as error:
        raise UsageError(f"The plan cannot be written to {str(file)!r}: {error.strerror or error}.", hint="Name another file.") from error


def _cells(line: ForecastLine) -> list[Any]:
    cost = None if line.cost is None else f"{line.cost:g}"
    return [line.name, line.capability, line.agent, seconds(line.start_s), seconds(line.finish_s), cost, line.reason]


def _summary(forecast: Forecast, deadline_s: float | None) -> str:
    if forecast.finish_s is None:
        unserved = f" Nobody serves {', '.join(forecast.unserved)}." if forecast.unserved else ""
        return f"It would not be done.{unserved}"
    if forecast.misfits:
        return "It may not be done: an input does not fit what is on offer."
    late = deadline_s is not None and forecast.finish_s > deadline_s
    when = f"Done after {seconds(forecast.finish_s)}" + (f", which is later than the deadline of {seconds(deadline_s)}" if late else "")
    return f"{when}; cost {forecast.cost:g}."
