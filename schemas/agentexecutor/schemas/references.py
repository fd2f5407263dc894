"""References between subtasks: how an input names another subtask's result, and how it is filled in (docs/protocol.md sections 5 and 7).

On the wire a reference is ``{"$ref": "name/path"}``, perhaps with ``"$slice": [from, to]``. A literal key that begins with ``$`` has one
``$`` more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec import Raw

from agentexecutor.schemas.bodies import MAX_BODY_DEPTH, lost_number, why_unreadable
from agentexecutor.schemas.errors import DecodeFailed, PlanRefused
from agentexecutor.schemas.messages import NULL, BlobRef, Fill
from agentexecutor.schemas.names import new_id

__all__ = ["CHUNK", "MAX_BODY", "Found", "Ref", "check_ref", "compose", "encode_input", "find_references", "take"]

CHUNK = 262_144
"""Bytes of every chunk of a body but the last."""
MAX_BODY = 256 * 1024 * 1024
"""Bytes: no larger body is read."""
_NO_JSON = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What encoding and decoding raise on values that JSON, or this machine's decoder, cannot hold."""


class Ref:
    """Stands in an input for the result of another subtask of the plan, or for a part of it: ``Ref("load")``, ``Ref("load/rows/0")``."""

    __slots__ = ("_target",)

    # `__getitem__` alone would make a Ref look like an endless sequence.
    __iter__: ClassVar[None] = None
    __contains__: ClassVar[None] = None

    def __init__(self, target: str) -> None:
        self._target = target

    @property
    def target(self) -> str:
        """The subtask's name, then the path, joined by ``/``."""
        return self._target

    def __getitem__(self, key: str | int) -> Ref:
        """A part of the result: ``Ref("load")["rows"][0]``."""
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Ref(f"{self.target}/{step}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.target == self.target

    def __hash__(self) -> int:
        return hash((Ref, self.target))

    def __repr__(self) -> str:
        return f"Ref({self.target!r})"


class Found(NamedTuple):
    """A reference found in an input: where it stands, what it names."""

    at: tuple[str | int, ...]
    subtask: str
    path: tuple[str, ...]
    slice: tuple[int, int] | None


def encode_input(value: Any) -> Raw:
    """The JSON text of an input that a user wrote, its Refs and literal ``$`` keys as the wire has them.

    Raises PlanRefused when the value has no JSON form or nests too deep.
    """
    try:
        raw = _encode_as_it_is(value)
        if raw is None or _may_hold_marks(raw):
            raw = msgspec.json.encode(_escaped(value), order="deterministic")
    except _NO_JSON as error:
        raise PlanRefused(f"The input has no JSON form: {error}.", hint="Use what JSON knows, or msgspec structs.") from error
    if number := lost_number(value, raw):
        raise PlanRefused(f"The input holds {number}, which JSON does not know.", hint="Send None, or text.")
    if reason := why_unreadable(raw, MAX_BODY_DEPTH):
        raise PlanRefused(f"The input cannot be sent: {reason}.", hint="Flatten it, or send it as text.")
    return Raw(raw)


def _encode_as_it_is(value: Any) -> bytes | None:
    """The quick way; None when it does not go, as with keys that are numbers."""
    try:
        return msgspec.json.encode(value, enc_hook=_as_reference, order="deterministic")
    except TypeError:
        return None


def _as_reference(value: Any) -> dict[str, str]:
    if isinstance(value, Ref):
        return {"$ref": value.target}
    raise TypeError(f"it holds a {type(value).__name__}")


def _escaped(value: Any) -> Any:
    """`value` in plain types, one ``$`` more on literal keys. Refs are kept apart while that is done, wherever they stand."""
    hole = new_id()
    kept: list[Any] = []

    def keep(item: Any) -> dict[str, int]:
        kept.append(item if isinstance(item, Raw) else _as_reference(item))
        return {hole: len(kept) - 1}

    def escape(item: Any) -> Any:
        if isinstance(item, dict):
            if hole in item:
                return kept[item[hole]]
            return {("$" + key if key.startswith("$") else key): escape(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [escape(inner) for inner in item]
        return item

    return escape(msgspec.to_builtins(value, enc_hook=keep, str_keys=True, order="deterministic"))


def _may_hold_marks(raw: bytes) -> bool:
    r"""Whether a key may begin with ``$``, which JSON may also write ``\u0024``."""
    return b'"$' in raw or b"\\u0024" in raw


def _decode(raw: Raw | bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except _NO_JSON as error:
        raise PlanRefused(f"The input is not JSON that can be read: {error}.", hint="Correct it.") from error


def find_references(raw: Raw | bytes) -> list[Found]:
    """All references in an input, in their order. Raises PlanRefused for one that is not well formed, or when the input cannot be read."""
    if not _may_hold_marks(bytes(raw)):
        return []
    value = _decode(raw)
    try:
        return list(_find(value, ()))
    except RecursionError as error:
        raise PlanRefused("The input nests too deep.", hint="Flatten it, or send it as text.") from error


def _find(value: Any, at: tuple[str | int, ...]) -> Iterator[Found]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield _parse(value, at)
            return
        for key, item in value.items():
            yield from _find(item, (*at, _literal(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, (*at, index))


def _literal(key: str) -> str:
    return key[1:] if key.startswith("$$") else key


def _parse(value: dict[str, Any], at: tuple[str | int, ...]) -> Found:
    target, cut = value["$ref"], value.get("$slice")
    if not isinstance(target, str) or not set(value) <= {"$ref", "$slice"} or not (cut is None or _is_slice(cut)):
        raise PlanRefused(
            f"{value!r} is not a reference.",
            hint='Write {"$ref": "name/path"}; a literal key $ref is written $$ref.',
            at=list(at),
        )
    subtask, *path = target.split("/")
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in path)
    return Found(at, subtask, steps, None if cut is None else (cut[0], cut[1]))


def _is_slice(cut: Any) -> bool:
    pair = 2
    return isinstance(cut, list) and len(cut) == pair and all(type(n) is int and n >= 0 for n in cut)


def check_ref(ref: BlobRef) -> None:
    """A peer's word for a body: refuse (DecodeFailed) what would be read without end."""
    chunks = max(1, -(-ref.bytes // CHUNK))
    if ref.bytes > MAX_BODY or ref.chunks != chunks:
        raise DecodeFailed(
            f"{ref.bytes} bytes in {ref.chunks} chunks is no body that is read here.",
            hint=f"Chunks hold {CHUNK} bytes, a body up to {MAX_BODY}.",
            kind="blob",
            reason="size",
        )


def take(value: Any, path: tuple[str, ...] | list[str], cut: tuple[int, int] | None = None) -> Any:
    """The part of a result at `path`, cut to `cut`. Raises PlanRefused when it is not there."""
    for depth, step in enumerate(path):
        try:
            value = value[_index(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise PlanRefused(
                f"The result has nothing at {'/'.join(path[: depth + 1])!r}.",
                hint="Correct the path of the reference.",
                path=list(path),
            ) from None
    if cut is None:
        return value
    if not isinstance(value, list):
        raise PlanRefused(
            f"The result at {'/'.join(path)!r} is no list, so no part of it can be taken.",
            hint="Correct the path of the reference.",
            path=list(path),
        )
    return value[cut[0] : cut[1]]


def _index(step: str) -> int:
    """A place in a list, counted from 0: digits only, so that every language agrees."""
    if not (step.isascii() and step.isdigit()):
        raise ValueError(step)
    return int(step)


def compose(raw: Raw, lookup: Callable[[str], Raw | BlobRef]) -> tuple[Raw, list[Fill]]:
    """Fill the references of an input: small results in place, large ones (BlobRef) as a Fill for the agent.

    Raises PlanRefused when a reference points at nothing, or when the input or a result cannot be read.
    """
    if not _may_hold_marks(bytes(raw)):
        return raw, []
    fills: list[Fill] = []
    value = _decode(raw)
    try:
        return Raw(msgspec.json.encode(_fill(value, (), lookup, fills))), fills
    except _NO_JSON as error:
        raise PlanRefused(f"The input cannot be filled in: {error}.", hint="Flatten it, or send it as text.") from error


def _fill(value: Any, at: tuple[str | int, ...], lookup: Callable[[str], Raw | BlobRef], fills: list[Fill]) -> Any:
    if isinstance(value, dict):
        if "$ref" not in value:
            plain = {_literal(key): item for key, item in value.items()}
            return {key: _fill(item, (*at, key), lookup, fills) for key, item in plain.items()}
        found = _parse(value, at)
        result = lookup(found.subtask)
        if isinstance(result, BlobRef):
            fills.append(Fill(at=list(at), blob=result, path=list(found.path), slice=found.slice))
            return NULL
        if not found.path and found.slice is None:
            return result
        return take(_decode(result), found.path, found.slice)
    if isinstance(value, list):
        return [_fill(item, (*at, index), lookup, fills) for index, item in enumerate(value)]
    return value
