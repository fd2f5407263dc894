"""A whole task for people: head, subtasks, bids, attempts, result. Draws a `TaskView`; asks nobody."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.text import Text

from agentexecutor.console.output import Output, amount, cell
from agentexecutor.schemas.codec import from_rfc3339, to_rfc3339
from agentexecutor.schemas.messages import NULL, ErrorInfo
from agentexecutor.schemas.plans import dependencies
from agentexecutor.schemas.views import AskedView, PlanVersion, ProposedView, SubtaskView, TaskView

__all__ = ["print_version", "print_view"]

BIDS = "Bids (smaller scores are better; who is asked for by name goes first)"
NAMES = 10
"""So many subtasks of a proposed version are named."""
STORY_SHOWN = 20
"""So many lines of the story of a plan that went round in circles."""
RESULT_SHOWN = 20_000
"""Bytes of a result that are printed for people; --json prints all of it."""


def print_view(out: Output, view: TaskView, versions: Sequence[PlanVersion] = ()) -> None:
    """The show object: one JSON line, or tables; `versions` of its plan, when there are more than one."""
    if out.json:
        out.object(view)
        return
    head = Text.assemble((view.task, "bold"), "  ", cell(view.state), f"  plan version {view.plan_version}")
    if view.trace_id:
        head.append(f"  trace {view.trace_id}")
    out.say(head)
    if view.proposed is not None:
        _proposal(out, view, view.proposed)
    for name, subtask in view.subtasks.items():
        if subtask.asked is not None:
            _asked(out, view, name, subtask.asked)
    if view.error is not None:
        out.say(Text(f"{view.error.code}: {view.error.message}", style="red"))
        _account(out, view.error)
    if view.subtasks:
        _subtasks(out, view)
        _bids(out, view)
        _attempts(out, view)
    _versions(out, versions)
    _result(out, view)


def _proposal(out: Output, view: TaskView, made: ProposedView) -> None:
    """What waits for a person's word, and how it is said."""
    changed = [("new", made.add), ("again", made.again), ("removed", made.remove)]
    parts = [f"{what} {', '.join(names[:NAMES])}{', ...' if len(names) > NAMES else ''}" for what, names in changed if names]
    what = "The planner's own result" if made.output and not parts else f"Version {made.version} of the plan"
    text = "; ".join([*parts, *([made.text] if made.text else [])])
    out.say(Text(f"{what} waits for your word since {made.since[:19]}Z{f': {text}' if text else ''}", style="yellow"))
    out.say(f"  agentexecutor show {view.task} --plan-version {made.version}")
    out.say(f"  agentexecutor feedback {view.task} --plan-version {made.version} --verdict accept")


def _asked(out: Output, view: TaskView, name: str, asked: AskedView) -> None:
    """What a person is asked about a subtask, and how the word is said."""
    out.say(Text(f"{name} waits for your word since {asked.since[:19]}Z{f': {asked.text}' if asked.text else ''}", style="yellow"))
    if asked.input != NULL:
        out.say(f"  its input: {bytes(asked.input).decode()}")
    if asked.timeout_s is not None:
        until = to_rfc3339(from_rfc3339(asked.since) + asked.timeout_s)
        out.say(f"  without a word until {until[:19]}Z it is {'agreed to' if asked.otherwise == 'accept' else 'rejected'}")
    out.say(f"  agentexecutor feedback {view.task} --subtask {name} --verdict accept")


class _Account(msgspec.Struct):
    """What the error of a budget, or of a plan that goes round in circles, tells."""

    spent: dict[str, float]
    budget: dict[str, float] = {}
    exceeded: str = ""
    by: dict[str, dict[str, float]] = {}
    story: list[str] = []


def _account(out: Output, error: ErrorInfo) -> None:
    """Where a budget went, and what to do."""
    if error.code != "budget":
        return
    try:
        told = msgspec.convert(error.details, _Account)
    except msgspec.ValidationError:
        return  # it was said by somebody else
    if told.budget:
        out.say("  spent: " + ", ".join(f"{name} {told.spent.get(name, 0):g} of {limit:g}" for name, limit in told.budget.items()))
    parts = sorted(((mine.get(told.exceeded, 0), name) for name, mine in told.by.items()), reverse=True)
    if parts and parts[0][0] > 0:
        out.say(f"  {told.exceeded} by capability: " + ", ".join(f"{name} {number:g}" for number, name in parts[:NAMES] if number > 0))
    for line in told.story[-STORY_SHOWN:]:
        out.say(f"  {line}")
    if told.exceeded:
        out.say(f"  Submit it again with more: --budget {told.exceeded}=...")


def print_version(out: Output, made: PlanVersion) -> None:
    """A version of a plan: one JSON line, or why it was made and a table of what it holds, with what is new."""
    if out.json:
        out.object(made)
        return
    base = f", made from {made.base}" if made.base else ""
    out.say(
        Text.assemble(
            (f"Version {made.version}", "bold"),
            " (proposed; it waits for a person's word)" if made.proposed else "",
            f"{base}, at {made.at[:19]}Z by {made.coordinator}" + (f" for {made.planner}" if made.planner else ""),
        )
    )
    for why in made.why:
        about = f" about {why.subtask}" if why.subtask else ""
        out.say(f"{why.trigger}{about}{f' by {why.sender}' if why.sender else ''}: {why.text or 'no reason given'} (answer: {why.answer})")
    if made.remove:
        out.say(f"removed: {', '.join(made.remove)}")
    change = {**dict.fromkeys(made.again, "runs again"), **dict.fromkeys(made.add, "new")}
    rows = [
        [name, spec.capability, ", ".join(dependencies(spec)), change.get(name, "kept") if made.base else ""]
        for name, spec in made.plan.subtasks.items()
    ]
    out.table(["subtask", "capability", "after", ""], rows)


def _subtasks(out: Output, view: TaskView) -> None:
    columns = ["subtask", "capability", "state", "agent", ">epoch", ">attempts", "error"]
    out.table(columns, ([name, *_cells(subtask)] for name, subtask in view.subtasks.items()))


def _cells(subtask: SubtaskView) -> list[object]:
    error = f"{subtask.error.code}: {subtask.error.message}" if subtask.error is not None else ""
    if subtask.not_before is not None:
        error = f"it failed, and is tried again at {subtask.not_before[:19]}Z"
    return [subtask.capability, subtask.state, subtask.agent, subtask.epoch, len(subtask.attempts), error]


def _bids(out: Output, view: TaskView) -> None:
    rows = [
        [name, bid.epoch, bid.agent, bid.source, f"{bid.score:.4g}", "won" if bid.won else "", bid.reason]
        for name, subtask in view.subtasks.items()
        for bid in subtask.bids
    ]
    if rows:
        out.table(
            ["subtask", ">epoch", "bid by", "source", ">score", "", "reason"],
            rows,
            title=BIDS,
        )


def _attempts(out: Output, view: TaskView) -> None:
    rows = [
        [name, attempt.epoch, attempt.agent, attempt.state, f"{attempt.error.code}: {attempt.error.message}" if attempt.error else ""]
        for name, subtask in view.subtasks.items()
        if len(subtask.attempts) > 1 or any(attempt.error is not None for attempt in subtask.attempts)
        for attempt in subtask.attempts
    ]
    if rows:
        out.table(["subtask", ">epoch", "agent", "state", "error"], rows, title="Attempts")
    for name, subtask in view.subtasks.items():
        trace = subtask.attempts[-1].error.details.get("traceback") if subtask.attempts and subtask.attempts[-1].error else None
        if trace and subtask.state != "completed":
            out.say(Text(f"\nThe last error of {name}, on {subtask.attempts[-1].agent}", style="bold"))
            out.say(Text(str(trace).rstrip(), style="dim"))


def _versions(out: Output, versions: Sequence[PlanVersion]) -> None:
    if len(versions) > 1:
        rows = [
            [
                f"{made.version}{' proposed' if made.proposed else ''}",
                f"{made.at[:19]}Z",
                _because(made),
                ", ".join(made.add),
                ", ".join(made.again),
                ", ".join(made.remove),
            ]
            for made in versions
        ]
        out.table(
            [">version", "made at", "because of", "new", "again", "removed"], rows, title="Plan versions (one whole: --plan-version N)"
        )


def _because(made: PlanVersion) -> str:
    """In a few words why a version was made."""
    whys = [f"{why.trigger} of {why.subtask}" if why.subtask else why.trigger for why in made.why]
    return ", ".join(whys) or made.cause


def _result(out: Output, view: TaskView) -> None:
    if view.state != "completed":
        return
    size = len(bytes(view.result)) if view.result_blob is None else view.result_blob.bytes
    if size > RESULT_SHOWN:
        out.say(f"The result has {amount(size)}: `agentexecutor show {view.task} --json` prints it.")
        return
    out.say(Text("Result", style="bold"))
    out.value(bytes(view.result))
