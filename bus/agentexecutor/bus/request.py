"""From what a user submits to the message that travels: names and plans checked, large bodies stored and named by reference.

The same content gives the same bytes, because the task's digest is made of them (docs/protocol.md section 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.bus.errors import TaskRefused
from agentexecutor.bus.streams import MESSAGE_LIMIT, ROOM
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT, decode, encode
from agentexecutor.schemas.errors import DecodeFailed, PlanRefused, TooLarge
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import MAX_PLAN, Goal, Plan, check_plan, check_plan_size, dependencies
from agentexecutor.schemas.references import encode_input

__all__ = ["AuctionMode", "What", "encode_submit", "fill_submit", "options_of", "plan_of"]

AuctionMode = Literal["standing", "call", "broadcast", "auto"]

MAIN = "main"
"""Name of the subtask of a task that is one capability."""

LIFTED = (INLINE_LIMIT, 32_768, 4_096)
"""Inputs of more bytes travel by reference; the smaller numbers count when the plan would be too large otherwise."""

What = str | Plan | m.PlanSpec | Goal
"""What can be submitted: a capability, a plan, a goal."""

Put = Callable[[bytes], Awaitable[m.BlobRef]]


def options_of(
    *,
    priority: int = 0,
    deadline_s: float | None = None,
    retries: int | None = None,
    timeout_s: float | None = None,
    labels: Mapping[str, str] | None = None,
    award: str | None = None,
    auction: AuctionMode | None = None,
    tailored: bool | None = None,
    critics: Iterable[str] = (),
    on_stall: m.OnStall | None = None,
    replan: m.Replan | None = None,
    budget: Mapping[str, float] | None = None,
    approval: m.ApprovalPolicy | None = None,
) -> m.Submit:
    """A submit with its options, and nothing to be done yet."""
    return m.Submit(
        priority=priority,
        deadline_s=deadline_s,
        retries=retries,
        timeout_s=timeout_s,
        labels=dict(sorted((labels or {}).items())),
        award=award,
        auction=auction,
        tailored=tailored,
        critics=sorted(set(critics)),
        on_stall=on_stall,
        replan=replan,
        budget=dict(sorted((budget or {}).items())),
        approval=approval,
    )


def plan_of(what: str | Plan | m.PlanSpec, input: Any) -> m.PlanSpec:
    """What is asked for as a plan, checked; a capability is its one subtask `main`. Raises NameRefused, PlanRefused."""
    if isinstance(what, str):
        plan = m.PlanSpec(subtasks={MAIN: m.SubtaskSpec(capability=what, input=_encoded(input))})
    elif input is not None:
        raise PlanRefused("A plan has no input of its own.", hint="Give the inputs to its subtasks.", path=[])
    else:
        plan = what.spec() if isinstance(what, Plan) else what
    _check(plan)
    return plan


async def fill_submit(options: m.Submit, what: What, input: Any, put: Put) -> m.Submit:
    """The submit with its capability or goal and input, or with its plan; `put` stores what is large. Raises NameRefused, PlanRefused."""
    if isinstance(what, Goal):
        return replace(options, goal=what.text, input=_input_of_goal(what, input))
    plan = plan_of(what, input)
    if isinstance(what, str):
        spec = plan.subtasks[MAIN]
        if len(spec.input) > INLINE_LIMIT:
            return replace(options, capability=what, input_blob=await put(bytes(spec.input)))
        return replace(options, capability=what, input=spec.input)
    for limit in LIFTED:
        plan = await _lift(plan, put, limit)
        body = encode(plan)
        if len(body) <= MAX_PLAN:
            break
    check_plan_size(len(body))
    if len(body) > INLINE_LIMIT:
        return replace(options, plan_blob=await put(body))
    return replace(options, plan=plan)


def _input_of_goal(goal: Goal, input: Any) -> Raw:
    raw = _encoded(input)
    _check(m.PlanSpec(subtasks={"goal": m.SubtaskSpec(capability="goal", input=raw)}))
    if not goal.text.strip():
        raise PlanRefused("The goal is empty.", hint="Say what is wanted.", path=[])
    if len(raw) > INLINE_LIMIT:
        raise PlanRefused(
            f"The input of a goal has {len(raw)} bytes, more than {INLINE_LIMIT}.", hint="Name where the data can be read.", path=[]
        )
    return raw


def _encoded(input: Any) -> Raw:
    if input is None:
        return m.EMPTY
    return input if isinstance(input, Raw) else encode_input(input)


def _check(plan: m.PlanSpec) -> None:
    check_plan(plan)
    for name, spec in plan.subtasks.items():
        if spec.input_blob is None and not _is_object(spec.input):
            raise PlanRefused(
                f"The input of {name!r} is no JSON object.", hint="Give an object whose keys are the handler's parameters.", path=[name]
            )


def _is_object(raw: Raw) -> bool:
    return bytes(memoryview(raw)[:16]).lstrip().startswith(b"{")


async def _lift(plan: m.PlanSpec, put: Put, limit: int) -> m.PlanSpec:
    """The plan without its inputs of more than `limit` bytes: each is stored, and `after` says what it refers to."""
    large = {name: spec for name, spec in plan.subtasks.items() if len(spec.input) > limit}
    if not large:
        return plan
    subtasks = dict(plan.subtasks)
    for name, spec in large.items():
        subtasks[name] = replace(spec, input=m.EMPTY, input_blob=await put(bytes(spec.input)), after=dependencies(spec))
    return replace(plan, subtasks=subtasks)


def encode_submit(task: TaskName, submit: m.Submit) -> bytes:
    """The submit's bytes, read back as a coordinator will read them. Raises TaskRefused when it would refuse them, TooLarge."""
    try:
        payload = encode(submit)
        decode("submit", payload)
    except (DecodeFailed, UnicodeEncodeError, TypeError) as error:
        reason = error.fields["reason"] if isinstance(error, DecodeFailed) else error
        raise TaskRefused(
            f"Task {task} cannot be submitted: {reason}.",
            hint="Correct the option that is named ($.name).",
            task=str(task),
            error=m.ErrorInfo(code="input", message=str(error)),
        ) from error
    if len(payload) > MESSAGE_LIMIT - ROOM:
        sizes = {
            name: len(encode(getattr(submit, name))) for name in ("labels", "critics", "award", "goal", "replan", "budget", "approval")
        }
        largest = max(sizes, key=lambda name: sizes[name])
        raise TooLarge(
            f"Task {task} cannot be submitted: its options have {len(payload)} bytes, most of them ({sizes[largest]}) the {largest}.",
            hint="Only inputs, plans and results may be large.",
            size=len(payload),
            limit=MESSAGE_LIMIT - ROOM,
        )
    return payload
