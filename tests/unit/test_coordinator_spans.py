"""Spans are told from records: twice the same, whoever tells them; what is told again is what others recorded lately."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from traces import recorded

from agentexecutor.bus import telemetry as t
from agentexecutor.coordinator.evolve import apply
from agentexecutor.coordinator.inputs import SubmitIn
from agentexecutor.coordinator.leases import Leases
from agentexecutor.coordinator.model import new_task
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.spans import Spans
from agentexecutor.coordinator.untold import AT_MOST, UNTOLD_S, Untold
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, from_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts

LOGS = sorted((Path(__file__).parents[1] / "replay" / "logs").glob("*.json"))
ROOT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "k=v"}
AGENTS = "00f067aa0ba902b7"

Log = list[tuple[int, r.Record]]


def traced(record: r.Record) -> r.Record:
    """The record as if its submit had come with a trace's context."""
    history = [msgspec.structs.replace(entry, record=traced(entry.record)) for entry in record.history]
    changes = [
        msgspec.structs.replace(change, traceparent=ROOT["traceparent"], tracestate=ROOT["tracestate"])
        if isinstance(change, r.Submitted)
        else change
        for change in record.changes
    ]
    return msgspec.structs.replace(record, changes=changes, history=history)


def read(file: Path) -> tuple[TaskName, Log]:
    log = msgspec.json.decode(file.read_bytes())
    return TaskName.parse(log["task"]), [
        (seq, traced(decode_record(msgspec.json.encode(raw)))) for seq, raw in enumerate(log["records"], 1)
    ]


def live(name: TaskName, log: Log) -> None:
    """As the coordinators that wrote the records tell their spans."""
    tellers: dict[str, Spans] = {}
    state, parts = new_task(name, 0), Parts()
    for seq, stored in log:
        for entry in stored.history:
            before = parts.whole(entry.record)
            if before is not None:
                apply(state, before, entry.seq)
        record = parts.whole(stored)
        if record is None:
            continue
        holders = [*state.coordinators]
        apply(state, record, seq)
        tellers.setdefault(record.coordinator, Spans(record.coordinator, t)).tell(state, record.changes, from_rfc3339(record.at), holders)


def essence(span: ReadableSpan) -> Any:
    """All that a span says."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return (
        (context.trace_id, context.span_id, None if parent is None else parent.span_id),
        (span.name, span.start_time, span.end_time, span.status.status_code, dict(span.attributes or {})),
        [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
        [(link.context.span_id, dict(link.attributes or {})) for link in span.links],
    )


def told(spans: Sequence[ReadableSpan]) -> list[Any]:
    return sorted((essence(span) for span in spans), key=str)


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_what_is_told_again_is_the_same(file: Path) -> None:
    name, log = read(file)
    with recorded() as spans:
        live(name, log)
        first = told(spans.get_finished_spans())
        spans.clear()
        Spans("successor", t).retold(name, 0, log, since=0.0)
        again = told(spans.get_finished_spans())
    rolled_up = any(record.history for _, record in log)
    assert all(one in again for one in first)
    assert rolled_up or again == first
    ids = [span[0][1] for span in again]
    assert len(ids) == len(set(ids)), "no two spans have one id"
    known = {*ids, int(ROOT["traceparent"].split("-")[2], 16)}
    assert {span[0][2] for span in again} <= known, "every parent is there"
    assert {link[0] for span in again for link in span[3]} <= known, "and every link"


def log_of(*records: tuple[str, float, list[r.Change]]) -> Log:
    return [
        (seq, r.Record(coordinator=by, at=f"2026-11-23T10:00:{at:09.6f}Z", changes=changes))
        for seq, (by, at, changes) in enumerate(records, 1)
    ]


def awarded(epoch: int, agent: str) -> r.Awarded:
    bid = r.ScoredBid(agent=agent, boot="b", epoch=epoch, score=1.5, won=True, reason="fast")
    return r.Awarded(subtask="main", epoch=epoch, agent=agent, boot="b", bids=[bid], attempt=epoch)


NAME = TaskName("me", "t1")
SUBMIT = m.Submit(capability="echo")
LOST = m.ErrorInfo(code="lost", message="Agent a1 was lost: silent.", retryable=True, details={"cause": "lost"})


def a_log(span: str | None = AGENTS, traceparent: str | None = ROOT["traceparent"]) -> Log:
    """Awarded by c1 and accepted; the agent is lost, the task taken over by c2 and given to another."""
    return log_of(
        ("c1", 1.0, [
            r.Submitted(submit=SUBMIT, digest="d", at=1795860000.0, traceparent=traceparent),
            r.Planned(add={"main": m.SubtaskSpec(capability="echo")}, result="main"),
            r.Ready(subtasks=["main"]),
            awarded(1, "a1"),
        ]),
        ("c1", 2.0, [r.Accepted(subtask="main", epoch=1, span=span)]),
        ("c2", 10.0, [r.Held()]),
        ("c2", 11.0, [r.FailedChange(subtask="main", epoch=1, agent="a1", error=LOST, outcome="retry"), awarded(2, "a2")]),
        ("c2", 12.0, [r.Accepted(subtask="main", epoch=2)]),
        ("c2", 13.0, [r.Completed(subtask="main", epoch=2, agent="a2"), r.Completed(of="main")]),
    )  # fmt: skip


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        found.setdefault(span.name, []).append(span)
    return found


def attribute(span: ReadableSpan, name: str) -> Any:
    return dict(span.attributes or {}).get(name)


def id_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def test_a_lost_agents_span_has_the_id_that_its_accept_named() -> None:
    with recorded() as spans:
        live(NAME, a_log())
    found = by_name(spans.get_finished_spans())
    (lost,) = found["execute echo"]
    first, second = found["auction echo"]
    assert (id_of(lost), parent_of(lost)) == (AGENTS, id_of(first))
    assert (attribute(lost, t.ATTR_AGENT), attribute(lost, t.ATTR_OUTCOME), attribute(lost, t.ATTR_EPOCH)) == ("a1", "lost", 1)
    assert (lost.status.is_ok, lost.status.description) == (False, LOST.message)
    assert (lost.start_time, lost.end_time) == (t.nanoseconds(from_rfc3339("2026-11-23T10:00:02Z")), second.end_time)


@pytest.mark.parametrize("span", [None, "auction"])
def test_a_lost_agent_that_did_not_trace_gets_a_span_all_the_same(span: str | None) -> None:
    with recorded() as spans:
        live(NAME, a_log(None))
        auction = id_of(by_name(spans.get_finished_spans())["auction echo"][0])
        spans.clear()
        live(NAME, a_log(auction if span else None))
    (lost,) = by_name(spans.get_finished_spans())["execute echo"]
    assert id_of(lost) not in (auction, AGENTS)
    about = ("me.t1", t.SPAN_EXECUTE, "main", 1)
    assert id_of(lost) == t.span_id_of(t.derived(ROOT, about)), "as an agent in Python would have named it"


def test_a_take_over_is_linked_once() -> None:
    with recorded() as spans:
        live(NAME, a_log())
    found = by_name(spans.get_finished_spans())
    first, second = found["auction echo"]
    links = [(link.context.span_id, dict(link.attributes or {})[t.ATTR_LINK]) for link in second.links]
    assert links == [(int(id_of(first), 16), t.LINK_EPOCH), (int(id_of(first), 16), t.LINK_TAKEOVER)]
    assert found["deliver"][0].links == ()
    assert [attribute(span, t.ATTR_COORDINATOR) for span in (first, second)] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("me", "since", "names"),
    [
        ("c3", "00", ["auction echo", "auction echo", "deliver", "execute echo", "plan"]),
        ("c3", "05", ["auction echo", "deliver", "execute echo"]),
        ("c3", "12", ["deliver"]),
        ("c2", "00", ["auction echo", "plan"]),
    ],
)
def test_only_what_others_recorded_lately_is_told_again(me: str, since: str, names: list[str]) -> None:
    with recorded() as spans:
        live(NAME, a_log())
        first = told(spans.get_finished_spans())
        spans.clear()
        Spans(me, t).retold(NAME, 0, a_log(), from_rfc3339(f"2026-11-23T10:00:{since}Z"))
        again = spans.get_finished_spans()
    assert sorted(span.name for span in again) == names
    assert all(essence(span) in first for span in again)


def test_a_root_that_a_coordinator_made_is_told_when_the_submit_is_stored_and_again() -> None:
    submitted = SubmitIn(SUBMIT, digest="d", stamp=1795860000.0)
    with recorded() as spans:
        one, two = (Spans(name, t).submitted(NAME, submitted) for name in ("c1", "c9"))
        assert one == two, "a submit that comes twice has one trace"
        assert spans.get_finished_spans() == ()
        live(NAME, a_log(traceparent=one.traceparent))
        first = told(spans.get_finished_spans())
        spans.clear()
        Spans("c3", t).retold(NAME, 0, a_log(traceparent=one.traceparent), 0.0)
        again = told(spans.get_finished_spans())
    assert again == first
    (root,) = [span for span in again if span[0][2] is None]
    assert root[1][0] == "submit echo"
    assert {span[0][2] for span in again} <= {None, *(span[0][1] for span in again)}


def test_a_task_without_a_trace_has_no_spans() -> None:
    with recorded() as spans:
        live(NAME, a_log(traceparent=None))
        assert spans.get_finished_spans() == ()


# what may be untold


def test_what_the_last_seconds_hold_may_be_untold() -> None:
    untold = Untold(taken=1000.0, delay_s=1.0)
    names = [TaskName("me", f"t{n}") for n in range(5)]
    for stamp, name in zip((900.0, 990.0 - UNTOLD_S - 1.1, 990.0 - UNTOLD_S, 990.0, 1000.5), names, strict=True):
        untold.head(stamp, name)
    assert untold.since == 990.0 - UNTOLD_S - 1.0
    assert untold.tasks() == names[2:], "the last is ours already, and was another's just before"


def test_nothing_is_known_of_before() -> None:
    untold = Untold(taken=1000.0, delay_s=0.0)
    assert (untold.since, untold.tasks()) == (1000.0 - UNTOLD_S, [])
    untold.head(1000.1, NAME)
    assert untold.tasks() == [NAME]


def test_a_collector_is_not_flooded() -> None:
    untold = Untold(taken=1000.0, delay_s=0.0)
    names = [TaskName("me", f"t{n}") for n in range(AT_MOST + 5)]
    for name in names:
        untold.head(999.0, name)
    assert untold.tasks() == names[5:], "the last ones"


def test_leases_tell_who_gave_up_and_who_fell_silent() -> None:
    settings = Settings()
    leases = Leases("c1", "b1", 3, settings)
    leases.due(0.0, 0)
    leases.lease_seen(0.0, 0, m.Lease(holder="c2", boot="b2"), 1)
    leases.lease_seen(0.0, 1, m.Lease(holder="", boot="b2"), 2)
    late = settings.lease_silence_s + 1.0
    leases.confirmed(late, 0, 1, m.Lease(holder="c2", boot="b2"))
    leases.confirmed(late, 2, None, None)
    assert [leases.orphaned(shard) for shard in range(3)] == ["silent", "", "nobody"]
    for shard in range(3):
        leases.won(late, shard, 10 + shard)
        leases.lease_seen(late, shard, m.Lease(holder="c1", boot="b1"), 10 + shard)
    assert [leases.orphaned(shard) for shard in range(3)] == ["silent", "", "nobody"], "while it is ours"
    leases.lease_seen(late, 0, m.Lease(holder="c3", boot="b3"), 20)
    assert leases.orphaned(0) == ""
