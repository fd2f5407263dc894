"""`bridge`: serve a capability with any program."""

from __future__ import annotations

import shutil
from typing import Any

import click

from agentexecutor.agents.bridge import bridge as bridged
from agentexecutor.console.agent import serve_agent
from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import Finite, command, read_json, read_text
from agentexecutor.schemas.names import clean_name

__all__ = ["bridge"]


@command(
    "agentexecutor bridge --capability text.upper -- jq --unbuffered -c '{result: (.input.text | ascii_upcase)}'",
    "agentexecutor bridge --capability greet --capacity 4 --takes greet.schema.json -- ./greet.sh",
    "agentexecutor bridge --capability image.label --estimate 2.5 --label gpu=a100 -- ./label --model small",
)
@click.option("--capability", required=True, metavar="C", help="What the program does.")
@click.option("--name", metavar="N", help="The peer name. Else the program's with a random ending, so that several can run.")
@click.option(
    "--capacity", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N", help="Subtasks, and processes, at once."
)
@click.option("--estimate", type=Finite(0), metavar="S", help="Seconds that a subtask takes, as far as is known.")
@click.option("--cost", type=Finite(0), default=0.0, metavar="X", help="What a subtask costs, in any unit that the agents share.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label of the agent; may be given again.")
@click.option("--takes", metavar="FILE", help="JSON Schema of the input, shown to planners and people.")
@click.option("--gives", metavar="FILE", help="JSON Schema of the result.")
@click.option("--no-coordinate", is_flag=True, help="Take no share of coordinating.")
@click.argument("program", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def bridge(
    program: tuple[str, ...],
    capability: str,
    name: str | None,
    capacity: int,
    estimate: float | None,
    cost: float,
    labels: tuple[str, ...],
    takes: str | None,
    gives: str | None,
    nats: str | None,
    *,
    no_coordinate: bool,
    as_json: bool,
) -> None:
    """Make an agent of any program, until stopped.

    For each subtask the program reads one JSON line with "input" in it, and prints JSON lines: {"progress": 0.5, "text": "half"} as often as it
    likes, then {"result": ...} or {"error": "why", "retryable": false}; "usage": {"tokens": 12} may stand in any. It is kept for the next subtask,
    and started again when it ends. What it prints to stderr goes to the log and the trace. docs/bridge.md has the rest.
    """
    if shutil.which(program[0]) is None:
        raise UsageError(
            f"There is no program {program[0]!r} that may be run.", hint="Give its path, as in ./greet.sh; `chmod +x` lets it run."
        )
    agent = bridged(
        clean_name(program[0].rpartition("/")[2]),
        capability,
        program,
        capacity=capacity,
        labels=dict(_label(text) for text in labels),
        estimate_s=estimate,
        cost=cost,
        takes=_schema("--takes", takes),
        gives=_schema("--gives", gives),
    )
    serve_agent(agent, name, nats, coordinate=not no_coordinate, as_json=as_json)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"--label {text} is no label.", hint="Write NAME=VALUE, as in gpu=a100.")
    return name, value


def _schema(option: str, file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    schema: dict[str, Any] = read_json(read_text(file, option), file, dict[str, Any])
    return schema
