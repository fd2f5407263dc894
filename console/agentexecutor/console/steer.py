"""`cancel` and `feedback`: say something to a task, in its owner's name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

import click

from agentexecutor.bus.client import Bus, connect
from agentexecutor.bus.errors import BusError, TaskError, TaskTimeout
from agentexecutor.bus.loop import run
from agentexecutor.bus.task import Noted, Task
from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import Seconds, command, read_given, task_argument
from agentexecutor.console.output import Output
from agentexecutor.console.tasks import unknown
from agentexecutor.schemas.messages import ENDED, Verdict
from agentexecutor.schemas.names import TaskName, check_name
from agentexecutor.schemas.plans import Feedback
from agentexecutor.schemas.views import TaskView

__all__ = ["cancel", "feedback"]

NOT_YET = ("blocked", "ready", "calling", "parked")
"""Subtasks that have not started; an `accept` that comes too early is kept, and is no word."""


@command(
    "agentexecutor cancel ada-laptop.r3Kd93bQz0LmXw71TyUe2p",
    'agentexecutor cancel r3Kd93bQz0LmXw71TyUe2p --reason "not needed any more"',
)
@task_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with the task.")
def cancel(task: TaskName, reason: str, nats: str | None, *, as_json: bool) -> None:
    """Cancel a task.

    What runs is stopped; what is done stays in its log. The message is published under the owner's name. TASK is <owner>.<id>, or the id
    alone for a task of one's own. Ends with 0 when it is on record that the task has ended, with 4 when that is not so within 5 s.
    """
    run(_cancel, Output(json=as_json), nats, task, reason)


async def _cancel(out: Output, nats: str | None, name: TaskName, reason: str) -> None:
    async with connect(nats, name=name.owner) as bus:
        task = await _known(bus, name)
        before = (await task.state()).state
        if before not in ENDED:
            await task.cancel(reason)
        after = (await task.state()).state
    if out.json:
        out.object({"task": str(name), "state": after})
    if after not in ENDED:
        raise TaskTimeout(
            f"{name} is still {after}: the cancel is stored, and no coordinator has recorded it yet.",
            hint=f"It will be; `agentexecutor watch {name}` shows when.",
            task=str(name),
        )
    if out.json:
        return
    if before in ENDED:
        out.say(f"{name} had ended before: {before}.")
    else:
        out.say(f"{name} is {after}.")


@command(
    'agentexecutor feedback ada-laptop.r3Kd93bQz0LmXw71TyUe2p --verdict revise --subtask features --text "use bigrams"',
    "agentexecutor feedback r3Kd93bQz0LmXw71TyUe2p --verdict accept",
    "agentexecutor feedback r3Kd93bQz0LmXw71TyUe2p --verdict accept --plan-version 2",
    "agentexecutor feedback r3Kd93bQz0LmXw71TyUe2p --verdict revise --subtask load --data '{\"limit\": 5000}'",
    "agentexecutor feedback r3Kd93bQz0LmXw71TyUe2p --deadline 600 --priority 5",
    'agentexecutor feedback ada-laptop.r3Kd93bQz0LmXw71TyUe2p --as grace --verdict revise --text "too slow"',
)
@task_argument
@click.option("--verdict", type=click.Choice(get_args(Verdict)), help="accept, revise or reject; without it: just the text.")
@click.option("--subtask", metavar="S", help="The subtask that it is about; without it: the task.")
@click.option("--plan-version", type=click.IntRange(min=1), metavar="N", help="The proposed version of the plan that it is about.")
@click.option("--text", default="", metavar="T", help="What the agent shall know.")
@click.option("--data", metavar="JSON", help="The same as data: the JSON itself, @FILE, or - for stdin.")
@click.option("--deadline", "deadline_s", type=Seconds(), metavar="S", help="Another deadline: seconds from the submit.")
@click.option("--priority", type=click.IntRange(-1_000_000, 1_000_000), metavar="N", help="Another priority.")
@click.option("--as", "sender", metavar="NAME", help="Who says it, one of the task's critics; without it: its owner.")
def feedback(task: TaskName, sender: str | None, nats: str | None, *, as_json: bool, **said: Any) -> None:
    """Say something about a task or a subtask.

    The agent that runs it hears it, and decides what to do with it. `accept` is also the word that a subtask or a new version of the plan waits
    for; when only one thing waits it need not be named, of several the command tells the names and does nothing. `revise` runs again what was
    completed, or has the planner think again; `reject` fails it, if the task's policy says nothing else. The command tells which of it happened.
    TASK is <owner>.<id>, or the id alone for a task of one's own. The message is published under the owner's name, or that of --as.
    """
    if sender is not None:
        check_name("peer", sender)
    if not any(said[name] not in (None, "") for name in ("verdict", "text", "data", "deadline_s", "priority")):
        raise UsageError("Nothing is said.", hint="Give --verdict, --text, --data, --deadline or --priority.")
    version = said.pop("plan_version")
    if version is not None and said["subtask"] is not None:
        raise UsageError("--subtask and --plan-version exclude each other.", hint="Give one of them.")
    if said["data"] is not None:
        said["data"], _ = read_given(said["data"], "--data")
    run(_feedback, Output(json=as_json), nats, task, Feedback(**said), version, sender)


async def _feedback(out: Output, nats: str | None, name: TaskName, said: Feedback, version: int | None, sender: str | None) -> None:
    async with connect(nats, name=name.owner) as bus:
        task = await _known(bus, name)
        proposed = None
        named = (await task.view()).subtasks.get(said.subtask) if said.verdict == "accept" and said.subtask is not None else None
        if version is not None or (said.subtask is None and said.verdict is not None):
            view = await task.view()
            said = _meant(view, said, version)
            proposed = view.proposed.version if view.proposed is not None and said.subtask is None else None
        noted = await task.feedback(said, sender=sender)
        led_to = None if noted is None else await _led_to(task, noted)
        may_end = said.deadline_s is not None or (said.verdict == "reject" and proposed is not None)
        after = (await task.state()).state if may_end else ""
        again = said.verdict == "reject" and proposed is not None and after not in ENDED
    if out.json:
        out.object({"task": str(name), "subtask": said.subtask, "verdict": said.verdict, "text": said.text})
        return
    about = f" for {said.subtask}" if said.subtask else f" for version {proposed} of the plan" if proposed is not None else ""
    out.say(f"{name} has it: {said.verdict or 'noted'}{about}.")
    if again:
        out.say(f"The planner is asked for another version, and told why. `agentexecutor cancel {name}` ends the task instead.")
    elif led_to is not None:
        out.say(led_to)
    elif named is not None and named.state in NOT_YET:
        out.say(f"{said.subtask} does not wait for a word now. If it does later, say it then.")
    elif said.deadline_s is not None and after in ENDED:
        out.say(f"It is {after}: that deadline had passed.")


async def _led_to(task: Task, noted: Noted) -> str | None:
    """What became of feedback, as far as its record tells; None: it is kept, or no more than noted."""
    given, why = noted.given, noted.given.why
    if why is not None and why.trigger != "changed":
        if why.answer == "plan":
            return "The planner is asked for another version of the plan."
        answer = f"{why.answer}{f' {why.subtask}' if why.subtask else ''}"
        if noted.version is None:
            return f"The task's policy answers it: {answer}."
        return f"Version {noted.version} of the plan answers it: {answer}. It runs again, and so does what depends on it and has started."
    if given.subtask is None or given.epoch is None or given.verdict == "reject":
        return None
    agent = "its agent"
    with suppress(BusError, TaskError):  # it is said already, only the name is missing
        held = (await task.view()).subtasks.get(given.subtask)
        agent = next((attempt.agent for attempt in held.attempts if attempt.epoch == given.epoch), agent) if held is not None else agent
    return f"Delivered to {agent}, which has {given.subtask} in its hands and decides what to do with it."


def _meant(view: TaskView, said: Feedback, version: int | None) -> Feedback:
    """What an `accept` that names nothing is about: the one thing that waits for a word. Raises UsageError."""
    proposed = None if view.proposed is None else view.proposed.version
    if version is not None:
        if version != proposed:
            there = f"Version {proposed} is." if proposed is not None else f"`agentexecutor show {view.task}` tells what waits."
            raise UsageError(f"Version {version} of the plan of {view.task} is not proposed.", hint=there)
        return said
    waiting = [name for name, subtask in view.subtasks.items() if subtask.state == "approval"]
    if said.verdict != "accept" or len(waiting) + (proposed is not None) == 0:
        return said
    if len(waiting) + (proposed is not None) > 1:
        names = [f"--subtask {name}" for name in waiting] + ([f"--plan-version {proposed}"] if proposed is not None else [])
        raise UsageError(f"In {view.task} more than one thing waits for your word.", hint=f"Say for which: {', or '.join(names)}.")
    return replace(said, subtask=waiting[0]) if waiting else said


async def _known(bus: Bus, name: TaskName) -> Task:
    """The task; UsageError when nobody knows it."""
    task = bus.task(str(name))
    if (await task.state()).state == "unknown":
        raise unknown(name)
    return task
