"""The exported JSON Schemas: they are complete, they accept what is sent and refuse what the decoder refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from json_schema import problems
from wire_samples import SAMPLES, document, in_full, kind_of, message_of

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import TYPES, decode, encode
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.export import DIALECT, VIEWS, export_schemas, schema_of

SCHEMAS = export_schemas()


def label(sample: Path) -> str:
    return sample.stem


def test_there_is_one_for_every_type_and_view() -> None:
    assert set(SCHEMAS) == {*TYPES, *VIEWS}
    assert not set(TYPES) & set(VIEWS)
    assert json.loads(json.dumps(SCHEMAS)) == SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_says_what_it_is(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == DIALECT
    assert schema["$id"] == f"urn:agentexecutor:v1:{name}"
    assert schema["title"] == name
    assert schema["description"].strip()
    for definition in schema.get("$defs", {}).values():
        assert definition["description"].strip()
        assert definition["type"] == "object"


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_has_every_field(name: str) -> None:
    cls = {**TYPES, **VIEWS}[name]
    fields = msgspec.structs.fields(cls)
    assert set(SCHEMAS[name]["properties"]) == {field.encode_name for field in fields}
    assert set(SCHEMAS[name]["required"]) == {field.encode_name for field in fields if field.required}


@pytest.mark.parametrize("sample", SAMPLES, ids=label)
def test_it_accepts_the_golden_samples(sample: Path) -> None:
    assert problems(SCHEMAS[kind_of(sample)], document(sample)) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=label)
def test_it_accepts_defaults_that_are_written_out(sample: Path) -> None:
    message = message_of(sample)
    if isinstance(message, m.Call) and message.input is msgspec.UNSET:
        message = msgspec.structs.replace(message, input=m.EMPTY)  # the one field that has no default to write
    assert problems(SCHEMAS[kind_of(sample)], in_full(message)) == []


def broken(value: Any) -> list[tuple[str, Any]]:
    """Copies of a sample, each with one field of the wrong type or one field less."""
    made = []
    for name in value:
        less = copy.deepcopy(value)
        del less[name]
        made.append((f"without {name}", less))
        made.append((f"{name} is a strange object", value | {name: {"strange": [True]}}))
    return made


@pytest.mark.parametrize("sample", SAMPLES, ids=label)
def test_it_refuses_what_the_decoder_refuses(sample: Path) -> None:
    kind = kind_of(sample)
    for what, value in broken(document(sample)):
        try:
            decode(kind, json.dumps(value).encode())
            accepted = True
        except DecodeFailed:
            accepted = False
        assert (problems(SCHEMAS[kind], value) == []) is accepted, what


def test_it_accepts_unknown_fields_and_unknown_kinds_of_change() -> None:
    record = {"coordinator": "c", "at": "2026-11-23T10:00:00Z", "changes": [{"kind": "teleported", "to": 7}, {"kind": "held"}], "new": 1}
    assert problems(SCHEMAS["record"], record) == []
    assert problems(SCHEMAS["record"], record | {"changes": [{"kind": "ready"}]}) != []
    assert problems(SCHEMAS["record"], record | {"changes": [{}]}) != []


def test_tuples_have_their_length() -> None:
    blob = {"digest": "d", "bytes": 1, "chunks": 1}
    call = {
        "task": "a.b",
        "subtask": "s",
        "capability": "c",
        "call": "x",
        "shard": 0,
        "reply_by_s": 1,
        "fill": [{"at": ["x"], "blob": blob}],
    }
    for cut, fits in (([0, 1], True), ([0], False), ([0, 1, 2], False), (["0", 1], False), (None, True)):
        call["fill"] = [{"at": ["x", 0], "blob": blob, "slice": cut}]
        assert (problems(SCHEMAS["call"], call) == []) is fits, cut


def test_views_are_described_as_they_are_printed() -> None:
    error = m.ErrorInfo(code="handler", message="it broke")
    subtask = v.SubtaskView(
        capability="text.classify",
        state="failed",
        agent="a1",
        epoch=1,
        bids=[v.BidView(agent="a1", epoch=1, source="offer", score=0.2, won=True, reason="first")],
        attempts=[v.AttemptView(agent="a1", boot="b", epoch=1, state="failed", error=error)],
        error=error,
    )
    printed = json.loads(encode(v.TaskView(task="me.t1", state="failed", error=error, subtasks={"main": subtask})))
    assert problems(SCHEMAS["task-view"], printed) == []
    assert printed["error"] == {"code": "handler", "message": "it broke", "retryable": False, "details": {}}
    assert set(printed["subtasks"]["main"]) == {*v.SubtaskView.__struct_fields__}
    agent = v.AgentView(
        name="a1", capabilities=["c"], capacity=1, free=0, labels={}, running=[m.Running(task="me.t1", subtask="main", epoch=1)], seen_s=0.1
    )
    printed = json.loads(encode(agent))
    assert problems(SCHEMAS["agent-view"], printed) == []
    assert printed["running"] == [{"task": "me.t1", "subtask": "main", "epoch": 1, "state": "running"}]


def test_a_type_that_the_walk_does_not_know_is_an_error() -> None:
    class Odd(m.Message, frozen=True, kw_only=True):
        when: memoryview

    with pytest.raises(TypeError, match="no JSON Schema is known for MemoryViewType"):
        schema_of("odd", Odd)


def test_the_checker_sees_what_is_wrong() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"]}
    assert problems(schema, {"n": 1, "other": []}) == []
    assert problems(schema, {}) == ["$: n is missing"]
    assert problems(schema, {"n": True}) == ["$.n: True is no integer"]
    assert problems(schema, {"n": -1}) == ["$.n: -1 breaks minimum 0"]
    with pytest.raises(AssertionError, match="does not know"):
        problems({"patternProperties": {}}, {})
