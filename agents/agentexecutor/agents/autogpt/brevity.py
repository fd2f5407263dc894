"""A JSON Schema in few words, for a prompt: ``{path: string, max_bytes?: integer}``. Pure; what it cannot say it calls ``any``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["description_of", "shape_text"]

MAX_DEPTH = 4
REFERENCE = "#/$defs/"


def shape_text(schema: Mapping[str, Any] | None) -> str:
    """What fits the schema."""
    return "any" if schema is None else _text(schema, _defs(schema), 0)


def description_of(schema: Mapping[str, Any] | None) -> str:
    """What the schema says about itself: of a handler's input, its docstring."""
    resolved = {} if schema is None else _resolved(schema, _defs(schema))
    said = resolved.get("description")
    return said if isinstance(said, str) else ""


def _defs(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    defs = schema.get("$defs")
    return defs if isinstance(defs, Mapping) else {}


def _resolved(schema: Any, defs: Mapping[str, Any]) -> Mapping[str, Any]:
    for _hop in range(MAX_DEPTH):
        ref = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(ref, str):
            break
        schema = defs.get(ref.removeprefix(REFERENCE))
    return schema if isinstance(schema, Mapping) else {}


def _text(schema: Any, defs: Mapping[str, Any], depth: int) -> str:
    if depth > MAX_DEPTH:
        return "any"
    known = _resolved(schema, defs)
    choices = known.get("anyOf") or known.get("oneOf")
    if isinstance(choices, list):
        return " | ".join(dict.fromkeys(_text(one, defs, depth + 1) for one in choices))
    if isinstance(known.get("enum"), list):
        return " | ".join(msgspec.json.encode(value).decode() for value in known["enum"])
    kind = known.get("type")
    if kind == "array":
        return f"[{_text(known.get('items'), defs, depth + 1)}, ...]"
    if kind == "object" and isinstance(known.get("properties"), Mapping):
        return _object_text(known, defs, depth)
    return " | ".join(map(str, kind)) if isinstance(kind, list) else kind if isinstance(kind, str) else "any"


def _object_text(known: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> str:
    required = known.get("required") or []
    parts = [f"{name}{'' if name in required else '?'}: {_text(one, defs, depth + 1)}" for name, one in known["properties"].items()]
    return "{" + ", ".join(parts) + "}"
