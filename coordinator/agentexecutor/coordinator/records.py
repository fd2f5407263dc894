"""From changes to the bytes of records: each change is encoded once, no record grows beyond 256 KiB, the last one carries the history.

Pure; the encoded pieces are joined as they are (docs/protocol.md section 8).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_PRIORITY, H_ROLLUP, H_STATE, H_TTL, INLINE_LIMIT, RawEntry, decode_as, headers
from agentexecutor.schemas.messages import BlobRef

__all__ = [
    "ADD_LIMIT",
    "decode_history",
    "encode_change",
    "encode_entry",
    "encode_history",
    "encode_record",
    "pages",
    "record_headers",
    "size",
]

ADD_LIMIT = 65_536
"""Bytes: the subtasks that a `planned` change adds travel by reference when they are larger."""

_encode = msgspec.json.Encoder().encode


def encode_change(change: r.Change) -> Raw:
    """One change as JSON text."""
    return Raw(_encode(change))


def encode_record(
    coordinator: str,
    at: str,
    changes: Sequence[Raw],
    *,
    applied: Sequence[str] = (),
    history: Sequence[Raw] = (),
    history_blob: BlobRef | None = None,
    digest: str | None = None,
    part: bool = False,
    parts: int = 0,
) -> bytes:
    """A record of changes (and a history of entries) that are encoded already."""
    return _encode(
        r.LooseRecord(
            coordinator=coordinator,
            at=at,
            changes=list(changes),
            applied=list(applied),
            history=list(history),
            history_blob=history_blob,
            digest=digest,
            part=part,
            parts=parts,
        )
    )


def encode_entry(seq: int, time: str, record: bytes) -> Raw:
    """A LogEntry around a record that is encoded already; `time` is RFC 3339 text."""
    return Raw(b'{"seq":%d,"time":"%s","record":%s}' % (seq, time.encode(), record))


def size(encoded: Sequence[Raw]) -> int:
    """Bytes of encoded pieces as they stand in a list."""
    return sum(map(len, encoded)) + len(encoded)


def encode_history(history: Sequence[Raw]) -> bytes:
    """The body behind `history_blob`: a JSON list of LogEntries."""
    return _encode(list(history))


def decode_history(body: bytes) -> list[r.LogEntry]:
    """The history behind a `history_blob`; changes of unknown kinds are left out. Raises DecodeFailed."""
    return [entry.decoded() for entry in decode_as(list[RawEntry], body)]


def pages(changes: Sequence[Raw], limit: int = INLINE_LIMIT) -> list[list[Raw]]:
    """Changes cut into records: each at most `limit` bytes, or one change that is larger by itself."""
    made: list[list[Raw]] = [[]]
    size = 0
    for change in changes:
        length = len(change) + 1
        if made[-1] and size + length > limit:
            made.append([])
            size = 0
        made[-1].append(change)
        size += length
    return made


def record_headers(state: str, *, priority: int = 0, keep_s: int | None = None) -> dict[str, str]:
    """Headers of a record. `keep_s`: it is the task's last one, replaces all others, and expires after so many seconds."""
    made = headers("record")
    made[H_STATE] = state
    if priority:
        made[H_PRIORITY] = str(priority)
    if keep_s is not None:
        made[H_ROLLUP] = "sub"
        made[H_TTL] = f"{keep_s}s"
    return made
