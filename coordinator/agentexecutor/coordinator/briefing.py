"""What a planner is told when it is asked, and whether its answer fits what is on offer (docs/protocol.md section 11). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from agentexecutor.coordinator.budgets import account, left
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.shapes import Shape
from agentexecutor.coordinator.versions import live
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode, to_rfc3339
from agentexecutor.schemas.errors import PlanRefused

__all__ = ["Briefing", "OfferLine", "PlannedSubtask", "brief", "check_offers"]

SHOWN = 8192
"""Bytes: a larger result is not told, only its size."""


class OfferLine(m.Message, frozen=True, kw_only=True, omit_defaults=False):
    """A capability on offer: by how many agents, with how many free slots, the least estimate and cost, and one of its schemas."""

    name: str
    agents: int
    free: int
    estimate_s: float | None = None
    cost: float = 0.0
    takes: dict[str, Any] | None = None
    gives: dict[str, Any] | None = None


class PlannedSubtask(m.Message, frozen=True, kw_only=True):
    """A subtask of the present plan."""

    capability: str
    state: str
    input: Raw = m.EMPTY
    after: list[str] = []
    plan_version: int = 1
    agent: str | None = None
    error: m.ErrorInfo | None = None
    took_s: float | None = None
    result: Raw | UnsetType = UNSET
    result_bytes: int | None = None


class PresentPlan(m.Message, frozen=True, kw_only=True, omit_defaults=False):
    """The plan as it stands."""

    subtasks: dict[str, PlannedSubtask]
    result: str | None = None


class Briefing(m.Message, frozen=True, kw_only=True, omit_defaults=False):
    """The input of a planner's subtask."""

    goal: str | None
    input: Raw
    why: list[r.Why]
    errors: list[str]
    version: int
    plan: PresentPlan
    feedback: list[r.FeedbackGiven]
    offers: list[OfferLine]
    spent: dict[str, float]
    left: dict[str, float]
    deadline: str | None


def brief(state: TaskState, planner: SubtaskState, offers: Sequence[OfferLine]) -> Raw:
    """The planner's input, as JSON text."""
    submit = state.submit or m.Submit()
    whys = planner.whys or []
    failed = [attempt.error.message for attempt in planner.attempts if attempt.error is not None]
    return Raw(
        encode(
            Briefing(
                goal=submit.goal,
                input=submit.input if submit.goal is not None else m.EMPTY,
                why=[why for why in whys if why.trigger not in ("nonsense", "repeated")],
                errors=[why.text for why in whys if why.trigger in ("nonsense", "repeated")] + failed,
                version=state.plan_version,
                plan=PresentPlan(subtasks={name: _told(subtask) for name, subtask in live(state).items()}, result=state.result_of),
                feedback=[given for given in state.feedback if given.sender],
                offers=[offer for offer in offers if offer.name != planner.spec.capability],
                spent=account(state),
                left=left(state),
                deadline=None if state.deadline is None else to_rfc3339(state.deadline),
            )
        )
    )


def _told(subtask: SubtaskState) -> PlannedSubtask:
    result: Raw | UnsetType = UNSET
    size: int | None = None
    if isinstance(subtask.result, m.BlobRef):
        size = subtask.result.bytes
    elif subtask.result is not None and len(subtask.result) > SHOWN:
        size = len(subtask.result)
    elif subtask.result is not None:
        result = subtask.result
    return PlannedSubtask(
        capability=subtask.spec.capability,
        state=subtask.state,
        input=subtask.spec.input,
        after=subtask.spec.after,
        plan_version=subtask.plan_version,
        agent=subtask.agent,
        error=subtask.error,
        took_s=subtask.took_s,
        result=result,
        result_bytes=size,
    )


def check_offers(add: Mapping[str, m.SubtaskSpec], offers: Sequence[OfferLine]) -> None:
    """Raises PlanRefused for a capability that nobody offers, and for an input that does not fit what its offer takes.

    `add`: what is to be done; of work that is kept nobody is needed any more.
    """
    by_name = {offer.name: offer for offer in offers}
    for name, spec in add.items():
        offer = by_name.get(spec.capability)
        if offer is None:
            known = ", ".join(sorted(by_name)[:30])
            raise PlanRefused(f"Nobody offers {spec.capability!r}, which {name!r} asks for.", hint=f"On offer are {known}.", path=[name])
        _check_input(name, spec, offer)


def misfits(plan: Mapping[str, m.SubtaskSpec], offers: Sequence[OfferLine]) -> list[str]:
    """What of a plan would be refused by those who offer it, in words."""
    by_name = {offer.name: offer for offer in offers}
    found = []
    for name, spec in plan.items():
        try:
            if spec.capability in by_name:
                _check_input(name, spec, by_name[spec.capability])
        except PlanRefused as error:
            found.append(error.message)
    return found


TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
}


def _check_input(name: str, spec: m.SubtaskSpec, offer: OfferLine) -> None:
    """The parameters' names, and the types of those that are no references: what a handler would refuse at once."""
    if offer.takes is None or spec.input_blob is not None or spec.split is not None:
        return
    takes = Shape.of(offer.takes).schema
    input = msgspec.json.decode(spec.input)
    if not isinstance(input, dict):
        raise PlanRefused(f"The input of {name!r} is no object.", path=[name])
    properties = takes.get("properties")
    required = takes.get("required")
    missing = [key for key in required if isinstance(key, str) and key not in input] if isinstance(required, list) else []
    if missing:
        raise PlanRefused(f"The input of {name!r} lacks {missing[0]!r}.", path=[name, missing[0]])
    if not isinstance(properties, dict):
        return
    for key, value in input.items():
        schema = properties.get(key)
        if schema is None and takes.get("additionalProperties") is False:
            raise PlanRefused(f"{name!r} takes no {key!r}; it takes {', '.join(properties)}.", path=[name, key])
        kind = str(schema.get("type")) if isinstance(schema, dict) else ""
        is_reference = isinstance(value, dict) and "$ref" in value
        if kind in TYPES and not is_reference and not _is(value, TYPES[kind]):
            raise PlanRefused(f"{key!r} in the input of {name!r} is no {kind}.", path=[name, key])


def _is(value: object, wanted: type | tuple[type, ...]) -> bool:
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
