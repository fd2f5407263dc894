"""Any input that JSON can hold comes to the handler as it was written, whatever its keys."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from agentexecutor.schemas import PlanRefused, Ref
from agentexecutor.schemas.references import compose, encode_input, find_references

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
KEYS = st.one_of(TEXT, st.sampled_from(["$", "$$", "$ref", "$$ref", "$slice", "\\u0024ref", '"$ref"', "a/b~c"]))
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, KEYS)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20)
NAMES = st.sampled_from(["a", "b", "c"])


def never(name: str) -> Raw:
    raise AssertionError(f"nothing refers to {name}")


@given(VALUES)
def test_any_input_survives(value: Any) -> None:
    wire = encode_input(value)
    assert find_references(wire) == []
    filled, fills = compose(wire, never)
    assert json.loads(bytes(filled)) == value
    assert fills == []


@given(
    st.dictionaries(KEYS, st.one_of(VALUES, NAMES.map(Ref)), min_size=1, max_size=6), st.fixed_dictionaries(dict.fromkeys("abc", VALUES))
)
def test_references_become_the_results_and_the_rest_stays(value: dict[str, Any], results: dict[str, Any]) -> None:
    wire = encode_input(value)
    wanted = {key: results[item.target] if isinstance(item, Ref) else item for key, item in value.items()}
    assert sorted(found.subtask for found in find_references(wire)) == sorted(
        item.target for item in value.values() if isinstance(item, Ref)
    )
    filled, fills = compose(wire, lambda name: Raw(msgspec.json.encode(results[name])))
    assert json.loads(bytes(filled)) == wanted
    assert fills == []


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=5), st.data())
def test_a_path_of_keys_and_places_leads_to_the_part(result: dict[str, Any], data: st.DataObject) -> None:
    part: Any = result
    reference = Ref("a")
    while isinstance(part, dict | list) and part and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(part)) if isinstance(part, dict) else st.integers(0, len(part) - 1))
        part, reference = part[key], reference[key]
    filled, _ = compose(encode_input({"x": reference}), lambda _: Raw(msgspec.json.encode(result)))
    assert json.loads(bytes(filled)) == {"x": part}


@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]"$ref:,\\u0024 019.e'), max_size=40).map(str.encode))
def test_bytes_from_anywhere_raise_nothing_unforeseen(text: bytes) -> None:
    with suppress(PlanRefused):
        find_references(Raw(text))
    with suppress(PlanRefused):
        compose(Raw(text), lambda _: Raw(b"1"))
