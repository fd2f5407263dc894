"""References between subtasks: how an input names another subtask's result, and how it is filled in (docs/protocol.md sections 5 and 7).

On the wire a reference is ``{"$ref": "name/path"}``, perhaps with ``"$slice": [from, to]``; a literal key that begins with ``$`` has one ``$`` more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.messages import NULL, BlobRef, Fill

__all__ = ["Found", "Ref", "compose", "encode_input", "find_references", "take"]

_MARK = b'"$'


class Ref(msgspec.Struct, frozen=True):
    """Stands in an input for the result of another subtask of the plan, or for a part of it: ``Ref("load")``, ``Ref("load/rows/0")``."""

    target: str = msgspec.field(name="$ref")

    def __getitem__(self, key: str | int) -> Ref:
        """A part of the result: ``Ref("load")["rows"][0]``."""
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Ref(f"{self.target}/{step}")


class Found(NamedTuple):
    """A reference found in an input: where it stands, what it names."""

    at: tuple[str | int, ...]
    subtask: str
    path: tuple[str, ...]
    slice: tuple[int, int] | None


def encode_input(value: Any) -> Raw:
    """The JSON text of an input that a user wrote, its Refs and literal ``$`` keys as the wire has them.

    Raises PlanRefused when the value has no JSON form.
    """
    try:
        raw = msgspec.json.encode(value, order="deterministic")
        if _MARK in raw:
            raw = msgspec.json.encode(_escape(value), order="deterministic")
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise PlanRefused(f"The input has no JSON form: {error}.", hint="Use what JSON knows, or msgspec structs.") from error
    return Raw(raw)


def _escape(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"$ref": value.target}
    if isinstance(value, dict):
        return {("$" + k if isinstance(k, str) and k.startswith("$") else k): _escape(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(item) for item in value]
    if isinstance(value, str | bytes | int | float | bool | Raw) or value is None:
        return value
    return _escape(msgspec.to_builtins(value))


def find_references(raw: Raw | bytes) -> list[Found]:
    """All references in an input, in their order. Raises PlanRefused for one that is not well formed."""
    if b'"$ref"' not in bytes(raw):
        return []
    return list(_find(msgspec.json.decode(raw), ()))


def _find(value: Any, at: tuple[str | int, ...]) -> Iterator[Found]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield _parse(value, at)
            return
        for key, item in value.items():
            yield from _find(item, (*at, key[1:] if key.startswith("$$") else key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, (*at, index))


def _parse(value: dict[str, Any], at: tuple[str | int, ...]) -> Found:
    target, cut = value["$ref"], value.get("$slice")
    well_formed = (
        isinstance(target, str)
        and set(value) <= {"$ref", "$slice"}
        and (cut is None or (isinstance(cut, list) and len(cut) == 2 and all(isinstance(n, int) and n >= 0 for n in cut)))
    )
    if not well_formed:
        raise PlanRefused(
            f"{value!r} is not a reference.",
            hint='Write {"$ref": "name/path"}; a literal key $ref is written $$ref.',
            at=list(at),
        )
    subtask, *path = target.split("/")
    return Found(
        at, subtask, tuple(step.replace("~1", "/").replace("~0", "~") for step in path), None if cut is None else (cut[0], cut[1])
    )


def take(value: Any, path: tuple[str, ...] | list[str], cut: tuple[int, int] | None = None) -> Any:
    """The part of a result at `path`, cut to `cut`. Raises PlanRefused when it is not there."""
    for depth, step in enumerate(path):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise PlanRefused(
                f"The result has nothing at {'/'.join(path[: depth + 1])!r}.",
                hint="Correct the path of the reference.",
                path=list(path),
            ) from None
    if cut is None:
        return value
    if not isinstance(value, list):
        raise PlanRefused(f"The result at {'/'.join(path)!r} is no list, so no part of it can be taken.", path=list(path))
    return value[cut[0] : cut[1]]


def compose(raw: Raw, lookup: Callable[[str], Raw | BlobRef]) -> tuple[Raw, list[Fill]]:
    """Fill the references of an input: small results in place, large ones (BlobRef) as a Fill for the agent.

    Raises PlanRefused when a reference points at nothing.
    """
    if _MARK not in bytes(raw):
        return raw, []
    fills: list[Fill] = []
    value = _fill(msgspec.json.decode(raw), (), lookup, fills)
    return Raw(msgspec.json.encode(value)), fills


def _fill(value: Any, at: tuple[str | int, ...], lookup: Callable[[str], Raw | BlobRef], fills: list[Fill]) -> Any:
    if isinstance(value, dict):
        if "$ref" not in value:
            plain = {(key[1:] if key.startswith("$$") else key): item for key, item in value.items()}
            return {key: _fill(item, (*at, key), lookup, fills) for key, item in plain.items()}
        found = _parse(value, at)
        result = lookup(found.subtask)
        if isinstance(result, BlobRef):
            fills.append(Fill(at=list(at), blob=result, path=list(found.path), slice=found.slice))
            return NULL
        if not found.path and found.slice is None:
            return result
        return take(msgspec.json.decode(result), found.path, found.slice)
    if isinstance(value, list):
        return [_fill(item, (*at, index), lookup, fills) for index, item in enumerate(value)]
    return value
