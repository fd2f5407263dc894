"""`submit`: publish a task, wait for it with its plan in sight, print what became of it."""

from __future__ import annotations

from typing import Any

import anyio
import click
import msgspec.structs
from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import Bus, connect
from agentexecutor.bus.errors import TaskCancelled, TaskError, TaskFailed
from agentexecutor.bus.loop import run
from agentexecutor.bus.request import What
from agentexecutor.bus.task import Task
from agentexecutor.console.choice import with_best_planner
from agentexecutor.console.exits import Exit, UsageError
from agentexecutor.console.live import LivePlan, follow
from agentexecutor.console.options import command, read_given, read_json, read_text
from agentexecutor.console.output import Output, print_error
from agentexecutor.console.show import print_view
from agentexecutor.console.wishes import bus_options, task_options
from agentexecutor.coordinator.policy import TRIGGERS
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.messages import PlanSpec, Split, SubtaskSpec
from agentexecutor.schemas.names import TaskName, check_capability
from agentexecutor.schemas.plans import Goal, check_plan
from agentexecutor.schemas.views import TaskView

__all__ = ["submit", "what_is_meant", "whole_view"]

LAST_EVENTS_S = 2.0
"""How long the last events may come after the result."""


@command(
    'agentexecutor submit greet \'{"name": "Ada"}\'',
    "agentexecutor submit text.classify @texts.json --priority 5 --deadline 60",
    "agentexecutor submit --plan plan.json --award capacity",
    "agentexecutor submit text.train @texts.json --label gpu=yes --retries 5 --timeout 600 --on-stall release",
    'echo \'{"name": "Ada"}\' | agentexecutor submit greet - --no-wait',
    'agentexecutor submit --goal summary \'{"text": "..."}\' --approve-plan',
    'agentexecutor submit --goal "find out which of our files mention Ada" --planner plan.model --budget tokens=50000',
)
@task_options
@click.option("--no-wait", is_flag=True, help="Print the task's name and go.")
@click.option("--id", metavar="ID", help="The task's id; the same id with the same content is the same task.")
def submit(capability: str | None, input: str | None, plan: str | None, nats: str | None, *, as_json: bool, **options: Any) -> None:
    """Submit a task and wait for its result.

    The task is a CAPABILITY with its INPUT, a plan, or a goal (with an INPUT, if there is any). INPUT is a JSON object whose keys are the handler's
    parameters: the text itself, @FILE, or - for stdin. While it waits it shows the plan, the auctions and the progress; then it prints the task as `show` does.
    Ends with 0 when the task completed, 1 when it failed, 4 when it was cancelled or missed its deadline.
    """
    what, value = what_is_meant("submit", capability, input, plan, options["goal"])
    how = bus_options(options)
    _refuse_idle_approval(what, how)
    telemetry.setup("agentexecutor-submit", brief=True)
    named: list[str] = []
    try:
        run(
            _submit,
            Output(json=as_json),
            nats,
            what,
            value,
            how | {"id": options["id"]},
            named,
            not options["no_wait"],
            options["planner"] is not None,
        )
    except KeyboardInterrupt:
        if named:
            print_error(f"Interrupted; the task goes on. `agentexecutor watch {named[0]}` shows it, `agentexecutor cancel` ends it.")
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


def what_is_meant(
    name: str, capability: str | None, input: str | None, plan: str | None, goal: str | None = None
) -> tuple[str | PlanSpec | Goal, dict[str, Any] | None]:
    """What the command `name` is about: the capability or the goal with its input, or the plan. Raises UsageError, PlanRefused, NameRefused."""
    if goal is not None:
        if plan is not None or input is not None:
            raise UsageError(
                "--goal takes no CAPABILITY, and no --plan.",
                hint=f'For example: agentexecutor {name} --goal summary \'{{"text": "..."}}\'.',
            )
        return Goal(goal), {} if capability is None else _read_input(capability)
    if plan is not None:
        if capability is not None:
            raise UsageError("CAPABILITY and --plan exclude each other.", hint="Give one of them.")
        where = "The plan in stdin" if plan == "-" else f"The plan in {plan}"
        text = read_text(plan, "The plan")
        written: Any = read_json(text, where)
        _refuse_misfits(where, written)
        spec: PlanSpec = read_json(text, where, PlanSpec)
        _refuse_unknown_fields(where, written)
        check_plan(spec)
        return spec, None
    if capability is None or input is None:
        missing = "INPUT is missing." if capability is not None else "CAPABILITY and INPUT are missing."
        raise UsageError(missing, hint=f'For example: agentexecutor {name} {capability or "greet"} \'{{"name": "Ada"}}\'.')
    return check_capability(capability), _read_input(input)


def _refuse_idle_approval(what: str | PlanSpec | Goal, how: dict[str, Any]) -> None:
    """Whoever mistypes what has to wait for a word must not find it done."""
    is_planned = any(getattr(how["replan"], trigger, None) == "plan" for trigger in TRIGGERS)
    if how["approval"] is None or isinstance(what, Goal) or is_planned:
        return
    capabilities = {what} if isinstance(what, str) else {spec.capability for spec in what.subtasks.values()}
    for name in how["approval"].capabilities:
        if not name.endswith("*") and name not in capabilities:
            raise UsageError(
                f"--approve {name}: this task has no such subtask, it has {', '.join(sorted(capabilities)[:30])}.",
                hint=f"If an agent asks for it later, say --approve '{name}*'.",
            )


def _refuse_misfits(where: str, plan: Any) -> None:
    """A subtask that cannot be read is named."""
    subtasks = plan.get("subtasks") if isinstance(plan, dict) else None
    for name, subtask in subtasks.items() if isinstance(subtasks, dict) else ():
        read_json(encode(subtask), f"{where}, subtask {name!r},", SubtaskSpec)


def _refuse_unknown_fields(where: str, plan: dict[str, Any]) -> None:
    """On the wire unknown fields are ignored; in a file that somebody has written they are mistakes."""
    parts: list[tuple[str, Any, type]] = [("$", plan, PlanSpec)]
    for name, subtask in plan["subtasks"].items():
        parts.append((f"$.subtasks.{name}", subtask, SubtaskSpec))
        if subtask.get("split"):
            parts.append((f"$.subtasks.{name}.split", subtask["split"], Split))
    for at, part, kind in parts:
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for field in part:
            if field not in known:
                raise UsageError(f"{where} has an unknown field {field!r} at {at}.", hint=f"There are: {', '.join(known)}.")


def _read_input(given: str) -> dict[str, Any]:
    value, where = read_given(given, "INPUT")
    if not isinstance(value, dict):
        raise UsageError(f"{where} is no JSON object.", hint='Its keys are the handler\'s parameters, as in {"name": "Ada"}.')
    return value


async def _submit(
    out: Output, nats: str | None, what: What, value: Any, how: dict[str, Any], named: list[str], waits: bool, chosen: bool
) -> None:
    async with connect(nats) as bus:
        if isinstance(what, Goal) and not chosen:
            how = how | {"replan": await with_best_planner(bus, how["replan"])}
        task = await bus.submit(what, value, **how)
        named.append(task.name)
        if not waits:
            _print_name(out, task.name)
            return
        ended = await (_result(task) if out.json else _result_in_sight(task, out))
        print_view(out, await whole_view(bus, task))
        if ended is not None:
            raise ended


def _print_name(out: Output, name: str) -> None:
    if out.json:
        out.object({"task": name})
    else:
        out.say(name)
        click.echo(f"See it with: agentexecutor watch {name}", err=True)


async def _result(task: Task) -> TaskFailed | TaskCancelled | None:
    """Wait for the end; the error that it was, if any."""
    try:
        await task.result(Raw)
    except (TaskFailed, TaskCancelled) as error:
        return error
    return None


async def _result_in_sight(task: Task, out: Output) -> TaskFailed | TaskCancelled | None:
    """The same, with the plan shown meanwhile."""
    shown = anyio.Event()
    refused: TaskError | None = None
    ended = None

    async def show(view: LivePlan) -> None:
        try:
            await follow(task, view)
        except AgentExecutorError as error:
            view.note(str(error))
        shown.set()

    with LivePlan(out.console, transient=True) as view:
        async with anyio.create_task_group() as group:
            group.start_soon(show, view)
            try:
                ended = await _result(task)
            except TaskError as error:
                refused = error
            else:
                with anyio.move_on_after(LAST_EVENTS_S):
                    await shown.wait()
            group.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return ended


async def whole_view(bus: Bus, task: Task) -> TaskView:
    """A task's view, its own result put in when it travels by reference. Raises TaskLost, BusError."""
    view = await task.view()
    if view.result_blob is None:
        return view
    return replace(view, result=Raw(await bus.fetch(TaskName.parse(task.name), view.result_blob)))
