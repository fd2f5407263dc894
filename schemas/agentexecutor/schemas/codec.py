"""Bytes to messages and back: headers, one decoder a type, and the tolerance that section 1 of docs/protocol.md asks for."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.bodies import MAX_DEPTH, why_unreadable
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import new_id

__all__ = [
    "H_EXPECTED",
    "H_ID",
    "H_PRIORITY",
    "H_RE",
    "H_ROLLUP",
    "H_STATE",
    "H_TRACEPARENT",
    "H_TRACESTATE",
    "H_TTL",
    "H_TYPE",
    "INLINE_LIMIT",
    "TYPES",
    "TYPE_OF",
    "RawEntry",
    "decode",
    "decode_as",
    "decode_record",
    "digest",
    "encode",
    "from_rfc3339",
    "headers",
    "to_microseconds",
    "to_rfc3339",
]

H_TYPE = "Ae-Type"
H_ID = "Ae-Id"
H_RE = "Ae-Re"
H_STATE = "Ae-State"
H_PRIORITY = "Ae-Priority"
H_TRACEPARENT = "traceparent"
H_TRACESTATE = "tracestate"
H_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
H_ROLLUP = "Nats-Rollup"
H_TTL = "Nats-TTL"

INLINE_LIMIT = 262_144
"""Bytes: a larger body travels by reference, a record stops growing here."""

TYPES: dict[str, type[m.Message]] = {
    "submit": m.Submit,
    "cancel-task": m.CancelTask,
    "feedback-claim": m.FeedbackClaim,
    "ask": m.Ask,
    "offer": m.Offer,
    "bid": m.Bid,
    "refusal": m.Refusal,
    "accept": m.Accept,
    "decline": m.Decline,
    "done": m.Done,
    "failed": m.Failed,
    "release": m.Release,
    "extend": m.Extend,
    "progress": m.Progress,
    "call": m.Call,
    "award": m.Award,
    "cancel": m.Cancel,
    "feedback": m.FeedbackMessage,
    "result": m.Result,
    "refused": m.Refused,
    "answer": m.Answer,
    "lease": m.Lease,
    "member": m.Member,
    "record": r.Record,
}
"""Ae-Type → class. (Ae-Type ``chunk`` has bytes for a payload and no class.)"""

TYPE_OF: dict[type[m.Message], str] = {cls: name for name, cls in TYPES.items()}

_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Any]] = {name: msgspec.json.Decoder(cls) for name, cls in TYPES.items()}
_loose = msgspec.json.Decoder(r.LooseRecord)
_change = msgspec.json.Decoder(r.Change)
_moment = Annotated[datetime, msgspec.Meta(tz=True)]
_WITH_BODIES = {"submit", "feedback-claim", "done", "failed", "extend"}
"""What peers send and logs keep: read closely, because whatever is let in here must be readable for ever."""
_LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999: a deadline may lie further away, its text cannot."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
T = TypeVar("T")


def encode(value: Any) -> bytes:
    """JSON text of a message or a part of one."""
    return _encoder.encode(value)


def decode(kind: str | None, payload: bytes) -> m.Message | None:
    """The message that `kind` (the header Ae-Type) names; None when the kind is unknown or absent.

    Raises DecodeFailed when the bytes do not fit.
    """
    decoder = _decoders.get(kind or "")
    if decoder is None:
        return None
    if kind == "record":
        return decode_record(payload)
    try:
        message: m.Message = decoder.decode(payload)
    except _UNREADABLE as error:
        raise DecodeFailed(f"not a message of type {kind}: {error}.", kind=kind, reason=str(error)) from error
    if kind in _WITH_BODIES and (reason := why_unreadable(payload, MAX_DEPTH)):
        raise DecodeFailed(f"not a message of type {kind}: {reason}.", kind=kind, reason=reason)
    return message


def decode_as(cls: type[T], payload: bytes | msgspec.Raw) -> T:
    """Decode a body as `cls`; raises DecodeFailed."""
    try:
        return msgspec.json.decode(payload, type=cls)
    except _UNREADABLE as error:
        raise DecodeFailed(f"not a {getattr(cls, '__name__', cls)}: {error}.", kind=str(cls), reason=str(error)) from error


def decode_record(payload: bytes | msgspec.Raw) -> r.Record:
    """A record; changes of unknown kinds are left out. Raises DecodeFailed."""
    try:
        record: r.Record = _decoders["record"].decode(payload)
    except _UNREADABLE as error:
        return _decode_loosely(payload, str(error))
    return record


def _decode_loosely(payload: bytes | msgspec.Raw, reason: str) -> r.Record:
    try:
        loose = _loose.decode(payload)
        changes = [change for raw in loose.changes if (change := _known_change(raw)) is not None]
        history = [msgspec.json.decode(raw, type=RawEntry).decoded() for raw in loose.history]
    except _UNREADABLE as error:
        raise DecodeFailed(f"not a record: {reason}.", kind="record", reason=reason) from error
    return r.Record(
        coordinator=loose.coordinator,
        at=loose.at,
        changes=changes,
        applied=loose.applied,
        history=history,
        history_blob=loose.history_blob,
        digest=loose.digest,
        part=loose.part,
        parts=loose.parts,
    )


class _Kind(msgspec.Struct):
    kind: str = ""


_KINDS = {str(cls.__struct_config__.tag) for cls in r.Change.__args__}


def _known_change(raw: msgspec.Raw) -> r.Change | None:
    if msgspec.json.decode(raw, type=_Kind).kind not in _KINDS:
        return None
    change: r.Change = _change.decode(raw)
    return change


class RawEntry(msgspec.Struct):
    """A LogEntry whose record is not decoded yet."""

    seq: int
    time: str
    record: msgspec.Raw

    def decoded(self) -> r.LogEntry:
        """With its record; changes of unknown kinds are left out. Raises DecodeFailed."""
        return r.LogEntry(seq=self.seq, time=self.time, record=decode_record(self.record))


def headers(kind: str, trace: dict[str, str] | None = None, *, id: str | None = None) -> dict[str, str]:
    """The headers of a new message of type `kind`; `trace` holds traceparent and tracestate."""
    made = {H_TYPE: kind, H_ID: id or new_id()}
    if trace:
        made.update(trace)
    return made


def digest(payload: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(payload).hexdigest()


def to_rfc3339(seconds: float) -> str:
    """Seconds since 1970 → RFC 3339 text in UTC. What lies beyond the year 9999 becomes its end."""
    second, microsecond = divmod(round(min(seconds, _LAST_MOMENT) * 1_000_000), 1_000_000)
    return f"{_rfc3339_second(second)}.{microsecond:06d}Z"


def to_microseconds(text: str) -> str:
    """An RFC 3339 time in UTC, as a server stamps it, cut to six digits: so that times sort as text."""
    whole, dot, rest = text.rstrip("Z").partition(".")
    return f"{whole}.{rest[:6]:0<6}Z" if dot or text.endswith("Z") else text


@lru_cache(maxsize=64)
def _rfc3339_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def from_rfc3339(text: str) -> float:
    """RFC 3339 text → seconds since 1970 (exact to microseconds). Raises DecodeFailed."""
    try:
        return msgspec.convert(text, _moment).timestamp()
    except msgspec.MsgspecError as error:
        raise DecodeFailed(f"{text!r} is not an RFC 3339 time.", kind="time", reason=str(error)) from error
