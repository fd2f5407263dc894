"""Plans as a user writes them, and the check that every plan passes before it runs.

`Plan` and `Subtask` are for people; `PlanSpec` and `SubtaskSpec` (agentexecutor.schemas.messages) are the same on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw

from agentexecutor.schemas.bodies import MAX_BODY_DEPTH, why_unreadable
from agentexecutor.schemas.codec import decode_as, encode
from agentexecutor.schemas.errors import DecodeFailed, PlanRefused
from agentexecutor.schemas.messages import NULL, Approval, FeedbackClaim, OnStall, PlanSpec, Split, SubtaskSpec, Verdict
from agentexecutor.schemas.names import check_capability, check_name
from agentexecutor.schemas.references import Ref, encode_input, find_references

__all__ = ["MAX_PLAN", "MAX_SUBTASKS", "Feedback", "Goal", "Plan", "Subtask", "check_plan", "check_plan_size", "dependencies", "read_plan"]

P = TypeVar("P")

MAX_SUBTASKS = 20_000
MAX_PLAN = 8 << 20
"""Bytes of a plan, or of a planner's answer: room for 20,000 subtasks with 300 bytes of input each. It is read in one piece, in tenths of a second."""


@dataclass
class Subtask:
    """A unit of work that one agent does: a capability and its input (an object whose keys are the handler's parameters).

    `after` names subtasks to wait for besides those that the input refers to. `retries`: tries after the first (2 when nobody says).
    `timeout_s`: for one attempt; `deadline_s`: from the submit. `labels`: the agent must have them. `award`: policy; `auction`: mode;
    `tailored`: ask for bids made for this input. `on_failure`: ``fail`` the task or ``skip``. `on_stall`: when its agent lives but shows no
    progress for longer than it promised, ``wait`` (the default, and show it) or ``release`` it to another. `prefer`: an agent's name; `avoid`:
    agents that do not get it. `split`: data-parallel shares. `approval`: it waits for a person's word (`Feedback(verdict="accept")`) before it starts.
    """

    capability: str
    input: Any = field(default_factory=dict)
    after: Iterable[str | Ref] = ()
    retries: int | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    award: str | None = None
    auction: Literal["standing", "call", "broadcast", "auto"] | None = None
    tailored: bool | None = None
    on_failure: Literal["fail", "skip"] = "fail"
    on_stall: OnStall | None = None
    prefer: str | None = None
    avoid: Iterable[str] = ()
    split: Split | None = None
    approval: Approval | bool | None = None

    def spec(self) -> SubtaskSpec:
        """The subtask as it travels; raises PlanRefused or NameRefused."""
        try:
            spec = decode_as(SubtaskSpec, encode(self._fields()))  # making a struct checks nothing, reading one does
        except (DecodeFailed, TypeError) as error:
            reason = error.fields["reason"] if isinstance(error, DecodeFailed) else error
            raise PlanRefused(f"The subtask for {self.capability} does not fit: {reason}.", hint="Correct that field.", path=[]) from error
        return msgspec.structs.replace(spec, input=self.input if isinstance(self.input, Raw) else encode_input(self.input))

    def _fields(self) -> SubtaskSpec:
        after = [self.after] if isinstance(self.after, str | Ref) else self.after
        return SubtaskSpec(
            capability=check_capability(self.capability),
            after=[name.target.split("/")[0] if isinstance(name, Ref) else name for name in after],
            retries=self.retries,
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            priority=self.priority,
            labels=dict(self.labels),
            award=self.award,
            auction=self.auction,
            tailored=self.tailored,
            on_failure=self.on_failure,
            on_stall=self.on_stall,
            prefer=self.prefer,
            avoid=[self.avoid] if isinstance(self.avoid, str) else list(self.avoid),
            split=self.split,
            approval=Approval() if self.approval is True else self.approval or None,
        )


class Plan:
    """Subtasks by name, and the one whose result is the plan's. Making one never raises; submitting does.

    ``Plan({"a": Subtask(...)})`` and ``plan.add("a", Subtask(...))`` are the same; `add` gives the Ref to its result.
    """

    def __init__(self, subtasks: Mapping[str, Subtask] | None = None, *, result: str | None = None) -> None:
        self.subtasks: dict[str, Subtask] = dict(subtasks or {})
        self.result = result
        self._twice: list[str] = []

    def add(self, name: str, subtask: Subtask) -> Ref:
        """Add a subtask and give the reference to its result."""
        if name in self.subtasks:
            self._twice.append(name)
        self.subtasks[name] = subtask
        return Ref(name)

    def spec(self) -> PlanSpec:
        """The plan as it travels, checked; raises PlanRefused or NameRefused."""
        if self._twice:
            raise PlanRefused(f"The plan names {self._twice[0]!r} twice.", hint="Give every subtask its own name.", path=self._twice)
        spec = PlanSpec(subtasks={name: subtask.spec() for name, subtask in self.subtasks.items()}, result=self.result)
        check_plan(spec)
        return spec


@dataclass(frozen=True)
class Goal:
    """What is wanted, in words, in the place of a plan: a planner (an agent with the capability ``plan``) makes the plan.

    The planner that comes with the system needs no model: the text names a wanted output, which it reaches by the schemas of what is on offer.
    """

    text: str


@dataclass
class Feedback:
    """What somebody says about a task, or about one `subtask` of it.

    `verdict`: ``accept`` (also the word that something waits for), ``revise`` (run it again, with this text), ``reject``; None: just data or text. The
    owner may set another `deadline_s` (from the submit) and `priority` of the task.
    """

    verdict: Verdict | None = None
    text: str = ""
    subtask: str | None = None
    data: Any = None
    deadline_s: float | None = None
    priority: int | None = None

    def claim(self) -> FeedbackClaim:
        """The feedback as it travels. Raises PlanRefused: its data have no JSON form."""
        try:
            data = NULL if self.data is None else Raw(msgspec.json.encode(self.data))
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise PlanRefused(f"The feedback's data have no JSON form: {error}.", hint="Use what JSON knows.") from error
        return FeedbackClaim(
            subtask=self.subtask, verdict=self.verdict, text=self.text, data=data, deadline_s=self.deadline_s, priority=self.priority
        )


def dependencies(spec: SubtaskSpec) -> list[str]:
    """The subtasks that must end before this one: those of `after`, then those that the input refers to, each once."""
    names = dict.fromkeys(spec.after)
    names.update(dict.fromkeys(found.subtask for found in find_references(spec.input)))
    return list(names)


def check_plan_size(size: int) -> None:
    """Refuse (PlanRefused) a plan of so many bytes when it is too large to be read."""
    if size > MAX_PLAN:
        raise PlanRefused(
            f"The plan has {size} bytes, more than {MAX_PLAN}.",
            hint="Put large inputs where agents read them, and name the place; or split it into several tasks.",
            path=[],
        )


class _Counted(msgspec.Struct):
    """The part of a plan, or of a planner's answer, that tells how much there is to read."""

    subtasks: dict[str, Raw] = {}
    add: dict[str, Raw] = {}


def read_plan(kind: type[P], body: bytes) -> P:
    """A plan, or a planner's answer. Raises DecodeFailed, PlanRefused: what is too much is counted before it is read, which takes ten times as long."""
    check_plan_size(len(body))
    try:
        counted = decode_as(_Counted, body)
    except DecodeFailed as error:
        raise DecodeFailed(
            f"not a {kind.__name__}: {error.fields['reason']}.",
            hint="docs/protocol.md says what it holds.",
            kind=kind.__name__,
            reason=error.fields["reason"],
        ) from error
    _check_count(len(counted.subtasks) + len(counted.add))
    return decode_as(kind, body)


def _check_count(count: int) -> None:
    if count > MAX_SUBTASKS:
        raise PlanRefused(f"The plan has {count} subtasks, more than {MAX_SUBTASKS}.", hint="Split it into several tasks.", path=[])


def check_plan(spec: PlanSpec, known: Collection[str] = ()) -> dict[str, list[str]]:
    """Check that a plan can run and give what each subtask waits for.

    `known` are subtasks that exist already and may be referred to. Raises PlanRefused (no subtasks, too many, unknown name, cycle, with the
    path) or NameRefused.
    """
    if not spec.subtasks:
        raise PlanRefused("The plan has no subtasks.", hint="Add at least one.", path=[])
    _check_count(len(spec.subtasks))
    needs: dict[str, list[str]] = {}
    for name, subtask in spec.subtasks.items():
        check_name("subtask", name)
        check_capability(subtask.capability)
        if subtask.split is not None and subtask.split.merge is not None:
            check_capability(subtask.split.merge)
        if reason := why_unreadable(subtask.input, MAX_BODY_DEPTH):
            raise PlanRefused(f"The input of {name!r} cannot be kept: {reason}.", hint="Flatten it, or send it as text.", path=[name])
        needs[name] = dependencies(subtask)
        for other in needs[name]:
            if other not in spec.subtasks and other not in known:
                raise PlanRefused(
                    f"Subtask {name!r} needs {other!r}, which the plan does not have.",
                    hint="Add it, or correct the name.",
                    path=[name, other],
                )
    if spec.result is not None and spec.result not in spec.subtasks and spec.result not in known:
        raise PlanRefused(f"The plan's result names {spec.result!r}, which the plan does not have.", path=[spec.result])
    if any(needs.values()):
        _refuse_cycles(needs)
    return needs


def _refuse_cycles(needs: dict[str, list[str]]) -> None:
    """Depth first without recursion, so that a chain of thousands is fine."""
    done: set[str] = set()
    for start, first in needs.items():
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        rest = [iter(first)]
        while rest:
            following = next(rest[-1], None)
            if following is None:
                rest.pop()
                last = path.pop()
                on_path.discard(last)
                done.add(last)
            elif following in on_path:
                cycle = [*path[path.index(following) :], following]
                raise PlanRefused(f"The plan has a cycle: {' -> '.join(cycle)}.", hint="A subtask cannot wait for itself.", path=cycle)
            elif following not in done and following in needs:
                path.append(following)
                on_path.add(following)
                rest.append(iter(needs[following]))
