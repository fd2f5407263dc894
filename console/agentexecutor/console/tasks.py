"""`tasks`, `show`, `watch`: look at tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import get_args

import click

from agentexecutor.bus.client import connect
from agentexecutor.bus.errors import TaskLost
from agentexecutor.bus.loop import run
from agentexecutor.bus.task import Task
from agentexecutor.console.exits import Exit, UsageError, of_task
from agentexecutor.console.lines import line_of
from agentexecutor.console.options import command, task_argument
from agentexecutor.console.output import Output
from agentexecutor.console.show import print_version, print_view
from agentexecutor.console.submit import whole_view
from agentexecutor.coordinator.states import TaskStateName
from agentexecutor.schemas.messages import ErrorInfo
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.views import Event, PlanVersion

STATES = tuple(state for state in get_args(TaskStateName) if state != "unknown")

__all__ = ["show", "tasks", "unknown", "watch"]


def unknown(task: TaskName) -> UsageError:
    """The error for a task that nobody knows."""
    return UsageError(
        f"Nobody knows a task {task}.",
        hint="`agentexecutor tasks` lists those that are known; ended ones are kept for a time (7 days, unless the coordinators keep them otherwise).",
    )


@command(
    "agentexecutor tasks",
    "agentexecutor tasks --state running --owner ada-laptop",
    "agentexecutor tasks --json | jq -r .task",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    metavar="STATE",
    help=f"Only these: {', '.join(STATES)}.",
)
@click.option("--owner", metavar="NAME", help="Only this owner's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, metavar="N", help="At most so many.")
def tasks(states: tuple[str, ...], owner: str | None, limit: int, nats: str | None, *, as_json: bool) -> None:
    """List tasks, the one that changed last first."""
    run(_tasks, Output(json=as_json), nats, states, owner, limit)


async def _tasks(out: Output, nats: str | None, states: tuple[str, ...], owner: str | None, limit: int) -> None:
    async with connect(nats) as bus:
        view = await bus.tasks(states, owner, limit)
    if out.json:
        for line in view.tasks:
            out.object(line)
        return
    if view.tasks:
        out.table(["!task", "state", ">priority", "last change"], ([t.task, t.state, t.priority, f"{t.at[:19]}Z"] for t in view.tasks))
    else:
        out.say("No tasks." if not states and owner is None else "No such tasks.")
    if len(view.tasks) == limit:
        click.echo(f"These are the {limit} that changed last; --limit shows more.", err=True)
    if view.waiting:
        out.say(f"{view.waiting} more wait in the queue for a coordinator.")


@command(
    "agentexecutor show ada-laptop.r3Kd93bQz0LmXw71TyUe2p",
    "agentexecutor show r3Kd93bQz0LmXw71TyUe2p --json | jq .result",
    "agentexecutor show r3Kd93bQz0LmXw71TyUe2p --plan-version 2",
)
@task_argument
@click.option(
    "--plan-version",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show version N of the plan: why it was made, what it changed, the plan.",
)
def show(task: TaskName, nats: str | None, plan_version: int | None, *, as_json: bool) -> None:
    """Show a task: subtasks, bids with reasons, result.

    TASK is <owner>.<id>, or the id alone for a task of one's own.
    """
    run(_show, Output(json=as_json), nats, task, plan_version)


async def _show(out: Output, nats: str | None, task: TaskName, version: int | None) -> None:
    versions: list[PlanVersion] = []
    async with connect(nats) as bus:
        try:
            if version is None:
                view = await whole_view(bus, bus.task(str(task)))
            if version is not None or ((view.plan_version > 1 or view.proposed is not None) and not out.json):
                versions = await bus.task(str(task)).plan_versions()
        except TaskLost as error:
            raise unknown(task) from error
    if version is None:
        print_view(out, view, versions)
        return
    found = [made for made in versions if made.version == version]
    if not found:
        raise UsageError(f"Task {task} has no version {version} of its plan.", hint=f"It has {len(versions)}.")
    print_version(out, found[0])


@command(
    "agentexecutor watch ada-laptop.r3Kd93bQz0LmXw71TyUe2p",
    "agentexecutor watch r3Kd93bQz0LmXw71TyUe2p --json | jq -r 'select(.kind == \"awarded\") | .agent'",
)
@task_argument
def watch(task: TaskName, nats: str | None, *, as_json: bool) -> None:
    """Print a task's events until it ends.

    Begins with its first record. Progress is told from now on; an accept is recorded with what comes next, so it may stand after the work's first
    progress. Ends with 0 when the task completed, 1 when it failed, 4 when it was cancelled or missed its deadline.
    TASK is <owner>.<id>, or the id alone for a task of one's own.
    """
    code = run(_watch, Output(json=as_json), nats, task)
    if code is not Exit.DONE:
        raise click.exceptions.Exit(code)


async def _watch(out: Output, nats: str | None, name: TaskName) -> Exit:
    async with connect(nats) as bus:
        task = bus.task(str(name))
        if (await task.state()).state == "unknown":
            raise unknown(name)
        last = await _print_events(out, task)
    if last is None:
        return Exit.DONE
    error = last.data.get("error") or {}
    return of_task(last.kind, ErrorInfo(code=str(error.get("code", "")), message=""))


async def _print_events(out: Output, task: Task) -> Event | None:
    last = None
    async with aclosing(task.events()) as events:
        async for event in events:
            last = event
            if out.json:
                out.object(event)
            else:
                out.say(line_of(event))
    return last
