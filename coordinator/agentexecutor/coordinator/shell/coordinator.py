"""The coordinator: puts the parts together, takes what arrives, keeps time, holds the shards."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from agentexecutor.bus import telemetry
from agentexecutor.bus.answering import Answering, Asked
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.consumers import Inbound, ShardConsumers
from agentexecutor.bus.errands import Errands
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.leasing import LeaseStream
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.sweeping import sweep_bodies
from agentexecutor.bus.watch import listening
from agentexecutor.coordinator import errands
from agentexecutor.coordinator.awards import Suspect
from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Waiting
from agentexecutor.coordinator.figures import Figures
from agentexecutor.coordinator.inbound import Unusable, large_result, read_claim, read_submit
from agentexecutor.coordinator.inputs import ClaimIn, LostIn, Send, SubmitIn
from agentexecutor.coordinator.leases import Leases
from agentexecutor.coordinator.machine import decide
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.pulling import Pulling
from agentexecutor.coordinator.settings import Settings, settings_of
from agentexecutor.coordinator.shell.driving import Driver
from agentexecutor.coordinator.shell.hearing import Hearing
from agentexecutor.coordinator.shell.insisting import RETRY_S, Insisting
from agentexecutor.coordinator.shell.journal import Journal
from agentexecutor.coordinator.shell.leasing import LeaseKeeper, Shard, draw
from agentexecutor.coordinator.shell.outbox import Outbox
from agentexecutor.coordinator.shell.questions import Questions
from agentexecutor.coordinator.shell.restart import RestartWatch
from agentexecutor.coordinator.shell.takeover import TakeOver
from agentexecutor.coordinator.shell.unusable import SHOWN, UnusableMessages
from agentexecutor.coordinator.spans import Spans
from agentexecutor.coordinator.turns import Desk
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT
from agentexecutor.schemas.names import TaskName, new_boot
from agentexecutor.schemas.subjects import CLASSES, shard_of

__all__ = ["Coordinator"]

logger = logging.getLogger("agentexecutor.coordinator")

WORKERS = 256
TICK_S = 0.25
READS = 60
"""A submit whose plan cannot be read for so many deliveries is refused: it would come for ever."""
PARKED_A_TICK = 500
LEVELS_S = 10.0
SWEEP_S = 3600


class Coordinator:
    """One process's share of moving tasks forward: holds shards by lease and drives their tasks.

    `boot`: this life of the process (see `new_boot`). `settings`: None takes them from the environment (`settings_of`). `counters` counts what an
    operator asks for; `unusable` keeps the last messages that could not be used (subject, reason, first bytes).
    """

    def __init__(self, connection: Connection, *, boot: str | None = None, settings: Settings | None = None) -> None:
        settings = settings or settings_of(os.environ)
        self.counters: Counter[str] = Counter()
        self._connection = connection
        self._subjects = connection.subjects
        self._me = connection.name
        self._boot = boot or new_boot()
        self._market = Market(settings)
        self._settings = dataclasses.replace(settings, policies=settings.policies or frozenset(self._market.policies))
        self._clock = Clock(time.monotonic(), time.time())
        self._leases = Leases(self._me, self._boot, connection.shards, settings)
        self._desk = Desk(self._settings, self._market, self._clock, connection.shards, self._wake, draw)
        self._tasks = self._desk.tasks
        self._log = TaskLog(connection)
        self._spans = Spans(self._me, telemetry)
        self._figures = Figures(telemetry)
        self._errands = Errands(connection)
        self._lease_stream = LeaseStream(connection, self._log, self._boot)
        self._pulling = Pulling(settings.open_tasks)
        self._shards: dict[int, Shard] = {}
        self._insist = Insisting().insist
        self._make_parts()
        self._checking: set[Suspect] = set()
        self._alarm = anyio.Event()
        self._wakes_at = 0.0
        self._levels_at = 0.0
        self._sweeps_at = time.monotonic() + draw() % SWEEP_S
        self._short = False
        """Submits that were asked for have come: more may be asked for."""
        self._listens: anyio.CancelScope | None = None
        """Agents are heard, until it is cancelled."""
        self._group: TaskGroup

    def _make_parts(self) -> None:
        """What the parts of this folder are given of one another."""
        connection, counters = self._connection, self.counters
        self._unusable = UnusableMessages(counters, self._figures)
        self.unusable = self._unusable.kept
        self._answering = Answering(connection, partial(self._unusable.count, "undecodable"))
        self._restart = RestartWatch(connection, self._log, self._begin_anew)
        self._outbox = Outbox(connection, self._spans, counters)
        self._journal = Journal(
            self._log,
            self._errands,
            self._settings,
            me=self._me,
            may_append=self._remembers,
            holds=self._holds,
            spans=self._spans,
            figures=self._figures,
            counters=counters,
        )
        self._driver = Driver(
            connection,
            self._desk,
            self._journal,
            self._outbox,
            self._log,
            self._errands,
            shards=self._shards,
            restart=self._restart,
            holds=self._holds,
            drop=self._drop,
            settled=self._ring_in_time,
            counters=counters,
        )
        self._keeper = LeaseKeeper(connection, self._leases, self._lease_stream, self._shards, self._match_shards)
        self._take_over = TakeOver(self._log, self._errands, self._desk, self._spans, self._driver.hold, self._insist)
        self._hearing = Hearing(connection, self._market, self._shards, self._unusable, counters, self._poll, self._stale_said)
        self._questions = Questions(self._answering, self._desk, self._log, self._errands, self._settings, self._members, self._driver.put)

    # life

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Coordinate until `stop` (or cancelled). `started` once leases and members are followed. Raises BusError when it cannot begin."""
        forget = self._connection.on_reconnect(self._reconnected)
        try:
            async with AsyncExitStack() as stack:
                for context in (
                    self._lease_stream.followed(self._keeper.seen, self._member_seen, self._mark_seen, self._unusable.no_valid),
                    self._answering.hearing(self._asked, "task", "unserved"),
                    self._answering.hearing(self._asked, "tasks", "blob", shared=True),
                ):
                    await stack.enter_async_context(context)
                async with anyio.create_task_group() as self._group:
                    await self._insist(self._restart.look)
                    for _ in range(WORKERS):
                        self._group.start_soon(self._driver.work)
                    self._group.start_soon(self._keep_time)
                    task_status.started()
                    await self._keeper.keep(self._group)
                    await self._lease_stream.beat(leaving=True)
                    self._group.cancel_scope.cancel()
        finally:
            forget()

    def stop(self) -> None:
        """Finish what is in flight, release the leases, and let `run` return."""
        self._keeper.leave()

    async def _reconnected(self) -> None:
        """Silence is counted anew; what else has changed is looked at."""
        now = time.monotonic()
        self._leases.reconnected(now)
        for number in range(self._connection.shards):
            if not self._leases.holds(now, number):
                self._leases.lost(now, number)  # its sequences may begin anew; they are told again
        self._market.listen_again(now)
        self._group.start_soon(self._insist, self._restart.look)

    def _begin_anew(self, first: int) -> None:
        """What is in memory counts no more when the server has been started anew (9)."""
        if first != self._desk.settings.first_epoch:
            self._desk.settings = dataclasses.replace(self._desk.settings, first_epoch=first)
            self._drop_all()

    def _mark_seen(self, stamp: float) -> None:
        if self._restart.marked(stamp):
            self._group.start_soon(self._insist, self._restart.look)

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
            for effect in decide(state, input, 0.0, self._settings, 0).effects:
                if isinstance(effect, Send):
                    await self._outbox.send(task, effect, None)
            self.counters["inputs without effect"] += 1
            await self._outbox.acknowledge(inbound)
        elif isinstance(input, ClaimIn) and large_result(input.claim, INLINE_LIMIT):
            self._driver.put(partial(self._prepare, number, task, input, inbound))
        else:
            self._driver.post(number, task, Waiting(input, inbound))

    def _remembers(self, number: int) -> bool:
        """Whether what is kept in memory of a shard's ended tasks is true: the shard is ours, and the server has not been started anew since (9)."""
        return self._restart.knows() and self._holds(number)

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
            self._driver.put(partial(self._prepare, number, task, input, inbound))
        else:
            self._driver.post(number, task, Waiting(input, inbound))
        consumers = self._shards[number].consumers if number in self._shards else None
        if consumers is not None and consumers.outstanding(number, klass) == 0:
            self._short = True
            self._alarm.set()

    async def _prepare(self, number: int, task: TaskName, input: SubmitIn | ClaimIn, inbound: Inbound) -> None:
        """An input that needs a large body read or stored first."""
        errand = errands.fetch_plan(input) if isinstance(input, SubmitIn) else errands.by_reference(input)
        try:
            self._driver.post(number, task, Waiting(await self._errands.run(task, errand), inbound))
        except BusError as error:
            logger.warning("Task %s: %s", task, error)
            self.counters["bodies not to be had"] += 1
            if isinstance(input, SubmitIn) and inbound.deliveries >= READS:
                told = m.ErrorInfo(code="input", message=f"The plan could not be read in {inbound.deliveries} tries: {error}"[:SHOWN])
                self._driver.post(number, task, Waiting(replace(input, error=told), inbound))
            else:
                await self._outbox.deliver_later(inbound)

    async def _set_aside(self, inbound: Inbound, error: Unusable) -> None:
        """Count and keep what cannot be used, tell its sender, and go on."""
        why, task, peer, id = (error.fields[name] for name in ("why", "task", "peer", "id"))
        text = str(error)[:SHOWN]
        self._unusable.set_aside(why, (why, peer), inbound.subject, text, inbound.payload)
        if peer and id:
            refused = m.Refused(task=str(task), id=id[:64], error=m.ErrorInfo(code="input", message=text))
            await self._outbox.send(task, Send(peer, "refused", refused), None)
        await self._outbox.acknowledge(inbound)

    # market and timers

    def _wake(self, entry: Entry) -> None:
        self._driver.wake(entry)

    def _stale_said(self, peer: str, task: TaskName, number: int, running: m.Running) -> None:
        self._driver.ask(task, number, partial(self._stop_stale, peer, running))

    async def _stop_stale(self, peer: str, running: m.Running, state: TaskState | None) -> None:
        if state is None:
            return
        subtask = state.subtasks.get(running.subtask)
        if not state.ended and subtask is not None and subtask.held and running.epoch >= subtask.epoch:
            return
        reason = "no award backs it"
        cancel = m.Cancel(task=running.task, subtask=running.subtask, epoch=running.epoch, reason=reason, grace_s=self._settings.grace_s)
        await self._outbox.send(state.name, Send(peer, "cancel", cancel), None)

    def _poll(self, now: float) -> None:
        """Let the market work, and send its calls."""
        self._desk.poll(now)
        self._driver.send_calls()
        self._ring_in_time()

    def _ring_in_time(self) -> None:
        """Wake `_keep_time` when something is due before it would wake by itself."""
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
                await self._driver.do_job(partial(self._tick, now))
            await self._driver.do_job(partial(self._ring, now))
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
        if self._hearing.is_deaf(now):
            self._market.listen_again(now)  # nothing is heard of anybody, so nobody is silent (3)
        for suspect in self._market.awards.suspects(now):
            if suspect not in self._checking:
                self._checking.add(suspect)
                self._driver.put(partial(self._confirm_lost, suspect))
        if self._tasks.active > self._settings.open_tasks // 2:
            self._desk.park(PARKED_A_TICK, now)
        if now >= self._levels_at:
            self._levels_at = now + LEVELS_S
            if telemetry.measuring():
                self._figures.levels(
                    self._tasks.active, len(self._shards), self._market.survey.unserved(now), self._market.survey.waiting()
                )
            if self._shards:
                self._connection.miss()  # there are streams that nobody misses
        if now >= self._sweeps_at:
            self._sweeps_at = now + SWEEP_S
            self._driver.put(self._sweep)
        await self._admit(now)

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
                self._driver.post(number, task, Waiting(LostIn(subtask, suspect.epoch, suspect.reason)))
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

    def _member_seen(self, peer: str, member: m.Member, stamp: float) -> None:
        now = time.monotonic()
        if (peer, member.boot) == (self._me, self._boot):
            self._clock.learn(now, stamp)
        if self._leases.member_seen(now, peer, member):
            self._keeper.changed()

    def _match_shards(self, now: float) -> None:
        """Take up what the leases give, drop what they do not; offers are heard while there is a shard."""
        held = self._leases.held(now)
        leaving = self._leases.draining()
        for number in held:
            if number not in self._shards and number not in leaving:
                shard = self._shards[number] = Shard(number)
                self._group.start_soon(self._hold, shard)
                self._figures.taken(self._leases.orphaned(number))
        for number, shard in self._shards.items():
            if number not in held:
                self._drop(shard)
        self._market.share = len(self._shards) / self._connection.shards
        if self._shards and self._listens is None:
            self._listens = anyio.CancelScope()
            self._group.start_soon(self._listen, self._listens)
        elif not self._shards and self._listens is not None:
            self._listens.cancel()
            self._listens = None

    async def _listen(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._insist(self._follow_offers)

    async def _follow_offers(self) -> None:
        async with self._hearing.offers(), self._answering.hearing(self._asked, "agents", "forecast", shared=True):
            await anyio.sleep_forever()

    async def _hold(self, shard: Shard) -> None:
        """Drive a shard from the moment that its lease is won until it is lost or given up."""
        try:
            with shard.scope:
                consumers = ShardConsumers(self._connection, on_claim=self._claim_came, on_submit=self._submit_came, holds=self._holds)
                async with consumers.running(), listening(self._connection, self._subjects.all_bids(shard.number), self._hearing.bid_came):
                    await self._insist(partial(consumers.open, shard.number))  # (10)
                    shard.consumers = consumers
                    await self._admit(time.monotonic())
                    async with anyio.create_task_group() as group:
                        orphaned = bool(self._leases.orphaned(shard.number))
                        group.start_soon(partial(self._take_over.of, shard.number, orphaned=orphaned))
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

    def _drop(self, shard: Shard) -> None:
        """Move nothing of the shard any more, from now on; `_hold` ends, and lets it go."""
        for entry in self._tasks.of_shard(shard.number):
            entry.gone = True
        self._tasks.forget_shard(shard.number)
        shard.scope.cancel()

    def _drop_all(self) -> None:
        for shard in self._shards.values():
            self._drop(shard)

    def _let_go(self, shard: Shard) -> None:
        """Nothing of the shard is ours any more; what was not acknowledged goes to its next holder."""
        for entry in self._tasks.of_shard(shard.number):
            entry.gone = True
            self._desk.release(entry)
            self._spans.forget(entry.name)
            self._tasks.drop(entry)
        self._tasks.forget_shard(shard.number)
        del self._shards[shard.number]
        self._keeper.changed()

    # questions: rule 7

    async def _asked(self, asked: Asked) -> None:
        """Somebody asks; the answer is a job, or waits for the task's turn."""
        self.counters["questions"] += 1
        if asked.kind != "task":
            self._driver.put(partial(self._questions.answer, asked))
            return
        number = shard_of(asked.task, self._connection.shards)
        if number in self._shards and self._holds(number):
            if asked.ask.what == "log":
                self._driver.put(partial(self._questions.of_log, asked))
            else:
                self._driver.ask(asked.task, number, partial(self._questions.of_task, asked))

    def _members(self) -> int:
        return self._leases.members(time.monotonic())
