"""Inputs and results put together from others: filling references, cutting shares, joining. Pure; bodies that came by reference are passed in.

Joining works on the JSON text, so that megabytes are copied and not decoded. What does not fit raises PlanRefused (see `refusal_of`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from agentexecutor.coordinator.machine import lookup
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.split import list_reference
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT, encode
from agentexecutor.schemas.errors import AgentExecutorError, PlanRefused
from agentexecutor.schemas.references import compose, take

__all__ = [
    "LARGE",
    "fill_input",
    "fitting_feedback",
    "gather",
    "join_lists",
    "list_length",
    "list_of_split",
    "refusal_of",
]

LARGE = 1_000_000
"""Bytes: work on larger bodies goes to a thread, the loop has leases to renew."""


def refusal_of(error: Exception) -> m.ErrorInfo:
    """What a subtask fails with when its input cannot be put together."""
    text = str(error) if isinstance(error, AgentExecutorError) else f"A body is not the JSON that it should be: {error}."
    return m.ErrorInfo(code="input", message=text)


def fitting_feedback(feedback: list[m.FeedbackMessage]) -> list[m.FeedbackMessage]:
    """The newest feedback, as much as an award has room for."""
    kept: list[m.FeedbackMessage] = []
    size = 0
    for given in reversed(feedback):
        size += len(encode(given))
        if size > INLINE_LIMIT:
            break
        kept.append(given)
    return kept[::-1]


def fill_input(state: TaskState, name: str, raw: Raw) -> tuple[Raw, list[m.Fill]]:
    """The complete input of subtask `name` from its text `raw`: its share cut out, references filled, large results as Fills."""
    subtask = state.subtasks[name]
    if subtask.spec.input_blob is not None and subtask.shares is not None:
        parent = state.subtasks[subtask.parent or ""]
        if parent.spec.split is not None:
            raw = _share(raw, parent.spec.split.over, subtask.shares)
    return compose(raw, lambda other: lookup(state, other))


def _share(raw: Raw, over: str, part: tuple[int, int]) -> Raw:
    """One share of an input that came by reference."""
    value = msgspec.json.decode(raw)
    held = list_reference(raw, over)
    if isinstance(held, list):
        value[over] = held[part[0] : part[1]]
    elif isinstance(held, dict) and "$ref" in held:
        start = held.get("$slice", [0, 0])[0]
        value[over] = {"$ref": held["$ref"], "$slice": [start + part[0], start + part[1]]}
    return Raw(msgspec.json.encode(value))


def list_of_split(state: TaskState, raw: Raw, over: str) -> tuple[Raw, m.Fill | None]:
    """The list that a subtask is to be split over; a Fill when it is (a part of) a large result."""
    held = Raw(msgspec.json.encode(list_reference(raw, over)))
    value, fills = compose(held, lambda other: lookup(state, other))
    return value, fills[0] if fills and not fills[0].at else None


def list_length(raw: Raw, fill: m.Fill | None = None) -> int:
    """Items in a list, or in the part of a large result that `fill` names. Raises PlanRefused when it is no list."""
    if fill is not None and (fill.path or fill.slice):
        value = take(msgspec.json.decode(raw), fill.path, fill.slice)
        if isinstance(value, list):
            return len(value)
    else:
        try:
            return len(msgspec.json.decode(raw, type=list[Raw]))
        except msgspec.ValidationError:
            pass
    raise PlanRefused("What is to be split over is no list.", hint="Name a key of the input that holds a list.", path=[])


def join_lists(parts: Mapping[str, Raw | bytes]) -> bytes:
    """The lists one after another, as one list. A part that is null (skipped) counts as empty; raises PlanRefused for anything else."""
    inner = []
    for name, part in parts.items():
        text = bytes(part).strip()
        if text == b"null":
            continue
        if not (text.startswith(b"[") and text.endswith(b"]")):
            raise PlanRefused(
                f"The result of {name!r} is no list, so the shares cannot be joined.", hint="Name a `merge` capability.", path=[name]
            )
        if body := text[1:-1].strip():
            inner.append(body)
    return b"[" + b",".join(inner) + b"]"


def gather(parts: Mapping[str, Raw | bytes]) -> bytes:
    """An object of all parts by name."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(part) for name, part in parts.items()) + b"}"
