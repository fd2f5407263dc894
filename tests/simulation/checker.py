"""What must be true, whatever happens: looked at with every message that a stream stores or gives up.

The checker knows all that was ever stored. It folds each task's log by itself and compares; an invariant that is hurt ends the run with its name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from simbus import Server, Stored

from agentexecutor.bus.streams import INBOX, LOG, SUBMITS
from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.evolve import apply
from agentexecutor.coordinator.inputs import Key, SetTimer, Want
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_ID, H_STATE, H_TYPE, decode, decode_record
from agentexecutor.schemas.names import TaskName

__all__ = ["Checker", "Violation"]

ENDED = ("completed", "failed", "cancelled")


class Violation(AssertionError):
    """An invariant is hurt; `name` says which."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


class Checker:
    """Watches a server. `rows`: how often each kind of change was recorded; `history`: what happened, for comparing runs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.states: dict[TaskName, TaskState] = {}
        self.ended: dict[TaskName, str] = {}
        self.rows: Counter[str] = Counter()
        self.history: list[str] = []
        self.results: dict[TaskName, set[bytes]] = {}
        self.refused: set[str] = set()
        self.violation: Violation | None = None
        self.cut = False
        """The server lost writes: what was seen may be undone."""
        server.on_stored = self._stored
        server.on_acked = self._acked

    def fail(self, name: str, what: str) -> None:
        """Remember the first violation; the run ends with it."""
        if self.violation is None:
            self.violation = Violation(name, what)

    def power_cut(self) -> None:
        """The log was cut: fold it anew."""
        self.states.clear()
        self.ended.clear()
        self.history.append("power cut")
        for stored in list(self.server.streams[LOG].messages.values()):
            self._record(stored, replay=True)

    # what is stored

    def _stored(self, stream: str, stored: Stored) -> None:
        if stream == LOG:
            self.history.append(f"{stored.subject} {stored.seq} {stored.headers.get(H_STATE)} {stored.payload!r}")
            self._record(stored, replay=False)

    def _record(self, stored: Stored, *, replay: bool) -> None:
        shard, task = self.server.subjects.parse_log(stored.subject)
        if task in self.ended and not replay:
            self.fail("no terminal state is left", f"{task} had {self.ended[task]}, and got a record after it")
            return
        record = decode_record(stored.payload)
        state = self._state(task, shard, record, replay=replay)
        before = state.epochs
        completed = {subtask.name for subtask in state.subtasks.values() if subtask.state == "completed"}
        given = {said.id for said in state.feedback}
        holders = {subtask.name: subtask.epoch for subtask in state.subtasks.values() if subtask.held}
        try:
            apply(state, record, stored.seq)
        except (TransitionError, KeyError) as error:
            self.fail("folding the log gives a state", f"{task}: {error}")
            return
        for change in record.changes:
            self._change(task, change, before, completed, given)
            if isinstance(change, r.Awarded):
                before = holders[change.subtask] = change.epoch
            elif isinstance(change, r.Completed) and change.epoch and holders.get(change.subtask or "") != change.epoch:
                self.fail(
                    "a result counts from the holder of the award only", f"{task}/{change.subtask} epoch {change.epoch}, held: {holders}"
                )
        if stored.headers.get(H_STATE) in ENDED:
            self._end(task, state, record, stored, replay=replay)

    def _state(self, task: TaskName, shard: int, record: r.Record, *, replay: bool) -> TaskState:
        if not (replay and record.history):
            return self.states.setdefault(task, new_task(task, shard))
        state = self.states[task] = _from_history(task, shard, record)
        return state

    def _end(self, task: TaskName, state: TaskState, record: r.Record, stored: Stored, *, replay: bool) -> None:
        if not state.ended:
            self.fail(
                "folding the log gives the state that it names", f"{task} is {state.state}, its record says {stored.headers[H_STATE]}"
            )
        if record.history and not replay:
            again = _from_history(task, state.shard, record)
            apply(again, record, stored.seq)
            if _essence(again) != _essence(state):
                self.fail("the last record holds the whole history", str(task))
        self.ended[task] = state.state

    def _change(self, task: TaskName, change: r.Change, epochs: int, completed: set[str], given: set[str]) -> None:
        self.rows[str(type(change).__struct_config__.tag)] += 1
        if isinstance(change, r.Awarded) and change.epoch <= epochs:
            self.fail("an award to at most one holder per epoch", f"{task}/{change.subtask} epoch {change.epoch} after {epochs}")
        if isinstance(change, r.Completed) and change.subtask is not None:
            if change.subtask in completed:
                self.fail("at most one accepted result per subtask", f"{task}/{change.subtask}")
            completed.add(change.subtask)
        if isinstance(change, r.FeedbackGiven):
            if change.id in given:
                self.fail("feedback is applied once", f"{task} {change.id}")
            given.add(change.id)

    # what is acknowledged

    def _acked(self, stream: str, stored: Stored) -> None:
        """What was taken out of a queue must have done its work, or must be of no use any more."""
        id = stored.headers.get(H_ID, "")
        if id in self.refused or self.cut:
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
            if isinstance(message, m.Done | m.Failed) and state is not None and not state.ended:
                subtask = state.subtasks.get(message.subtask)
                if (
                    subtask is not None
                    and subtask.held
                    and subtask.epoch == message.epoch
                    and subtask.agent == at.peer
                    and subtask.boot == message.boot
                ):
                    self.fail("nothing is acknowledged before it is recorded", f"a {stored.headers[H_TYPE]} of {at.task}/{message.subtask}")

    # live states

    def compare(self, coordinator: Coordinator) -> None:
        """The state in memory is the log's; and everything that `pending` says is wanted and timed."""
        for entry in coordinator._tasks:
            state = entry.state
            if entry.gone or entry.busy or entry.inputs or entry.soft or entry.questions or state is None or state.state == "unknown":
                continue
            stored = self.server.last(LOG, self.server.subjects.log(entry.shard, entry.name))
            mine = self.states.get(entry.name)
            if stored is None or mine is None or stored.seq != state.head or self.cut:
                continue
            if _essence(state) != _essence(mine):
                self.fail("folding the log gives the live state", f"{entry.name}: {_essence(state)} is not {_essence(mine)}")
            if not state.ended and entry.told:
                self._compare_pending(coordinator, state)

    def _compare_pending(self, coordinator: Coordinator, state: TaskState) -> None:
        desk, market = coordinator._desk, coordinator._desk.market
        connection: Any = coordinator._connection
        for effect in pending(state, desk.clock.now(self.server.loop.now + connection.process.boot_s), desk.settings):
            if isinstance(effect, SetTimer) and not desk.timers.has(state.name, effect.kind, effect.subtask):
                self.fail("pending re-creates every timer, so it runs", f"{state.name} {effect.kind} {effect.subtask}")
            if isinstance(effect, Want):
                key = Key(state.name, effect.subtask)
                retrying = desk.timers.has(state.name, "retry", effect.subtask)
                if key not in market._ready.wanted and market._holdings.get(key) is None and not retrying:
                    self.fail("pending re-creates every want, so it is there", f"{state.name}/{effect.subtask}")

    def finish(self, expected: set[TaskName]) -> None:
        """Every task that was submitted has ended."""
        stuck = sorted(str(task) for task in expected if task not in self.ended)
        if stuck:
            first = TaskName.parse(stuck[0])
            state = self.states.get(first)
            about = "never planned" if state is None else {name: (one.state, one.agent, one.epoch) for name, one in state.subtasks.items()}
            self.fail("every task ends once faults stop", f"{len(stuck)} have not: {stuck[0]} {about}")


def _from_history(task: TaskName, shard: int, record: r.Record) -> TaskState:
    state = new_task(task, shard)
    for entry in record.history:
        apply(state, entry.record, entry.seq)
    return state


def _essence(state: TaskState) -> Any:
    """What two foldings must agree on."""
    subtasks = []
    for one in state.subtasks.values():
        result = one.result if isinstance(one.result, m.BlobRef) else bytes(one.result or b"")
        held = one.epoch, one.agent, one.boot, one.tries, one.losses
        subtasks.append((one.name, one.state, held, sorted(one.waits), one.children, result))
    return state.state, state.head, state.epochs, state.open, sorted(state.applied), subtasks
