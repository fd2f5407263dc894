"""Bodies of the answers to questions (docs/protocol.md section 7). Pure: what the log and the market hold is passed in."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from agentexecutor.coordinator.inputs import Key, Stalled
from agentexecutor.coordinator.records import encode_entry
from agentexecutor.coordinator.turns import SplitWanted
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import INLINE_LIMIT, encode, to_rfc3339
from agentexecutor.schemas.names import TaskName

__all__ = [
    "Head",
    "Line",
    "log_lines",
    "log_page",
    "newest",
    "stalled_lines",
    "task_line",
    "unserved_splits",
]

_loose = msgspec.json.Decoder(r.LooseRecord)


class Line(NamedTuple):
    """An encoded LogEntry and its sequence."""

    seq: int
    entry: Raw


class Head(NamedTuple):
    """The last record of a task, as the list of tasks shows it. `stamp`: the server's, seconds since 1970."""

    stamp: float
    name: TaskName
    state: str
    priority: int


def log_lines(seq: int, time: str, payload: bytes, history: bytes | None = None) -> list[Line]:
    """One stored record as lines of the log: those that it holds as its history (`history`: the body behind its history_blob), then its own."""
    record = _loose.decode(payload)
    entries = msgspec.json.decode(history, type=list[Raw]) if history is not None else record.history
    lines = [Line(msgspec.json.decode(entry, type=_Seq).seq, entry) for entry in entries]
    if entries:
        own = msgspec.structs.replace(record, history=[], history_blob=None)
        return [*lines, Line(seq, encode_entry(seq, time, encode(own)))]
    return [Line(seq, encode_entry(seq, time, payload))]


class _Seq(msgspec.Struct):
    seq: int


def log_page(lines: Sequence[Line], after: int, *, more: bool, limit: int = INLINE_LIMIT) -> tuple[bytes, int | None]:
    """The body for ``ask log``: entries after a sequence, up to `limit` bytes but at least one; and where to go on, None at the end.

    `more`: the log has records beyond these lines.
    """
    page: list[bytes] = []
    size = 0
    last = after
    for line in lines:
        if line.seq <= after:
            continue
        if page and size + len(line.entry) > limit:
            more = True
            break
        page.append(bytes(line.entry))
        size += len(line.entry)
        last = line.seq
    return b'{"records":[' + b",".join(page) + b"]}", last if more else None


def newest(heads: Iterable[Head], question: m.Ask) -> list[Head]:
    """Those that the question asks for, newest first."""
    wanted = set(question.states)
    fitting = (
        head for head in heads if (not wanted or head.state in wanted) and (question.owner is None or head.name.owner == question.owner)
    )
    return heapq.nlargest(question.limit, fitting)


def task_line(head: Head) -> v.TaskLine:
    """A line of the list of tasks."""
    return v.TaskLine(task=str(head.name), state=head.state, at=to_rfc3339(head.stamp), priority=head.priority)


def stalled_lines(now: float, stalls: Mapping[Key, Stalled]) -> list[v.StalledLine]:
    """Work that stands still; `now`: seconds since 1970 by the server's clock."""
    return [
        v.StalledLine(
            task=str(key.task),
            subtask=key.subtask,
            agent=one.agent,
            epoch=one.epoch,
            silent_s=round(now - one.since, 3),
            allowed_s=round(one.allowed_s, 3),
        )
        for key, one in stalls.items()
    ]


def unserved_splits(now: float, waiting: Mapping[Key, SplitWanted]) -> list[v.UnservedLine]:
    """Subtasks that wait for an agent to be split for; `now`: monotonic seconds."""
    by_capability: dict[str, list[tuple[Key, SplitWanted]]] = {}
    for key, wanted in waiting.items():
        by_capability.setdefault(wanted.need.demand.capability, []).append((key, wanted))
    return [
        v.UnservedLine(
            capability=capability,
            labels=wants[0][1].need.demand.labels,
            subtasks=len(wants),
            oldest_s=round(now - min(wanted.since for _, wanted in wants), 3),
            reason=f"no agent offers {capability}, which is to be split among those that do",
            tasks=list(dict.fromkeys(str(key.task) for key, _ in wants))[:8],
        )
        for capability, wants in by_capability.items()
    ]
