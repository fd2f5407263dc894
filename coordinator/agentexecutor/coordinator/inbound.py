"""From a stored message to an input of the machine: who says what about which task, or why it cannot be used.

Pure. A message that cannot be used raises `Unusable`; the caller counts it, tells the sender where that is possible, and acknowledges it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from agentexecutor.coordinator.inputs import CancelIn, ClaimIn, FeedbackIn, NeedProgress, ProgressIn, SubmitIn
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, H_TRACEPARENT, H_TRACESTATE, H_TYPE, decode, digest
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, NameRefused
from agentexecutor.schemas.names import TaskName, check_name
from agentexecutor.schemas.references import check_ref
from agentexecutor.schemas.subjects import FromSubject, Subjects

__all__ = ["Claimed", "Heard", "Submitted", "Unusable", "heard_of", "large_result", "read_claim", "read_progress", "read_submit"]

_TYPE_OF_KIND = {"cancel": "cancel-task", "feedback": "feedback-claim"}
"""Where the Ae-Type is not the kind in the subject."""


class Heard(Struct):
    """The part of an offer that is read at once; `running` is read when it matters."""

    boot: str
    running: Raw = m.NULL


TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}")
_SHOWN = 1000
_HEARD = msgspec.json.Decoder(Heard)


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+', re.DOTALL)
_END_FIELDS = (b"subtask", b"epoch", b"boot")


class Unusable(AgentExecutorError):
    """A stored message that leads to nothing. `why`: untyped, unknown, undecodable; `task`, `peer` and `id` (Ae-Id) where they can be read."""


class Claimed(NamedTuple):
    """A claim that can be used."""

    shard: int
    task: TaskName
    input: ClaimIn | CancelIn | FeedbackIn


class Submitted(NamedTuple):
    """A submit that can be used. Its plan may still have to be fetched (`SubmitIn.submit.plan_blob`)."""

    shard: int
    klass: str
    task: TaskName
    input: SubmitIn


def heard_of(offer: bytes) -> Heard | None:
    """Which life of an agent an offer comes from and what it says that it runs, without reading all of it; None when it cannot be read."""
    try:
        return _HEARD.decode(offer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_progress(
    need: NeedProgress, boot: str, said: Iterable[tuple[float, bytes]], *, queued: bool, queued_at: float | None = None
) -> ProgressIn:
    """The last sign of the award that is asked about, among messages (server's stamp, payload) of its agent, oldest first."""
    found = ProgressIn(need.subtask, need.epoch, queued=queued, queued_at=queued_at, late=need.late)
    for stamp, payload in said:
        try:
            sign = decode("progress", payload)
        except DecodeFailed:
            continue
        if isinstance(sign, m.Progress) and (sign.subtask, sign.epoch, sign.boot) == (need.subtask, need.epoch, boot):
            found = _next_sign(found, stamp, sign)
    return found


def _next_sign(before: ProgressIn, stamp: float, sign: m.Progress) -> ProgressIn:
    """A text alone leaves what is known of step and fraction; one of these takes the other's place."""
    step, fraction, fraction_at = before.step, before.fraction, before.fraction_at
    if sign.step is not None:
        step, fraction, fraction_at = sign.step if sign.state == "started" else None, None, None
    if sign.fraction is not None:
        fraction, fraction_at = sign.fraction, stamp
    since = None if step is None else before.since if step == before.step else stamp
    began, schedule, scheduled_at = before.began, before.schedule, before.scheduled_at
    if sign.schedule:  # it counts from now, and the step that is under way with it
        began, schedule, scheduled_at = None, sign.schedule, stamp
        since = None if step is None else stamp
    if began is None and step is not None and since is not None:
        began = (step, since)
    first = before.first or (stamp, sign.fraction or 0.0)
    told = {
        "step": step,
        "since": since,
        "fraction": fraction,
        "fraction_at": fraction_at,
        "schedule": schedule,
        "scheduled_at": scheduled_at,
    }
    return replace(before, at=stamp, began=began, first=first, **told)


def read_claim(subjects: Subjects, subject: str, payload: bytes, headers: dict[str, str]) -> Claimed:
    """A message of AE_INBOX. Raises Unusable."""
    try:
        at = subjects.parse_inbox(subject)
        _check(at.task, at.peer)
    except (ValueError, NameRefused) as error:
        raise _unusable("undecodable", str(error), headers) from error
    message = _decode(headers, payload, _TYPE_OF_KIND.get(at.kind, at.kind), at)
    id = headers[H_ID]
    if isinstance(message, m.CancelTask):
        return Claimed(at.shard, at.task, CancelIn(at.peer, message.reason, id))
    if isinstance(message, m.FeedbackClaim):
        return Claimed(at.shard, at.task, FeedbackIn(at.peer, message, id))
    if isinstance(message, m.Claim):
        return Claimed(at.shard, at.task, ClaimIn(at.peer, message, id, _span_of(message, headers)))
    raise _unusable("unknown", f"{at.kind!r} is no kind of claim.", headers, at)


def _span_of(claim: m.Claim, headers: dict[str, str]) -> str | None:
    """The id of the span in which an agent works; from then on it is needed when the agent is lost (docs/adr/0014)."""
    if not isinstance(claim, m.Accept | m.Extend):
        return None
    found = TRACEPARENT.fullmatch(headers.get(H_TRACEPARENT, ""))
    return None if found is None else found[1]


def read_submit(subjects: Subjects, subject: str, payload: bytes, headers: dict[str, str], stamp: float) -> Submitted:
    """A message of AE_SUBMITS; `stamp`: the server's, seconds since 1970. Raises Unusable."""
    try:
        shard, klass, task = subjects.parse_new(subject)
        _check(task, task.owner)
    except (ValueError, NameRefused) as error:
        raise _unusable("undecodable", str(error), headers) from error
    message = _decode(headers, payload, "submit", FromSubject(shard, klass, task, task.owner))
    if not isinstance(message, m.Submit):
        raise _unusable("unknown", "not a submit", headers, FromSubject(shard, klass, task, task.owner))
    made = SubmitIn(
        message,
        digest(payload),
        stamp,
        headers[H_ID],
        traceparent=headers.get(H_TRACEPARENT),
        tracestate=headers.get(H_TRACESTATE),
    )
    return Submitted(shard, klass, task, made)


def _check(task: TaskName, peer: str) -> None:
    check_name("task owner", task.owner)
    check_name("task", task.id)
    check_name("peer", peer)


def _decode(headers: dict[str, str], payload: bytes, wanted: str, at: FromSubject) -> m.Message:
    """The message, when its type is the one that its subject stands for."""
    kind = headers.get(H_TYPE)
    if kind is None:
        raise _unusable("untyped", "It has no Ae-Type.", headers, at)
    if kind != wanted:
        raise _unusable("unknown", f"Its Ae-Type is {kind!r}, its subject stands for {wanted!r}.", headers, at)
    try:
        check_name("Ae-Id", headers.get(H_ID, ""))
        try:
            message = decode(kind, payload)
            if isinstance(message, m.Done) and message.result_blob is not None:
                check_ref(message.result_blob)
        except DecodeFailed as error:
            message = _end_of(kind, payload, error)
    except (DecodeFailed, NameRefused) as error:
        raise _unusable("undecodable", str(error), headers, at) from error
    if message is None:
        raise _unusable("unknown", f"There is no type {kind!r}.", headers, at)
    return message


class _End(Struct):
    """Of which award something is the end."""

    subtask: str
    epoch: m.Count
    boot: str


def _plain_fields(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """The fields of an object that are no objects and no lists, whatever stands in the others: decoders also look into what they pass over."""
    depth, name, last = 0, b"", b""
    for found in _TOKEN.finditer(payload):
        token = found[0]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif depth == 1 and token == b":":
            name = last
        elif depth == 1 and name.strip(b'"') in _END_FIELDS:
            yield name.strip(b'"').decode(), token
            name = b""
        last = token


def _end_of(kind: str, payload: bytes, error: DecodeFailed) -> m.Failed:
    """The end of work that nobody can read is a failure: refused, the agent would be through with it, and another would do it all again.

    Raises DecodeFailed.
    """
    if kind not in ("done", "failed"):
        raise error
    try:
        end = msgspec.convert({name: msgspec.json.decode(text) for name, text in _plain_fields(payload)}, _End)
    except ValueError:
        raise error from None
    why = m.ErrorInfo(code="handler", message=f"The agent's `{kind}` cannot be read: {error.message}"[:_SHOWN], retryable=False)
    return m.Failed(subtask=end.subtask, epoch=end.epoch, boot=end.boot, error=why)


def _unusable(why: str, message: str, headers: dict[str, str], at: FromSubject | None = None) -> Unusable:
    return Unusable(message, why=why, task=at and at.task, peer=at and at.peer, id=headers.get(H_ID, ""))


def large_result(claim: m.Claim, limit: int) -> Raw | None:
    """The result inside a claim, when it should have travelled by reference."""
    return claim.result if isinstance(claim, m.Done) and len(claim.result) > limit else None
