"""References in inputs: how they are written, found and filled in."""

from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from agentexecutor.schemas import Ref
from agentexecutor.schemas.bodies import MAX_BODY_DEPTH
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.messages import BlobRef, Fill
from agentexecutor.schemas.references import Found, compose, encode_input, find_references, take

BLOB = BlobRef(digest="d" * 64, bytes=300_000, chunks=2)


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


def read(text: Raw) -> Any:
    return json.loads(bytes(text))


def results(**by_name: Any) -> Any:
    return lambda name: by_name[name] if isinstance(by_name[name], BlobRef) else raw(by_name[name])


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# Ref


def test_a_ref_names_a_result_or_a_part_of_it() -> None:
    assert Ref("load").target == "load"
    assert Ref("load")["rows"][0] == Ref("load/rows/0")
    assert Ref("load")["a/b~c"].target == "load/a~1b~0c"
    assert hash(Ref("a")) == hash(Ref("a"))
    assert Ref("a") != Ref("b")
    assert Ref("a") != "a"
    assert repr(Ref("a")["b"]) == "Ref('a/b')"
    assert pickle.loads(pickle.dumps(Ref("a/b"))) == copy.deepcopy(Ref("a/b")) == Ref("a/b")  # noqa: S301 - our own bytes


def test_a_ref_is_no_endless_list() -> None:
    with pytest.raises(TypeError):
        list(Ref("load"))  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        assert "rows" in Ref("load")  # type: ignore[misc]


# encode_input


class Point(msgspec.Struct):
    x: Any
    y: Any = None


@dataclass
class Box:
    content: Any


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ({"x": Ref("a")}, {"x": {"$ref": "a"}}),
        (Ref("a")["rows"], {"$ref": "a/rows"}),
        ({"x": [1, {"y": (Ref("a"), None)}]}, {"x": [1, {"y": [{"$ref": "a"}, None]}]}),
        ({"$ref": "literal"}, {"$$ref": "literal"}),
        ({"$$ref": 1, "$": 2, "price $": 3}, {"$$$ref": 1, "$$": 2, "price $": 3}),
        ({"text": '"$ref"'}, {"text": '"$ref"'}),
        (Point(x=Ref("a"), y={"$ref": 1}), {"x": {"$ref": "a"}, "y": {"$$ref": 1}}),
        (Box(content=[Ref("a"), Point(x=Ref("b"))]), {"content": [{"$ref": "a"}, {"x": {"$ref": "b"}, "y": None}]}),
        ({1: Ref("a"), "$k": True}, {"1": {"$ref": "a"}, "$$k": True}),
        ({"raw": Raw(b'{"$ref": "a"}'), "$k": 1.5}, {"raw": {"$ref": "a"}, "$$k": 1.5}),
        (Point(x=Raw(b'{"$ref":"a"}'), y={"$k": b"bytes"}), {"x": {"$ref": "a"}, "y": {"$$k": "Ynl0ZXM="}}),
        ({"$day": __import__("datetime").date(2026, 11, 23)}, {"$$day": "2026-11-23"}),
    ],
    ids=lambda given: re.sub(" object at 0x[0-9a-f]+", "", repr(given)),  # the same in every process
)
def test_what_a_user_writes_becomes_what_travels(value: Any, wire: Any) -> None:
    assert read(encode_input(value)) == wire


def test_the_same_input_is_the_same_text() -> None:
    assert bytes(encode_input({"b": 1, "a": {2, 1}})) == bytes(encode_input({"a": {1, 2}, "b": 1})) == b'{"a":[1,2],"b":1}'
    assert bytes(encode_input({"$b": Ref("x"), "$a": 1})) == bytes(encode_input({"$a": 1, "$b": Ref("x")}))


@pytest.mark.parametrize(
    "value",
    [{"x": object()}, {"x": lambda: 1}, {"x": "\ud800"}, {(1, 2): 3}, nested(5000)],
    ids=["object", "function", "surrogate", "key", "deep"],
)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(PlanRefused, match=r"JSON form|deep"):
        encode_input(value)


def test_a_cycle_in_python_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PlanRefused):
        encode_input({"x": value})


def test_depth_has_one_limit_everywhere() -> None:
    assert read(encode_input(nested(MAX_BODY_DEPTH))) == nested(MAX_BODY_DEPTH)
    with pytest.raises(PlanRefused, match="more than 190 levels"):
        encode_input(nested(MAX_BODY_DEPTH + 1))
    assert len(read(encode_input([[]] * 1000))) == 1000


# find_references


def test_references_are_found_in_their_order() -> None:
    value = {"x": {"$ref": "a"}, "list": [0, {"$ref": "b/rows/0", "$slice": [2, 5]}], "$$k": {"deep": {"$ref": "c/a~1b~0c"}}}
    assert find_references(raw(value)) == [
        Found(("x",), "a", (), None),
        Found(("list", 1), "b", ("rows", "0"), (2, 5)),
        Found(("$k", "deep"), "c", ("a/b~c",), None),
    ]


def test_literals_are_no_references() -> None:
    assert find_references(raw({"$$ref": "a", "text": '"$ref"', "x": "$ref", "$other": 1})) == []
    assert find_references(Raw(b"{}")) == []


def test_a_dollar_may_be_written_as_an_escape() -> None:
    assert find_references(Raw(rb'{"x": {"\u0024ref": "a"}}')) == [Found(("x",), "a", (), None)]
    assert read(compose(Raw(rb'{"x": {"\u0024ref": "a"}}'), results(a=7))[0]) == {"x": 7}


BAD_REFERENCES = [
    {"$ref": 1},
    {"$ref": None},
    {"$ref": "a", "more": 1},
    {"$ref": "a", "$slice": [1]},
    {"$ref": "a", "$slice": [0, -1]},
    {"$ref": "a", "$slice": ["0", 1]},
    {"$ref": "a", "$slice": [True, 2]},
    {"$ref": "a", "$slice": "0:1"},
]


@pytest.mark.parametrize("reference", BAD_REFERENCES, ids=json.dumps)
def test_a_reference_that_is_not_well_formed_is_refused_with_its_place(reference: Any) -> None:
    with pytest.raises(PlanRefused, match="is not a reference") as caught:
        find_references(raw({"x": [reference]}))
    assert caught.value.fields["at"] == ["x", 0]
    with pytest.raises(PlanRefused, match="is not a reference"):
        compose(raw({"x": [reference]}), results(a=1))


BAD_TEXTS = [b'{"$ref": ', b'{"$ref": "\xff"}', b'{"$ref": "a", "n": 1e999}', b'{"$k": ' + b"[" * 5000 + b"]" * 5000 + b"}"]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=["cut", "no utf-8", "number", "deep"])
def test_an_input_that_cannot_be_read_is_refused(text: bytes) -> None:
    with pytest.raises(PlanRefused):
        find_references(Raw(text))
    with pytest.raises(PlanRefused):
        compose(Raw(text), results(a=1))


# take


def test_a_part_of_a_result() -> None:
    value = {"rows": [{"a/b": 1}, {"a/b": 2}], "": 3}
    assert take(value, ()) is value
    assert take(value, ("rows", "1", "a/b")) == 2
    assert take(value, ("",)) == 3
    assert take(value, ("rows",), (1, 9)) == [{"a/b": 2}]
    assert take([1, 2, 3], [], (0, 0)) == []


@pytest.mark.parametrize(
    "path",
    [
        ("no",),
        ("rows", "2"),
        ("rows", "-1"),
        ("rows", "x"),
        ("rows", "1_0"),
        ("rows", "\u0660"),
        ("n", "x"),
        ("text", "0"),
        ("nothing", "x"),
    ],
)
def test_a_path_that_points_at_nothing_says_how_far_it_got(path: tuple[str, ...]) -> None:
    value = {"rows": [0, 1], "n": 5, "text": "abc", "nothing": None}
    with pytest.raises(PlanRefused, match=f"nothing at '{'/'.join(path)}'") as caught:
        take(value, path)
    assert caught.value.fields["path"] == list(path)


def test_only_lists_have_parts() -> None:
    with pytest.raises(PlanRefused, match="no list"):
        take({"a": "text"}, ("a",), (0, 1))


# compose


def test_small_results_are_put_in_place() -> None:
    value = {"x": {"$ref": "a"}, "y": [{"$ref": "b/rows", "$slice": [1, 3]}], "$$k": {"$$ref": 1}, "same": {"$ref": "a"}}
    filled, fills = compose(raw(value), results(a={"$ref": "kept as it is"}, b={"rows": [1, 2, 3, 4]}))
    assert fills == []
    assert read(filled) == {"x": {"$ref": "kept as it is"}, "y": [[2, 3]], "$k": {"$ref": 1}, "same": {"$ref": "kept as it is"}}


def test_an_input_can_be_one_reference() -> None:
    assert read(compose(Raw(b'{"$ref":"a"}'), results(a=[1]))[0]) == [1]


def test_large_results_are_left_to_the_agent() -> None:
    value = {"x": {"rows": [None, {"$ref": "big/rows/0", "$slice": [0, 10]}]}, "$$k": {"$ref": "big"}}
    filled, fills = compose(raw(value), results(big=BLOB))
    assert read(filled) == {"x": {"rows": [None, None]}, "$k": None}
    assert fills == [
        Fill(at=["x", "rows", 1], blob=BLOB, path=["rows", "0"], slice=(0, 10)),
        Fill(at=["$k"], blob=BLOB, path=[], slice=None),
    ]


def test_an_input_without_marks_is_not_touched() -> None:
    text = Raw(b'{ "n": 1.0e2, "big": 123456789012345678901234567890 }')
    filled, fills = compose(text, results())
    assert (bytes(filled), fills) == (bytes(text), [])


def test_a_reference_to_nothing_is_refused() -> None:
    with pytest.raises(PlanRefused, match="nothing at 'rows'"):
        compose(raw({"x": {"$ref": "a/rows"}}), results(a={"columns": []}))


def test_a_result_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(PlanRefused):
        compose(raw({"x": {"$ref": "a/rows"}}), lambda _: Raw(b'{"rows": 1e999}'))
