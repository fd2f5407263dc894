"""A small checker for the part of JSON Schema that our own schemas use (draft 2020-12, and draft 07 in the AsyncAPI document).

A keyword that it does not know is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, limit: bool(value == limit),
    "enum": lambda value, limit: value in limit,
    "minimum": lambda value, limit: bool(value >= limit),
    "maximum": lambda value, limit: bool(value <= limit),
    "exclusiveMinimum": lambda value, limit: bool(value > limit),
    "exclusiveMaximum": lambda value, limit: bool(value < limit),
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "pattern": lambda value, limit: re.search(limit, value, re.ASCII) is not None,
}
_WORDS = {"$schema", "$id", "$defs", "title", "description", "default"}
_WALKED = {"$ref", "type", "properties", "required", "additionalProperties", "items", "prefixItems", "additionalItems", "anyOf", "not"}


def problems(schema: dict[str, Any], value: Any, root: dict[str, Any] | None = None, at: str = "$") -> list[str]:
    """Why `value` does not fit `schema`; empty when it does."""
    root = schema if root is None else root
    unknown = set(schema) - _WORDS - _WALKED - set(_TESTS)
    assert not unknown, f"the checker does not know {sorted(unknown)}"
    if "type" in schema and not _TYPES[schema["type"]](value):
        return [f"{at}: {value!r} is no {schema['type']}"]
    found = [
        f"{at}: {value!r} breaks {word} {schema[word]!r}"
        for word, test in _TESTS.items()
        if word in schema and not test(value, schema[word])
    ]
    if "$ref" in schema:
        found += problems(_resolve(schema["$ref"], root), value, root, at)
    if "anyOf" in schema and all(problems(branch, value, root, at) for branch in schema["anyOf"]):
        found.append(f"{at}: {value!r} fits no branch of anyOf")
    if "not" in schema and not problems(schema["not"], value, root, at):
        found.append(f"{at}: {value!r} is excluded")
    if isinstance(value, dict):
        found += _in_object(schema, value, root, at)
    if isinstance(value, list):
        found += _in_array(schema, value, root, at)
    return found


def _in_object(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    found = [f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value]
    known = schema.get("properties", {})
    for name, item in value.items():
        part = known.get(name, schema.get("additionalProperties", {}))
        found += problems(part, item, root, f"{at}.{name}")
    return found


def _in_array(schema: dict[str, Any], value: list[Any], root: dict[str, Any], at: str) -> list[str]:
    first, rest = schema.get("prefixItems", []), schema.get("items", {})
    if isinstance(rest, list):  # draft 07's words
        first, rest = rest, schema.get("additionalItems", {})
    found = [line for n, (part, item) in enumerate(zip(first, value, strict=False)) for line in problems(part, item, root, f"{at}[{n}]")]
    for n, item in enumerate(value[len(first) :], len(first)):
        found += [f"{at}[{n}]: one too many"] if rest is False else problems(rest, item, root, f"{at}[{n}]")
    return found


def _resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    assert reference.startswith("#"), reference
    part = root
    for step in reference.split("/")[1:]:
        part = part[step]
    return part
