"""Whether what one capability gives fits what another takes, by their JSON Schemas. Pure.

Only what schemas say about types, properties, items and enumerated values is compared; limits of numbers and texts are left to the handler.
Who says nothing fits everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Shape", "exactly"]

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
_MORE = 50
"""A chain of references is followed so far."""


@dataclass(frozen=True)
class Shape:
    """A JSON Schema, or a part of one, with the `root` that its references are looked up in."""

    schema: Any = None
    root: Any = None

    @classmethod
    def of(cls, schema: Any) -> Shape:
        """A whole schema; None says nothing."""
        return cls(schema, schema).resolved()

    def resolved(self) -> Shape:
        """The same behind its ``$ref``; one that leads nowhere says nothing."""
        schema = self.schema
        for _ in range(_MORE):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return Shape(schema if isinstance(schema, dict) else {}, self.root)
            schema = _look_up(self.root, schema["$ref"])
        return Shape({}, self.root)

    @property
    def title(self) -> str | None:
        """The name that the schema gives itself."""
        title = self.schema.get("title") if isinstance(self.schema, dict) else None
        return title if isinstance(title, str) else None

    @property
    def properties(self) -> dict[str, Shape]:
        """Of an object: its parts by name."""
        found = self.schema.get("properties") if isinstance(self.schema, dict) else None
        return {name: self.part(part) for name, part in found.items()} if isinstance(found, dict) else {}

    @property
    def required(self) -> list[str]:
        """Of an object: the parts that must be there."""
        found = self.schema.get("required") if isinstance(self.schema, dict) else None
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    def part(self, schema: Any) -> Shape:
        """A schema within this one."""
        return Shape(schema, self.root).resolved()

    def fits(self, wanted: Shape) -> bool:
        """Whether everything that this describes is also what is `wanted`, as far as the schemas tell."""
        return _Comparison().fits(self, wanted)


def exactly(value: Any) -> Shape:
    """The shape that only this value has."""
    return Shape({"const": value})


def _look_up(root: Any, reference: str) -> Any:
    if not reference.startswith("#"):
        return None
    part = root
    for step in reference.removeprefix("#").split("/")[1:]:
        part = part.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    return part


def _list(schema: Any, *words: str) -> list[Any]:
    return next((schema[word] for word in words if isinstance(schema.get(word), list)), [])


class _Comparison:
    """One question. A pair that is met again while it is compared fits, so that schemas may hold themselves."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}
        self._alive: list[tuple[Shape, Shape]] = []  # an id is a name only as long as its object lives

    def fits(self, given: Shape, wanted: Shape) -> bool:
        given, wanted = given.resolved(), wanted.resolved()
        if not (given.schema and wanted.schema):
            return True
        pair = (id(given.schema), id(wanted.schema))
        if pair not in self._known:
            self._alive.append((given, wanted))
            self._known[pair] = True
            self._known[pair] = self._compare(given, wanted)
        return self._known[pair]

    def _compare(self, given: Shape, wanted: Shape) -> bool:
        if branches := _branches(given):
            return all(self.fits(branch, wanted) for branch in branches)
        if branches := _branches(wanted):
            return any(self.fits(given, branch) for branch in branches)
        if parts := _list(wanted.schema, "allOf"):
            return all(self.fits(given, wanted.part(part)) for part in parts)
        if parts := _list(given.schema, "allOf"):
            return any(self.fits(given.part(part), wanted) for part in parts)
        if "const" in given.schema:
            return self._value_fits(given.schema["const"], wanted)
        return self._types_fit(given, wanted)

    def _value_fits(self, value: Any, wanted: Shape) -> bool:
        schema = wanted.schema
        if "const" in schema:
            return bool(value == schema["const"])
        if not _same_type(_TYPES.get(type(value)), schema.get("type")):
            return False
        if isinstance(value, list):
            first = _list(schema, "prefixItems")
            items = [*map(wanted.part, first), *(wanted.part(schema.get("items")) for _ in value[len(first) :])]
            return all(self.fits(exactly(item), shape) for item, shape in zip(value, items, strict=False))
        if isinstance(value, dict):
            known, more = wanted.properties, schema.get("additionalProperties")
            there = all(name in value for name in wanted.required) and (more is not False or all(name in known for name in value))
            return there and all(self.fits(exactly(item), known.get(name, wanted.part(more))) for name, item in value.items())
        return True

    def _types_fit(self, given: Shape, wanted: Shape) -> bool:
        if "const" in wanted.schema:
            return "type" not in given.schema
        if not _same_type(given.schema.get("type"), wanted.schema.get("type")):
            return False
        here, there = given.properties, wanted.properties
        if here and not all(name in here for name in wanted.required):
            return False
        if not all(self.fits(here[name], shape) for name, shape in there.items() if name in here):
            return False
        return all(
            self.fits(given.part(given.schema.get(word)), wanted.part(wanted.schema.get(word)))
            for word in ("items", "additionalProperties")
        )


def _branches(shape: Shape) -> list[Shape]:
    """The alternatives of a schema that has some: types, enumerated values, schemas."""
    if types := _list(shape.schema, "type"):
        return [Shape({**shape.schema, "type": kind}, shape.root) for kind in types]
    if values := _list(shape.schema, "enum"):
        return [exactly(value) for value in values]
    return [shape.part(branch) for branch in _list(shape.schema, "anyOf", "oneOf")]


def _same_type(given: Any, wanted: Any) -> bool:
    return given is None or wanted is None or given == wanted or (given == "integer" and wanted == "number")
