"""What a task is to be like: the options that `submit` and `plan` share, and what the bus takes for them. Asks nobody."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, get_args

import click
import msgspec
from msgspec.structs import replace

from agentexecutor.console.choice import with_planner
from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import Seconds
from agentexecutor.schemas.messages import ApprovalPolicy, OnStall, Replan, ReplanAnswer, Split
from agentexecutor.schemas.names import check_capability, check_name

__all__ = ["bus_options", "task_options"]

F = TypeVar("F", bound=Callable[..., Any])
TRIGGERS = ("failed", "lost", "late", "unserved", "revise", "reject", "message", "changed")
ANSWERS: tuple[str, ...] = get_args(ReplanAnswer)
AUCTIONS = ("standing", "call", "broadcast", "auto")
OTHERWISE = ("accept", "reject")
MAX_SHARES = 10_000
MAX_RETRIES = 1000


def task_options(function: F) -> F:
    """What a task is, and how it is to be done: CAPABILITY INPUT, --plan or --goal, and the options that `bus_options` reads."""
    for decorate in (
        click.option(
            "--tailored", is_flag=True, help="Ask the agents for bids made for this input, not only for what they offer to everybody."
        ),
        click.option("--auction", type=click.Choice(AUCTIONS), metavar="MODE", help="standing, call, broadcast or auto."),
        click.option("--award", metavar="POLICY", help="fastest, capacity, round-robin, least-loaded, cheapest, two-choices."),
        click.option("--label", multiple=True, metavar="NAME=VALUE", help="Only agents that have this label; may be given again."),
        click.option(
            "--on-stall",
            type=click.Choice(get_args(OnStall)),
            help="Work that stands still is only shown (wait, also when nobody says), or given to another agent, which uses up a retry (release).",
        ),
        click.option(
            "--retries", type=click.IntRange(0, MAX_RETRIES), metavar="N", help="Tries of a subtask after the first; 2 when nobody says."
        ),
        click.option(
            "--timeout",
            type=Seconds(),
            metavar="S",
            help="Seconds for each attempt, from when an agent has taken it.",
        ),
        click.option(
            "--priority", type=click.IntRange(-1_000_000, 1_000_000), default=0, metavar="N", help="Larger runs first; 0 when not given."
        ),
        click.option("--deadline", type=Seconds(), metavar="S", help="Seconds in which the task must be done."),
        click.option(
            "--replan",
            multiple=True,
            metavar="TRIGGER=ANSWER",
            help=f"What answers what happens: {', '.join(TRIGGERS)}={'|'.join(ANSWERS)}.",
        ),
        click.option(
            "--split",
            metavar="NAME[=N]",
            help="How the answer split cuts: by the input's list NAME, into N shares or as many as agents fit.",
        ),
        click.option("--budget", multiple=True, metavar="NAME=N", help="A limit: subtasks, replans, seconds of work, tokens, money, ..."),
        click.option(
            "--approve",
            multiple=True,
            metavar="CAPABILITY",
            help="Subtasks that wait for your `feedback --verdict accept`; files.* fits all files.",
        ),
        click.option("--approve-plan", is_flag=True, help="What a planner answers waits for it too: each new version of the plan."),
        click.option(
            "--approve-timeout",
            type=Seconds(),
            metavar="S",
            help="So long it waits for your word; without it for ever.",
        ),
        click.option(
            "--approve-otherwise", type=click.Choice(OTHERWISE), help="What it means when nobody has said a word by then; else reject."
        ),
        click.option("--approve-text", metavar="TEXT", help="What is told to whoever is asked."),
        click.option(
            "--critic", multiple=True, metavar="NAME", help="A peer that may give feedback, too, and say the word; may be given again."
        ),
        click.option(
            "--planner",
            metavar="CAPABILITY",
            help="Who plans for the goal: plan needs no model; plan.model asks one, and is taken by `submit` when it is on offer.",
        ),
        click.option("--goal", metavar="TEXT", help="What is wanted, for a planner; INPUT is what there is."),
        click.option("--plan", metavar="FILE", help="A plan as JSON (docs/protocol.md section 7) in a file, or - for stdin."),
        click.argument("input", required=False),
        click.argument("capability", required=False),
    ):
        function = decorate(function)
    return function


def bus_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `task_options` as the bus takes them."""
    return {
        "deadline_s": options["deadline"],
        "priority": options["priority"],
        "retries": options["retries"],
        "timeout_s": options["timeout"],
        "labels": dict(_pairs("--label", options["label"])),
        "on_stall": options["on_stall"],
        "tailored": options["tailored"] or None,
        "award": options["award"],
        "auction": options["auction"],
        "replan": _policy(options["replan"], options["planner"], options["split"]),
        "budget": {name: _number("--budget", name, value) for name, value in _pairs("--budget", options["budget"])},
        "approval": _approval(options),
        "critics": [check_name("critic", name) for name in options["critic"]],
    }


def _approval(options: dict[str, Any]) -> ApprovalPolicy | None:
    given = {name: options[f"approve_{name}"] for name in ("timeout", "otherwise", "text") if options[f"approve_{name}"] is not None}
    waits = any(answer == "wait" for _, answer in _pairs("--replan", options["replan"]))
    if not (options["approve"] or options["approve_plan"] or given):
        return None
    if given and not (options["approve"] or options["approve_plan"] or waits):
        raise UsageError(
            f"--approve-{next(iter(given))} says how something waits, and nothing does.", hint="Give --approve, or --approve-plan."
        )
    return ApprovalPolicy(
        capabilities=list(options["approve"]),
        versions=options["approve_plan"],
        timeout_s=given.get("timeout"),
        otherwise=given.get("otherwise", "reject"),
        text=given.get("text", ""),
    )


def _pairs(option: str, given: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(
                f"{option} {text!r} is no NAME=VALUE.", hint="For example: --budget tokens=10000, --replan failed=plan, --label zone=eu."
            )
        yield name, value


def _number(option: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f"{option} {name}={text} is no number.", hint="Give 0 or more.")
    return number


def _policy(given: Iterable[str], planner: str | None, split: str | None) -> Replan | None:
    said = dict(_pairs("--replan", given))
    for trigger, answer in said.items():
        if trigger not in TRIGGERS or answer not in ANSWERS:
            raise UsageError(
                f"--replan {trigger}={answer} is no policy.", hint=f"Triggers: {', '.join(TRIGGERS)}. Answers: {', '.join(ANSWERS)}."
            )
    if ("split" in said.values()) != (split is not None):
        missing = "--replan ...=split does not say how to cut." if split is None else "--split is for the answer split, which nothing has."
        raise UsageError(missing, hint="For example: --replan late=split --split rows.")
    policy = msgspec.convert(said, Replan) if said else None
    if policy is not None and split is not None:
        policy = replace(policy, split=_split(split))
    return policy if planner is None else with_planner(policy, check_capability(planner))


def _split(text: str) -> Split:
    name, equals, count = (part.strip() for part in text.partition("="))
    if not name or (equals and not (count.isascii() and count.isdigit() and 1 <= int(count) <= MAX_SHARES)):
        raise UsageError(f"--split {text!r} is no NAME, and no NAME=N.", hint="For example: --split rows, --split rows=4.")
    return Split(over=name, into=int(count) if equals else None)
