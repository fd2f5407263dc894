"""What of a change is a body of its own when it is large, so that no record grows too large to be stored (docs/protocol.md section 8). Pure.

Who writes a record takes the parts out and stores them, who reads one puts them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_as, encode
from agentexecutor.schemas.messages import BlobRef, Message, SubtaskSpec

__all__ = ["PART_LIMIT", "Rest", "parts", "put_back", "references", "take_out"]

PART_LIMIT = 16_384
"""Bytes: a smaller part of a change stays where it is."""


class Rest(Message, frozen=True, kw_only=True):
    """The body behind `rest_blob`: what of a change may be long besides the subtasks and the revision."""

    why: list[r.Why] = []
    remove: list[str] = []
    again: list[str] = []
    shares: dict[str, tuple[int, int]] = {}


TYPES: Mapping[str, Any] = {"add_blob": dict[str, SubtaskSpec], "revision_blob": r.Revision, "rest_blob": Rest}
REST: Mapping[type, tuple[str, ...]] = {r.Planned: ("why", "remove", "again", "shares"), r.Proposed: ("why",)}


def parts(change: r.Change) -> dict[str, bytes]:
    """The large parts of a change, encoded, by the field that will name the body."""
    found: dict[str, bytes] = {}
    if isinstance(change, r.Planned):
        found["add_blob"] = encode(change.add)
    if isinstance(change, r.Proposed) and change.revision is not None:
        found["revision_blob"] = encode(change.revision)
    if type(change) in REST:
        found["rest_blob"] = encode(Rest(**{name: getattr(change, name) for name in REST[type(change)]}))
    return {name: body for name, body in found.items() if len(body) > PART_LIMIT}


def take_out(change: r.Change, stored: Mapping[str, BlobRef]) -> r.Change:
    """The change with these parts named by reference."""
    without: dict[str, Any] = dict(stored)
    if "add_blob" in stored:
        without["add"] = {}
    if "revision_blob" in stored:
        without["revision"] = None
    if "rest_blob" in stored:
        without |= {name: getattr(r.Planned(), name) for name in REST[type(change)]}
    return replace(change, **without)


def references(change: r.Change) -> dict[str, BlobRef]:
    """The bodies that a change names, by field."""
    if not isinstance(change, r.Planned | r.Proposed):
        return {}
    return {name: ref for name in TYPES if (ref := getattr(change, name, None)) is not None}


def put_back(change: r.Change, bodies: Mapping[str, bytes]) -> r.Change:
    """The change with the parts that these bodies hold. Raises DecodeFailed."""
    whole: dict[str, Any] = dict.fromkeys(bodies)
    for name, body in bodies.items():
        part = decode_as(TYPES[name], body)
        if name == "rest_blob":
            whole |= {field: getattr(part, field) for field in REST[type(change)]}
        else:
            whole[name.removesuffix("_blob")] = part
    return replace(change, **whole)
