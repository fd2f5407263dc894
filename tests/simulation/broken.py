"""Rules broken on purpose, one at a time: the checker that lets one pass is no checker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from msgspec.structs import replace

from agentexecutor.bus.consumers import ShardConsumers
from agentexecutor.bus.errors import AppendUnknown
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import LEASE
from agentexecutor.bus.task import Task
from agentexecutor.coordinator import claims, draft, evolve, machine, records, replanning, turns, versions
from agentexecutor.coordinator.admission import Admission
from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Waiting
from agentexecutor.coordinator.inputs import AwardIn, CancelIn, Decision, HeldIn, LostIn, SetTimer, Settle, Want
from agentexecutor.coordinator.leases import Leases
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.shell import Coordinator
from agentexecutor.coordinator.shell.driving import Driver
from agentexecutor.coordinator.shell.hearing import Hearing
from agentexecutor.coordinator.shell.journal import Journal
from agentexecutor.coordinator.shell.restart import RestartWatch
from agentexecutor.coordinator.shell.takeover import TakeOver
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_EXPECTED, from_rfc3339
from agentexecutor.schemas.parts import Parts

__all__ = ["BROKEN", "broken"]

Patch = Any


def _fence_off() -> Patch:
    """Appends carry no expected sequence."""
    original = TaskLog.append_to

    async def append_to(self: TaskLog, subject: str, payload: bytes, headers: dict[str, str], *, expected: int) -> int:
        made = self._connection.acknowledged

        async def acknowledged(subject: str, payload: bytes, headers: dict[str, str], timeout_s: float = 5.0) -> Any:
            return await made(subject, payload, {key: value for key, value in headers.items() if key != H_EXPECTED}, timeout_s)

        with mock.patch.object(self._connection, "acknowledged", acknowledged):
            return await original(self, subject, payload, headers, expected=expected)

    return mock.patch.object(TaskLog, "append_to", append_to)


def _epoch_ignored() -> Patch:
    """A claim counts whatever its epoch and sender are, while the subtask is held."""

    original = claims.standing

    def standing(state: Any, claim: Any, peer: str) -> str:
        subtask = state.subtasks.get(claim.subtask)
        return "holder" if subtask is not None and subtask.held and not state.ended else original(state, claim, peer)

    return mock.patch.object(claims, "standing", standing)


def _acknowledge_before_append() -> Patch:
    """An input is acknowledged when it arrives."""
    original = Driver.post

    def post(self: Driver, number: int, task: Any, waiting: Waiting) -> None:
        if waiting.inbound is not None:
            self.put(partial(self._outbox.acknowledge, waiting.inbound))
        original(self, number, task, waiting)

    return mock.patch.object(Driver, "post", post)


def _unknown_is_stored() -> Patch:
    """Rule 1: an append without an answer is taken for stored."""

    async def find(self: Journal, entry: Entry, id: str) -> int | None:
        return None if entry.state is None else entry.state.head + 1

    return mock.patch.object(Journal, "_find", find)


def _unknown_is_forgotten() -> Patch:
    """Rule 1: after an append without an answer the state in memory is kept, and the inputs are dropped."""

    def put_back(self: Driver, entry: Entry, turn: Any) -> None:
        return None

    return mock.patch.object(Driver, "_put_back", put_back)


def _refused_at_once() -> Patch:
    """Rule 2: a claim about a task whose submit still waits is refused and acknowledged."""

    async def submit_waits(self: TaskLog, task: Any) -> bool:
        return False

    return mock.patch.object(TaskLog, "submit_waits", submit_waits)


def _ids_forgotten() -> Patch:
    """An input that comes twice is applied twice."""
    original = machine.decide

    def decide(state: Any, input: Any, *more: Any) -> Decision:
        with mock.patch.object(state, "applied", set()):
            return original(state, input, *more)

    return mock.patch.object(turns, "decide", decide)


def _no_timers() -> Patch:
    """`pending` re-creates no timers."""
    original = machine.pending
    return mock.patch.object(turns, "pending", lambda *given: [effect for effect in original(*given) if not isinstance(effect, SetTimer)])


def _no_wants() -> Patch:
    """`pending` wants no agents."""
    original = machine.pending
    return mock.patch.object(turns, "pending", lambda *given: [effect for effect in original(*given) if not isinstance(effect, Want)])


def _no_take_over() -> Patch:
    """Nobody looks for open tasks after a lease was won."""

    async def of(self: TakeOver, number: int, *, orphaned: bool) -> None:
        return None

    return mock.patch.object(TakeOver, "of", of)


def _lease_unchecked() -> Patch:
    """Rule 3: whoever once won a lease goes on as if it held it."""

    def holds(self: Leases, now: float, shard: int) -> bool:
        return self._shards[shard].ours

    return mock.patch.object(Leases, "holds", holds)


def _silence_counts_always() -> Patch:
    """Rule 3: an agent's silence counts also while nobody listened."""
    return mock.patch.object(Market, "listen_again")


def _pulls_without_room() -> Patch:
    """Rule 4: submits are pulled whether there is room or not."""
    return mock.patch.object(Admission, "room", return_value=1000)


def _absence_unconfirmed() -> Patch:
    """Rule 5: nobody looks whether a last claim waits in the inbox."""

    async def inbox_has(self: TaskLog, shard: int, task: Any, peer: str) -> bool:
        return False

    return mock.patch.object(TaskLog, "inbox_has", inbox_has)


def _own_clock() -> Patch:
    """Rule 6: deadlines are told by the process's own clock."""
    return mock.patch.object(Clock, "learn")


def _accept_at_once() -> Patch:
    """Rule 8: an accept that waits for company is acknowledged."""
    original = turns.Desk.turn

    def turn(self: turns.Desk, entry: Entry, monotonic: float) -> Any:
        made = original(self, entry, monotonic)
        made.answered.extend(entry.soft)
        return made

    return mock.patch.object(turns.Desk, "turn", turn)


def _no_reload() -> Patch:
    """Rule 9: nobody notices that the server was started anew."""

    async def restarted_ms(self: TaskLog) -> int:
        return 0

    return mock.patch.object(TaskLog, "restarted_ms", restarted_ms)


def _only_by_creation() -> Patch:
    """A server that was started anew is known by when its streams were made: a cluster of which all members went is not."""

    async def started(self: TaskLog) -> float:
        return from_rfc3339((await self._connection.api(f"STREAM.INFO.{LEASE}", {}))["created"])

    return mock.patch.object(TaskLog, "started", started)


def _epochs_again() -> Patch:
    """After a power cut the numbers of awards that it took are given again."""
    original = machine.decide

    def decide(state: Any, input: Any, now: float, settings: Any, seed: int) -> Decision:
        return original(state, input, now, dataclasses.replace(settings, first_epoch=1), seed)

    return mock.patch.object(turns, "decide", decide)


def _consumers_are_kept() -> Patch:
    """Rule 10: the winner of a lease goes on with the consumers that it finds."""

    async def deleted(self: ShardConsumers, stream: str, name: str, last: bool = True) -> bool:
        return True

    return mock.patch.object(ShardConsumers, "_deleted", deleted)


def _rest_of_a_turn_is_dropped() -> Patch:
    """What a turn could not finish is not taken up again."""
    return mock.patch.object(Driver, "_wait_again")


def _late_entries_settle() -> Patch:
    """A task that was let go and ends its turn late is settled like one that is held."""
    original = Driver.drive

    async def drive(self: Driver, entry: Entry) -> None:
        await original(self, entry)
        if entry.gone:
            self._desk.forget(entry)

    return mock.patch.object(Driver, "drive", drive)


def _nobody_asks() -> Patch:
    """Rule 7: a client that waits for a result asks nobody."""

    async def look(self: Task) -> None:
        return None

    return mock.patch.object(Task, "_look", look)


def _lost_is_ignored() -> Patch:
    """An agent that is gone keeps its awards."""
    return mock.patch.dict(machine._DECIDE, {LostIn: lambda _draft, _input: None})


def _epochs_begin_anew() -> Patch:
    """A second award has the number of the first."""
    original = machine._award

    def award(draft: Any, input: Any) -> None:
        original(draft, input)
        for index, change in enumerate(draft.decision.changes):
            if isinstance(change, r.Awarded):
                draft.decision.changes[index] = replace(change, epoch=1)

    return mock.patch.dict(machine._DECIDE, {AwardIn: award})


def _history_left_out() -> Patch:
    """The last record does not hold what it replaces."""
    from agentexecutor.coordinator import errands  # noqa: PLC0415

    original = errands.last_page

    def last_page(entry: Entry, *given: Any) -> Any:
        with mock.patch.object(entry, "history", entry.history[1:]):
            return (yield from original(entry, *given))

    return mock.patch.object(errands, "last_page", last_page)


def _acts_at_once() -> Patch:
    """Rule 9: after a reconnect turns go on before it is known whether the server was started anew."""
    return mock.patch.object(RestartWatch, "knows", return_value=True)


def _everything_again() -> Patch:
    """A new version runs again whatever was completed."""
    original = versions.next_version

    def next_version(state: Any, revision: r.Revision, *given: Any, **more: Any) -> r.Planned:
        named = {*revision.add, *revision.remove}
        done = [name for name, subtask in versions.live(state).items() if subtask.state == "completed" and name not in named]
        return original(state, replace(revision, again=[*revision.again, *done]), *given, **more)

    return mock.patch.object(replanning, "next_version", next_version)


def _versions_stand_still() -> Patch:
    """A new version has the number of the one before."""
    original = versions.next_version

    def next_version(*given: Any, **more: Any) -> r.Planned:
        change = original(*given, **more)
        return replace(change, version=change.base)

    return mock.patch.object(replanning, "next_version", next_version)


def _budgets_unlooked() -> Patch:
    """What attempts have used is not compared with the budget."""
    return mock.patch.object(draft, "exceeded_by", return_value=None)


def _planners_go_on() -> Patch:
    """A planner that is at work does not begin anew when the plan has changed meanwhile."""
    original = replanning.replan

    def replan(made: Any, *given: Any) -> None:
        with mock.patch.object(made.state, "thinking", None):
            original(made, *given)

    return mock.patch.object(replanning, "replan", replan)


def _triggers_forgotten() -> Patch:
    """Who loads a task does not go on with what is unanswered, or with an answer that nobody has used."""
    original = machine.pending
    return mock.patch.object(turns, "pending", lambda *given: [effect for effect in original(*given) if not isinstance(effect, Settle)])


def _halves_are_told() -> Patch:
    """The records of a turn that is too large for one count one by one, for whoever reads them."""
    original = records.encode_record

    def encode_record(*given: Any, part: bool = False, parts: int = 0, **more: Any) -> bytes:
        return original(*given, **more)

    return mock.patch.object(records, "encode_record", encode_record)


def _halves_count() -> Patch:
    """Who loads a task takes half a turn for a turn."""

    class Halves(Parts):
        def whole(self, record: r.Record) -> r.Record | None:
            return record

        def lacks(self, record: r.Record) -> int:
            return 0

    return mock.patch.object(evolve, "Parts", Halves)


def _no_anew_after_a_sleep() -> Patch:
    """Rule 3: a coordinator that woke up late counts as silence what it slept through."""
    return mock.patch.object(Coordinator, "_overslept")


def _deaf_and_sure() -> Patch:
    """Rule 3: a coordinator that hears nobody takes all for lost."""
    return mock.patch.object(Hearing, "is_deaf", return_value=False)


def _not_fenced() -> Patch:
    """Rule 3: who takes a task over writes nothing into its log."""
    return mock.patch.dict(machine._DECIDE, {HeldIn: lambda _draft, _input: None})


def _beats_unwatched() -> Patch:
    """Rule 10: nobody notices that a consumer's beats have stopped."""
    return mock.patch.object(ShardConsumers, "_silent", return_value=[])


def _appends_while_away() -> Patch:
    """Rule 1: what is appended while the connection is away is sent after the reconnect."""
    original = TaskLog.append_to

    async def append_to(self: TaskLog, subject: str, payload: bytes, headers: dict[str, str], *, expected: int) -> int:
        if self._connection.connected:
            return await original(self, subject, payload, headers, expected=expected)
        answer = await self._connection.acknowledged(subject, payload, {**headers, H_EXPECTED: str(expected)}, 5.0)
        if answer is None or "error" in answer:
            raise AppendUnknown("No.", refused=False, err_code=None)
        return int(answer["seq"])

    return mock.patch.object(TaskLog, "append_to", append_to)


def _stale_goes_on() -> Patch:
    """Rule 2: an agent that names what no award backs is told nothing."""
    return mock.patch.object(Hearing, "_doubt")


def _keeps_what_was_lost() -> Patch:
    """Rule 9: who knows that the server was started anew goes on with what is in memory."""
    return mock.patch.object(Coordinator, "_drop_all")


def _no_tombstone() -> Patch:
    """Rule 2: a cancel that comes before its submit leads to nothing."""
    original = machine._cancel

    def cancel(draft: Any, input: Any) -> None:
        if draft.state.state != "unknown":
            original(draft, input)

    return mock.patch.dict(machine._DECIDE, {CancelIn: cancel})


BROKEN: dict[str, Callable[[], Patch]] = {
    "fence off": _fence_off,
    "epoch ignored": _epoch_ignored,
    "acknowledge before append": _acknowledge_before_append,
    "unknown is taken for stored": _unknown_is_stored,
    "unknown is forgotten": _unknown_is_forgotten,
    "refused while its submit waits": _refused_at_once,
    "ids forgotten": _ids_forgotten,
    "pending without timers": _no_timers,
    "pending without wants": _no_wants,
    "no take-over": _no_take_over,
    "lease unchecked": _lease_unchecked,
    "silence counts always": _silence_counts_always,
    "pulls without room": _pulls_without_room,
    "absence unconfirmed": _absence_unconfirmed,
    "own clock": _own_clock,
    "clients never ask": _nobody_asks,
    "accepts acknowledged at once": _accept_at_once,
    "no reload after a restart": _no_reload,
    "restarts known by creation times": _only_by_creation,
    "epochs again after a power cut": _epochs_again,
    "consumers are kept": _consumers_are_kept,
    "rest of a turn dropped": _rest_of_a_turn_is_dropped,
    "late entries settle": _late_entries_settle,
    "lost agents keep their awards": _lost_is_ignored,
    "epochs begin anew": _epochs_begin_anew,
    "history left out": _history_left_out,
    "acts before it knows the server": _acts_at_once,
    "kept work runs again": _everything_again,
    "versions stand still": _versions_stand_still,
    "budgets unlooked": _budgets_unlooked,
    "planners go on": _planners_go_on,
    "triggers forgotten": _triggers_forgotten,
    "turns are torn": _halves_are_told,
    "half a turn counts": _halves_count,
    "sleep counts as silence": _no_anew_after_a_sleep,
    "deafness counts as silence": _deaf_and_sure,
    "no held record": _not_fenced,
    "beats unwatched": _beats_unwatched,
    "appends while away": _appends_while_away,
    "stale work goes on": _stale_goes_on,
    "shards kept after a restart": _keeps_what_was_lost,
    "no tombstone": _no_tombstone,
}


@contextmanager
def broken(rule: str | None) -> Iterator[None]:
    """While the block runs the rule is broken (None: none)."""
    if rule is None:
        yield
        return
    with BROKEN[rule]():
        yield
