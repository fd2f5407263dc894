"""Every message that was ever written must decode for ever, and the document must name what is sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from wire_samples import SAMPLES, document, in_full, kind_of, message_of

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import TYPES, decode, encode

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
CHANGES = {str(cls.__struct_config__.tag): cls for cls in r.Change.__args__}


def label(sample: Path) -> str:
    return sample.stem


def structs(root: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """A struct and all that it holds."""
    found: list[type[msgspec.Struct]] = []

    def walk(part: Any) -> None:
        if isinstance(part, msgspec.inspect.StructType) and part.cls not in found:
            found.append(part.cls)
            for field in part.fields:
                walk(field.type)
        for name in ("item_type", "value_type"):
            if hasattr(part, name):
                walk(getattr(part, name))
        for name in ("types", "item_types"):
            for item in getattr(part, name, ()):
                walk(item)

    walk(msgspec.inspect.type_info(root))
    return found


ROOTS: list[type[msgspec.Struct]] = [*TYPES.values(), v.TaskView, v.TasksView, v.AgentView, v.UnservedLine, v.Event]
ALL_STRUCTS = list(dict.fromkeys(cls for root in ROOTS for cls in structs(root)))


def differences(golden: Any, decoded: Any, at: str = "$") -> list[str]:
    """What stands in a sample and is missing or different in the message."""
    if isinstance(golden, dict) and isinstance(decoded, dict):
        return [line for key, item in golden.items() for line in differences(item, decoded.get(key, "missing"), f"{at}.{key}")]
    if isinstance(golden, list) and isinstance(decoded, list) and len(golden) == len(decoded):
        return [line for n, item in enumerate(golden) for line in differences(item, decoded[n], f"{at}[{n}]")]
    return [] if golden == decoded else [f"{at}: {golden!r} became {decoded!r}"]


def keys_by_struct(value: Any, into: dict[type, set[str]], golden: Any) -> None:
    """Which fields of which structs the samples set."""
    if isinstance(value, msgspec.Struct):
        into.setdefault(type(value), set()).update(golden)
        for name in golden:
            keys_by_struct(getattr(value, name, None), into, golden[name])
    elif isinstance(value, dict):
        for key, item in value.items():
            keys_by_struct(item, into, golden[key])
    elif isinstance(value, list):
        for item, part in zip(value, golden, strict=True):
            keys_by_struct(item, into, part)


def test_the_walk_sees_the_structs() -> None:
    assert {m.Submit, m.SubtaskSpec, m.Split, m.BlobRef, r.Record, r.LogEntry, r.Held, v.BidView} <= set(ALL_STRUCTS)
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 0}) == ["$.a[1].b: 2 became 3"]


def test_every_type_and_every_kind_of_change_has_a_sample() -> None:
    names = {sample.stem for sample in SAMPLES}
    assert names >= set(TYPES)
    assert names >= {f"record.{kind}" for kind in CHANGES}
    assert {kind_of(sample) for sample in SAMPLES} == set(TYPES)


@pytest.mark.parametrize("sample", SAMPLES, ids=label)
def test_a_sample_decodes_and_loses_nothing(sample: Path) -> None:
    assert differences(document(sample), in_full(message_of(sample))) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=label)
def test_a_sample_encodes_to_an_equal_message(sample: Path) -> None:
    message = message_of(sample)
    again = decode(kind_of(sample), encode(message))
    assert type(again) is type(message)
    assert in_full(again) == in_full(message)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_record_sample_holds_the_kind_that_it_is_named_for(kind: str) -> None:
    (sample,) = [sample for sample in SAMPLES if sample.stem == f"record.{kind}"]
    record = message_of(sample)
    assert isinstance(record, r.Record)
    assert CHANGES[kind] in {type(change) for change in record.changes}


def test_the_samples_set_every_field_of_every_message() -> None:
    seen: dict[type, set[str]] = {}
    for sample in SAMPLES:
        keys_by_struct(message_of(sample), seen, document(sample))
    on_the_wire = [cls for root in TYPES.values() for cls in structs(root)]
    unset = {cls.__name__: missing for cls in on_the_wire if (missing := set(cls.__struct_fields__) - seen.get(cls, set()))}
    assert unset == {}


@pytest.mark.parametrize("cls", ALL_STRUCTS, ids=lambda cls: cls.__name__)
def test_every_field_is_documented(cls: type[msgspec.Struct]) -> None:
    missing = [name for name in cls.__struct_encode_fields__ if not re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", DOCUMENT)]
    assert missing == [], "write it down in docs/protocol.md first"


@pytest.mark.parametrize("kind", [*TYPES, "chunk", *CHANGES])
def test_every_type_and_kind_is_documented(kind: str) -> None:
    assert re.search(rf"`{kind}`|\*\*{kind}\*\*", DOCUMENT), f"docs/protocol.md does not name {kind}"
