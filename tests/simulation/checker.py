"""What must be true, whatever happens: looked at with every message that a stream stores or gives up.

The checker knows all that was ever stored. It folds each task's log by itself and compares; an invariant that is hurt ends the run with its name.
Where an invariant has a bound in seconds it holds for what the network delivered: what was lost on the way excuses.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any
from unittest import mock

from simbus import SHARDS, Server, SimConnection, Stored
from truth import Rows, essence, expected_result, plain, same_work

from agentexecutor.bus.streams import INBOX, LEASE, LOG, OFFERS, SUBMITS
from agentexecutor.coordinator import claims, evolve, states
from agentexecutor.coordinator.awards import Awards, Suspect
from agentexecutor.coordinator.budgets import account, exceeded
from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.evolve import apply, fold
from agentexecutor.coordinator.inputs import Key, SetTimer, Want
from agentexecutor.coordinator.leases import Leases
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_ID, H_STATE, H_TYPE, decode, decode_record
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts
from agentexecutor.schemas.subjects import CLASSES

__all__ = ["OLD_WRITER", "Checker", "Violation"]

ENDED = ("completed", "failed", "cancelled")
FENCED_S = 6.0
"""Longer than loading the open tasks of a shard, and a record for each, takes."""
NOTICED_S, RELOAD_S = 0.02, 3.0
"""After a reconnect: who does not know of it yet, and who has looked long ago."""
BEATS = 4
"""So many offers in `HEARD_S`, all of which arrived: their agent is alive."""
HEARD_S = 4.0
EARLY_S = 0.5
SETTLED_S = 1.0
"""After a reconnect or a sleep."""
OLD_WRITER = "coord-old"
"""Of records that an earlier version has left: they come while somebody else has the shard, and nobody of that name ever writes again."""
ASKED_S = 0.2
"""Longer than a question takes, and what follows from its answer."""
LONG_S = 15.0
"""Half of the time after which the server delivers again by itself what nobody has acknowledged."""
_holds = Leases.holds


class Violation(AssertionError):
    """An invariant is hurt; `name` says which."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


class Checker:
    """Watches a server. `rows`: how often each kind of change was recorded; `history`: what happened, for comparing runs."""

    def __init__(self, server: Server, coordinators: Mapping[str, Coordinator]) -> None:
        self.server = server
        self.coordinators = coordinators
        self.states: dict[TaskName, TaskState] = {}
        self.parts: dict[TaskName, Parts] = {}
        self.ended: dict[TaskName, str] = {}
        self.began: dict[TaskName, float] = {}
        self.rows: Counter[str] = Counter()
        self.history: list[str] = []
        self.refused: set[str] = set()
        self.awarded: set[tuple[TaskName, int]] = set()
        """Also those that a power cut took: agents still know them."""
        self.asked: dict[tuple[TaskName, int], int] = {}
        """The version of the plan with which each award was given."""
        self.wished: dict[tuple[TaskName, int], set[str]] = {}
        """What each planner's answer asked for again, by the epoch of its award."""
        self.offers: dict[str, deque[tuple[float, str]]] = {}
        """The last offers of each agent: when they were stored, and the boot."""
        self.violation: Violation | None = None
        self.holders: dict[str, tuple[str, float]] = {}
        """By the subject of its lease: who holds each shard, and since when."""
        self.writers: dict[TaskName, str] = {}
        """Who wrote the last record of each log."""
        self.cut_at = 0.0
        """When the server lost its last writes: what had been done because of them may be undone."""
        self.clock_jumped = False
        server.on_stored = self._stored
        server.on_acked = self._acked
        server.on_sent = self._sent

    def fail(self, name: str, what: str) -> None:
        """Remember the first violation; the run ends with it."""
        if self.violation is None:
            self.violation = Violation(name, what)

    def power_cut(self) -> None:
        """The log was cut: fold it anew."""
        self.cut_at = self.server.loop.now
        self.states.clear()
        self.parts.clear()
        self.ended.clear()
        self.history.append("power cut")
        for stored in list(self.server.streams[LOG].messages.values()):
            self._record(stored, replay=True)
        self.began = {task: at for task, at in self.began.items() if task in self.states}  # what is gone begins anew

    # what is stored

    def _stored(self, stream: str, stored: Stored) -> None:
        if stream == OFFERS:
            agent = self.server.subjects.last_token(stored.subject)
            offer: Any = decode(stored.headers[H_TYPE], stored.payload)
            self.offers.setdefault(agent, deque(maxlen=BEATS)).append((stored.at, offer.boot))
        elif stream == LEASE and H_TYPE in stored.headers:
            lease: Any = decode(stored.headers[H_TYPE], stored.payload)
            if isinstance(lease, m.Lease) and self.holders.get(stored.subject, ("", 0.0))[0] != lease.holder:
                self.holders[stored.subject] = lease.holder, stored.at
        elif stream == LOG:
            self.history.append(f"{stored.subject} {stored.seq} {stored.headers.get(H_STATE)} {stored.payload!r}")
            self._record(stored, replay=False)

    def _record(self, stored: Stored, *, replay: bool) -> None:
        shard, task = self.server.subjects.parse_log(stored.subject)
        if task in self.ended and not replay:
            self.fail("no terminal state is left", f"{task} had {self.ended[task]}, and got a record after it")
            return
        alone = decode_record(stored.payload)
        self.writers[task] = alone.coordinator
        state = self._state(task, shard, alone, replay=replay)
        record = self._joined(state, alone, stored.seq)
        if record is None:
            return
        self.began.setdefault(task, self.server.loop.now)  # with a whole turn: what a dead one has begun began nothing
        before = state.epochs
        self._versions(state, record)
        deadlines = {subtask.name: subtask.spec.deadline_s for subtask in state.subtasks.values()}
        completed = {subtask.name for subtask in state.subtasks.values() if subtask.state == "completed"}
        given = {said.id for said in state.feedback}
        holders = {subtask.name: subtask.epoch for subtask in state.subtasks.values() if subtask.held}
        with self._counted():
            folds = self._fold(state, record, stored.seq)
        if not folds:
            return
        for change in record.changes:
            self._change(state, change, before, completed, given)
            if isinstance(change, r.FailedChange) and not replay:
                self._failed(state, change, record.coordinator, stored, deadlines)
            if isinstance(change, r.Awarded):
                before = holders[change.subtask] = change.epoch
                if not replay and not self.clock_jumped and (task, change.epoch) in self.awarded:
                    self.fail("no epoch is given twice, also across a power cut", f"{task}/{change.subtask} epoch {change.epoch}")
                self.awarded.add((task, change.epoch))
            elif isinstance(change, r.Completed) and change.epoch and holders.get(change.subtask or "") != change.epoch:
                self.fail(
                    "a result counts from the holder of the award only", f"{task}/{change.subtask} epoch {change.epoch}, held: {holders}"
                )
        if stored.headers.get(H_STATE) in ENDED:
            self._end(task, state, alone, stored, replay=replay)

    def _joined(self, state: TaskState, record: r.Record, seq: int) -> r.Record | None:
        """A turn of several records counts as one, when its last is stored."""
        parts = self.parts.setdefault(state.name, Parts())
        if parts.lacks(record):
            self.fail("a turn of several records is whole", f"{state.name}: {record.parts} parts are named by {seq}")
        state.head = seq
        self.rows["recorded in parts"] += record.parts > 0
        self.rows["recorded part"] += record.part
        return parts.whole(record)

    def _state(self, task: TaskName, shard: int, record: r.Record, *, replay: bool) -> TaskState:
        if not (replay and record.history):
            return self.states.setdefault(task, new_task(task, shard))
        state = self.states[task] = new_task(task, shard)
        for entry in record.history:
            whole = self._joined(state, entry.record, entry.seq)
            if whole is not None and not self._fold(state, whole, entry.seq):
                break
        return state

    def _fold(self, state: TaskState, record: r.Record, seq: int) -> bool:
        """Whether what a record says can be."""
        try:
            apply(state, record, seq)
        except (TransitionError, KeyError) as error:
            self.fail("folding the log gives a state", f"{state.name}: {error}")
            return False
        return True

    def _end(self, task: TaskName, state: TaskState, record: r.Record, stored: Stored, *, replay: bool) -> None:
        if not state.ended:
            self.fail(
                "folding the log gives the state that it names", f"{task} is {state.state}, its record says {stored.headers[H_STATE]}"
            )
        if record.history and not replay:
            again = fold(task, state.shard, [(stored.seq, record)])
            if essence(again) != essence(state):
                self.fail("the last record holds the whole history", str(task))
        self.ended[task] = state.state

    def _change(self, state: TaskState, change: r.Change, epochs: int, completed: set[str], given: set[str]) -> None:
        task = state.name
        self.rows[f"recorded {type(change).__struct_config__.tag}"] += 1
        if isinstance(change, r.Completed) and change.subtask is not None and state.subtasks[change.subtask].planner:
            self._planner_said(state.name, change)
        if isinstance(change, r.Awarded) and change.epoch <= epochs:
            self.fail("an award to at most one holder per epoch", f"{task}/{change.subtask} epoch {change.epoch} after {epochs}")
        if isinstance(change, r.Completed) and change.subtask is not None:
            if change.subtask in completed:
                self.fail("at most one accepted result per subtask", f"{task}/{change.subtask}")
            completed.add(change.subtask)
            subtask = state.subtasks[change.subtask]
            if subtask.planner or subtask.state != "completed":
                return  # what the same record supersedes has no result any more
            right = expected_result(state, subtask)
            doubtful = self.clock_jumped and self.cut_at > 0  # then numbers of awards may be given again (docs/adr/0011)
            if plain(subtask.result) != right and not doubtful:
                self.fail("a result is what the work makes of the input", f"{task}/{subtask.name} is {plain(subtask.result)}, not {right}")
        if isinstance(change, r.FeedbackGiven):
            if change.id in given:
                self.fail("feedback is applied once", f"{task} {change.id}")
            given.add(change.id)

    def _versions(self, state: TaskState, record: r.Record) -> None:
        """New versions of the plan, looked at before they are applied: by rules of their own, not by the machine's."""
        task, version = state.name, state.plan_version
        for change in record.changes:
            if isinstance(change, r.Awarded):
                self.asked[task, change.epoch] = version
                over = exceeded(state, {})
                if over is not None:
                    self.fail("budgets are never exceeded", f"{task} has spent {account(state)}, and {change.subtask} is awarded")
            elif isinstance(change, r.Planned):
                grows = change.cause == "replan" or version == 0
                if change.version != version + grows or (change.cause == "replan" and change.base != version):
                    self.fail("versions only grow", f"{task}: {change.version} after {version}, by {change.cause}")
                if change.cause == "replan":
                    self.rows[f"versions by {change.why[0].trigger} {change.why[0].answer}"] += 1
                    self._kept(state, change)
                version = change.version

    def _kept(self, state: TaskState, change: r.Planned) -> None:
        """What was completed and nobody asked for again is kept; and the planner knew the plan that it has changed."""
        task = state.name
        if change.planner is not None:
            known = self.asked.get((task, state.subtasks[change.planner].epoch))
            if known is not None and known != change.base:
                self.fail("a planner's answer is of the present plan", f"{task}: asked at version {known}, used for {change.base}")
        again = {why.subtask for why in change.why if why.answer != "plan"}
        gone = {*change.add, *change.again, *change.remove}
        for name in (*change.add, *change.again):
            old = state.subtasks.get(name)
            if old is None or old.state != "completed" or old.planner or name in again or change.planner is None:
                continue
            same = name in change.again or same_work(old.spec, change.add[name])
            asked = name in self.wished.get((task, state.subtasks[change.planner].epoch), ())
            said = any(given.subtask == name and given.verdict == "revise" for given in state.feedback)
            if same and not asked and not said and not any(need in gone for need in old.needs):
                self.fail("kept work does not run again", f"{task}/{name} in version {change.version}")

    def _failed(self, state: TaskState, change: r.FailedChange, by: str, stored: Stored, deadlines: dict[str, float | None]) -> None:
        """Nobody is taken for lost who is there, and no deadline passes early. `deadlines`: those before the record, which may replace a subtask."""
        cause, subtask = change.error.details.get("cause"), state.subtasks.get(change.subtask or "")
        if cause == "lost" and subtask is not None:
            for attempt in subtask.attempts:  # a split subtask, whose share was lost too often, has none
                if attempt.epoch == change.epoch:
                    self._lost(state, subtask.name, attempt.agent, attempt.boot, change, by)
        elif cause == "deadline" and not self.clock_jumped and "subtask" not in change.error.details:
            own = None if subtask is None else deadlines.get(subtask.name, subtask.spec.deadline_s)
            given = own if own is not None else state.submit.deadline_s if state.submit is not None else None
            if given is not None and stored.stamp < state.submitted_at + given - EARLY_S:
                self.fail(
                    "no deadline passes early", f"{state.name}/{change.subtask}: {stored.stamp - state.submitted_at:.1f} s of {given:.1f} s"
                )

    def _planner_said(self, task: TaskName, change: r.Completed) -> None:
        said = plain(change.result)
        self.wished[task, change.epoch] = set(said.get("again", ())) if isinstance(said, dict) else set()

    def _lost(self, state: TaskState, name: str, agent: str, boot: str, change: r.FailedChange, by: str) -> None:
        now = self.server.loop.now
        heard = [at for at, of in self.offers.get(agent, ()) if of == boot and at > now - HEARD_S - 0.5]
        link = next((link for link in self.server.links if link.name == by), None)
        listened = link is not None and link.connected and now - link.deaf_at > HEARD_S + self.server.faults.late_s
        alive = (
            len(heard) == BEATS and heard[-1] > now - HEARD_S + EARLY_S and heard[-1] - heard[0] > BEATS - 2
        )  # not all after a reconnect
        paused = any(later - earlier > HEARD_S - EARLY_S for earlier, later in pairwise(heard))  # silent so long, and heard again right now
        if "silent" in change.error.message and alive and listened and not paused:
            self.fail("an agent that is heard is not taken for lost", f"{agent} with {state.name}/{name}: {change.error.message}")
        for stored in self.server.streams[INBOX].messages.values():
            at = self.server.subjects.parse_inbox(stored.subject)
            if at.task == state.name and at.peer == agent and now - stored.at > self.server.faults.late_s:
                said: Any = decode(stored.headers[H_TYPE], stored.payload)
                if isinstance(said, m.Done) and (said.subtask, said.epoch, said.boot) == (name, change.epoch, boot):
                    self.fail("what waits in the inbox is not lost", f"{state.name}/{name}: {agent} is taken for lost, its done waits")

    def counted_claims(self) -> AbstractContextManager[Any]:
        """While it is entered, the rows of the table of claims that coordinators look up are counted."""
        return mock.patch.object(claims, "CLAIMS", Rows(states.CLAIMS, "claim", self.rows))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """While the log is folded, the rows of the tables that it needs are counted."""
        with (
            mock.patch.object(evolve, "SUBTASK", Rows(states.SUBTASK, "subtask", self.rows)),
            mock.patch.object(evolve, "TASK", Rows(states.TASK, "task", self.rows)),
        ):
            yield

    # what is acknowledged

    def _acked(self, stream: str, stored: Stored) -> None:
        """What was taken out of a queue must have done its work, or must be of no use any more."""
        id = stored.headers.get(H_ID, "")
        if id in self.refused or stored.at < self.cut_at:
            return
        if stream == SUBMITS:
            _, _, task = self.server.subjects.parse_new(stored.subject)
            state = self.states.get(task)
            if state is None or state.state == "unknown":
                self.fail("nothing is acknowledged before it is recorded", f"the submit of {task}")
        elif stream == INBOX:
            at = self.server.subjects.parse_inbox(stored.subject)
            message: Any = decode(stored.headers[H_TYPE], stored.payload)
            state = self.states.get(at.task)
            if isinstance(message, m.CancelTask) and at.peer == at.task.owner and (state is None or not state.ended):
                self.fail("nothing is acknowledged before it is recorded", f"a cancel of {at.task}")
            if isinstance(message, m.Accept | m.Done | m.Failed) and state is not None and not state.ended:
                subtask = state.subtasks.get(message.subtask)
                if (
                    subtask is not None
                    and subtask.held
                    and subtask.epoch == message.epoch
                    and subtask.agent == at.peer
                    and subtask.boot == message.boot
                    and (subtask.state == "awarded" or not isinstance(message, m.Accept))
                ):
                    self.fail("nothing is acknowledged before it is recorded", f"a {stored.headers[H_TYPE]} of {at.task}/{message.subtask}")

    # what is sent

    def _sent(self, link: SimConnection, subject: str, payload: bytes) -> None:
        """What coordinators send."""
        coordinator = self.coordinators.get(link.name)
        if coordinator is None or coordinator._connection is not link:
            return
        subjects = self.server.subjects
        now = self.server.loop.now + link.process.boot_s
        if link.connected and link.up_at > self.cut_at > 0 and NOTICED_S < self.server.loop.now - link.up_at < RELOAD_S:
            self._went_back(coordinator, now)
        if subject.startswith(f"{subjects.prefix}.task."):
            shard, task = subjects.parse_log(subject)
            if not _holds(coordinator._leases, now, shard):
                self.fail("who appends holds the lease", f"{link.name} appends to {task}")
            if not link.connected:
                self.fail("nothing is appended while the connection is away", f"{link.name} appends to {task}")
        elif subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            asked = sum(
                shard.consumers.outstanding(shard.number, klass)
                for shard in coordinator._shards.values()
                if shard.consumers is not None
                for klass in CLASSES
            )
            if asked + coordinator._tasks.active > coordinator._settings.open_tasks + len(CLASSES) * SHARDS:
                self.fail(
                    "submits are asked for only while there is room", f"{link.name} asks for {asked}, has {coordinator._tasks.active}"
                )
        elif ".refused." in subject and subject.startswith(f"{subjects.prefix}.to."):
            refused: Any = decode("refused", payload)
            self.refused.add(refused.id)
            task = TaskName.parse(refused.task)
            submit = self.server.last(SUBMITS, subjects.any_new(task))
            waits = submit is not None and self.server.loop.now - submit.at > ASKED_S + self.server.faults.late_s
            if waits and task not in self.states and refused.error.code == "refused":
                self.fail("what comes before its submit is not refused", f"{task}: {refused.error.message}")

    def _went_back(self, coordinator: Coordinator, now: float) -> None:
        """Whoever knows that the server has lost records goes on with none of them; when its clock was set it may not know (docs/adr/0011)."""
        if self.clock_jumped or not coordinator._restart.knows():
            return
        tasks = coordinator._tasks
        gone = [name for name, ended in tasks._ended.items() if name not in self.ended and _holds(coordinator._leases, now, ended.shard)]
        for entry in tasks:
            if entry.state is None or entry.gone or entry.busy or not _holds(coordinator._leases, now, entry.shard):
                continue
            stored = self.server.last(LOG, self.server.subjects.log(entry.shard, entry.name))
            if entry.state.head > (0 if stored is None else stored.seq):
                gone.append(entry.name)
        if gone:
            self.fail("what a restart took is not gone on with", f"{coordinator._me} has {gone[0]} in memory as it was before")

    # live states

    def watched_suspects(self) -> AbstractContextManager[Any]:
        """While it is entered, whoever is taken for silent has been silent since somebody listened."""
        original = Awards.suspects

        def suspects(awards: Awards, now: float) -> list[Suspect]:
            found = original(awards, now)
            silent = [suspect for suspect in found if suspect.reason.startswith("silent")]
            for coordinator in self.coordinators.values() if silent else ():
                link: Any = coordinator._connection
                listened = self.server.loop.now - max(link.up_at, link.process.woke_at)
                if coordinator._market.awards is awards and listened < coordinator._settings.lost_after_s - EARLY_S:
                    self.fail("silence counts while somebody listens", f"{link.name} listens for {listened:.1f} s: {silent[0]}")
            return found

        return mock.patch.object(Awards, "suspects", suspects)

    def what_is_held_is_fenced(self, calm_at: float) -> None:
        """A while after a shard was taken its new holder has written to every open task, so that the one before is refused."""
        for coordinator in self.coordinators.values():
            link: Any = coordinator._connection
            held = coordinator._leases.held(self.server.loop.now + link.process.boot_s)
            for entry in coordinator._tasks:
                holder, since = self.holders.get(self.server.subjects.lease(entry.shard), ("", 0.0))
                if entry.shard not in held or holder != link.name or self.server.loop.now - max(since, calm_at) < FENCED_S:
                    continue
                if not entry.idle or entry.gone or entry.state is None or entry.state.ended or entry.state.state == "unknown":
                    continue
                stored = self.server.last(LOG, self.server.subjects.log(entry.shard, entry.name))
                if stored is not None and (stored.at < since or self.writers.get(entry.name) not in (link.name, OLD_WRITER)):
                    self.fail("who takes a task over fences off who had it", f"{link.name} has {entry.name} since {since:.1f}")

    def nothing_waits_long(self, calm_at: float) -> None:
        """After a while without faults whatever is in the inbox is dealt with soon."""
        now = self.server.loop.now
        for stored in self.server.streams[INBOX].messages.values():
            task = self.server.subjects.parse_inbox(stored.subject).task
            submit = self.server.last(SUBMITS, self.server.subjects.any_new(task))
            since = max(stored.at, calm_at, self.began.get(task, 0.0))
            if now - since > LONG_S and not stored.excused and submit is None:
                self.fail("nothing waits long once faults stop", f"{stored.subject} waits since {stored.at:.1f}, calm since {calm_at:.1f}")

    def compare(self, coordinator: Coordinator) -> None:
        """The state in memory is the log's; and everything that `pending` says is wanted and timed."""
        self._compare_silence(coordinator)
        link: Any = coordinator._connection
        held = coordinator._leases.held(self.server.loop.now + link.process.boot_s)
        for entry in coordinator._tasks:
            state = entry.state
            if entry.shard not in held:
                continue
            if entry.gone or entry.busy or entry.inputs or entry.soft or entry.questions or state is None or state.state == "unknown":
                continue
            stored = self.server.last(LOG, self.server.subjects.log(entry.shard, entry.name))
            mine = self.states.get(entry.name)
            if stored is None or mine is None or stored.seq != state.head:
                continue
            if essence(state) != essence(mine):
                self.fail("folding the log gives the live state", f"{entry.name}: {essence(state)} is not {essence(mine)}")
            if not state.ended and entry.told:
                self._compare_pending(coordinator, state)

    def _compare_silence(self, coordinator: Coordinator) -> None:
        link: Any = coordinator._connection
        now, since = self.server.loop.now, max(link.up_at, link.process.woke_at)
        if not link.connected or link.process.paused or now - since < SETTLED_S or coordinator._listens is None:
            return
        for agent in coordinator._market._book.agents.values():
            if agent.ours and agent.seen - link.process.boot_s < since - EARLY_S:
                silent = now + link.process.boot_s - agent.seen
                self.fail(
                    "silence counts while somebody listens", f"{link.name} listens for {now - since:.1f} s, {agent.name}: {silent:.1f} s"
                )

    def _compare_pending(self, coordinator: Coordinator, state: TaskState) -> None:
        desk, market = coordinator._desk, coordinator._desk.market
        connection: Any = coordinator._connection
        for effect in pending(state, desk.clock.now(self.server.loop.now + connection.process.boot_s), desk.settings):
            key = Key(state.name, getattr(effect, "subtask", None) or "")
            there = key in market._ready.wanted or key in market.awards._holdings
            follows_retry = isinstance(effect, Want) or (isinstance(effect, SetTimer) and effect.kind == "unserved")
            if follows_retry and desk.timers.has(state.name, "retry", key.subtask):
                continue  # that is due, and has not been rung yet
            timed = isinstance(effect, SetTimer) and desk.timers.has(state.name, effect.kind, effect.subtask)
            if isinstance(effect, SetTimer) and not timed and not (effect.kind == "retry" and there):  # its time may be over already
                self.fail("pending re-creates every timer, so it runs", f"{state.name} {effect.kind} {effect.subtask}")
            if isinstance(effect, Want) and not there:
                self.fail("pending re-creates every want, so it is there", f"{state.name}/{effect.subtask}")

    def stuck(self, expected: set[TaskName]) -> str:
        """Tasks that must end and have not; empty when there are none."""
        open = sorted(str(task) for task in expected if task not in self.ended)
        if not open:
            return ""
        state = self.states.get(TaskName.parse(open[0]))
        about = "never planned" if state is None else {name: (one.state, one.agent, one.epoch) for name, one in state.subtasks.items()}
        return f"{len(open)} have not: {open[0]} {about}"
