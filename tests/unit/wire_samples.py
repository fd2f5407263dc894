"""The golden samples of tests/golden/wire, by Ae-Type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import decode

FOLDER = Path(__file__).parents[1] / "golden" / "wire"
SAMPLES = sorted(FOLDER.glob("*.json"))


def kind_of(sample: Path) -> str:
    """``record.held.json`` is a message of type ``record``."""
    return sample.name.split(".")[0]


def message_of(sample: Path) -> m.Message:
    message = decode(kind_of(sample), sample.read_bytes())
    assert message is not None, f"{sample.name} begins with no known Ae-Type"
    return message


def document(sample: Path) -> Any:
    return json.loads(sample.read_bytes())


def in_full(value: Any) -> Any:
    """A message as plain JSON values, defaults written out."""
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | {name: in_full(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: in_full(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_full(item) for item in value]
    return value
