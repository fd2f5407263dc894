"""Work on a task that needs large bodies read or stored on its way: awards, splits, joined results, logs, answers.

Pure: an errand is a generator that yields what it needs (a BlobRef: read this body; bytes: store this body; a function: call it where it does not
hold up the loop) and is sent what came of it. The shell runs errands; a test runs them by hand. A body that is gone or is not what it should be is
thrown into the errand, which answers for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.coordinator import bodies, records
from agentexecutor.coordinator.answers import Line, log_lines, log_page
from agentexecutor.coordinator.briefing import OfferLine, brief, check_offers
from agentexecutor.coordinator.entry import Entry
from agentexecutor.coordinator.errors import SenselessLog
from agentexecutor.coordinator.evolve import fold
from agentexecutor.coordinator.forecast import make_forecast
from agentexecutor.coordinator.inputs import (
    BrokenIn,
    ClaimIn,
    ComposedIn,
    Demand,
    GiveAward,
    Key,
    NeedCompose,
    NeedRevision,
    NeedSplit,
    RevisionIn,
    SplitIn,
    SubmitIn,
)
from agentexecutor.coordinator.machine import award_of
from agentexecutor.coordinator.market import Snapshot
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.turns import Turn
from agentexecutor.coordinator.versions import really_added
from agentexecutor.schemas import large
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import INLINE_LIMIT, decode_record, encode, to_rfc3339
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, PlanRefused
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import check_plan_size, read_plan

__all__ = [
    "Errand",
    "Loaded",
    "Need",
    "by_reference",
    "compose",
    "fetch_plan",
    "forecast",
    "give_award",
    "last_page",
    "list_to_split",
    "load",
    "make_call",
    "page_of_log",
    "read_revision",
    "store_plans",
]

Need = m.BlobRef | bytes | Callable[[], Any]
T = TypeVar("T")
Errand = Generator[Need, Any, T]

UNFIT = (AgentExecutorError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What work on a body raises when the body is gone or is not what it should be."""


class Stored(Protocol):
    """A stored message of a task's log, as the bus gives it."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> str: ...
    @property
    def payload(self) -> bytes | None: ...


def _read(ref: m.BlobRef) -> Errand[bytes]:
    body: bytes = yield ref
    return body


def _store(body: bytes) -> Errand[m.BlobRef]:
    ref: m.BlobRef = yield body
    return ref


def _apart(size: int, work: Callable[[], T]) -> Errand[T]:
    """What `work` gives; done where it does not hold up the loop, which has leases to renew, when it is about so many bytes that it takes long."""
    if size <= bodies.LARGE:
        return work()
    done: T = yield work
    return done


# what comes in


def fetch_plan(input: SubmitIn) -> Errand[SubmitIn]:
    """A submit with the plan that it names by reference, or with the error that tells why there is none."""
    ref = input.submit.plan_blob
    if ref is None:
        return input
    try:
        check_plan_size(ref.bytes)
        plan: m.PlanSpec = yield partial(read_plan, m.PlanSpec, (yield from _read(ref)))
    except UNFIT as error:
        return replace(input, error=bodies.refusal_of(error))
    return replace(input, submit=replace(input.submit, plan=plan))


def by_reference(input: ClaimIn) -> Errand[ClaimIn]:
    """A result that came inline though it is large: stored, and named by reference from here on."""
    claim = input.claim
    if not isinstance(claim, m.Done):
        return input
    ref = yield from _store(bytes(claim.result))
    return replace(input, claim=replace(claim, result=m.NULL, result_blob=ref))


# inputs and results


def _complete_input(state: TaskState, subtask: str, raw: Raw, ref: m.BlobRef | None) -> Errand[tuple[Raw, m.BlobRef | None, list[m.Fill]]]:
    """A subtask's complete input: inline, or by reference when it is large; and what the agent fills in itself."""
    if ref is not None:
        raw = Raw((yield from _read(ref)))
    filled, fill = yield from _apart(len(raw), partial(bodies.fill_input, state, subtask, raw))
    if filled is raw and ref is not None:
        return m.EMPTY, ref, fill
    if len(filled) > INLINE_LIMIT:
        return m.EMPTY, (yield from _store(bytes(filled))), fill
    return filled, None, fill


def give_award(
    state: TaskState, effect: GiveAward, coordinator: str, offers: Callable[[], Sequence[OfferLine]] = list
) -> Errand[m.Award | BrokenIn | None]:
    """The award's message; None when it does not stand any more. `offers`: what a planner is told of."""
    subtask = state.subtasks.get(effect.subtask)
    if subtask is None or subtask.epoch != effect.epoch or subtask.state != "awarded":
        return None
    award = award_of(state, effect.subtask)
    if subtask.planner:  # its input holds all feedback, so that the award need not
        told, ref = brief(state, subtask, offers()), None
        if len(told) > INLINE_LIMIT:
            told, ref = m.EMPTY, (yield from _store(bytes(told)))
        return replace(award, input=told, input_blob=ref, feedback=[], coordinator=coordinator)
    try:
        input, ref, fill = yield from _complete_input(state, effect.subtask, award.input, award.input_blob)
        if fill and len(encode(fill)) > INLINE_LIMIT:
            raise PlanRefused(
                f"The input refers {len(fill)} times to large results.", hint="Refer to a whole result and take its parts in the handler."
            )
    except UNFIT as error:
        return BrokenIn(effect.subtask, effect.epoch, bodies.refusal_of(error))
    feedback = bodies.fitting_feedback(award.feedback) if award.feedback else award.feedback
    return replace(award, input=input, input_blob=ref, fill=fill, feedback=feedback, coordinator=coordinator)


def make_call(state: TaskState | None, key: Key, demand: Demand, call: str, shard: int, reply_by_s: float) -> Errand[m.Call]:
    """A call for proposals; with the input when bids are to be made for it."""
    message = m.Call(
        task=str(key.task),
        subtask=key.subtask,
        capability=demand.capability,
        call=call,
        shard=shard,
        reply_by_s=reply_by_s,
        labels=demand.labels,
        priority=demand.priority,
        deadline=None if demand.deadline is None else to_rfc3339(demand.deadline),
    )
    subtask = None if state is None else state.subtasks.get(key.subtask)
    if not demand.tailored or state is None or subtask is None:
        return message
    try:
        input, ref, fill = yield from _complete_input(state, key.subtask, subtask.spec.input, subtask.spec.input_blob)
    except UNFIT:
        return message  # its award will tell
    return replace(message, input=input, input_blob=ref, fill=fill)


def list_to_split(state: TaskState, need: NeedSplit) -> Errand[int | SplitIn]:
    """The length of the list that a subtask is split over, or the answer that there is none."""
    try:
        raw = need.input if need.input_blob is None else Raw((yield from _read(need.input_blob)))
        held, fill = bodies.list_of_split(state, raw, need.split.over)
        if fill is not None:
            held = Raw((yield from _read(fill.blob)))
        length = yield from _apart(len(held), partial(bodies.list_length, held, fill))
    except UNFIT as error:
        return SplitIn(need.subtask, 0, [], bodies.refusal_of(error), version=need.demand.version)
    return length


def read_revision(state: TaskState, need: NeedRevision, offers: Sequence[OfferLine]) -> Errand[RevisionIn]:
    """The planner's answer as it can be used, or why it cannot. What is on offer is not looked at while nothing was heard of agents."""
    planner = state.subtasks.get(need.subtask)
    try:
        if isinstance(need.body, m.BlobRef):
            check_plan_size(need.body.bytes)
        body = (yield from _read(need.body)) if isinstance(need.body, m.BlobRef) else bytes(need.body)
        revision = yield partial(read_plan, r.Revision, body)
        if planner is not None and any(offer.name == planner.spec.capability for offer in offers):
            check_offers(really_added(state, revision), offers)
        if revision.output is not msgspec.UNSET and len(revision.output) > INLINE_LIMIT:
            ref = yield from _store(bytes(revision.output))
            revision = replace(revision, output=msgspec.UNSET, output_blob=ref)
    except UNFIT as error:
        return RevisionIn(need.subtask, need.epoch, error=bodies.refusal_of(error).message[:1000])
    return RevisionIn(need.subtask, need.epoch, revision)


def compose(need: NeedCompose) -> Errand[ComposedIn]:
    """A result put together from others."""
    try:
        parts: dict[str, Raw | bytes] = {}
        for name, part in need.parts.items():
            parts[name] = (yield from _read(part)) if isinstance(part, m.BlobRef) else part
        put_together = partial(bodies.join_lists if need.join else bodies.gather, parts)
        body = yield from _apart(sum(map(len, parts.values())), put_together)
    except UNFIT as error:
        return ComposedIn(need.subtask, error=bodies.refusal_of(error))
    if len(body) > INLINE_LIMIT:
        return ComposedIn(need.subtask, result_blob=(yield from _store(body)))
    return ComposedIn(need.subtask, Raw(body))


# the log


def store_plans(turn: Turn) -> Errand[None]:
    """What a turn adds, proposes or replaces travels by reference when it is large."""
    for index, change in enumerate(turn.changes):
        if len(turn.encoded[index]) > records.ADD_LIMIT and (found := large.parts(change)):
            stored = {}
            for name, body in found.items():
                stored[name] = yield from _store(body)
            turn.encoded[index] = records.encode_change(large.take_out(change, stored))


def last_page(entry: Entry, state: TaskState, turn: Turn, page: Sequence[Raw], coordinator: str, parts: int = 0) -> Errand[bytes]:
    """The record that ends a turn, and makes the `parts` before it count; when it ends the task it carries the history."""
    made = partial(records.encode_record, coordinator, turn.at, page, applied=turn.applied, parts=parts)
    if not state.ended:
        return made()
    history, ref = entry.history, None
    if records.size(history) > INLINE_LIMIT:
        ref = yield from _store(records.encode_history(history))
        history = []
    return made(history=history, history_blob=ref, digest=state.digest)


@dataclasses.dataclass(slots=True)
class Loaded:
    """A task as its log tells it. `found`: its records; `unreadable`: those that could not be read, which only move the head."""

    state: TaskState
    history: list[Raw]
    unreadable: list[tuple[int, str]]
    found: list[tuple[int, r.Record]]


def load(name: TaskName, shard: int, stored: Sequence[Stored]) -> Errand[Loaded]:
    """Fold a task's log, what its records refer to read. Raises SenselessLog, or what was thrown in for a body that is gone."""
    found: list[tuple[int, r.Record]] = []
    history: list[Raw] = []
    unreadable: list[tuple[int, str]] = []
    size = 0
    for item in stored:
        if item.payload is None:
            continue
        try:
            record = decode_record(item.payload)
            size += len(item.payload) + (0 if record.history_blob is None else record.history_blob.bytes)
            found.append((item.seq, (yield from _hydrate(record))))
            history.append(records.encode_entry(item.seq, item.time, item.payload))
        except DecodeFailed as error:
            unreadable.append((item.seq, str(error)))
    state = yield from _apart(size, partial(_fold, name, shard, found))
    if stored:
        state.head = stored[-1].seq
    return Loaded(state, history, unreadable, found)


def _fold(name: TaskName, shard: int, found: list[tuple[int, r.Record]]) -> TaskState:
    seq = 0

    def told() -> Iterator[tuple[int, r.Record]]:
        nonlocal seq
        for item in found:
            seq = item[0]
            yield item

    try:
        return fold(name, shard, told())
    except Exception as error:  # a record of strangers may say anything
        raise SenselessLog(f"Record {seq} of task {name} cannot be applied: {error}", task=str(name), seq=seq) from error


def _hydrate(record: r.Record) -> Errand[r.Record]:
    """A record with all that it names by reference."""
    if record.history_blob is not None:
        body = yield from _read(record.history_blob)
        history = yield from _apart(len(body), partial(records.decode_history, body))
        record = replace(record, history=history, history_blob=None)
    for part in [*(entry.record for entry in record.history), record]:
        for index, change in enumerate(part.changes):
            if named := large.references(change):
                held = {}
                for name, ref in named.items():
                    held[name] = yield from _read(ref)
                part.changes[index] = yield partial(large.put_back, change, held)
    return record


# answers


def forecast(submit: m.Submit | None, snapshot: Snapshot, settings: Settings) -> Errand[v.Forecast | m.ErrorInfo]:
    """The body for ``ask forecast``, or the error that the submit would be refused with."""
    if submit is None:
        return m.ErrorInfo(code="input", message="A forecast needs a submit: name one in the question.")
    input = yield from fetch_plan(SubmitIn(submit=submit, digest="", stamp=0.0))
    made: v.Forecast | m.ErrorInfo = yield partial(make_forecast, input, snapshot, settings)
    return made


def page_of_log(stored: Sequence[Stored], after: int, *, more: bool) -> Errand[tuple[bytes, int | None]]:
    """The body for ``ask log``, and the sequence after which it goes on (None: that is all)."""
    lines: list[Line] = []
    for item in stored:
        if item.payload is None:
            continue
        try:
            record = decode_record(item.payload)
        except DecodeFailed:
            continue
        history = None if record.history_blob is None else (yield from _read(record.history_blob))
        lines += log_lines(item.seq, item.time, item.payload, history)
    return log_page(lines, after, more=more)
