"""The tasks' logs: the fenced append, and the reads that recovery and answers need.

An append carries the sequence that it expects the task's subject to end with; the server refuses it when another record came first. A
refusal or a missing answer says nothing about one's own record (it may be stored): `AppendUnknown`, and the log has to be read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
from nats.aio.msg import Msg

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.deliveries import delivery_of
from agentexecutor.bus.errors import NO_MESSAGE, ApiError, AppendUnknown, BusError
from agentexecutor.bus.streams import INBOX, LEASE, LOG, PROGRESS, SUBMITS, mark_start, stream_name
from agentexecutor.bus.watch import listening
from agentexecutor.schemas.codec import H_EXPECTED, H_ID, H_PRIORITY, H_STATE, H_TYPE, from_rfc3339, to_rfc3339
from agentexecutor.schemas.messages import ENDED
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

__all__ = ["StoredRecord", "TaskLog"]

APPEND_S = 5.0
BATCH = 256
NO_MORE = ("404", "408")
"""Statuses of a pull that found nothing, or less than it asked for."""
ANSWER_BATCHES = 32
RESTART_S = 1.0
"""All streams are made within less; what is made later was made anew."""


class StoredRecord(NamedTuple):
    """A message of a task's log. `state`: its Ae-State; `payload` None: it has no Ae-Type (it only moves the head), or heads were asked for.

    `priority`: of the task, told with heads.
    """

    seq: int
    time: str
    stamp: float
    state: str
    id: str
    payload: bytes | None
    priority: int = 0


class TaskLog:
    """Appends to and reads from AE_LOG, and the two looks into the work queues that recovery needs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.name = self._log = stream_name(LOG, connection.prefix)
        self._inbox = stream_name(INBOX, connection.prefix)
        self._submits = stream_name(SUBMITS, connection.prefix)
        self._progress = stream_name(PROGRESS, connection.prefix)
        self._leases = stream_name(LEASE, connection.prefix)

    async def append(self, shard: int, task: TaskName, payload: bytes, headers: Headers, *, expected: int) -> int:
        """Append a record to a task's log when its head is `expected`; gives the new head. Raises AppendUnknown, TooLarge, BusClosed."""
        return await self.append_to(self._connection.subjects.log(shard, task), payload, headers, expected=expected)

    async def append_to(self, subject: str, payload: bytes, headers: Headers, *, expected: int) -> int:
        """The same for any subject whose last sequence is `expected`.

        Not while the connection is away: what waits in it would be sent after the reconnect, perhaps to a server that has lost records and whose
        sequences have come as far again.
        """
        if not self._connection.connected:
            raise _unknown("the connection is away")
        answer = await self._connection.acknowledged(subject, payload, {**headers, H_EXPECTED: str(expected)}, APPEND_S)
        if answer is None:
            raise _unknown("no stream answered")
        if "error" in answer:
            error = answer["error"]
            raise _unknown(str(error.get("description")), refused=True, code=error.get("err_code"))
        if answer.get("duplicate"):
            raise _unknown("the stream took it for a duplicate")
        return int(answer["seq"])

    async def read(self, shard: int, task: TaskName) -> list[StoredRecord]:
        """A task's whole log, oldest first, complete up to what the leader says is last."""
        subject = self._connection.subjects.log(shard, task)
        while True:
            last = await self.last(shard, task)
            if last is None:
                return []
            if last.state in ENDED:  # it was rolled up: the only message of its subject
                return [last]
            records = await self._range(subject, 0, None)
            if records and records[-1].seq >= last.seq:
                return records
            await anyio.sleep(0.01)

    async def read_after(self, task: TaskName, after: int, limit_bytes: int) -> tuple[list[StoredRecord], bool]:
        """Records after a sequence, about `limit_bytes` of them (one at least); and whether there are more."""
        records = await self._range(self._connection.subjects.any_log(task), after, limit_bytes)
        if limit_bytes and sum(len(record.payload or b"") for record in records) >= limit_bytes:
            return records, True
        return records, False

    async def _range(self, subject: str, after: int, limit_bytes: int | None) -> list[StoredRecord]:
        """Messages of one subject after a sequence, by batches of direct gets."""
        records: list[StoredRecord] = []
        size = 0
        while True:
            more = await self._batch(subject, after + 1)
            for record in more:
                records.append(record)
                size += len(record.payload or b"")
                if limit_bytes is not None and size >= limit_bytes:
                    return records
            if len(more) < BATCH:
                return records
            after = more[-1].seq

    async def _batch(self, subject: str, start: int) -> list[StoredRecord]:
        return await self._get(self._log, {"batch": BATCH, "next_by_subj": subject, "seq": start})

    async def _get(self, stream: str, asked: dict[str, Any]) -> list[StoredRecord]:
        """One batch of direct gets."""
        inbox = f"_INBOX.{new_id()}"
        records: list[StoredRecord] = []
        done = anyio.Event()

        async def collect(message: Msg) -> None:
            record = _stored(message.headers or {}, message.data)
            if record is None:
                done.set()
            else:
                records.append(record)

        async with listening(self._connection, inbox, collect):
            await self._connection.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(asked).encode(), {}, reply=inbox)
            with anyio.move_on_after(APPEND_S):
                await done.wait()
        if not done.is_set():
            raise ApiError(f"JetStream did not answer a read of {stream}.", code=408, err_code=0, description="time-out")
        return records

    async def last(self, shard: int, task: TaskName) -> StoredRecord | None:
        """A task's last record, from the leader."""
        return await self._last(self._log, self._connection.subjects.log(shard, task))

    async def _last(self, stream: str, subject: str) -> StoredRecord | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.fields["err_code"] == NO_MESSAGE:
                return None
            raise
        message = answer["message"]
        headers = _parse_headers(base64.b64decode(message.get("hdrs", "")))
        data = base64.b64decode(message.get("data", ""))
        time = str(message["time"])
        return StoredRecord(
            int(message["seq"]),
            time,
            from_rfc3339(time),
            headers.get(H_STATE, ""),
            headers.get(H_ID, ""),
            data if H_TYPE in headers else None,
        )

    async def last_of(self, stream: str, subject: str) -> StoredRecord | None:
        """The last message of a subject in one of the other streams, from the leader."""
        return await self._last(stream_name(stream, self._connection.prefix), subject)

    async def progress(self, task: TaskName, peer: str, since: float) -> list[tuple[float, bytes]]:
        """What an agent said about its progress in a task since `since` (seconds since 1970): stamps and payloads, oldest first.

        The first 256 and the last of them. Raises ApiError.
        """
        subject = self._connection.subjects.progress(peer, task)
        last = await self._last(self._progress, subject)
        if last is None or last.stamp < since:
            return []
        asked = {"batch": BATCH, "next_by_subj": subject, "start_time": to_rfc3339(since)}
        said = await self._get(self._progress, asked)
        return [(one.stamp, one.payload) for one in (*said, last) if one.payload is not None]

    async def answers(self, task: TaskName, since: float) -> list[tuple[float, bytes]]:
        """What agents said, since `since`, that they did with feedback: stamps and payloads, oldest first, of the first 8192 signs. Raises ApiError."""
        asked: dict[str, Any] = {
            "batch": BATCH,
            "next_by_subj": self._connection.subjects.all_progress(task),
            "start_time": to_rfc3339(since),
        }
        said: list[StoredRecord] = []
        for _ in range(ANSWER_BATCHES):
            more = await self._get(self._progress, asked)
            said += [one for one in more if b'"feedback"' in (one.payload or b"")]
            if len(more) < BATCH:
                break
            asked = {"batch": BATCH, "next_by_subj": asked["next_by_subj"], "seq": more[-1].seq + 1}
        return [(one.stamp, one.payload or b"") for one in said]

    async def inbox_has(self, shard: int, task: TaskName, peer: str) -> bool:
        """Whether the inbox still holds a claim of `peer` about the task, by the leader's word."""
        return await self._last(self._inbox, self._connection.subjects.inbox_of(shard, task, peer)) is not None

    async def submit_waits(self, task: TaskName) -> bool:
        """Whether the task's submit still waits to be taken."""
        return await self._last(self._submits, self._connection.subjects.any_new(task)) is not None

    async def waiting(self) -> int:
        """How many submits wait to be taken."""
        info = await self._connection.api(f"STREAM.INFO.{self._submits}", {})
        return int(info["state"]["messages"])

    async def restarted_ms(self) -> int:
        """Milliseconds from the making of the streams to the last loss of records; 0 before it.

        A start of the server, which empties the streams in memory, may lose some; a log that was deleted and made anew has lost all.
        """
        names = (self._log, self._submits, self._inbox)
        log, *queues = [from_rfc3339((await self._connection.api(f"STREAM.INFO.{name}", {}))["created"]) for name in names]
        age = max(log, await self.started()) - min(log, *queues)
        return int(age * 1000) if age > RESTART_S else 0

    async def started(self) -> float:
        """Since when the stream of leases has kept what it was given (seconds since 1970), by the mark in it; made now when it has none."""
        subject = self._connection.subjects.start()
        mark = await self._last(self._leases, subject)
        if mark is None:
            await mark_start(self._connection)
            mark = await self._last(self._leases, subject)
        if mark is None:
            raise ApiError(f"JetStream did not store a mark in {self._leases}.", code=408, err_code=0, description="time-out")
        return mark.stamp

    async def span(self) -> tuple[int, int]:
        """Sequences of the first and the last message of all logs."""
        state = (await self._connection.api(f"STREAM.INFO.{self._log}", {}))["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def heads(self, shard: int | None = None, *, since: int = 0) -> AsyncIterator[tuple[TaskName, int, StoredRecord]]:
        """The last record of every task (of one shard), headers only: task, shard, record. Raises ApiError, or BusError when some got lost.

        `since`: every record from this sequence on instead, so that a task's last one comes last. They are pulled, a batch at a time: pushed, so many
        would stand in the connection before the acknowledgements of renewals.
        """
        inbox = f"_INBOX.{new_id()}"
        send, receive = anyio.create_memory_object_stream[Msg](float("inf"))
        name = ""
        try:
            async with listening(self._connection, inbox, send.send):
                consumer = await self._connection.api(f"CONSUMER.CREATE.{self._log}", self._heads_consumer(shard, since))
                name, left, came = consumer["name"], int(consumer.get("num_pending", 0)), 0
                while left > 0:
                    batch = min(BATCH, left)
                    request = json.dumps({"batch": batch, "no_wait": True}).encode()
                    await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self._log}.{name}", request, {}, reply=inbox)
                    for got in range(batch):
                        with anyio.fail_after(APPEND_S):
                            message = await receive.receive()
                        status = (message.headers or {}).get("Status")
                        if status in NO_MORE:  # fewer are left: some tasks have ended meanwhile
                            left = left if got else 0
                            break
                        if status is not None:
                            raise BusError(f"JetStream ended a read of the log's heads: status {status}.", hint="Ask again.")
                        came, left = came + 1, delivery_of(message.reply).more
                        if (head := self._head(message)) is not None:
                            yield head
                info = await self._connection.api(f"CONSUMER.INFO.{self._log}.{name}", {})
                if (lost := info["delivered"]["consumer_seq"] - came) > 0:
                    raise BusError(f"{lost} heads of the log were lost on the way.", hint="Ask again.")
        except TimeoutError as error:
            raise ApiError("JetStream did not answer a read of the log's heads.", code=408, err_code=0, description="time-out") from error
        finally:
            await self._delete_consumer(name)
            send.close()
            receive.close()

    async def _delete_consumer(self, name: str) -> None:
        """Not left to the server's time-out: as long as it is there, each roll-up makes the server count anew what it has pending."""
        if name:
            with anyio.CancelScope(shield=True), suppress(BusError):
                await self._connection.api(f"CONSUMER.DELETE.{self._log}.{name}", {})

    def _heads_consumer(self, shard: int | None, since: int) -> dict[str, Any]:
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": since} if since else {"deliver_policy": "last_per_subject"}
        return {
            "stream_name": self._log,
            "config": {
                **begin,
                "filter_subject": self._connection.subjects.all_logs(shard),
                "ack_policy": "none",
                "headers_only": True,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": 60_000_000_000,
            },
        }

    def _head(self, message: Msg) -> tuple[TaskName, int, StoredRecord] | None:
        """A task's last record; None for what stands where no task has its log."""
        try:
            shard, task = self._connection.subjects.parse_log(message.subject)
        except ValueError:
            return None
        if message.subject != self._connection.subjects.log(shard_of(task, self._connection.shards), task):
            return None
        headers = message.headers or {}
        told = delivery_of(message.reply)
        priority = headers.get(H_PRIORITY, "0")
        record = StoredRecord(
            told.seq,
            "",
            told.stamp,
            headers.get(H_STATE, ""),
            headers.get(H_ID, ""),
            None,
            int(priority) if priority.lstrip("-").isdecimal() else 0,
        )
        return task, shard, record


def _unknown(why: str, *, refused: bool = False, code: int | None = None) -> AppendUnknown:
    return AppendUnknown(f"An append was not acknowledged: {why}.", hint="Read the log.", refused=refused, err_code=code)


def _stored(headers: dict[str, str], data: bytes) -> StoredRecord | None:
    """A message of a direct get; None for the one that ends the batch."""
    if "Nats-Sequence" not in headers:
        return None
    time = headers["Nats-Time-Stamp"]
    return StoredRecord(
        int(headers["Nats-Sequence"]),
        time,
        from_rfc3339(time),
        headers.get(H_STATE, ""),
        headers.get(H_ID, ""),
        data if H_TYPE in headers else None,
    )


def _parse_headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in pairs}
