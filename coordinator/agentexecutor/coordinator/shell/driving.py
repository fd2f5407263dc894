"""Tasks are taken through their turns: an input is posted, a worker takes the task, the turn is stored, what follows from it is done and acknowledged.

Whatever goes wrong with a task concerns that task alone, and is tried again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.errands import PASSING, Errands
from agentexecutor.bus.errors import BusError
from agentexecutor.bus.jobs import Jobs
from agentexecutor.bus.log import TaskLog
from agentexecutor.coordinator import errands
from agentexecutor.coordinator.entry import Entry, Question, Waiting
from agentexecutor.coordinator.inbound import read_progress
from agentexecutor.coordinator.inputs import (
    Effect,
    GiveAward,
    HeldIn,
    Key,
    NeedCompose,
    NeedProgress,
    NeedRevision,
    NeedSplit,
    ProgressIn,
    Send,
    SubmitIn,
)
from agentexecutor.coordinator.market import SendCall
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.shell.insisting import RETRY_S
from agentexecutor.coordinator.shell.journal import Journal
from agentexecutor.coordinator.shell.leasing import Shard
from agentexecutor.coordinator.shell.outbox import Outbox
from agentexecutor.coordinator.shell.restart import RestartWatch
from agentexecutor.coordinator.turns import Desk, Turn
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["Driver"]

logger = logging.getLogger("agentexecutor.coordinator")

FAULT_S = 5.0
STILL_S = 5.0
"""A log that makes no sense is read again for what comes, but not sooner."""

Job = Callable[[], Awaitable[None]]


class Driver:
    """Drives the tasks of the `shards` that are held. `drop` is told of a shard whose lease has run out; `settled` when a turn may have set timers."""

    def __init__(
        self,
        connection: Connection,
        desk: Desk,
        journal: Journal,
        outbox: Outbox,
        log: TaskLog,
        errands: Errands,
        *,
        shards: dict[int, Shard],
        restart: RestartWatch,
        holds: Callable[[int], bool],
        drop: Callable[[Shard], None],
        settled: Callable[[], None],
        counters: Counter[str],
    ) -> None:
        self._connection = connection
        self._desk = desk
        self._tasks = desk.tasks
        self._market = desk.market
        self._journal = journal
        self._outbox = outbox
        self._log = log
        self._errands = errands
        self._shards = shards
        self._restart = restart
        self._holds = holds
        self._drop = drop
        self._settled = settled
        self._counters = counters
        self._jobs: Jobs[Entry | Job] = Jobs()

    # what waits

    def post(self, number: int, task: TaskName, waiting: Waiting) -> None:
        """Queue an input. A submit of a task that nobody here knows is taken for new: if it is not, the fence tells (1)."""
        if number not in self._shards:
            return
        new = isinstance(waiting.input, SubmitIn) and self._tasks.get(task) is None and self._tasks.ended(task) is None
        entry = self._tasks.open(task, number)
        if new:
            entry.state = new_task(task, number)
        entry.inputs.append(waiting)
        self.wake(entry)

    def ask(self, task: TaskName, number: int, question: Question) -> None:
        """Have a question answered from the task's state as it is stored."""
        entry = self._tasks.open(task, number)
        entry.questions.append(question)
        self.wake(entry)

    def put(self, job: Job) -> None:
        """Have a worker do something that is no task's turn."""
        self._jobs.put(job)

    def wake(self, entry: Entry) -> None:
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

    async def hold(self, entry: Entry) -> None:
        """Put `held` into the log of a task that was taken over, and do all that follows."""
        entry.inputs.append(Waiting(HeldIn()))
        shard = self._shards.get(entry.shard)
        if shard is not None and not entry.busy:
            entry.busy = True
            shard.busy += 1
            await self.drive(entry)

    # turns

    async def work(self) -> None:
        while True:
            job = await self._jobs.get()
            await (self.drive(job) if isinstance(job, Entry) else self.do_job(job))

    async def do_job(self, job: Job) -> None:
        """What goes wrong here concerns nobody else; who waits for it asks again."""
        try:
            await job()
        except BusError as error:
            logger.warning("%s", error)
        except Exception:
            self._counters["faults"] += 1
            logger.exception("A job of the coordinator failed.")

    async def drive(self, entry: Entry) -> None:
        """Take turns until nothing waits. Whatever goes wrong concerns this task alone, and is tried again."""
        try:
            while not entry.gone and (entry.inputs or entry.soft_due or entry.questions):
                await self._step(entry)
        except BusError as error:
            logger.warning("Task %s: %s", entry.name, error)
            if not entry.gone:
                self._desk.try_again(entry, time.monotonic() + RETRY_S)
        except Exception:
            self._counters["faults"] += 1
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
        if not self._restart.knows():
            await self._restart.known()
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
        self.send_calls()
        self._settled()

    async def _take_turn(self, entry: Entry, state: TaskState) -> None:
        turn = self._desk.turn(entry, time.monotonic())
        try:
            stored = not turn.changes or await self._journal.store(entry, state, turn)
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
            await self.do_job(partial(entry.questions.pop(0), state))

    async def _follow_up(self, entry: Entry, turn: Turn) -> None:
        """The turn's changes are stored: do what follows, acknowledge, refuse."""
        await self._do(entry, turn.effects)
        while turn.answered:
            waiting = turn.answered.popleft()
            if waiting.inbound is not None:
                self._counters["inputs applied" if waiting.input.id in turn.applied else "inputs without effect"] += 1
                await self._outbox.acknowledge(waiting.inbound)
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
            await self._outbox.deliver_later(waiting.inbound)
            return
        self._counters["claims refused"] += 1
        await self._do(entry, refusal)
        await self._outbox.acknowledge(waiting.inbound)

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
        self._counters["loads"] += 1
        for seq, why in loaded.unreadable:
            self._counters["records unreadable"] += 1
            logger.error("Record %d of task %s cannot be read: %s", seq, entry.name, why)
        self._desk.release(entry)
        self._tasks.unpark(entry)
        entry.state, entry.history = loaded.state, loaded.history
        entry.senseless, entry.still_until = "", 0.0
        for waiting in entry.inputs:
            waiting.looked = True
        await self._do(entry, self._desk.adopt(entry, time.monotonic()))

    def _stand_still(self, entry: Entry, error: AgentExecutorError) -> None:
        """Its log makes no sense: that is told once, and concerns this task alone."""
        known, entry.senseless = entry.senseless, str(error)
        self._desk.stand_still(entry, time.monotonic() + STILL_S)
        self._turn_away(entry)
        if known == entry.senseless:
            return
        self._counters["logs senseless"] += 1
        logger.error(
            "Task %s stands still: %s When you have removed the record (`nats stream rmm %s %s`), ask for the task (`agentexecutor show %s`), "
            "and it goes on; `nats stream purge %s --subject=%s` removes all of it.",
            *(entry.name, error, self._log.name, error.fields.get("seq", "SEQUENCE"), entry.name),
            *(self._log.name, self._connection.subjects.log(entry.shard, entry.name)),
        )

    def _turn_away(self, entry: Entry) -> None:
        """Who asks about a log that makes no sense is told; who claims something about it is heard again later."""
        for question in entry.questions:
            self.put(partial(question, None))
        entry.clear()

    # what follows from a decision

    async def _do(self, entry: Entry, effects: list[Effect]) -> None:
        """Send and fetch what a decision asks for, in order. What cannot be put together comes back as an input."""
        task, state = entry.name, entry.state
        for effect in effects:
            if isinstance(effect, Send):
                await self._outbox.send(task, effect, state)
            elif state is None:
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
                offers = self._market.survey.on_offer(time.monotonic(), silent=True)
                entry.inputs.append(Waiting(await self._errands.run(task, errands.read_revision(state, effect, offers))))
            elif isinstance(effect, NeedCompose):
                entry.inputs.append(Waiting(await self._errands.run(task, errands.compose(effect))))
            elif isinstance(effect, NeedProgress):
                entry.inputs.append(Waiting(await self._last_sign(state, effect)))

    async def _last_sign(self, state: TaskState, need: NeedProgress) -> ProgressIn:
        """What the holder of an award said last about its progress."""
        subtask = state.subtasks[need.subtask]
        now = time.monotonic()
        queued = self._market.awards.last_queued(now, Key(state.name, need.subtask), need.epoch)
        queued_at = None if queued is None else self._desk.clock.now(queued)
        said = await self._log.progress(state.name, subtask.agent or "", need.since)
        return read_progress(need, subtask.boot or "", said, queued=queued == now, queued_at=queued_at)

    async def _give_award(self, entry: Entry, state: TaskState, effect: GiveAward) -> None:
        offers = partial(self._market.survey.on_offer, time.monotonic())
        award = await self._errands.run(entry.name, errands.give_award(state, effect, self._connection.name, offers))
        agent = state.subtasks[effect.subtask].agent
        if isinstance(award, m.Award) and agent is not None:
            await self._outbox.award(state, agent, award)
        elif award is not None and not isinstance(award, m.Award):
            entry.inputs.append(Waiting(award))

    def send_calls(self) -> None:
        """Send the calls for proposals that turns and the market have brought."""
        while self._desk.calls:
            self.put(partial(self._send_call, self._desk.calls.pop(0)))

    async def _send_call(self, call: SendCall) -> None:
        task = call.key.task
        entry = self._tasks.get(task)
        state = None if entry is None else entry.state
        number = shard_of(task, self._connection.shards)
        message = await self._errands.run(task, errands.make_call(state, call.key, call.demand, call.call, number, call.reply_by_s))
        await self._outbox.call(state, call, message)
