"""The seven streams and their settings (design: docs/architecture.md), made when they are missing and compared when they are there."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from agentexecutor.bus.errors import ApiError, StreamMismatch
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_EXPECTED, encode, headers
from agentexecutor.schemas.subjects import CLASSES, DEFAULT_PREFIX, Subjects

if TYPE_CHECKING:
    from agentexecutor.bus.connection import Connection

__all__ = [
    "BLOBS",
    "INBOX",
    "LEASE",
    "LOG",
    "NOT_FOUND",
    "OFFERS",
    "PROGRESS",
    "SUBMITS",
    "WAITING",
    "Streams",
    "ensure_streams",
    "mark_start",
    "stream_name",
    "stream_settings",
]

SUBMITS = "AE_SUBMITS"
INBOX = "AE_INBOX"
LOG = "AE_LOG"
LEASE = "AE_LEASE"
OFFERS = "AE_OFFERS"
PROGRESS = "AE_PROGRESS"
BLOBS = "AE_BLOBS"

logger = logging.getLogger("agentexecutor.bus")

NOT_FOUND = 10059
ALREADY = 10058
NO_ROOM = frozenset({10047, 10005})
"""Refusals to make a stream: the server has no room for what it reserves, or no node of the cluster has."""
SECOND = 1_000_000_000
GIB = 1 << 30
MIB = 1 << 20
SHARE = 4
"""On a disk that is too small a stream reserves one part in so many of what it might: others reserve as much, and the log has to grow."""
MESSAGE_LIMIT = 300_000
"""Bytes: the largest submit, claim or chunk."""
ROOM = 4096
"""Bytes of it for headers."""
LIMITS = frozenset({"max_msgs", "max_bytes", "num_replicas"})
"""An installation may set others than these streams are made with, and they are kept; so it may the age of progress."""
WAITING = 50_000
"""So many submits may wait for a coordinator; more are refused until there is room. An installation may set another number."""


def stream_name(name: str, prefix: str) -> str:
    """The stream's name under a prefix: other prefixes are other tenants of one server."""
    return name if prefix == DEFAULT_PREFIX else f"{name}_{re.sub(r'[^A-Za-z0-9_-]', '_', prefix)}"


def stream_settings(prefix: str, shards: int, replicas: int) -> list[dict[str, Any]]:
    """All streams, as JetStream's API wants them (durations in nanoseconds)."""
    subjects = Subjects(prefix)
    queue = {"retention": "workqueue", "storage": "file", "discard": "new", "max_msg_size": MESSAGE_LIMIT, "duplicate_window": SECOND // 10}
    streams: list[dict[str, Any]] = [
        {
            "name": SUBMITS,
            "subjects": [subjects.all_submits(klass) for klass in CLASSES],
            "subject_transform": {"src": subjects.all_submits(), "dest": subjects.new_transform(shards)},
            "max_msgs": WAITING,
            "max_bytes": 4 * GIB,
            **queue,
        },
        {
            "name": INBOX,
            "subjects": [subjects.all_claims()],
            "subject_transform": {"src": subjects.all_claims(), "dest": subjects.inbox_transform(shards)},
            "max_bytes": 4 * GIB,
            **queue,
        },
        {
            "name": LOG,
            "subjects": [subjects.all_logs()],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "allow_direct": True,
            "republish": {"src": subjects.all_log_tokens(), "dest": subjects.watch_transform()},
        },
        {"name": LEASE, "subjects": [subjects.all_leases(), subjects.all_members()], "storage": "memory", "max_msgs_per_subject": 1},
        {
            "name": OFFERS,
            "subjects": [subjects.all_offers()],
            "storage": "memory",
            "max_msgs_per_subject": 1,
            "max_age": 10 * SECOND,
        },
        {
            "name": PROGRESS,
            "subjects": [subjects.all_progress()],
            "storage": "file",
            "discard": "old",
            "max_age": 24 * 3600 * SECOND,
            "max_bytes": 1 * GIB,
            "allow_direct": True,
        },
        {
            "name": BLOBS,
            "subjects": [subjects.all_blobs()],
            "storage": "file",
            "discard": "new",
            "max_msg_size": MESSAGE_LIMIT,
            "allow_direct": True,
        },
    ]
    for stream in streams:
        stream["name"] = stream_name(stream["name"], prefix)
        stream["num_replicas"] = replicas
    return streams


class Streams(NamedTuple):
    """The streams as they are there. `shards`: read, not wished; `created`: when each was made, so another time is another stream."""

    shards: int
    created: dict[str, str]


async def ensure_streams(connection: Connection, *, shards: int, replicas: int, make: bool = True) -> Streams:
    """Make the streams that are missing, and compare those that are there. Raises StreamMismatch, ApiError."""
    found = await _info(connection, SUBMITS)
    created: dict[str, str] = {}
    if found is not None:
        shards = _shards_of(found["config"])
        replicas = int(found["config"].get("num_replicas", replicas))
    for wanted in stream_settings(connection.prefix, shards, replicas):
        there = await _get(connection, wanted["name"])
        if there is None and make:
            there = await _make(connection, wanted)
            if wanted["name"] == stream_name(LEASE, connection.prefix):
                await mark_start(connection)
        if there is not None:
            _compare({setting: value for setting, value in wanted.items() if not _is_limit(wanted["name"], setting)}, there["config"])
            created[wanted["name"]] = there["created"]
    return Streams(shards, created)


async def mark_start(connection: Connection) -> None:
    """Put the mark into a stream of leases that has none; its stamp tells since when nothing of the stream was lost (docs/adr/0015).

    Of several who do it one wins. When no answer comes it may not be there: whoever misses it does this again.
    """
    mark = m.Lease(holder=connection.name, boot="")
    await connection.acknowledged(connection.subjects.start(), encode(mark), {**headers("lease"), H_EXPECTED: "0"})


async def _info(connection: Connection, name: str) -> dict[str, Any] | None:
    return await _get(connection, stream_name(name, connection.prefix))


async def _get(connection: Connection, name: str) -> dict[str, Any] | None:
    try:
        return await connection.api(f"STREAM.INFO.{name}", {}, miss=False)
    except ApiError as error:
        if error.fields["err_code"] == NOT_FOUND:
            return None
        raise


async def _make(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Make a stream. Where the disk is too small for what it reserves it gets a part of what there is, so that the others have some, too."""
    room = most = wanted.get("max_bytes", 0)
    while True:
        try:
            found = await connection.api(f"STREAM.CREATE.{wanted['name']}", {**wanted, "max_bytes": room} if most else wanted)
        except ApiError as error:
            if error.fields["err_code"] == ALREADY:
                return await _get(connection, wanted["name"])
            if error.fields["err_code"] not in NO_ROOM or "storage" not in error.fields["description"]:
                raise
            if room <= MIB:
                raise _no_room(wanted["name"], error) from error
            room //= 2
        else:
            return found if room == most else await _make_smaller(connection, found, max(MIB, room // SHARE), most)


async def _make_smaller(connection: Connection, found: dict[str, Any], room: int, wanted: int) -> dict[str, Any]:
    name = found["config"]["name"]
    logger.warning(
        "Stream %s has room for %d MiB, not for %d: the server's disk holds no more. "
        "When it does, restart the server, and `nats stream edit %s --max-bytes %d`.",
        *(name, room // MIB, wanted // MIB, name, wanted),
    )
    return await connection.api(f"STREAM.UPDATE.{name}", {**found["config"], "max_bytes": room})


def _no_room(name: str, error: ApiError) -> ApiError:
    return ApiError(
        f"The server has no room for stream {name}: {error.fields['description']}.",
        hint="Free some of its disk and restart it (it takes three quarters of what is free when it starts), or set max_file_store in its configuration.",
        **{field: error.fields[field] for field in ("code", "err_code", "description")},
    )


def _shards_of(config: dict[str, Any]) -> int:
    match = re.search(r"partition\((\d+),", config.get("subject_transform", {}).get("dest", ""))
    if match is None:
        raise StreamMismatch(
            f"Stream {config.get('name')} has no partition in its transform.",
            hint="It was not made by this version; remove it, or use another prefix.",
            stream=config.get("name"),
            setting="subject_transform",
            wanted="{{partition(N,1,3)}}",
            found=config.get("subject_transform"),
        )
    return int(match.group(1))


def _is_limit(stream: str, setting: str) -> bool:
    return setting in LIMITS or (setting == "max_age" and stream.startswith(PROGRESS))


def _compare(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    for setting, value in wanted.items():
        there = found.get(setting)
        if isinstance(value, dict):
            there = {key: (there or {}).get(key) for key in value}
        if there != value and not (value is False and there is None):
            raise StreamMismatch(
                f"Stream {wanted['name']} has {setting} {there!r}, this version wants {value!r}.",
                hint="Change the stream, remove it, or use another prefix.",
                stream=wanted["name"],
                setting=setting,
                wanted=value,
                found=there,
            )
