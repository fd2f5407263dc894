"""JSON Schema (draft 2020-12) of every message, made from the structs, so that the two cannot differ. Pure: structs in, dicts out.

For documents that hold all schemas in one place and know draft 07 only (AsyncAPI), `shared_schemas` writes the same in its words.
msgspec's own `schema` gives up on `Raw` defaults and knows no `$id`, hence the walk over `msgspec.inspect` here. Fields that a schema does
not name are allowed, and so are changes of an unknown kind: readers ignore what they do not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as mi

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import TYPES, encode

__all__ = ["DIALECT", "VIEWS", "Schema", "export_schemas", "schema_of", "shared_schemas"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

VIEWS: dict[str, type[m.Message]] = {
    "plan": m.PlanSpec,
    "log-entry": r.LogEntry,
    "task-view": v.TaskView,
    "state-view": v.StateView,
    "tasks-view": v.TasksView,
    "task-line": v.TaskLine,
    "agent-view": v.AgentView,
    "unserved-line": v.UnservedLine,
    "forecast": v.Forecast,
    "event": v.Event,
}
"""What is no message of its own, but stands in files, in answers and in what the programs print."""

Schema = dict[str, Any]


def export_schemas() -> dict[str, Schema]:
    """Name → schema: one for each Ae-Type, one for each of `VIEWS`."""
    return {name: schema_of(name, cls) for name, cls in {**TYPES, **VIEWS}.items()}


def schema_of(name: str, cls: type[m.Message]) -> Schema:
    """The schema of one struct; the structs that it holds stand under ``$defs``."""
    walk = _Walk(cls)
    body = walk.struct(_inspected(cls))
    made: Schema = {"$schema": DIALECT, "$id": f"urn:agentexecutor:v1:{name}", **body, "title": name}
    if walk.definitions:
        made["$defs"] = dict(sorted(walk.definitions.items()))
    return made


def shared_schemas(classes: Iterable[type[m.Message]], at: str) -> dict[str, Schema]:
    """Class name → schema, in draft 07, of these structs and all that they hold; they refer to each other under `at`."""
    walk = _Walk(at=at, draft07=True)
    for cls in classes:
        walk.reference(_inspected(cls))
    return dict(sorted(walk.definitions.items()))


def _inspected(cls: type[m.Message]) -> mi.StructType:
    found = mi.type_info(cls)
    if not isinstance(found, mi.StructType):
        raise TypeError(f"{cls!r} is no struct")
    return found


class _Walk:
    """From inspected types to schemas; collects the structs on its way."""

    def __init__(self, root: type[m.Message] | None = None, *, at: str = "#/$defs/", draft07: bool = False) -> None:
        self.root = root
        self.at = at
        self.draft07 = draft07
        self.definitions: dict[str, Schema] = {}

    def struct(self, found: mi.StructType) -> Schema:
        """An object with its fields; a tagged struct names its tag."""
        properties: Schema = {}
        required: list[str] = []
        if found.tag_field is not None:
            properties[found.tag_field] = {"const": found.tag}
            required.append(found.tag_field)
        for field in found.fields:
            properties[field.encode_name] = {**self.type(field.type), **_default(field)}
            if field.required:
                required.append(field.encode_name)
        return {
            "title": found.cls.__name__,
            "description": inspect.cleandoc(found.cls.__doc__ or ""),
            "type": "object",
            "properties": properties,
            "required": required,
        }

    def type(self, found: mi.Type) -> Schema:
        """The schema of any type that messages use; TypeError for one that is new to this walk."""
        make = _MAKERS.get(type(found))
        if make is None:
            raise TypeError(f"no JSON Schema is known for {type(found).__name__}")
        return make(self, found)

    def reference(self, found: mi.StructType) -> Schema:
        name = found.cls.__name__
        if found.cls is self.root:
            return {"$ref": "#"}
        if name not in self.definitions:
            self.definitions[name] = {}  # before its fields are walked: structs may hold themselves
            self.definitions[name] = self.struct(found)
        return {"$ref": f"{self.at}{name}"}

    def union(self, found: mi.UnionType) -> Schema:
        branches = [self.type(item) for item in found.types]
        tags = [item.tag for item in found.types if isinstance(item, mi.StructType) and item.tag is not None]
        if tags:
            branches.append(
                {
                    "description": "A kind that this version does not know: skipped.",
                    "type": "object",
                    "properties": {"kind": {"type": "string", "not": {"enum": tags}}},
                    "required": ["kind"],
                }
            )
        return {"anyOf": branches}


def _default(field: mi.Field) -> Schema:
    if field.default_factory is not NODEFAULT:
        return {"default": field.default_factory()}
    if field.default is NODEFAULT:
        return {}
    return {"default": msgspec.json.decode(encode(field.default))}


def _limits(names: Mapping[str, str]) -> Callable[[mi.Type], Schema]:
    """Reads the limits of an inspected type under their JSON Schema names."""

    def read(found: mi.Type) -> Schema:
        return {word: limit for name, word in names.items() if (limit := getattr(found, name)) is not None}

    return read


_number = _limits({"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "multiple_of": "multipleOf"})
_text = _limits({"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"})
_items = _limits({"min_length": "minItems", "max_length": "maxItems"})


def _tuple(walk: _Walk, found: mi.TupleType) -> Schema:
    first, rest = ("items", "additionalItems") if walk.draft07 else ("prefixItems", "items")
    count = len(found.item_types)
    return {"type": "array", first: [walk.type(item) for item in found.item_types], rest: False, "minItems": count, "maxItems": count}


_MAKERS: dict[type[mi.Type], Callable[[_Walk, Any], Schema]] = {
    mi.AnyType: lambda _, __: {},
    mi.RawType: lambda _, __: {"description": "Any JSON."},
    mi.NoneType: lambda _, __: {"type": "null"},
    mi.BoolType: lambda _, __: {"type": "boolean"},
    mi.IntType: lambda _, found: {"type": "integer", **_number(found)},
    mi.FloatType: lambda _, found: {"type": "number", **_number(found)},
    mi.StrType: lambda _, found: {"type": "string", **_text(found)},
    mi.LiteralType: lambda _, found: {"enum": list(found.values)},
    mi.ListType: lambda walk, found: {"type": "array", "items": walk.type(found.item_type), **_items(found)},
    mi.TupleType: _tuple,
    mi.DictType: lambda walk, found: {"type": "object", "additionalProperties": walk.type(found.value_type)},
    mi.StructType: lambda walk, found: walk.reference(found),
    mi.UnionType: lambda walk, found: walk.union(found),
}
