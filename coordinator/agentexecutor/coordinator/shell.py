"""The coordinator: receives, decides, appends, sends, acknowledges. The only asynchronous file of this folder; what is decided stands in the pure ones.

The ten rules of a coordinator's life are marked by their numbers: an append that is refused or unanswered is unknown (1), ignoring is final only
for reasons that stay true (2), the lease is checked before each append (3), submits are pulled while there is room (4), absence is confirmed by the
inbox (5), the clock is the server's (6), questions are answered (7), accepts are soft (8, in `turns`), a log that went back is loaded again (9), the
winner of a lease makes the shard's consumers anew (10).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus import exporting, telemetry
from agentexecutor.bus.answering import Answering, Asked, subscribed
from agentexecutor.bus.complaints import Complaints, Seldom
from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.consumers import Inbound, ShardConsumers
from agentexecutor.bus.errands import PASSING, Errands
from agentexecutor.bus.errors import AppendUnknown, BusError
from agentexecutor.bus.follow import Followed, Follower, follow
from agentexecutor.bus.jobs import Jobs
from agentexecutor.bus.leasing import LeaseStream
from agentexecutor.bus.log import StoredRecord, TaskLog
from agentexecutor.bus.streams import OFFERS
from agentexecutor.bus.sweeping import sweep_bodies
from agentexecutor.coordinator import answers, errands, records
from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Question, Twice, Waiting
from agentexecutor.coordinator.figures import Figures
from agentexecutor.coordinator.inbound import Unusable, heard_of, large_result, read_claim, read_progress, read_submit
from agentexecutor.coordinator.inputs import (
    ClaimIn,
    Effect,
    GiveAward,
    HeldIn,
    Key,
    LostIn,
    NeedCompose,
    NeedProgress,
    NeedRevision,
    NeedSplit,
    ProgressIn,
    Send,
    SubmitIn,
)
from agentexecutor.coordinator.leases import Beat, Confirm, GiveUp, LeaseAction, Leases
from agentexecutor.coordinator.machine import decide
from agentexecutor.coordinator.market import Market, SendCall, Suspect
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.pulling import Pulling
from agentexecutor.coordinator.settings import Settings, settings_of
from agentexecutor.coordinator.spans import Spans
from agentexecutor.coordinator.states import ENDED, UNPLANNED
from agentexecutor.coordinator.turns import Desk, Turn
from agentexecutor.coordinator.untold import Untold
from agentexecutor.coordinator.views import state_view, task_view
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_ID, H_TYPE, INLINE_LIMIT, TYPE_OF, decode, encode, from_rfc3339, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, NameRefused
from agentexecutor.schemas.names import TaskName, new_boot
from agentexecutor.schemas.subjects import CLASSES, shard_of

__all__ = ["Coordinator"]

logger = logging.getLogger("agentexecutor.coordinator")

WORKERS = 256
SHOWN = 1000
"""Of a message that cannot be used so many bytes, and of the reason so many characters, are kept."""
FINDERS = 2
"""In so many shards at a time open tasks are looked for."""
LOADERS = 16
TICK_S = 0.25
RETRY_S = 0.5
FAULT_S = 5.0
STILL_S = 5.0
"""A log that makes no sense is read again for what comes, but not sooner."""
NAK_S = 1.0
READS = 60
"""A submit whose plan cannot be read for so many deliveries is refused: it would come for ever."""
PARKED_A_TICK = 500
TWICE_S = 1.0
DEAF_S = 2.0
"""Offers, or the server's beats in their place, come every second."""
FORECASTS = 16
"""So many questions for a forecast wait for their turn at most; who gets no answer asks again."""
LEVELS_S = 10.0
SWEEP_S = 3600

Job = Callable[[], Awaitable[None]]
M = TypeVar("M", bound=m.Message)
T = TypeVar("T")


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

    `boot`: this life of the process (see `new_boot`). `settings`: None takes them from the environment (`settings_of`). `counters` counts what an
    operator asks for; `unusable` keeps the last messages that could not be used (subject, reason, first bytes).
    """

    def __init__(self, connection: Connection, *, boot: str | None = None, settings: Settings | None = None) -> None:
        settings = settings or settings_of(os.environ)
        self.counters: Counter[str] = Counter()
        self.unusable: deque[tuple[str, str, bytes]] = deque(maxlen=100)
        self._complaints = Complaints(logger)
        self._seldom = Seldom(logger)
        self._connection = connection
        self._subjects = connection.subjects
        self._me = connection.name
        self._boot = boot or new_boot()
        self._market = Market(settings)
        self._settings = dataclasses.replace(settings, policies=settings.policies or frozenset(self._market.policies))
        self._clock = Clock(time.monotonic(), time.time())
        self._leases = Leases(self._me, self._boot, connection.shards, settings)
        self._desk = Desk(self._settings, self._market, self._clock, connection.shards, self._wake, _draw)
        self._tasks = self._desk.tasks
        self._log = TaskLog(connection)
        self._spans = Spans(self._me, telemetry)
        self._figures = Figures(telemetry)
        self._errands = Errands(connection)
        self._lease_stream = LeaseStream(connection, self._log, self._boot)
        self._answering = Answering(connection, partial(self._count_unusable, "undecodable"))
        self._pulling = Pulling(settings.open_tasks)
        self._twice = Twice(TWICE_S)
        self._shards: dict[int, _Shard] = {}
        self._releasing: set[int] = set()
        self._finding = anyio.Semaphore(FINDERS)
        self._checking: set[Suspect] = set()
        self._jobs: Jobs[Entry | Job] = Jobs()
        self._stopping = anyio.Event()
        self._left = anyio.Event()
        self._leases_changed = anyio.Event()
        self._alarm = anyio.Event()
        self._wakes_at = 0.0
        self._levels_at = 0.0
        self._sweeps_at = time.monotonic() + _draw() % SWEEP_S
        self._session = -1
        """The connection's session of which it is known whether the server was started anew."""
        self._restart_read = anyio.Event()
        self._started_at: float | None = None
        """The stamp of the mark that was heard last: another means that the streams in memory were emptied, whatever the connection has noticed."""
        self._short = False
        """Submits that were asked for have come: more may be asked for."""
        self._hearing: anyio.CancelScope | None = None
        self._offers: Follower | None = None
        self._group: TaskGroup
        self._answers = {
            "tasks": self._answer_tasks,
            "agents": self._answer_agents,
            "unserved": self._answer_unserved,
            "blob": self._answer_blob,
            "forecast": self._answer_forecast,
        }
        self._forecasts: set[str] = set()
        """Questions for a forecast that are being answered, one after another: each is work for a thread, which takes time from the loop."""
        self._forecasting = anyio.Semaphore(1)

    # life

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Coordinate until `stop` (or cancelled). `started` once leases and members are followed. Raises BusError when it cannot begin."""
        forget = self._connection.on_reconnect(self._reconnected)
        try:
            async with AsyncExitStack() as stack:
                for context in (
                    self._lease_stream.followed(self._lease_seen, self._member_seen, self._start_seen, self._no_valid),
                    self._answering.hearing(self._asked, "task", "unserved"),
                    self._answering.hearing(self._asked, "tasks", "blob", shared=True),
                ):
                    await stack.enter_async_context(context)
                async with anyio.create_task_group() as self._group:
                    await self._insist(self._read_restart)
                    for _ in range(WORKERS):
                        self._group.start_soon(self._work)
                    self._group.start_soon(self._keep_leases)
                    self._group.start_soon(self._keep_time)
                    task_status.started()
                    await self._stopping.wait()
                    self._leases.leave(time.monotonic())
                    self._leases_changed.set()
                    await self._left.wait()
                    await self._lease_stream.beat(leaving=True)
                    self._group.cancel_scope.cancel()
        finally:
            forget()

    def stop(self) -> None:
        """Finish what is in flight, release the leases, and let `run` return."""
        self._stopping.set()

    async def _reconnected(self) -> None:
        """Silence is counted anew; what else has changed is looked at."""
        now = time.monotonic()
        self._leases.reconnected(now)
        for number in range(self._connection.shards):
            if not self._leases.holds(now, number):
                self._leases.lost(now, number)  # its sequences may begin anew; they are told again
        self._market.listen_again(now)
        self._group.start_soon(self._insist, self._read_restart)

    async def _read_restart(self) -> None:
        """Load everything anew when the server was started anew, for it may have lost records (9).

        Nor are the numbers of awards given again that agents may still know of (docs/adr/0011).
        """
        session = self._connection.session
        first = max(1, await self._log.restarted_ms())
        if session < self._session:
            return  # another, begun later, was faster
        if first != self._desk.settings.first_epoch:
            self._desk.settings = dataclasses.replace(self._desk.settings, first_epoch=first)
            self._drop_all()
        self._session = session
        self._restart_read.set()
        self._restart_read = anyio.Event()

    def _knows_the_server(self) -> bool:
        """Whether it is known of this session's server if it was started anew (9)."""
        return self._session == self._connection.session

    async def _insist(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do it, again and again until the bus does its part."""
        while True:
            try:
                await what()
            except (BusError, TimeoutError) as error:
                self._seldom.tell("bus", "The bus does not do its part, which is tried again: %s", error)
                await anyio.sleep(RETRY_S)
            else:
                return

    def _decoded(self, wanted: tuple[type[M], ...], subject: str, made: Headers | None, payload: bytes) -> M | None:
        """A message of a type that is expected here; anything else is counted and passed over."""
        try:
            message = decode((made or {}).get(H_TYPE), payload)
        except DecodeFailed:
            message = None
        if isinstance(message, wanted):
            return message
        self._no_valid(subject, " or ".join(TYPE_OF[cls] for cls in wanted), payload)
        return None

    def _no_valid(self, subject: str, what: str, payload: bytes) -> None:
        """Count and keep what has come in the place of something else."""
        self._count_unusable("undecodable")
        if self._complaints.tell(subject, "What comes on %s cannot be used: it is no valid %s.", subject, what):
            self.unusable.append((subject, f"no valid {what}", payload[:SHOWN]))

    def _count_unusable(self, why: str) -> None:
        self.counters[f"messages {why}"] += 1
        self._figures.unusable(why)

    # what arrives

    async def _claim_came(self, inbound: Inbound) -> None:
        try:
            number, task, input = read_claim(self._subjects, inbound.subject, inbound.payload, inbound.headers)
        except Unusable as error:
            await self._set_aside(inbound, error)
            return
        ended = self._tasks.ended(task) if self._remembers(number) else None
        if ended is not None and isinstance(input, ClaimIn):
            state = TaskState(task, number, state=ended.state, epochs=ended.epochs)
            await self._do(task, None, decide(state, input, 0.0, self._settings, 0).effects)
            self.counters["inputs without effect"] += 1
            await self._acknowledge(inbound)
        elif isinstance(input, ClaimIn) and large_result(input.claim, INLINE_LIMIT):
            self._jobs.put(partial(self._prepare, number, task, input, inbound))
        else:
            self._post(number, task, Waiting(input, inbound))

    def _remembers(self, number: int) -> bool:
        """Whether what is kept in memory of a shard's ended tasks is true: the shard is ours, and the server has not been started anew since (9)."""
        return self._knows_the_server() and self._holds(number)

    def _holds(self, number: int) -> bool:
        return self._leases.holds(time.monotonic(), number)

    async def _submit_came(self, inbound: Inbound) -> None:
        try:
            number, klass, task, input = read_submit(self._subjects, inbound.subject, inbound.payload, inbound.headers, inbound.stamp)
        except Unusable as error:
            await self._set_aside(inbound, error)
            return
        input = self._spans.submitted(task, input)
        if input.submit.plan_blob is not None:
            self._jobs.put(partial(self._prepare, number, task, input, inbound))
        else:
            self._post(number, task, Waiting(input, inbound))
        consumers = self._shards[number].consumers if number in self._shards else None
        if consumers is not None and consumers.outstanding(number, klass) == 0:
            self._short = True
            self._alarm.set()

    async def _prepare(self, number: int, task: TaskName, input: SubmitIn | ClaimIn, inbound: Inbound) -> None:
        """An input that needs a large body read or stored first."""
        errand = errands.fetch_plan(input) if isinstance(input, SubmitIn) else errands.by_reference(input)
        try:
            self._post(number, task, Waiting(await self._errands.run(task, errand), inbound))
        except BusError as error:
            logger.warning("Task %s: %s", task, error)
            self.counters["bodies not to be had"] += 1
            if isinstance(input, SubmitIn) and inbound.deliveries >= READS:
                told = m.ErrorInfo(code="input", message=f"The plan could not be read in {inbound.deliveries} tries: {error}"[:SHOWN])
                self._post(number, task, Waiting(replace(input, error=told), inbound))
            else:
                await self._deliver_later(inbound)

    async def _set_aside(self, inbound: Inbound, error: Unusable) -> None:
        """Count and keep what cannot be used, tell its sender, and go on."""
        why, task, peer, id = (error.fields[name] for name in ("why", "task", "peer", "id"))
        self._count_unusable(why)
        text = str(error)[:SHOWN]
        self.unusable.append((inbound.subject, text, inbound.payload[:SHOWN]))
        self._complaints.tell((why, peer), "A message on %s cannot be used: %s", inbound.subject, text)
        if peer and id:
            refused = m.Refused(task=str(task), id=id[:64], error=m.ErrorInfo(code="input", message=text))
            await self._send(task, Send(peer, "refused", refused), None)
        await self._acknowledge(inbound)

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
        elif time.monotonic() < entry.still_until:
            self._turn_away(entry)
        elif not (entry.busy or entry.gone or shard.leaving.is_set()):
            entry.busy = True
            shard.busy += 1
            self._jobs.put(entry)

    # turns

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            await (self._drive(job) if isinstance(job, Entry) else self._do_job(job))

    async def _do_job(self, job: Job) -> None:
        """What goes wrong here concerns nobody else; who waits for it asks again."""
        try:
            await job()
        except BusError as error:
            logger.warning("%s", error)
        except Exception:
            self.counters["faults"] += 1
            logger.exception("A job of the coordinator failed.")

    async def _drive(self, entry: Entry) -> None:
        """Take turns until nothing waits. Whatever goes wrong concerns this task alone, and is tried again."""
        try:
            while not entry.gone and (entry.inputs or entry.soft_due or entry.questions):
                await self._step(entry)
        except BusError as error:
            logger.warning("Task %s: %s", entry.name, error)
            if not entry.gone:
                self._desk.try_again(entry, time.monotonic() + RETRY_S)
        except Exception:
            self.counters["faults"] += 1
            logger.exception("Task %s could not be moved forward.", entry.name)
            if not entry.gone:
                self._desk.start_over(entry, time.monotonic() + FAULT_S)
        except BaseException:  # cancelled in the middle of a turn: what is in memory may not be stored
            entry.unload()
            raise
        finally:
            entry.busy = False
            if not entry.gone:  # what is gone may have a successor of the same name, whose timers are not ours to drop
                self._settle(entry)

    async def _step(self, entry: Entry) -> None:
        if not self._knows_the_server():
            await self._restart_read.wait()
        elif not self._holds(entry.shard):
            self._drop(self._shards[entry.shard])
            entry.gone = True
        elif entry.state is None:
            await self._load(entry)
        else:
            await self._take_turn(entry, entry.state)

    def _settle(self, entry: Entry) -> None:
        shard = self._shards.get(entry.shard)
        if shard is not None:
            shard.busy -= 1
            if shard.busy == 0:
                shard.quiet.set()
        if entry.state is not None and entry.idle and not entry.soft:
            if entry.state.ended:
                self._desk.release(entry)
                self._tasks.end(entry, entry.state, time.monotonic())
            elif entry.state.state == "unknown":
                self._desk.forget(entry)
        self._ring_in_time()

    async def _take_turn(self, entry: Entry, state: TaskState) -> None:
        turn = self._desk.turn(entry, time.monotonic())
        try:
            stored = not turn.changes or await self._store(entry, state, turn)
        except BusError:
            self._put_back(entry, turn)
            raise
        if not stored:
            self._put_back(entry, turn)
            return
        try:
            await self._follow_up(entry, turn)
        except BusError:
            self._wait_again(entry, turn)
            raise
        if turn.stale:
            entry.unload()
        while entry.questions and entry.state is state:
            await self._do_job(partial(entry.questions.pop(0), state))

    async def _follow_up(self, entry: Entry, turn: Turn) -> None:
        """The turn's changes are stored: do what follows, acknowledge, refuse."""
        await self._do(entry.name, entry, turn.effects)
        while turn.answered:
            waiting = turn.answered.popleft()
            if waiting.inbound is not None:
                self.counters["inputs applied" if waiting.input.id in turn.applied else "inputs without effect"] += 1
                await self._acknowledge(waiting.inbound)
        while turn.refused:
            waiting, refusal = turn.refused[0]
            if turn.changes:
                entry.inputs.append(waiting)  # what came before its submit is decided anew, now that the submit is in the log
            else:
                await self._refuse(entry, waiting, refusal)
            turn.refused.popleft()

    def _wait_again(self, entry: Entry, turn: Turn) -> None:
        """The inputs that a turn has not finished with stand first in line again."""
        entry.inputs.extendleft(waiting for waiting, _ in reversed(turn.refused))
        entry.inputs.extendleft(reversed(turn.answered))

    def _put_back(self, entry: Entry, turn: Turn) -> None:
        """Not stored, or not all of it, which is the same: the state is thrown away, and the inputs wait again."""
        entry.unload()
        self._wait_again(entry, turn)

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

    async def _load(self, entry: Entry) -> None:
        """Read the task's log, and do all that follows from its state."""
        stored = await self._log.read(entry.shard, entry.name)
        try:
            loaded = await self._errands.run(entry.name, errands.load(entry.name, entry.shard, stored))
        except PASSING:
            raise
        except AgentExecutorError as error:
            if not entry.gone:
                self._stand_still(entry, error)
            return
        if entry.gone:
            return
        self.counters["loads"] += 1
        for seq, why in loaded.unreadable:
            self.counters["records unreadable"] += 1
            logger.error("Record %d of task %s cannot be read: %s", seq, entry.name, why)
        self._desk.release(entry)
        self._tasks.unpark(entry)
        entry.state, entry.history = loaded.state, loaded.history
        entry.senseless, entry.still_until = "", 0.0
        for waiting in entry.inputs:
            waiting.looked = True
        await self._do(entry.name, entry, self._desk.adopt(entry, time.monotonic()))

    def _stand_still(self, entry: Entry, error: AgentExecutorError) -> None:
        """Its log makes no sense: that is told once, and concerns this task alone."""
        known, entry.senseless = entry.senseless, str(error)
        self._desk.stand_still(entry, time.monotonic() + STILL_S)
        self._turn_away(entry)
        if known == entry.senseless:
            return
        self.counters["logs senseless"] += 1
        logger.error(
            "Task %s stands still: %s When you have removed the record (`nats stream rmm %s %s`), ask for the task (`agentexecutor show %s`), "
            "and it goes on; `nats stream purge %s --subject=%s` removes all of it.",
            *(entry.name, error, self._log.name, error.fields.get("seq", "SEQUENCE"), entry.name),
            *(self._log.name, self._subjects.log(entry.shard, entry.name)),
        )

    def _turn_away(self, entry: Entry) -> None:
        """Who asks about a log that makes no sense is told; who claims something about it is heard again later."""
        for question in entry.questions:
            self._jobs.put(partial(question, None))
        entry.clear()

    async def _store(self, entry: Entry, state: TaskState, turn: Turn) -> bool:
        """Append a turn's changes: one record, or several when they are large, of which none counts before the last. False: they are not stored."""
        if turn.size > records.ADD_LIMIT:
            await self._errands.run(entry.name, errands.store_plans(turn))
        pages = records.pages(turn.encoded)
        for page in pages[:-1]:
            payload = records.encode_record(self._me, turn.at, page, part=True)
            if not await self._append(entry, state, turn, payload, records.record_headers("running")):
                return False
        payload = await self._errands.run(entry.name, errands.last_page(entry, state, turn, pages[-1], self._me, len(pages) - 1))
        priority = 0 if state.submit is None else state.submit.priority
        made = records.record_headers(state.state, priority=priority, keep_s=self._settings.keep_s if state.ended else None)
        if not await self._append(entry, state, turn, payload, made):
            return False
        at = from_rfc3339(turn.at)
        self._spans.stored(state, turn.changes, at)
        self._figures.stored(state, turn.changes, at)
        return True

    async def _append(self, entry: Entry, state: TaskState, turn: Turn, payload: bytes, made: Headers) -> bool:
        """One fenced append, not without the lease (3)."""
        seq: int | None = None
        if not entry.gone and self._remembers(entry.shard):
            sent = time.monotonic()
            try:
                seq = await self._log.append(entry.shard, entry.name, payload, made, expected=state.head)
                self._figures.appended(time.monotonic() - sent, "stored")
            except AppendUnknown:
                self._figures.appended(time.monotonic() - sent, "unknown")
                self.counters["appends unknown"] += 1
                seq = await self._find(entry, made[H_ID])
        if seq is None:
            return False
        self.counters["records"] += 1
        state.head = seq
        entry.fenced = True
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

    # what follows from a decision

    async def _do(self, task: TaskName, entry: Entry | None, effects: list[Effect]) -> None:
        """Send and fetch what a decision asks for, in order. What cannot be put together comes back as an input."""
        state = None if entry is None else entry.state
        for effect in effects:
            if isinstance(effect, Send):
                await self._send(task, effect, state)
            elif entry is None or state is None:
                continue
            elif isinstance(effect, GiveAward):
                await self._give_award(entry, state, effect)
            elif isinstance(effect, NeedSplit):
                length = await self._errands.run(task, errands.list_to_split(state, effect))
                if isinstance(length, int):
                    self._desk.want_split(task, effect, length, time.monotonic())
                else:
                    entry.inputs.append(Waiting(length))
            elif isinstance(effect, NeedRevision):
                offers = self._market.on_offer(time.monotonic())
                entry.inputs.append(Waiting(await self._errands.run(task, errands.read_revision(state, effect, offers))))
            elif isinstance(effect, NeedCompose):
                entry.inputs.append(Waiting(await self._errands.run(task, errands.compose(effect))))
            elif isinstance(effect, NeedProgress):
                entry.inputs.append(Waiting(await self._last_sign(state, effect)))

    async def _last_sign(self, state: TaskState, need: NeedProgress) -> ProgressIn:
        """What the holder of an award said last about its progress."""
        subtask = state.subtasks[need.subtask]
        queued = not self._market.has_begun(Key(state.name, need.subtask), need.epoch)
        said = await self._log.progress(state.name, subtask.agent or "", need.since)
        return read_progress(need, subtask.boot or "", said, queued=queued)

    async def _send(self, task: TaskName, send: Send, state: TaskState | None) -> None:
        message = send.message
        trace = self._spans.of_task(state)
        if state is not None and isinstance(message, m.Result) and message.subtask is None:
            trace = self._spans.delivered(state)
        await self._publish(self._subjects.to(send.peer, send.kind, task), encode(message), headers(TYPE_OF[type(message)], trace))

    async def _give_award(self, entry: Entry, state: TaskState, effect: GiveAward) -> None:
        offers = partial(self._market.on_offer, time.monotonic())
        award = await self._errands.run(entry.name, errands.give_award(state, effect, self._me, offers))
        agent = state.subtasks[effect.subtask].agent
        if isinstance(award, m.Award) and agent is not None:
            trace = self._spans.of_award(state, effect.subtask)
            await self._publish(self._subjects.to(agent, "award", entry.name), encode(award), headers("award", trace))
        elif award is not None and not isinstance(award, m.Award):
            entry.inputs.append(Waiting(award))

    async def _send_call(self, call: SendCall) -> None:
        task = call.key.task
        entry = self._tasks.get(task)
        state = None if entry is None else entry.state
        number = shard_of(task, self._connection.shards)
        message = await self._errands.run(task, errands.make_call(state, call.key, call.demand, call.call, number, call.reply_by_s))
        payload, trace = encode(message), self._spans.of_task(state)
        if call.peers is None:
            await self._publish(self._subjects.call(call.demand.capability), payload, headers("call", trace))
        for peer, _ in call.peers or ():
            await self._publish(self._subjects.to(peer, "call", task), payload, headers("call", trace))

    async def _publish(self, subject: str, payload: bytes, made: Headers) -> None:
        """Send what is sent again when it matters: a loss is counted, not raised."""
        try:
            await self._connection.publish(subject, payload, made)
        except Exception as error:  # noqa: BLE001  # nats-py raises whatever its state suggests
            self.counters["messages unsent"] += 1
            logger.warning("A message on %s was not sent: %s", subject, error)

    async def _acknowledge(self, inbound: Inbound) -> None:
        if inbound.is_current(self._connection):
            await self._publish(inbound.reply, b"+ACK", {})

    async def _deliver_later(self, inbound: Inbound) -> None:
        if inbound.is_current(self._connection):
            await self._publish(inbound.reply, b'-NAK {"delay":%d}' % int(NAK_S * 1e9), {})

    # market and timers

    async def _offer_came(self, followed: Followed) -> None:
        offer = self._decoded((m.Offer,), followed.subject, followed.headers, followed.payload)
        if offer is None:
            return
        now = time.monotonic()
        peer = self._subjects.last_token(followed.subject)
        self._market.offer(now, peer, offer)
        for running in self._market.stale_running(now, peer):
            self._doubt(now, peer, running)
        self._poll(now)

    async def _offer_said(self, message: Msg) -> None:
        """An offer on its way to the stream. Its agent lives, also while the stream takes nothing, because its leader is gone."""
        heard = heard_of(message.data)
        if heard is not None:
            self._market.said(time.monotonic(), self._subjects.last_token(message.subject), heard.boot, heard.running)

    def _doubt(self, now: float, peer: str, running: m.Running) -> None:
        """An agent names what no award of ours backs. When it says so again, it is compared with the log, and told to stop (2)."""
        try:
            task = TaskName.parse(running.task)
        except NameRefused:
            return
        number = shard_of(task, self._connection.shards)
        if number in self._shards and self._twice.said(now, (peer, running.task, running.subtask, running.epoch)):
            self._ask(task, number, partial(self._stop_stale, peer, running))

    async def _stop_stale(self, peer: str, running: m.Running, state: TaskState | None) -> None:
        if state is None:
            return
        subtask = state.subtasks.get(running.subtask)
        if not state.ended and subtask is not None and subtask.held and running.epoch >= subtask.epoch:
            return
        reason = "no award backs it"
        cancel = m.Cancel(task=running.task, subtask=running.subtask, epoch=running.epoch, reason=reason, grace_s=self._settings.grace_s)
        await self._send(state.name, Send(peer, "cancel", cancel), None)

    def _ask(self, task: TaskName, number: int, question: Question) -> None:
        """Have a question answered from the task's state as it is stored."""
        entry = self._tasks.open(task, number)
        entry.questions.append(question)
        self._wake(entry)

    async def _bid_came(self, message: Msg) -> None:
        now = time.monotonic()
        try:
            peer, _, _ = self._subjects.parse_bid(message.subject)
        except ValueError:
            self._no_valid(message.subject, "bid", message.data)
            return
        answer = self._decoded((m.Bid, m.Refusal), message.subject, message.headers, message.data)
        if isinstance(answer, m.Bid):
            self._market.bid(now, peer, answer)
        elif isinstance(answer, m.Refusal):
            self._market.refusal(now, peer, answer)
        else:
            return  # counted
        self.counters["bids"] += 1
        self._poll(now)

    def _poll(self, now: float) -> None:
        """Let the market work, and send its calls."""
        self._desk.poll(now)
        self._ring_in_time()

    def _ring_in_time(self) -> None:
        """Send the calls that a turn has brought; wake `_keep_time` when something is due before it would wake by itself."""
        while self._desk.calls:
            self._jobs.put(partial(self._send_call, self._desk.calls.pop(0)))
        due = self._desk.next_due()
        if due is not None and due < self._wakes_at:
            self._wakes_at = max(due, time.monotonic())
            self._alarm.set()

    async def _keep_time(self) -> None:
        """Ring timers and let the market work when it is time; a late wake-up means that nothing was heard (3)."""
        tick = 0.0
        while True:
            now = time.monotonic()
            if now >= tick or self._short:
                self._short = False
                tick = now + TICK_S
                await self._do_job(partial(self._tick, now))
            await self._do_job(partial(self._ring, now))
            due = self._desk.next_due()
            self._wakes_at = tick if due is None else min(tick, max(due, now))
            self._alarm = anyio.Event()
            if not self._short:
                with anyio.move_on_after(max(0.0, self._wakes_at - time.monotonic())):
                    await self._alarm.wait()
            if time.monotonic() > self._wakes_at + self._settings.lag_s:
                self._overslept()

    def _overslept(self) -> None:
        """Nothing was heard meanwhile, so nobody was silent (3)."""
        self.counters["lags"] += 1
        self._market.listen_again(time.monotonic())

    async def _ring(self, now: float) -> None:
        self._desk.ring(now)
        self._poll(now)

    async def _tick(self, now: float) -> None:
        """What is looked after several times a second: lost agents, waiting splits, room in memory, room for submits."""
        self._desk.cut_splits(now)
        if self._is_deaf(now):
            self._market.listen_again(now)  # nothing is heard of anybody, so nobody is silent (3)
        for suspect in self._market.suspects(now):
            if suspect not in self._checking:
                self._checking.add(suspect)
                self._jobs.put(partial(self._confirm_lost, suspect))
        if self._tasks.active > self._settings.open_tasks // 2:
            self._desk.park(PARKED_A_TICK, now)
        if now >= self._levels_at:
            self._levels_at = now + LEVELS_S
            if telemetry.measuring():
                self._figures.levels(self._tasks.active, len(self._shards), self._market.unserved(now), self._market.waiting())
            if self._shards:
                self._connection.miss()  # there are streams that nobody misses
        if now >= self._sweeps_at:
            self._sweeps_at = now + SWEEP_S
            self._jobs.put(self._sweep)
        await self._admit(now)

    def _is_deaf(self, now: float) -> bool:
        return self._offers is None or now - self._offers.heard_at > DEAF_S

    async def _sweep(self) -> None:
        """Bodies outlive their task's log by no more than the time that it was kept."""
        before = self._clock.now(time.monotonic()) - self._settings.keep_s
        self.counters["bodies swept"] += await sweep_bodies(self._connection, self._log, self._shards.__contains__, before=before)

    async def _confirm_lost(self, suspect: Suspect) -> None:
        """An agent that is gone may have sent a last claim: only when the inbox holds none is the award lost (5)."""
        task, subtask = suspect.key
        number = shard_of(task, self._connection.shards)
        try:
            if not await self._log.inbox_has(number, task, suspect.agent):
                self._post(number, task, Waiting(LostIn(subtask, suspect.epoch, suspect.reason)))
        finally:
            self._checking.discard(suspect)

    async def _admit(self, now: float) -> None:
        """Pull submits while there is room (4); each pull is repeated before the server gives it up."""
        open_shards = {shard.number: shard.consumers for shard in self._shards.values() if shard.consumers is not None}
        places = [(number, klass) for number in open_shards for klass in CLASSES]
        outstanding = {place: open_shards[place[0]].outstanding(*place) for place in places}
        backlog = {place: open_shards[place[0]].backlog(*place) for place in places}
        for pull in self._pulling.due(now, self._tasks.active, outstanding, backlog):
            await open_shards[pull.shard].pull(pull.shard, pull.klass, pull.batch, expires_s=pull.expires_s)

    # leases and shards

    def _lease_seen(self, number: int, lease: m.Lease | None, seq: int) -> None:
        if self._leases.lease_seen(time.monotonic(), number, lease, seq):
            self._leases_changed.set()

    def _member_seen(self, peer: str, member: m.Member, stamp: float) -> None:
        now = time.monotonic()
        if (peer, member.boot) == (self._me, self._boot):
            self._clock.learn(now, stamp)
        if self._leases.member_seen(now, peer, member):
            self._leases_changed.set()

    def _start_seen(self, stamp: float) -> None:
        before, self._started_at = self._started_at, stamp
        if before not in (None, stamp) and self._session >= 0:
            self._group.start_soon(self._insist, self._read_restart)

    async def _keep_leases(self) -> None:
        """Renew, take, give up, until `stop` and the last shard is given up."""
        while True:
            now = time.monotonic()
            self._leases_changed = anyio.Event()
            for action in self._leases.due(now, _draw()):
                self._group.start_soon(self._act, action)
            self._match_shards(now)
            if self._stopping.is_set() and not self._shards and not self._leases.held(now):
                self._left.set()
                return
            with anyio.move_on_after(max(0.001, self._leases.next_due(now) - time.monotonic())):
                await self._leases_changed.wait()

    async def _act(self, action: LeaseAction) -> None:
        now = time.monotonic()
        try:
            if isinstance(action, Beat):
                await self._lease_stream.beat(leaving=self._stopping.is_set())
            elif isinstance(action, Confirm):
                seq, lease = await self._lease_stream.read(action.shard)
                self._leases.confirmed(time.monotonic(), action.shard, seq, lease)
            elif isinstance(action, GiveUp):
                if not await self._give_up(action):
                    return
            else:
                seq = await self._lease_stream.write(action.shard, self._me, expected=action.expected)
                self._leases.won(now, action.shard, seq)
        except BusError as error:
            if not isinstance(error, AppendUnknown):
                if self._connection.connected:
                    self._seldom.tell("lease", "A lease could not be looked after: %s", error)
                await anyio.sleep(RETRY_S)
            if not isinstance(action, Beat):
                self._leases.lost(time.monotonic(), action.shard, None if isinstance(action, Confirm) else action.expected)
        self._leases_changed.set()

    async def _give_up(self, action: GiveUp) -> bool:
        """First what is in flight, then the release. False: that is under way, and whoever ends it tells."""
        shard = self._shards.get(action.shard)
        if shard is not None:
            shard.leaving.set()
            return False
        if action.shard in self._releasing:
            return False
        self._releasing.add(action.shard)
        try:
            await self._lease_stream.write(action.shard, "", expected=action.expected)
            self._leases.released(time.monotonic(), action.shard)
        finally:
            self._releasing.discard(action.shard)
        return True

    def _match_shards(self, now: float) -> None:
        """Take up what the leases give, drop what they do not; offers are heard while there is a shard."""
        held = self._leases.held(now)
        leaving = self._leases.draining()
        for number in held:
            if number not in self._shards and number not in leaving:
                shard = self._shards[number] = _Shard(number)
                self._group.start_soon(self._hold, shard)
                self._figures.taken(self._leases.orphaned(number))
        for number, shard in self._shards.items():
            if number not in held:
                self._drop(shard)
        self._market.share = len(self._shards) / self._connection.shards
        if self._shards and self._hearing is None:
            self._hearing = anyio.CancelScope()
            self._group.start_soon(self._hear_offers, self._hearing)
        elif not self._shards and self._hearing is not None:
            self._hearing.cancel()
            self._hearing = None

    async def _hear_offers(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._insist(self._follow_offers)

    async def _follow_offers(self) -> None:
        async with (
            follow(self._connection, OFFERS, self._subjects.all_offers(), self._offer_came) as self._offers,
            subscribed(self._connection, self._subjects.all_offers(), self._offer_said),
            self._answering.hearing(self._asked, "agents", "forecast", shared=True),
        ):
            self._market.listen_again(time.monotonic())
            await anyio.sleep_forever()

    async def _hold(self, shard: _Shard) -> None:
        """Drive a shard from the moment that its lease is won until it is lost or given up."""
        try:
            with shard.scope:
                consumers = ShardConsumers(self._connection, on_claim=self._claim_came, on_submit=self._submit_came, holds=self._holds)
                async with consumers.running(), subscribed(self._connection, self._subjects.all_bids(shard.number), self._bid_came):
                    await self._insist(partial(consumers.open, shard.number))  # (10)
                    shard.consumers = consumers
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
        except Exception:
            self.counters["faults"] += 1
            logger.exception("Shard %d could not be driven; it is taken up again.", shard.number)
            await anyio.sleep(RETRY_S)
        finally:
            self._let_go(shard)

    def _drop(self, shard: _Shard) -> None:
        """Move nothing of the shard any more, from now on; `_hold` ends, and lets it go."""
        for entry in self._tasks.of_shard(shard.number):
            entry.gone = True
        self._tasks.forget_shard(shard.number)
        shard.scope.cancel()

    def _drop_all(self) -> None:
        for shard in self._shards.values():
            self._drop(shard)

    def _let_go(self, shard: _Shard) -> None:
        """Nothing of the shard is ours any more; what was not acknowledged goes to its next holder."""
        for entry in self._tasks.of_shard(shard.number):
            entry.gone = True
            self._desk.release(entry)
            self._spans.forget(entry.name)
            self._tasks.drop(entry)
        self._tasks.forget_shard(shard.number)
        del self._shards[shard.number]
        self._leases_changed.set()

    async def _take_over(self, number: int) -> None:
        """Load every open task of the shard and put `held` into its log, so that a holder who wakes up late is refused (3)."""
        async with anyio.create_task_group() as group, self._finding:
            await self._insist(partial(self._find_open, number, group))

    async def _find_open(self, number: int, group: TaskGroup) -> None:
        room = anyio.Semaphore(LOADERS)
        tells = telemetry.recording() and self._leases.orphaned(number)
        untold = Untold(self._clock.now(time.monotonic()), exporting.delay_s()) if tells else None
        async with aclosing(cast("AsyncGenerator[tuple[TaskName, int, StoredRecord]]", self._log.heads(number))) as heads:
            async for task, _, head in heads:
                if untold is not None:
                    untold.head(head.stamp, task)
                known = self._tasks.get(task)
                if head.state not in ENDED and not (known is not None and known.fenced):
                    await room.acquire()
                    group.start_soon(self._hold_task, self._tasks.open(task, number), room)

        if untold is not None:
            await self._tell_again(number, untold)

    async def _tell_again(self, number: int, untold: Untold) -> None:
        """Who held the shard before fell silent, and may not have sent its last spans. What cannot be read now is a gap in a trace."""
        for task in untold.tasks():
            try:
                stored = await self._log.read(number, task)
                loaded = await self._errands.run(task, errands.load(task, number, stored))
            except AgentExecutorError as error:
                logger.debug("The spans of task %s are not told again: %s", task, error)
                continue
            self._spans.retold(task, number, loaded.found, untold.since)

    async def _hold_task(self, entry: Entry, room: anyio.Semaphore) -> None:
        entry.inputs.append(Waiting(HeldIn()))
        shard = self._shards.get(entry.shard)
        if shard is not None and not entry.busy:
            entry.busy = True
            shard.busy += 1
            await self._drive(entry)
        room.release()

    # questions: rule 7

    async def _asked(self, asked: Asked) -> None:
        """Somebody asks; the answer is a job, or waits for the task's turn."""
        self.counters["questions"] += 1
        if asked.kind != "task":
            self._jobs.put(partial(self._answers[asked.kind], asked))
            return
        number = shard_of(asked.task, self._connection.shards)
        if number in self._shards and self._holds(number):
            if asked.ask.what == "log":
                self._jobs.put(partial(self._answer_log, asked))
            else:
                self._ask(asked.task, number, partial(self._answer_task, asked))

    async def _answer_task(self, asked: Asked, state: TaskState | None) -> None:
        if state is None:
            entry = self._tasks.get(asked.task)
            why = "" if entry is None else entry.senseless
            error = m.ErrorInfo(code="lost", message=f"Task {asked.task} stands still. {why}"[:SHOWN])
            await self._answering.answer(asked, None, of=self._members(), error=error)
            return
        body: v.StateView | v.TaskView = replace(state_view(state), keep_s=self._settings.keep_s)
        if asked.ask.what == "view":
            body = task_view(state, self._desk.looked(state, time.monotonic()))
        if state.state in UNPLANNED:  # who waits submits again what was never planned
            body = replace(body, state="waiting" if await self._log.submit_waits(asked.task) else "unknown")
        await self._answer(asked, encode(body))

    async def _answer_log(self, asked: Asked) -> None:
        stored, more = await self._log.read_after(asked.task, asked.ask.after, INLINE_LIMIT)
        body, next = await self._errands.run(asked.task, errands.page_of_log(stored, asked.ask.after, more=more))
        await self._answer(asked, body, next)

    async def _answer_tasks(self, asked: Asked) -> None:
        heads = [answers.Head(head.stamp, task, head.state, head.priority) async for task, _, head in self._log.heads()]
        lines = [answers.task_line(head) for head in answers.newest(heads, asked.ask)]
        await self._answer(asked, encode(v.TasksView(tasks=lines, waiting=await self._log.waiting())))

    async def _answer_agents(self, asked: Asked) -> None:
        await self._answer(asked, encode(v.AgentsView(agents=self._market.agents(time.monotonic()))))

    async def _answer_unserved(self, asked: Asked) -> None:
        now = time.monotonic()
        lines = [*self._market.unserved(now), *answers.unserved_splits(now, self._desk.splits)]
        stalled = answers.stalled_lines(self._clock.now(now), self._desk.stalls())
        await self._answer(asked, encode(v.UnservedView(unserved=lines, stalled=stalled)))

    async def _answer_forecast(self, asked: Asked) -> None:
        if asked.id in self._forecasts or len(self._forecasts) >= FORECASTS:
            return
        self._forecasts.add(asked.id)
        try:
            async with self._forecasting:
                errand = errands.forecast(asked.ask.submit, self._market.snapshot(time.monotonic()), self._settings)
                made = await self._errands.run(asked.task, errand)
        finally:
            self._forecasts.discard(asked.id)
        error = made if isinstance(made, m.ErrorInfo) else None
        await self._answering.answer(asked, None if error else encode(made), of=self._members(), error=error)

    async def _answer_blob(self, asked: Asked) -> None:
        await self._answering.answer_chunk(asked, of=self._members())

    async def _answer(self, asked: Asked, body: bytes, next: int | None = None) -> None:
        await self._answering.answer(asked, body, of=self._members(), next=next)

    def _members(self) -> int:
        return self._leases.members(time.monotonic())


def _draw() -> int:
    return random.getrandbits(31)
