"""The coordinator: receives, decides, appends, sends, acknowledges. The only asynchronous file of this folder; what is decided stands in the pure ones.

The ten rules of a coordinator's life are marked by their numbers: an append that is refused or unanswered is unknown (1), ignoring is final only
for reasons that stay true (2), the lease is checked before each append (3), submits are pulled while there is room (4), absence is confirmed by the
inbox (5), the clock is the server's (6), questions are answered (7), accepts are soft (8, in `turns`), a log that went back is loaded again (9), the
winner of a lease makes the shard's consumers anew (10).
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus.blobs import load_body, load_chunk, store_body
from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.consumers import Inbound, ShardConsumers
from agentexecutor.bus.errors import ApiError, AppendUnknown, BusError
from agentexecutor.bus.follow import Followed, follow
from agentexecutor.bus.log import StoredRecord, TaskLog
from agentexecutor.bus.streams import LEASE, OFFERS
from agentexecutor.coordinator import answers, bodies, records
from agentexecutor.coordinator.admission import Admission
from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Twice, Waiting
from agentexecutor.coordinator.evolve import fold
from agentexecutor.coordinator.inbound import Unusable, large_result, read_claim, read_submit
from agentexecutor.coordinator.inputs import (
    BrokenIn,
    ClaimIn,
    ComposedIn,
    Effect,
    GiveAward,
    HeldIn,
    Input,
    Key,
    LostIn,
    NeedCompose,
    NeedSplit,
    Send,
    SplitIn,
    SubmitIn,
)
from agentexecutor.coordinator.leases import Beat, Confirm, GiveUp, LeaseAction, Leases
from agentexecutor.coordinator.machine import award_of, decide
from agentexecutor.coordinator.market import Market, SendCall, Suspect
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.states import ENDED
from agentexecutor.coordinator.turns import Desk, Turn
from agentexecutor.coordinator.views import state_view, task_view
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, INLINE_LIMIT, TYPE_OF, decode, decode_as, decode_record, encode, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, TooLarge
from agentexecutor.schemas.names import TaskName, new_boot
from agentexecutor.schemas.subjects import CLASSES, NOBODY, shard_of

__all__ = ["Coordinator"]

logger = logging.getLogger("agentexecutor.coordinator")

WORKERS = 64
LOADERS = 16
TICK_S = 0.25
RETRY_S = 0.5
FAULT_S = 5.0
NAK_S = 1.0
FEW = 64
"""Submits are asked for again when no more than so many are outstanding."""
PULL_AGAIN_S = 4.0
PARKED_A_TICK = 500
TWICE_S = 1.0
GROUP = "coordinators"
UNFIT = (AgentExecutorError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What putting a body together may raise when the body is not what it should be."""

Job = Callable[[], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class _Shard:
    """A shard that is held. `consumers` None: nothing is delivered yet, or nothing any more. `busy`: tasks that a worker has or will have."""

    number: int
    scope: anyio.CancelScope = dataclasses.field(default_factory=anyio.CancelScope)
    consumers: ShardConsumers | None = None
    leaving: anyio.Event = dataclasses.field(default_factory=anyio.Event)
    quiet: anyio.Event = dataclasses.field(default_factory=anyio.Event)
    busy: int = 0


class Coordinator:
    """One process's share of moving tasks forward: holds shards by lease and drives their tasks.

    `boot`: this life of the process (see `new_boot`). `counters` counts what an operator asks for; `unusable` keeps the last messages that
    could not be used (subject, reason, first bytes).
    """

    def __init__(self, connection: Connection, *, boot: str | None = None, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.counters: Counter[str] = Counter()
        self.unusable: deque[tuple[str, str, bytes]] = deque(maxlen=100)
        self._connection = connection
        self._subjects = connection.subjects
        self._me = connection.name
        self._boot = boot or new_boot()
        self._market = Market(settings)
        self._settings = settings
        self._clock = Clock(time.monotonic(), time.time())
        self._leases = Leases(self._me, self._boot, connection.shards, settings)
        self._desk = Desk(settings, self._market, self._clock, connection.shards, self._wake, _draw)
        self._tasks = self._desk.tasks
        self._log = TaskLog(connection)
        self._bodies = bodies.BodyCache()
        self._admission = Admission(settings.open_tasks)
        self._pulled: dict[tuple[int, str], float] = {}
        self._twice = Twice(TWICE_S)
        self._shards: dict[int, _Shard] = {}
        self._splits: dict[Key, tuple[int, NeedSplit]] = {}
        self._checking: set[tuple[Key, int]] = set()
        self._last_seq = 0
        self._jobs, self._jobs_out = anyio.create_memory_object_stream[Entry | Job](float("inf"))
        self._stopping = anyio.Event()
        self._leases_changed = anyio.Event()
        self._alarm = anyio.Event()
        self._wakes_at = 0.0
        self._hearing: anyio.CancelScope | None = None
        self._group: TaskGroup

    # life

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Coordinate until `stop` (or cancelled). `started` once leases and members are followed."""
        forget = self._connection.on_reconnect(self._reconnected)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._log.running())
                await stack.enter_async_context(follow(self._connection, LEASE, self._subjects.all_leases(), self._lease_came))
                await stack.enter_async_context(follow(self._connection, LEASE, self._subjects.all_members(), self._member_came))
                await stack.enter_async_context(self._subscribed(self._subjects.all_asks("task"), self._asked_task))
                await stack.enter_async_context(self._subscribed(self._subjects.all_asks("unserved"), self._asked_unserved))
                await stack.enter_async_context(self._subscribed(self._subjects.all_asks("tasks"), self._asked_tasks, GROUP))
                await stack.enter_async_context(self._subscribed(self._subjects.all_asks("blob"), self._asked_blob, GROUP))
                async with anyio.create_task_group() as self._group:
                    for _ in range(WORKERS):
                        self._group.start_soon(self._work)
                    self._group.start_soon(self._keep_leases)
                    self._group.start_soon(self._keep_time)
                    task_status.started()
                    await self._stopping.wait()
                    await self._drain()
                    self._group.cancel_scope.cancel()
        finally:
            forget()

    def stop(self) -> None:
        """Finish what is in flight, release the leases, and let `run` return."""
        self._stopping.set()

    async def _drain(self) -> None:
        self._leases.leave(time.monotonic())
        self._leases_changed.set()
        while self._leases.held(time.monotonic()) or self._shards:
            await anyio.sleep(0.01)

    @asynccontextmanager
    async def _subscribed(self, subject: str, callback: Callable[[Msg], Awaitable[None]], queue: str = "") -> AsyncIterator[None]:
        subscription = await self._connection.subscribe(subject, callback, queue=queue)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):
                await subscription.unsubscribe()

    async def _reconnected(self) -> None:
        """Silence is counted anew; when the log went back (9), everything is loaded again."""
        now = time.monotonic()
        self._leases.reconnected(now)
        self._market.listen_again(now)
        with suppress(BusError):
            if await self._log.last_sequence() < self._last_seq:
                self._last_seq = 0
                for shard in self._shards.values():
                    shard.scope.cancel()

    # what arrives

    async def _claim_came(self, inbound: Inbound) -> None:
        try:
            number, task, input = read_claim(self._subjects, inbound.subject, inbound.payload, inbound.headers)
        except Unusable as error:
            await self._set_aside(inbound, error)
            return
        ended = self._tasks.ended(task)
        if ended is not None and isinstance(input, ClaimIn):
            stub = TaskState(task, number, state=ended.state, epochs=ended.epochs)
            await self._do(task, None, decide(stub, input, 0.0, self._settings, 0).effects)
            await self._acknowledge(inbound)
        elif isinstance(input, ClaimIn) and large_result(input.claim, INLINE_LIMIT):
            self._jobs.send_nowait(partial(self._by_reference, number, task, input, inbound))
        else:
            self._post(number, task, Waiting(input, inbound))

    async def _submit_came(self, inbound: Inbound) -> None:
        try:
            number, task, input = read_submit(self._subjects, inbound.subject, inbound.payload, inbound.headers, inbound.stamp)
        except Unusable as error:
            await self._set_aside(inbound, error)
            return
        if input.submit.plan_blob is not None:
            self._jobs.send_nowait(partial(self._fetch_plan, number, task, input, inbound))
        else:
            self._post(number, task, Waiting(input, inbound))

    async def _set_aside(self, inbound: Inbound, error: Unusable) -> None:
        """Count and keep what cannot be used, tell its sender, and go on."""
        why, task, peer, id = (error.fields[name] for name in ("why", "task", "peer", "id"))
        self.counters[f"messages {why}"] += 1
        self.unusable.append((inbound.subject, str(error), inbound.payload[:1000]))
        logger.warning("A message on %s cannot be used: %s", inbound.subject, error)
        if peer and id:
            refused = m.Refused(task=str(task), id=id[:64], error=m.ErrorInfo(code="input", message=str(error)))
            await self._publish(self._subjects.to(peer, "refused", task), encode(refused), headers("refused"))
        await self._acknowledge(inbound)

    async def _by_reference(self, number: int, task: TaskName, input: ClaimIn, inbound: Inbound) -> None:
        """A result that came inline though it is large: stored, and named by reference from here on."""
        claim = input.claim
        if isinstance(claim, m.Done):
            blob = await store_body(self._connection, task, bytes(claim.result))
            claim = replace(claim, result=m.NULL, result_blob=blob)
        self._post(number, task, Waiting(dataclasses.replace(input, claim=claim), inbound))

    async def _fetch_plan(self, number: int, task: TaskName, input: SubmitIn, inbound: Inbound) -> None:
        """A plan that came by reference."""
        blob = input.submit.plan_blob
        try:
            plan = None if blob is None else decode_as(m.PlanSpec, await self._body(task, blob))
            input = dataclasses.replace(input, submit=replace(input.submit, plan=plan))
        except ApiError:
            await self._deliver_later(inbound)
            return
        except UNFIT as error:
            input = dataclasses.replace(input, error=bodies.refusal_of(error))
        self._post(number, task, Waiting(input, inbound))

    def _post(self, number: int, task: TaskName, waiting: Waiting) -> None:
        """Queue an input. A submit of a task that nobody here knows is taken for new: if it is not, the fence tells (1)."""
        if number not in self._shards:
            return
        new = isinstance(waiting.input, SubmitIn) and self._tasks.get(task) is None and self._tasks.ended(task) is None
        entry = self._tasks.open(task, number)
        if new:
            entry.state = new_task(task, number)
        entry.inputs.append(waiting)
        self._wake(entry)

    def _wake(self, entry: Entry) -> None:
        """Have a worker take the task's next turn."""
        shard = self._shards.get(entry.shard)
        if shard is None:
            self._tasks.drop(entry)
        elif not (entry.busy or entry.gone or shard.leaving.is_set()):
            entry.busy = True
            shard.busy += 1
            self._jobs.send_nowait(entry)

    # turns

    async def _work(self) -> None:
        async for job in self._jobs_out.clone():
            if isinstance(job, Entry):
                await self._drive(job)
                continue
            try:
                await job()
            except Exception:
                self.counters["faults"] += 1
                logger.exception("A job of the coordinator failed.")

    async def _drive(self, entry: Entry) -> None:
        """Take turns until nothing waits. Whatever goes wrong concerns this task alone, and is tried again."""
        try:
            while not entry.gone and (entry.inputs or entry.soft_due or entry.questions):
                if not self._leases.holds(time.monotonic(), entry.shard):
                    self._leases_changed.set()
                    break
                if entry.state is None:
                    await self._load(entry)
                else:
                    await self._take_turn(entry, entry.state)
        except BusError as error:
            logger.warning("Task %s: %s", entry.name, error)
            self._retry(entry, RETRY_S)
        except Exception:
            self.counters["faults"] += 1
            logger.exception("Task %s could not be moved forward.", entry.name)
            self._retry(entry, FAULT_S)
        finally:
            self._settle(entry)

    def _retry(self, entry: Entry, after_s: float) -> None:
        """Load the task anew after a while; what was not acknowledged comes again by itself."""
        entry.unload()
        entry.inputs.clear()
        entry.soft.clear()
        self._desk.retry(entry, time.monotonic() + after_s)

    def _settle(self, entry: Entry) -> None:
        entry.busy = False
        shard = self._shards.get(entry.shard)
        if shard is not None:
            shard.busy -= 1
            if shard.busy == 0:
                shard.quiet.set()
        if entry.state is not None and entry.idle and not entry.soft:
            if entry.state.ended:
                self._tasks.end(entry, entry.state, time.monotonic())
            elif entry.state.state == "unknown":
                self._tasks.drop(entry)
        self._ring_in_time()

    async def _take_turn(self, entry: Entry, state: TaskState) -> None:
        turn = self._desk.turn(entry, time.monotonic())
        if turn.changes and not await self._store(entry, state, turn):
            return
        await self._do(entry.name, entry, turn.effects)
        for waiting in turn.answered:
            if waiting.inbound is not None:
                await self._acknowledge(waiting.inbound)
        for waiting, refusal in turn.refused:
            await self._refuse(entry, waiting, refusal)
        if turn.stale:
            entry.unload()
        while entry.questions and entry.state is state:
            await entry.questions.pop(0)(state)

    async def _refuse(self, entry: Entry, waiting: Waiting, refusal: list[Effect]) -> None:
        """No state in the log fits (2): come again while the task's submit still waits, else tell the sender."""
        if waiting.inbound is None:
            return
        if await self._log.submit_waits(entry.name):
            await self._deliver_later(waiting.inbound)
            return
        self.counters["claims refused"] += 1
        await self._do(entry.name, entry, refusal)
        await self._acknowledge(waiting.inbound)

    # the log

    async def _store(self, entry: Entry, state: TaskState, turn: Turn) -> bool:
        """Append a turn's changes: one record, or several when they are large. False: the state was thrown away, the inputs wait again."""
        for index, change in enumerate(turn.changes):
            if isinstance(change, r.Planned) and len(turn.encoded[index]) > records.ADD_LIMIT:
                blob = await store_body(self._connection, entry.name, encode(change.add))
                turn.encoded[index] = records.encode_change(replace(change, add={}, add_blob=blob))
        pages = records.pages(turn.encoded)
        for page in pages[:-1]:
            payload = records.encode_record(self._me, turn.at, page)
            if not await self._append(entry, state, turn, payload, records.record_headers("running")):
                return False
        payload, made = await self._last_page(entry, state, turn, pages[-1])
        return await self._append(entry, state, turn, payload, made)

    async def _last_page(self, entry: Entry, state: TaskState, turn: Turn, page: list[Raw]) -> tuple[bytes, Headers]:
        if not state.ended:
            return records.encode_record(self._me, turn.at, page, applied=turn.applied), records.record_headers(state.state)
        history, blob = entry.history, None
        if records.size(history) > INLINE_LIMIT:
            blob = await store_body(self._connection, entry.name, records.encode_history(history))
            history = []
        payload = records.encode_record(
            self._me, turn.at, page, applied=turn.applied, history=history, history_blob=blob, digest=state.digest
        )
        return payload, records.record_headers(state.state, keep_s=self._settings.keep_s)

    async def _append(self, entry: Entry, state: TaskState, turn: Turn, payload: bytes, made: Headers) -> bool:
        """One fenced append, not without the lease (3). False: it is not stored, or not by us."""
        seq: int | None = None
        if not entry.gone and self._leases.holds(time.monotonic(), entry.shard):
            try:
                seq = await self._log.append(entry.shard, entry.name, payload, made, expected=state.head)
            except AppendUnknown:
                self.counters["appends unknown"] += 1
                seq = await self._find(entry, made[H_ID])
        if seq is None:
            entry.unload()
            entry.inputs.extendleft(reversed(turn.answered + [waiting for waiting, _ in turn.refused]))
            return False
        self.counters["records"] += 1
        self._last_seq = max(self._last_seq, seq)
        state.head = seq
        entry.history.append(records.encode_entry(seq, turn.at, payload))
        return True

    async def _find(self, entry: Entry, id: str) -> int | None:
        """After an append without an answer (1): the sequence when the log's last record is ours; None when it is not, or the lease is lost."""
        while not entry.gone and self._leases.holds(time.monotonic(), entry.shard):
            try:
                last = await self._log.last(entry.shard, entry.name)
            except BusError:
                await anyio.sleep(RETRY_S)
                continue
            return last.seq if last is not None and last.id == id else None
        return None

    async def _load(self, entry: Entry) -> None:
        """Read the task's log, and do all that follows from its state."""
        stored = await self._log.read(entry.shard, entry.name)
        loaded = [(item.seq, await self._record(entry.name, item)) for item in stored if item.payload is not None]
        if entry.gone:
            return
        self.counters["loads"] += 1
        state = fold(entry.name, entry.shard, [(seq, record) for seq, record in loaded if record is not None])
        state.head = stored[-1].seq if stored else 0
        self._desk.release(entry)
        self._tasks.unpark(entry)
        entry.state = state
        entry.history = [records.encode_entry(item.seq, item.time, item.payload) for item in stored if item.payload is not None]
        for waiting in entry.inputs:
            waiting.looked = True
        await self._do(entry.name, entry, self._desk.adopt(entry, time.monotonic()))

    async def _record(self, task: TaskName, stored: StoredRecord) -> r.Record | None:
        """A stored record, what it refers to fetched; None when it cannot be read (it only moves the head)."""
        try:
            record = decode_record(stored.payload or b"")
            if record.history_blob is not None:
                record = replace(record, history=records.decode_history(await self._body(task, record.history_blob)))
            for entry in record.history:
                await self._hydrate(task, entry.record)
            await self._hydrate(task, record)
        except DecodeFailed as error:
            self.counters["records undecodable"] += 1
            logger.error("Record %d of task %s cannot be read: %s", stored.seq, task, error)
            return None
        return record

    async def _hydrate(self, task: TaskName, record: r.Record) -> None:
        """Fetch the subtasks that a `planned` change names by reference, in place."""
        for index, change in enumerate(record.changes):
            if isinstance(change, r.Planned) and change.add_blob is not None:
                add = decode_as(dict[str, m.SubtaskSpec], await self._body(task, change.add_blob))
                record.changes[index] = replace(change, add=add, add_blob=None)

    async def _body(self, task: TaskName, ref: m.BlobRef) -> bytes:
        """A body from the stream. Raises BusError when it is gone, ApiError when the stream does not answer, DecodeFailed."""
        body = self._bodies.get(ref.digest)
        if body is None:
            bodies.check_ref(ref)
            try:
                body = await load_body(self._connection, task, ref)
            except ExceptionGroup as group:
                raise group.exceptions[0] from group
            self._bodies.put(ref.digest, body)
        return body

    # what follows from a decision

    async def _do(self, task: TaskName, entry: Entry | None, effects: list[Effect]) -> None:
        """Send and fetch what a decision asks for, in order. What cannot be put together comes back as an input."""
        for effect in effects:
            if isinstance(effect, Send):
                await self._send(task, entry, effect)
            elif entry is not None and entry.state is not None:
                answer = await self._fulfil(entry, entry.state, effect)
                if answer is not None:
                    entry.inputs.append(Waiting(answer))

    async def _fulfil(self, entry: Entry, state: TaskState, effect: Effect) -> Input | None:
        if isinstance(effect, GiveAward):
            return await self._give_award(entry, state, effect)
        if isinstance(effect, NeedSplit):
            return await self._split(entry, state, effect)
        if isinstance(effect, NeedCompose):
            return await self._compose(entry, effect)
        return None

    async def _send(self, task: TaskName, entry: Entry | None, send: Send) -> None:
        kind = TYPE_OF[type(send.message)]
        await self._publish(self._subjects.to(send.peer, send.kind, task), encode(send.message), headers(kind, _trace(entry)))

    async def _give_award(self, entry: Entry, state: TaskState, effect: GiveAward) -> BrokenIn | None:
        subtask = state.subtasks.get(effect.subtask)
        if subtask is None or subtask.epoch != effect.epoch or subtask.state != "awarded" or subtask.agent is None:
            return None
        award = award_of(state, effect.subtask)
        try:
            input, blob, fill = await self._input(entry, state, effect.subtask, award.input, award.input_blob)
        except ApiError:
            raise
        except UNFIT as error:
            return BrokenIn(effect.subtask, effect.epoch, bodies.refusal_of(error))
        award = replace(
            award, input=input, input_blob=blob, fill=fill, feedback=bodies.fitting_feedback(award.feedback), coordinator=self._me
        )
        await self._publish(self._subjects.to(subtask.agent, "award", entry.name), encode(award), headers("award", _trace(entry)))
        return None

    async def _input(
        self, entry: Entry, state: TaskState, name: str, raw: Raw, blob: m.BlobRef | None
    ) -> tuple[Raw, m.BlobRef | None, list[m.Fill]]:
        """A subtask's complete input: inline, or by reference when it is large; and what the agent fills in itself."""
        if blob is not None:
            raw = Raw(await self._body(entry.name, blob))
        if len(raw) > bodies.LARGE:
            filled, fill = await anyio.to_thread.run_sync(bodies.fill_input, state, name, raw)
        else:
            filled, fill = bodies.fill_input(state, name, raw)
        if filled is raw and blob is not None:
            return m.EMPTY, blob, fill
        if len(filled) > INLINE_LIMIT:
            return m.EMPTY, await store_body(self._connection, entry.name, bytes(filled)), fill
        return filled, None, fill

    async def _split(self, entry: Entry, state: TaskState, need: NeedSplit) -> SplitIn | None:
        """Find the length of the list. Without an agent that fits, and no number of shares asked for, it waits for the first."""
        try:
            raw = need.input if need.input_blob is None else Raw(await self._body(entry.name, need.input_blob))
            held, fill = bodies.list_of_split(state, raw, need.split.over)
            if fill is not None:
                held = Raw(await self._body(entry.name, fill.blob))
            length = await anyio.to_thread.run_sync(bodies.list_length, held, fill)
        except ApiError:
            raise
        except UNFIT as error:
            return SplitIn(need.subtask, 0, [], bodies.refusal_of(error))
        self._splits[Key(entry.name, need.subtask)] = length, need
        self._cut_splits(time.monotonic())
        return None

    def _cut_splits(self, now: float) -> None:
        """Answer the splits that have agents to be cut for."""
        for key, (length, need) in list(self._splits.items()):
            entry = self._tasks.get(key.task)
            capacities: list[tuple[str | None, int]] = [*self._market.capacities(now, need.demand)]
            if entry is None or capacities or need.split.into is not None:
                del self._splits[key]
                if entry is not None:
                    entry.inputs.append(Waiting(SplitIn(key.subtask, length, capacities)))
                    self._wake(entry)

    async def _compose(self, entry: Entry, need: NeedCompose) -> ComposedIn:
        try:
            parts: dict[str, Raw | bytes] = {}
            for name, part in need.parts.items():
                parts[name] = await self._body(entry.name, part) if isinstance(part, m.BlobRef) else part
            body = bodies.join_lists(parts) if need.join else bodies.gather(parts)
        except ApiError:
            raise
        except UNFIT as error:
            return ComposedIn(need.subtask, error=bodies.refusal_of(error))
        if len(body) > INLINE_LIMIT:
            return ComposedIn(need.subtask, result_blob=await store_body(self._connection, entry.name, body))
        return ComposedIn(need.subtask, Raw(body))

    async def _publish(self, subject: str, payload: bytes, made: Headers) -> None:
        """Send what is sent again when it matters: a loss is counted, not raised."""
        try:
            await self._connection.publish(subject, payload, made)
        except Exception as error:  # noqa: BLE001  # nats-py raises whatever its state suggests
            self.counters["messages unsent"] += 1
            logger.warning("A message on %s was not sent: %s", subject, error)

    async def _acknowledge(self, inbound: Inbound) -> None:
        await self._publish(inbound.reply, b"+ACK", {})

    async def _deliver_later(self, inbound: Inbound) -> None:
        await self._publish(inbound.reply, b'-NAK {"delay":%d}' % int(NAK_S * 1e9), {})

    # market and timers

    async def _offer_came(self, followed: Followed) -> None:
        try:
            offer = decode(followed.headers.get(H_TYPE), followed.payload)
        except DecodeFailed:
            self.counters["messages undecodable"] += 1
            return
        if not isinstance(offer, m.Offer):
            return
        now = time.monotonic()
        peer = self._subjects.last_token(followed.subject)
        self._market.offer(now, peer, offer)
        for running in self._market.stale_running(now, peer):
            self._doubt(now, peer, running)
        self._poll(now)

    def _doubt(self, now: float, peer: str, running: m.Running) -> None:
        """An agent names what no award of ours backs. When it says so again, it is compared with the log, and told to stop (2)."""
        try:
            task = TaskName.parse(running.task)
        except NameRefused:
            return
        number = shard_of(task, self._connection.shards)
        if number in self._shards and self._twice.said(now, (peer, running.task, running.subtask, running.epoch)):
            entry = self._tasks.open(task, number)
            entry.questions.append(partial(self._stop_stale, peer, running))
            self._wake(entry)

    async def _stop_stale(self, peer: str, running: m.Running, state: TaskState) -> None:
        subtask = state.subtasks.get(running.subtask)
        if not state.ended and subtask is not None and not subtask.ended and running.epoch >= subtask.epoch and subtask.held:
            return
        cancel = m.Cancel(
            task=running.task,
            subtask=running.subtask,
            epoch=running.epoch,
            reason="no award backs it",
            grace_s=self._settings.grace_s,
        )
        await self._send(state.name, None, Send(peer, "cancel", cancel))

    async def _bid_came(self, message: Msg) -> None:
        try:
            bid = decode((message.headers or {}).get(H_TYPE), message.data)
        except DecodeFailed:
            self.counters["messages undecodable"] += 1
            return
        now = time.monotonic()
        peer, _, _ = self._subjects.parse_bid(message.subject)
        if isinstance(bid, m.Bid):
            self._market.bid(now, peer, bid)
        elif isinstance(bid, m.Refusal):
            self._market.refusal(now, peer, bid)
        self._poll(now)

    def _poll(self, now: float) -> None:
        """Let the market work, and send its calls."""
        self._desk.poll(now)
        calls, self._desk.calls = self._desk.calls, []
        for call in calls:
            self._jobs.send_nowait(partial(self._send_call, call))
        self._ring_in_time()

    async def _send_call(self, call: SendCall) -> None:
        """A call for proposals; with the input when bids are to be made for it."""
        (task, subtask), demand = call.key, call.demand
        entry = self._tasks.get(task)
        message = m.Call(
            task=str(task),
            subtask=subtask,
            capability=demand.capability,
            call=call.call,
            shard=shard_of(task, self._connection.shards),
            reply_by_s=call.reply_by_s,
            labels=demand.labels,
            priority=demand.priority,
            deadline=None if demand.deadline is None else to_rfc3339(demand.deadline),
        )
        if demand.tailored and entry is not None and entry.state is not None:
            spec = entry.state.subtasks[subtask].spec
            with suppress(*UNFIT):
                input, blob, fill = await self._input(entry, entry.state, subtask, spec.input, spec.input_blob)
                message = replace(message, input=input, input_blob=blob, fill=fill)
        payload = encode(message)
        if call.peers is None:
            await self._publish(self._subjects.call(demand.capability), payload, headers("call", _trace(entry)))
        for peer, _ in call.peers or ():
            await self._publish(self._subjects.to(peer, "call", task), payload, headers("call", _trace(entry)))

    async def _keep_time(self) -> None:
        """Ring timers and let the market work when it is time; a late wake-up means that nothing was heard (3)."""
        tick = 0.0
        while True:
            now = time.monotonic()
            if now >= tick:
                tick = now + TICK_S
                await self._tick(now)
            self._wakes_at = tick
            self._alarm = anyio.Event()
            self._desk.ring(now)
            self._poll(now)
            with anyio.move_on_after(max(0.0, self._wakes_at - time.monotonic())):
                await self._alarm.wait()
            if time.monotonic() > self._wakes_at + self._settings.lag_s:
                self.counters["lags"] += 1
                self._market.listen_again(time.monotonic())

    async def _tick(self, now: float) -> None:
        """What is looked after several times a second: lost agents, waiting splits, room for submits, room in memory."""
        self._cut_splits(now)
        for suspect in self._market.suspects(now):
            if (suspect.key, suspect.epoch) not in self._checking:
                self._checking.add((suspect.key, suspect.epoch))
                self._jobs.send_nowait(partial(self._confirm_lost, suspect))
        self._park(now)
        await self._admit(now)

    def _park(self, now: float) -> None:
        """When many tasks are open, those that nobody can serve leave memory."""
        if self._tasks.active < self._settings.open_tasks // 2:
            return
        for entry in self._tasks.some(PARKED_A_TICK):
            if entry.idle and not entry.soft and self._desk.is_parked(entry, now):
                self._tasks.park(entry)

    async def _admit(self, now: float) -> None:
        """Pull submits while there is room (4); each pull is repeated before the server gives it up."""
        outstanding: dict[tuple[int, str], int] = {}
        total = 0
        for shard in self._shards.values():
            for klass in CLASSES if shard.consumers is not None else ():
                asked = shard.consumers.outstanding(shard.number, klass)
                total += asked
                fresh = now < self._pulled.get((shard.number, klass), 0.0) + PULL_AGAIN_S
                outstanding[shard.number, klass] = asked if fresh and asked > FEW else 0
        room = self._admission.room(self._tasks.active, total)
        for number, klass, batch in self._admission.shares(room, sorted({number for number, _ in outstanding}), outstanding):
            consumers = self._shards[number].consumers if number in self._shards else None
            if consumers is not None:
                self._pulled[number, klass] = now
                await consumers.pull(number, klass, batch)

    def _ring_in_time(self) -> None:
        """Wake `_keep_time` when something is due before it would wake by itself."""
        due = self._desk.next_due()
        if due is not None and due < self._wakes_at:
            self._wakes_at = due
            self._alarm.set()

    async def _confirm_lost(self, suspect: Suspect) -> None:
        """An agent that is gone may have sent a last claim: only when the inbox holds none is the award lost (5)."""
        task, subtask = suspect.key
        number = shard_of(task, self._connection.shards)
        try:
            if not await self._log.inbox_has(number, task, suspect.agent):
                self._post(number, task, Waiting(LostIn(subtask, suspect.epoch, suspect.reason)))
        finally:
            self._checking.discard((suspect.key, suspect.epoch))

    # leases and shards

    async def _lease_came(self, followed: Followed) -> None:
        lease = None
        with suppress(DecodeFailed):
            lease = decode(followed.headers.get(H_TYPE), followed.payload)
        number = self._subjects.last_token(followed.subject)
        if number.isdecimal() and int(number) < self._connection.shards:
            self._leases.lease_seen(time.monotonic(), int(number), lease if isinstance(lease, m.Lease) else None, followed.seq)
            self._leases_changed.set()

    async def _member_came(self, followed: Followed) -> None:
        now = time.monotonic()
        with suppress(DecodeFailed):
            member = decode(followed.headers.get(H_TYPE), followed.payload)
            if isinstance(member, m.Member):
                peer = self._subjects.last_token(followed.subject)
                self._leases.member_seen(now, peer, member)
                if (peer, member.boot) == (self._me, self._boot):
                    self._clock.learn(now, followed.stamp)
                self._leases_changed.set()

    async def _keep_leases(self) -> None:
        while True:
            now = time.monotonic()
            self._leases_changed = anyio.Event()
            for action in self._leases.due(now, _draw()):
                self._group.start_soon(self._act, action)
            self._match_shards(now)
            with anyio.move_on_after(max(0.001, self._leases.next_due(now) - time.monotonic())):
                await self._leases_changed.wait()

    async def _act(self, action: LeaseAction) -> None:
        now = time.monotonic()
        try:
            if isinstance(action, Beat):
                member = m.Member(boot=self._boot, leaving=self._stopping.is_set())
                await self._publish(self._subjects.member(self._me), encode(member), headers("member"))
            elif isinstance(action, Confirm):
                await self._confirm_lease(action.shard)
            elif isinstance(action, GiveUp):
                await self._give_up(action)
            else:
                seq = await self._write_lease(action.shard, self._me, action.expected)
                self._leases.won(now, action.shard, seq)
        except AppendUnknown:
            self._leases.lost(time.monotonic(), action.shard)
        self._leases_changed.set()

    async def _write_lease(self, number: int, holder: str, expected: int) -> int:
        lease = m.Lease(holder=holder, boot=self._boot)
        return await self._log.append_to(self._subjects.lease(number), encode(lease), headers("lease"), expected=expected)

    async def _confirm_lease(self, number: int) -> None:
        try:
            last = await self._log.last_of(LEASE, self._subjects.lease(number))
        except BusError:
            await anyio.sleep(RETRY_S)
            self._leases.lost(time.monotonic(), number)
            return
        lease = None
        if last is not None and last.payload is not None:
            with suppress(DecodeFailed):
                lease = decode("lease", last.payload)
        seq = None if last is None else last.seq
        self._leases.confirmed(time.monotonic(), number, seq, lease if isinstance(lease, m.Lease) else None)

    async def _give_up(self, action: GiveUp) -> None:
        """First what is in flight, then the release."""
        shard = self._shards.get(action.shard)
        if shard is not None:
            shard.leaving.set()
        elif action.shard not in self._releasing:
            self._releasing.add(action.shard)
            try:
                await self._write_lease(action.shard, "", action.expected)
                self._leases.released(time.monotonic(), action.shard)
            finally:
                self._releasing.discard(action.shard)

    def _match_shards(self, now: float) -> None:
        """Take up what the leases give, drop what they do not; offers are heard while there is a shard."""
        held = self._leases.held(now)
        leaving = self._leases.draining()
        for number in held:
            if number not in self._shards and number not in leaving:
                shard = self._shards[number] = _Shard(number)
                self._group.start_soon(self._hold, shard)
        for number, shard in self._shards.items():
            if number not in held:
                shard.scope.cancel()
        self._market.share = len(self._shards) / self._connection.shards
        if self._shards and self._hearing is None:
            self._hearing = anyio.CancelScope()
            self._group.start_soon(self._hear_offers, self._hearing)
        elif not self._shards and self._hearing is not None:
            self._hearing.cancel()
            self._hearing = None

    async def _hear_offers(self, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    async with (
                        follow(self._connection, OFFERS, self._subjects.all_offers(), self._offer_came),
                        self._subscribed(self._subjects.all_asks("agents"), self._asked_agents, GROUP),
                    ):
                        self._market.listen_again(time.monotonic())
                        await anyio.sleep_forever()
                except BusError as error:
                    logger.warning("Offers cannot be followed right now: %s", error)
                    await anyio.sleep(RETRY_S)

    async def _hold(self, shard: _Shard) -> None:
        """Drive a shard from the moment that its lease is won until it is lost or given up."""
        try:
            with shard.scope:
                consumers = ShardConsumers(self._connection, on_claim=self._claim_came, on_submit=self._submit_came)
                async with consumers.running(), self._subscribed(self._subjects.all_bids(shard.number), self._bid_came):
                    await self._insist(partial(consumers.open, shard.number))
                    shard.consumers = consumers
                    self._market.listen_again(time.monotonic())
                    await self._admit(time.monotonic())
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._take_over, shard.number)
                        await shard.leaving.wait()
                        group.cancel_scope.cancel()
                    shard.consumers = None
                    await consumers.close(shard.number)
                    while shard.busy:
                        shard.quiet = anyio.Event()
                        await shard.quiet.wait()
        finally:
            self._let_go(shard)

    def _let_go(self, shard: _Shard) -> None:
        """Nothing of the shard is ours any more; what was not acknowledged goes to its next holder."""
        for entry in self._tasks.of_shard(shard.number):
            entry.gone = True
            self._desk.release(entry)
            self._tasks.drop(entry)
        self._tasks.forget_shard(shard.number)
        del self._shards[shard.number]
        self._leases_changed.set()

    async def _insist(self, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await what()
            except BusError as error:
                logger.warning("The bus does not do what it should, which is tried again: %s", error)
                await anyio.sleep(RETRY_S)
            else:
                return

    async def _take_over(self, number: int) -> None:
        """Load every open task of the shard and put `held` into its log, so that a holder who wakes up late is refused (3)."""
        names, found = anyio.create_memory_object_stream[TaskName](LOADERS)
        async with anyio.create_task_group() as group, names:
            for _ in range(LOADERS):
                group.start_soon(self._hold_tasks, number, found.clone())
            found.close()
            await self._insist(partial(self._find_open, number, names))

    async def _find_open(self, number: int, names: MemoryObjectSendStream[TaskName]) -> None:
        async for task, _, head in self._log.heads(number):
            if head.state not in ENDED:
                await names.send(task)

    async def _hold_tasks(self, number: int, found: MemoryObjectReceiveStream[TaskName]) -> None:
        async with found:
            async for task in found:
                entry = self._tasks.open(task, number)
                entry.inputs.append(Waiting(HeldIn()))
                if not entry.busy and number in self._shards:
                    entry.busy = True
                    self._shards[number].busy += 1
                    await self._drive(entry)

    # questions

    async def _asked_task(self, message: Msg) -> None:
        asked = self._question(message)
        if asked is None or not self._leases.holds(time.monotonic(), shard_of(asked.task, self._connection.shards)):
            return
        if asked.ask.what == "log":
            self._jobs.send_nowait(partial(self._answer_log, asked))
            return
        number = shard_of(asked.task, self._connection.shards)
        if number in self._shards:
            entry = self._tasks.open(asked.task, number)
            entry.questions.append(partial(self._answer_task, asked))
            self._wake(entry)

    def _question(self, message: Msg) -> answers.Asked | None:
        try:
            return answers.read_question(self._subjects, message.subject, message.data, message.headers or {})
        except AgentExecutorError as error:
            self.counters["messages undecodable"] += 1
            logger.warning("A question on %s cannot be read: %s", message.subject, error)
            return None

    async def _answer_task(self, asked: answers.Asked, state: TaskState) -> None:
        waiting = state.state == "unknown" and await self._log.submit_waits(asked.task)
        body: v.StateView | v.TaskView
        if asked.ask.what == "view":
            body = task_view(state, self._desk.looked(state, time.monotonic()))
        else:
            body = state_view(state)
        await self._answer(asked, encode(replace(body, state="waiting") if waiting else body))

    async def _answer_log(self, asked: answers.Asked) -> None:
        stored, more = await self._log.read_after(asked.task, asked.ask.after, INLINE_LIMIT)
        lines: list[answers.Line] = []
        for item in stored:
            if item.payload is not None:
                ref = answers.history_ref(item.payload)
                history = None if ref is None else await self._body(asked.task, ref)
                lines += answers.log_lines(item.seq, item.time, item.payload, history)
        body, next = answers.log_page(lines, asked.ask.after, more=more)
        await self._answer(asked, body, next=next)

    async def _answer(self, asked: answers.Asked, body: bytes | None, *, error: m.ErrorInfo | None = None, next: int | None = None) -> None:
        """Answer on the asker's own subject; a large body goes by reference."""
        reply = answers.answer(asked.id, self._me, self._leases.members(time.monotonic()), body, error=error, next=next)
        if body is not None and len(body) > INLINE_LIMIT:
            reply = replace(reply, body=m.NULL, body_blob=await store_body(self._connection, asked.task, body))
        await self._publish(self._subjects.to(asked.peer, "answer", asked.task), encode(reply), answers.answer_headers("answer", asked.id))

    async def _asked_tasks(self, message: Msg) -> None:
        if (asked := self._question(message)) is not None:
            self._jobs.send_nowait(partial(self._answer_tasks, asked))

    async def _answer_tasks(self, asked: answers.Asked) -> None:
        heads = [answers.Head(head.stamp, task, number, head.state) async for task, number, head in self._log.heads()]
        lines = [answers.task_line(head, self._desk.priority(head.name)) for head in answers.newest(heads, asked.ask)]
        await self._answer(asked, encode(v.TasksView(tasks=lines, waiting=await self._log.waiting())))

    async def _asked_agents(self, message: Msg) -> None:
        if (asked := self._question(message)) is not None:
            await self._answer(asked, encode(v.AgentsView(agents=self._market.agents(time.monotonic()))))

    async def _asked_unserved(self, message: Msg) -> None:
        if (asked := self._question(message)) is not None:
            now = time.monotonic()
            splits = answers.unserved_splits(self._splits)
            await self._answer(asked, encode(v.UnservedView(unserved=[*self._market.unserved(now), *splits])))

    async def _asked_blob(self, message: Msg) -> None:
        if (asked := self._question(message)) is not None:
            self._jobs.send_nowait(partial(self._answer_blob, asked))

    async def _answer_blob(self, asked: answers.Asked) -> None:
        chunk = await load_chunk(self._connection, asked.task, asked.ask.digest, asked.ask.chunk)
        if chunk is None:
            await self._answer(asked, None, error=answers.not_here("This body is not stored (any more)."))
        else:
            made = answers.answer_headers("chunk", asked.id)
            await self._publish(self._subjects.to(asked.peer, "answer", asked.task), chunk, made)


def _draw() -> int:
    return random.getrandbits(31)  # noqa: S311  # spreads load and breaks ties, nothing secret
