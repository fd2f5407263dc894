"""Bytes to messages: what is tolerated, what is refused, and that nothing else is ever raised."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from wire_samples import SAMPLES, kind_of

from agentexecutor.schemas import codec
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.bodies import MAX_DEPTH, readable
from agentexecutor.schemas.codec import TYPES, decode, decode_as, decode_record, encode, from_rfc3339, headers, to_rfc3339
from agentexecutor.schemas.errors import DecodeFailed

DONE = {"subtask": "main", "epoch": 1, "boot": "b"}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_every_type_has_one_class_and_back() -> None:
    assert {codec.TYPE_OF[cls]: cls for cls in TYPES.values()} == TYPES


@pytest.mark.parametrize("kind", [None, "", "no-such-type", "Submit", "chunk"])
def test_an_unknown_type_is_nothing(kind: str | None) -> None:
    assert decode(kind, b"\xff not even JSON") is None


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_unknown_fields_are_ignored(sample: Any) -> None:
    kind, value = kind_of(sample), json.loads(sample.read_bytes())
    assert encode(decode(kind, text(value | {"future": {"$ref": [1]}, "": None}))) == encode(decode(kind, text(value)))


NO_MESSAGES = [b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff\xfe", b"{} {}", b"{'a': 1}", b"[" * 100_000, b"\x00", b"nan"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("payload", NO_MESSAGES, ids=lambda payload: repr(payload[:12]))
def test_what_is_no_message_is_refused_with_its_type(kind: str, payload: bytes) -> None:
    with pytest.raises(DecodeFailed, match=kind) as caught:
        decode(kind, payload)
    assert caught.value.fields["kind"] == kind
    assert caught.value.fields["reason"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("done", DONE | {"epoch": "1"}),
        ("done", DONE | {"epoch": -1}),
        ("done", DONE | {"epoch": 2**53}),
        ("done", DONE | {"epoch": 1.5}),
        ("done", DONE | {"usage": {"tokens": "many"}}),
        ("done", {"subtask": "main", "epoch": 1}),
        ("failed", DONE),
        ("failed", DONE | {"error": "it broke"}),
        ("extend", DONE | {"call": 0, "child": {"capability": "x"}}),
        ("submit", {"capability": ["x"]}),
        ("submit", {"priority": 10**9}),
        ("submit", {"deadline_s": -1}),
        ("submit", {"auction": "dutch"}),
        ("submit", {"plan": {"subtasks": []}}),
        ("offer", {"boot": "b", "capabilities": [{"name": "x"}], "capacity": 0}),
        ("offer", {"boot": "b", "capabilities": {}}),
        ("progress", DONE | {"at": "now", "fraction": 1.01}),
        ("feedback-claim", {"verdict": "maybe"}),
        ("result", {"task": "a.b", "state": "running"}),
        ("ask", {"limit": 0}),
        ("lease", {"holder": None, "boot": "b"}),
        ("record", {"coordinator": "c", "at": "t", "changes": {}}),
        ("record", {"coordinator": "c", "at": "t", "changes": [{"kind": "ready", "subtasks": "main"}]}),
        ("record", {"coordinator": "c", "at": "t", "changes": [{"kind": "ready"}, {"kind": "new"}]}),
        ("record", {"coordinator": "c", "at": "t", "changes": [{}, {"kind": 5}]}),
        ("record", {"coordinator": "c", "at": "t", "changes": [7]}),
        ("record", {"at": "t", "changes": []}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_type_or_a_missing_field_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(DecodeFailed):
        decode(kind, text(value))


def test_durations_may_be_written_as_integers() -> None:
    done = decode("done", text(DONE | {"took_s": 2, "load": {"queue_s": 1}}))
    assert isinstance(done, m.Done)
    assert (done.took_s, done.load) == (2.0, m.Load(queue_s=1.0))


# bodies


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("kind", ["done", "submit", "extend", "feedback-claim", "failed"])
def test_depth_has_one_limit_everywhere(kind: str) -> None:
    frames = {
        "done": (b'{"subtask":"main","epoch":1,"boot":"b","result":%s}', 1),
        "submit": (b'{"capability":"x","input":%s}', 1),
        "extend": (b'{"subtask":"main","epoch":1,"boot":"b","call":1,"child":{"capability":"x","input":%s}}', 2),
        "feedback-claim": (b'{"data":%s}', 1),
        "failed": (b'{"subtask":"main","epoch":1,"boot":"b","error":{"code":"c","message":"m","details":{"x":%s}}}', 3),
    }
    frame, around = frames[kind]
    assert decode(kind, frame % deep(MAX_DEPTH - around)) is not None
    for levels in (MAX_DEPTH - around + 1, 900, 100_000):
        with pytest.raises(DecodeFailed):
            decode(kind, frame % deep(levels))


def test_what_was_accepted_can_be_read_from_the_record_that_keeps_it() -> None:
    done = decode("done", b'{"subtask":"main","epoch":1,"boot":"b","result":%s}' % deep(MAX_DEPTH - 1))
    assert isinstance(done, m.Done)
    record = r.Record(coordinator="c", at="t", changes=[r.Completed(subtask="main", result=done.result)])
    for seq in range(3):
        record = r.Record(coordinator="c", at="t", changes=[r.Held()], history=[r.LogEntry(seq=seq, time="t", record=record)])
    assert encode(decode_record(encode(record))) == encode(record)


def test_wide_bodies_are_fine() -> None:
    done = decode("done", text(DONE | {"result": [{"row": [n]} for n in range(5000)]}))
    assert isinstance(done, m.Done)
    assert len(json.loads(bytes(done.result))) == 5000


@pytest.mark.parametrize("body", [b'"\xff"', b'{"a": "\xc3"}', b'["\xed\xa0\x80"]'])
def test_a_body_that_is_no_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeFailed, match="UTF-8"):
        decode("done", b'{"subtask":"main","epoch":1,"boot":"b","result":%s}' % body)


@pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"1" * 5000])
def test_a_number_that_is_out_of_range_is_refused(number: bytes) -> None:
    for kind, fields in (("done", b'"subtask":"main","epoch":1,"boot":"b","result"'), ("feedback-claim", b'"data"')):
        with pytest.raises(DecodeFailed, match="out of range"):
            decode(kind, b"{%s:[%s]}" % (fields, number))
    assert readable(b'{"a":[1.5,%s,7]}' % number) == {"a": [1.5, number.decode(), 7]}, "what was let in once can be read"


def test_half_a_character_can_be_read() -> None:
    assert readable(b'{"cut \\ud83d":"\\ude00 ","whole":"\\ud83d\\ude00","n":1e400}') == {
        "cut ?": "? ",
        "whole": "\U0001f600",
        "n": "1e400",
    }


def test_a_body_keeps_its_text() -> None:
    body = '{"n":1.50,"big":123456789012345678901234567890,"t":"Grüße \\u6771 東"}'.encode()
    done = decode("done", b'{"subtask":"main","epoch":1,"boot":"b","result":%s}' % body)
    assert isinstance(done, m.Done)
    assert bytes(done.result) == body
    assert body in encode(done)


# records


def test_changes_of_unknown_kinds_are_left_out() -> None:
    changes = [{"kind": "ready", "subtasks": ["a"]}, {"kind": "teleported", "to": [1]}, {"kind": "held"}]
    value = {"coordinator": "c", "at": "t", "changes": changes, "applied": ["x"], "digest": "d"}
    assert decode("record", text(value)) == r.Record(
        coordinator="c", at="t", changes=[r.Ready(subtasks=["a"]), r.Held()], applied=["x"], digest="d"
    )


def test_a_change_without_a_kind_is_left_out_like_an_unknown_one() -> None:
    assert decode_record(text({"coordinator": "c", "at": "t", "changes": [{"more": 1}]})).changes == []


def test_unknown_kinds_are_left_out_of_history_too() -> None:
    inner = {"coordinator": "c", "at": "t", "changes": [{"kind": "new"}, {"kind": "held"}], "future": 1}
    value = {"coordinator": "c", "at": "t", "changes": [], "history": [{"seq": 3, "time": "t", "record": inner}]}
    (entry,) = decode_record(text(value)).history
    assert entry == r.LogEntry(seq=3, time="t", record=r.Record(coordinator="c", at="t", changes=[r.Held()]))


def test_a_known_kind_that_does_not_fit_is_not_left_out() -> None:
    value = {"coordinator": "c", "at": "t", "changes": [{"kind": "new"}, {"kind": "awarded", "subtask": "a"}]}
    with pytest.raises(DecodeFailed):
        decode_record(text(value))


# the rest


def test_defaults_do_not_travel_except_where_people_read_them() -> None:
    assert encode(m.Submit(capability="x")) == b'{"capability":"x"}'
    assert encode(m.Running(task="a.b", subtask="s", epoch=1)) == b'{"task":"a.b","subtask":"s","epoch":1,"state":"running"}'
    assert json.loads(encode(m.ErrorInfo(code="input", message="m"))) == {
        "code": "input",
        "message": "m",
        "retryable": False,
        "details": {},
    }


def test_defaults_are_not_shared() -> None:
    assert m.Submit().labels is not m.Submit().labels


def test_messages_do_not_change() -> None:
    with pytest.raises(AttributeError):
        m.Submit().priority = 5  # type: ignore[misc]


def test_headers_name_the_type_and_are_new_each_time() -> None:
    first, second = headers("done"), headers("done", {"traceparent": "00-x"}, id="mine")
    assert first["Ae-Type"] == "done"
    assert len(first["Ae-Id"]) >= 16
    assert headers("done")["Ae-Id"] != first["Ae-Id"]
    assert second == {"Ae-Type": "done", "Ae-Id": "mine", "traceparent": "00-x"}


def test_decoding_a_part() -> None:
    assert decode_as(list[int], b"[1,2]") == [1, 2]
    assert decode_as(m.Step, msgspec.Raw(b'{"name":"a"}')) == m.Step(name="a")
    for payload in (b"{}", b"[", b"\xff", deep(100_000)):
        with pytest.raises(DecodeFailed):
            decode_as(m.Step, payload)


def test_digests_are_sha256() -> None:
    assert codec.digest(b"foo") == "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-23T10:00:00.123456Z", 1795428000.123456),
        ("2026-11-23T10:00:00.123456789Z", 1795428000.123457),
        ("2026-11-23T11:30:00+01:30", 1795428000.0),
    ],
)
def test_times_are_read(written: str, seconds: float) -> None:
    assert from_rfc3339(written) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("written", ["", "now", "2026-11-23", "2026-11-23T10:00:00", "2026-13-23T10:00:00Z", 5, None])
def test_other_times_are_refused(written: Any) -> None:
    with pytest.raises(DecodeFailed, match="RFC 3339"):
        from_rfc3339(written)


def test_times_are_written_to_the_microsecond() -> None:
    assert to_rfc3339(1795428000.123456) == "2026-11-23T10:00:00.123456Z"
    assert to_rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert from_rfc3339(to_rfc3339(1795428000.5)) == 1795428000.5


def test_a_deadline_in_the_far_future_has_a_text() -> None:
    assert to_rfc3339(1e300).startswith("9999-12-31T23:59:59")
