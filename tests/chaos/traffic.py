"""What is asked for while processes die: tasks of every kind, drawn from a seed, whose ends are known beforehand. Knows no bus."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from agentexecutor.schemas import Plan, Ref, Split, Subtask

__all__ = ["Wish", "draw_wish"]

EVENLY: tuple[Literal["capacity", "equal"], ...] = ("capacity", "equal")
LARGE = 300_000
"""Characters: more than a message may hold."""


@dataclass(frozen=True)
class Wish:
    """A task, how it may end, and its result if it completes. `cancel_after_s`: it is cancelled then, None: never."""

    kind: str
    what: str | Plan
    input: Any = None
    result: Any = None
    states: tuple[str, ...] = ("completed",)
    options: dict[str, Any] = field(default_factory=dict)
    cancel_after_s: float | None = None


def draw_wish(drawn: random.Random) -> Wish:
    """The next one."""
    kind = drawn.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    wish: Wish = KINDS[kind][1](drawn)
    wish.options["priority"] = drawn.choice((0, 0, 0, 5, -5))
    if drawn.random() < 0.2:
        wish.options["auction"] = drawn.choice(("call", "broadcast"))
    return wish


def _adding(drawn: random.Random, x: Any = None) -> Subtask:
    return Subtask("chaos.add", {"x": drawn.randrange(1000) if x is None else x, "y": 1, "seconds": round(drawn.uniform(0.0, 0.6), 2)})


def _single(drawn: random.Random) -> Wish:
    one = _adding(drawn)
    return Wish("single", "chaos.add", one.input, one.input["x"] + 1)


def _long(drawn: random.Random) -> Wish:
    """Long enough to be stopped or killed in the middle."""
    return Wish("long", "chaos.add", {"x": 1, "y": 1, "seconds": round(drawn.uniform(2.0, 4.0), 1)}, 2)


def _chain(drawn: random.Random) -> Wish:
    first = _adding(drawn)
    plan = Plan({"a": first, "b": _adding(drawn, Ref("a")), "c": _adding(drawn, Ref("b"))})
    return Wish("chain", plan, result=first.input["x"] + 3)


def _fan(drawn: random.Random) -> Wish:
    adding = {f"add{number}": _adding(drawn) for number in range(drawn.randint(2, 5))}
    plan = Plan({**adding, "sum": Subtask("chaos.sum", {"parts": [Ref(name) for name in adding]})})
    return Wish("fan", plan, result=sum(one.input["x"] + 1 for one in adding.values()))


def _split(drawn: random.Random) -> Wish:
    rows = [drawn.randrange(100) for _ in range(drawn.randint(2, 20))]
    merge = drawn.choice((None, "chaos.sum"))
    if merge is None:
        plan = Plan({"all": Subtask("chaos.double", {"rows": rows}, split=Split(over="rows", by=drawn.choice(EVENLY)))})
        return Wish("split", plan, result=[2 * row for row in rows])
    plan = Plan({"all": Subtask("chaos.sum", {"parts": rows}, split=Split(over="parts", by="equal", into=2, merge=merge))})
    return Wish("split with merge", plan, result=sum(rows))


def _children(drawn: random.Random) -> Wish:
    count = drawn.randint(1, 4)
    return Wish("children", "chaos.children", {"count": count}, count * (count - 1))


def _flaky(drawn: random.Random) -> Wish:
    value = drawn.randrange(1000)
    return Wish("flaky", "chaos.flaky", {"value": value}, value)


def _doomed(_drawn: random.Random) -> Wish:
    return Wish("doomed", "chaos.doomed", states=("failed",))


def _large(drawn: random.Random) -> Wish:
    text = f"{drawn.randrange(1000)}".ljust(LARGE, ".")
    return Wish("large", "chaos.large", {"text": text}, text[::-1])


def _cancelled(drawn: random.Random) -> Wish:
    """Its end is known, its result too: which of both comes first is not."""
    plan = Plan({"a": Subtask("chaos.add", {"x": 1, "y": 1, "seconds": 1.0}), "b": Subtask("chaos.add", {"x": Ref("a"), "y": 1})})
    return Wish("cancelled", plan, result=3, states=("cancelled", "completed"), cancel_after_s=round(drawn.uniform(0.0, 1.5), 2))


KINDS: dict[str, tuple[int, Any]] = {
    "single": (30, _single),
    "long": (8, _long),
    "chain": (14, _chain),
    "fan": (12, _fan),
    "split": (10, _split),
    "children": (10, _children),
    "flaky": (5, _flaky),
    "doomed": (2, _doomed),
    "large": (2, _large),
    "cancelled": (7, _cancelled),
}
"""How often each is drawn, and by whom."""
