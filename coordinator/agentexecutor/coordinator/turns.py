"""A turn: the waiting inputs of one task go through the machine, and what they lead to is gathered for one append.

Owns the order in which inputs are decided, the holding back of soft accepts, and what the market and the timers are told. Synchronous, no I/O; the
shell appends the turn's changes, does its effects and acknowledges what it answered. Market and timers are told before the append: they are memory
only, and when the append is refused they are told anew from the loaded state (`adopt`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Raw, Struct, field

from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Tasks, Waiting
from agentexecutor.coordinator.evolve import evolve
from agentexecutor.coordinator.inputs import (
    AwardIn,
    Decision,
    Drop,
    Effect,
    Input,
    Key,
    LostIn,
    NeedSplit,
    SetTimer,
    Settle,
    SettleIn,
    SplitIn,
    Stalled,
    TimerIn,
    TimerKind,
    Want,
)
from agentexecutor.coordinator.machine import decide, pending
from agentexecutor.coordinator.market import Assign, Market, SendCall
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.records import encode_change
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.timers import SOFT, Due, Timers
from agentexecutor.coordinator.versions import replaced
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import INLINE_LIMIT, to_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["Desk", "SplitWanted", "Turn"]


UNTOLD = frozenset({r.Submitted, r.Proposed, r.Asked, r.Approved, r.Ready, r.Held, r.FeedbackGiven})
"""Changes of which the market need not know."""
DEADLINES: tuple[TimerKind, ...] = ("task-deadline", "subtask-deadline")
"""Timers that wait for a time of the server's clock."""
CLOCK_STEP_S = 0.05
ENDINGS = (r.Cancelled, r.Superseded, r.Completed, r.FailedChange)


class Turn(Struct):
    """What one turn leads to. `at`: the record's time, RFC 3339. `stale`: an input needs a newer state than is in memory; it stands first in line."""

    at: str
    changes: list[r.Change] = field(default_factory=list)
    encoded: list[Raw] = field(default_factory=list)
    size: int = 0
    applied: list[str] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    answered: deque[Waiting] = field(default_factory=deque)
    refused: deque[tuple[Waiting, list[Effect]]] = field(default_factory=deque)
    """Inputs that no state in the log fits, each with the refusal to be sent, unless the task's submit still waits."""
    stale: bool = False


class SplitWanted(NamedTuple):
    """A subtask whose list is to be shared out among agents. `since`: monotonic seconds."""

    need: NeedSplit
    length: int
    since: float


class Desk:
    """Takes turns. `wake`: called with a task that has got an input; `draw`: a random integer for each decision."""

    def __init__(
        self, settings: Settings, market: Market, clock: Clock, shards: int, wake: Callable[[Entry], None], draw: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.market = market
        self.clock = clock
        self.timers = Timers()
        self.tasks = Tasks()
        self.calls: list[SendCall] = []
        """Calls for proposals to be sent."""
        self.splits: dict[Key, SplitWanted] = {}
        self.stalled: dict[Key, Stalled] = {}
        """Running subtasks without a sign of progress."""
        self._shards = shards
        self._wake = wake
        self._draw = draw
        self._offset = clock.offset
        """The server's clock ahead of ours, as the timers have it."""

    # turns

    def turn(self, entry: Entry, monotonic: float) -> Turn:
        """Decide on the task's waiting inputs, as many as fit into a record. The state must be loaded. Raises only on a log that cannot be."""
        state = entry.state
        if state is None:
            raise AssertionError("a turn without a state")
        self._follow_clock()
        now = round(self.clock.now(monotonic), 6)
        turn = Turn(to_rfc3339(now))
        entry.claims_first()
        hard = entry.soft_due
        if hard:
            self._soft_first(entry)
        while turn.size <= INLINE_LIMIT and self._more(entry, monotonic):
            waiting = entry.inputs.popleft()
            if self._is_heard_again(entry, waiting.input, monotonic):
                continue
            decision = decide(state, waiting.input, now, self.settings, self._draw())
            if decision.stale and not waiting.looked:
                entry.inputs.appendleft(waiting)
                turn.stale = True
                break
            if decision.soft and not hard:
                entry.soft.append(waiting)
            elif decision.changes and entry.soft:
                entry.inputs.appendleft(waiting)
                self._soft_first(entry)
                hard = True
            elif decision.stale:
                turn.refused.append((waiting, decision.effects))
            else:
                self._take(state, turn, waiting, decision, monotonic, now)
        self._close(entry, state, monotonic)
        return turn

    def _is_heard_again(self, entry: Entry, input: Input, monotonic: float) -> bool:
        """Whether somebody was taken for lost and is there, after all: that may have waited for long."""
        return isinstance(input, LostIn) and not self.market.awards.is_suspect(monotonic, Key(entry.name, input.subtask), input.epoch)

    def _close(self, entry: Entry, state: TaskState, monotonic: float) -> None:
        entry.soft_due = False
        entry.told = True
        if entry.soft and not self.timers.has(entry.name, SOFT):
            self.timers.set(entry.name, SOFT, monotonic + self.settings.soft_accept_s)
        if state.ended:
            self.timers.drop(entry.name)
            self._forget_stalls(entry.name)

    def _more(self, entry: Entry, monotonic: float) -> bool:
        """Whether an input waits; the market is asked first whether it has an agent for what this turn made ready."""
        if not entry.inputs:
            self.poll(monotonic)
        return bool(entry.inputs)

    def _soft_first(self, entry: Entry) -> None:
        entry.inputs.extendleft(reversed(entry.soft))
        entry.soft = []

    def _take(self, state: TaskState, turn: Turn, waiting: Waiting, decision: Decision, monotonic: float, now: float) -> None:
        """The input counts: the state evolves at once, the next input is decided on what this one has made of it."""
        turn.answered.append(waiting)
        for change in decision.changes:
            encoded = encode_change(change)
            turn.changes.append(change)
            turn.encoded.append(encoded)
            turn.size += len(encoded)
            self._tell_market(state, change, monotonic)
            evolve(state, change, now)
        if decision.applied:
            state.applied.update(decision.applied)
            turn.applied += decision.applied
        self._arrange(state.name, decision.effects, turn.effects, monotonic)
        if isinstance(waiting.input, AwardIn) and not decision.changes:
            subtask = state.subtasks.get(waiting.input.subtask)
            if subtask is None or subtask.state != "ready":  # else a newer version of the plan wants it again, and that stands
                self.market.drop(Key(state.name, waiting.input.subtask))

    def _arrange(self, task: TaskName, effects: list[Effect], later: list[Effect], monotonic: float) -> None:
        """Do what is memory only; the rest waits until the changes are stored."""
        for effect in effects:
            if isinstance(effect, Settle):
                self.tasks.open(task, shard_of(task, self._shards)).inputs.appendleft(Waiting(SettleIn()))
            elif isinstance(effect, Want):
                self.market.want(monotonic, Key(task, effect.subtask), effect.demand)
            elif isinstance(effect, SetTimer):
                self.timers.set(task, effect.kind, effect.due - self.clock.offset, effect.subtask, effect.epoch)
            elif isinstance(effect, Drop):
                self._want_no_more(Key(task, effect.subtask))
            elif isinstance(effect, Stalled):
                self._show_stalled(Key(task, effect.subtask), effect)
            else:
                later.append(effect)

    def _show_stalled(self, key: Key, stalled: Stalled) -> None:
        if stalled.epoch:
            self.stalled[key] = stalled
        else:
            self.stalled.pop(key, None)

    # splits

    def want_split(self, task: TaskName, need: NeedSplit, length: int, monotonic: float) -> None:
        """A list of `length` items is to be shared out. Without an agent that fits, and no number of shares asked for, it waits for the first."""
        key = Key(task, need.subtask)
        since = self.splits[key].since if key in self.splits else monotonic
        self.splits[key] = SplitWanted(need, length, since)
        self.cut_splits(monotonic)

    def cut_splits(self, monotonic: float) -> None:
        """Answer the splits that can be cut now."""
        for key, wanted in list(self.splits.items()):
            entry = self.tasks.get(key.task)
            capacities: list[tuple[str | None, int]] = [*self.market.survey.capacities(monotonic, wanted.need.demand)]
            if entry is None or capacities or wanted.need.split.into is not None:
                del self.splits[key]
                if entry is not None:
                    entry.inputs.append(Waiting(SplitIn(key.subtask, wanted.length, capacities, version=wanted.need.demand.version)))
                    self._wake(entry)

    # market and timers

    def _tell_market(self, state: TaskState, change: r.Change, monotonic: float) -> None:
        """What a change means for the agents' slots; called before the state evolves."""
        if type(change) in UNTOLD:
            return
        market, task = self.market, state.name
        if isinstance(change, r.Planned):
            for name in replaced(state, change):
                self._let_go(state.subtasks[name], task, monotonic)
        elif isinstance(change, r.Awarded):
            promised = next((bid.estimate_s for bid in change.bids if bid.won), None)
            market.awarded(monotonic, Key(task, change.subtask), change.epoch, change.agent, change.boot, promised)
        elif isinstance(change, r.Accepted):
            market.awards.accepted(monotonic, Key(task, change.subtask), change.epoch)
        elif isinstance(change, r.Completed | r.FailedChange) and change.subtask is not None:
            if state.subtasks[change.subtask].held:
                self._free(Key(task, change.subtask), change, monotonic)
        elif isinstance(change, ENDINGS):
            names = getattr(change, "subtasks", None) or (state.subtasks if state.open else ())
            for name in names:
                self._let_go(state.subtasks[name], task, monotonic)

    def _free(self, key: Key, change: r.Completed | r.FailedChange, monotonic: float) -> None:
        if isinstance(change, r.Completed):
            self.market.ended(monotonic, key, change.epoch, "completed", change.took_s)
        else:
            self.market.ended(monotonic, key, change.epoch, str(change.error.details.get("cause", "cancelled")))

    def _let_go(self, subtask: SubtaskState, task: TaskName, monotonic: float) -> None:
        if subtask.held:
            self.market.ended(monotonic, Key(task, subtask.name), subtask.epoch, "cancelled")
        elif subtask.state == "ready":
            self._want_no_more(Key(task, subtask.name))

    def _want_no_more(self, key: Key) -> None:
        self.market.drop(key)
        self.splits.pop(key, None)

    def adopt(self, entry: Entry, monotonic: float) -> list[Effect]:
        """A state was loaded: tell market and timers all that they must know of it. The effects that are to be done are given back."""
        state = entry.state
        if state is None or state.ended or state.state == "unknown":
            return []
        for subtask in state.subtasks.values():
            if subtask.held and subtask.agent is not None:
                key = Key(entry.name, subtask.name)
                promised = next((bid.estimate_s for bid in subtask.bids if bid.won and bid.epoch == subtask.epoch), None)
                self.market.awarded(monotonic, key, subtask.epoch, subtask.agent, subtask.boot or "", promised)
                if subtask.state == "running":
                    self.market.awards.accepted(monotonic, key, subtask.epoch)
        entry.told = True
        self._follow_clock()
        later: list[Effect] = []
        self._arrange(entry.name, pending(state, self.clock.now(monotonic), self.settings), later, monotonic)
        return later

    def release(self, entry: Entry) -> None:
        """Market and timers forget the task."""
        if entry.told:
            self.market.forget(entry.name)
            for key in [key for key in self.splits if key.task == entry.name]:
                del self.splits[key]
            entry.told = False
        self.timers.drop(entry.name)
        self._forget_stalls(entry.name)

    def _forget_stalls(self, task: TaskName) -> None:
        for key in [key for key in self.stalled if key.task == task]:
            del self.stalled[key]

    def stalls(self) -> dict[Key, Stalled]:
        """What stands still now; what has ended or was given to another since is forgotten."""
        for key, stalled in list(self.stalled.items()):
            entry = self.tasks.get(key.task)
            subtask = None if entry is None or entry.state is None else entry.state.subtasks.get(key.subtask)
            if subtask is None or subtask.state != "running" or subtask.epoch != stalled.epoch:
                del self.stalled[key]
        return self.stalled

    def poll(self, monotonic: float) -> None:
        """Ask the market what is due: awards go to their tasks, calls to be sent are gathered."""
        for action in self.market.poll(monotonic, self._draw()):
            if isinstance(action, Assign):
                self._give(action.key, action.award)
            else:
                self.calls.append(action)

    def _give(self, key: Key, award: AwardIn) -> None:
        entry = self.tasks.get(key.task) or self.tasks.open(key.task, shard_of(key.task, self._shards))
        entry.inputs.append(Waiting(award))
        self._wake(entry)

    def try_again(self, entry: Entry, monotonic: float) -> None:
        """The bus did not do its part: load the task at `monotonic`, and go on with what waits."""
        entry.unload()
        entry.soft_due = False
        self.timers.set(entry.name, SOFT, monotonic)

    def start_over(self, entry: Entry, monotonic: float) -> None:
        """Something is wrong with what waits: drop it too. What was not acknowledged comes again by itself."""
        entry.clear()
        self.try_again(entry, monotonic)

    def stand_still(self, entry: Entry, until: float) -> None:
        """Its log leads to no state: nothing is done about the task, nor read again before `until`, and then only for something that comes."""
        entry.still_until = until
        self.release(entry)
        self.tasks.park(entry)

    def forget(self, entry: Entry) -> None:
        """Nothing is known of such a task."""
        self.timers.drop(entry.name)
        self.tasks.drop(entry)

    def park(self, count: int, monotonic: float) -> None:
        """Some of the tasks that nobody can serve leave memory; the market keeps their demand."""
        for entry in self.tasks.some(count):
            if entry.idle and not entry.soft and self._is_parked(entry, monotonic):
                self.tasks.park(entry)

    def _is_parked(self, entry: Entry, monotonic: float) -> bool:
        """Whether nothing of the task can go on before another agent comes, or a person's word."""
        state = entry.state
        if state is None or state.ended or state.state == "unknown":
            return False
        keys = [Key(entry.name, subtask.name) for subtask in state.subtasks.values() if subtask.state == "ready"]
        if not (keys or state.state == "waiting") or any(subtask.held for subtask in state.subtasks.values()):
            return False
        looked = self.market.survey.looked(monotonic, keys)
        return all(looked.get(key.subtask) == "parked" for key in keys)

    def looked(self, state: TaskState, monotonic: float) -> dict[str, str]:
        """How the task's subtasks look from here: ready ones may be calling or parked, running ones stalled."""
        ready = [Key(state.name, subtask.name) for subtask in state.subtasks.values() if subtask.state == "ready"]
        seen = self.market.survey.looked(monotonic, ready) if ready else {}
        seen |= {key.subtask: "parked" for key in ready if key in self.splits}
        return seen | {key.subtask: "stalled" for key in self.stalls() if key.task == state.name}

    def next_due(self) -> float | None:
        """When a timer or the market is due next, monotonic."""
        timer = self.timers.next_due()
        market = self.market.next_due(0.0)
        if timer is None:
            return market
        return timer if market is None else min(timer, market)

    def _follow_clock(self) -> None:
        """When the server's clock was set, deadlines move with it; what waits for so many seconds goes on waiting for them."""
        step = self.clock.offset - self._offset
        if abs(step) > CLOCK_STEP_S:
            self._offset = self.clock.offset
            self.timers.shift(DEADLINES, -step)

    def ring(self, monotonic: float) -> None:
        """Give all timers that are due to their tasks."""
        self._follow_clock()
        for due in self.timers.pop(monotonic):
            again_s = self._too_early(due, monotonic)
            if again_s is not None:
                self.timers.set(due.task, due.kind, monotonic + again_s, due.subtask, due.epoch)
                continue
            entry = self.tasks.open(due.task, shard_of(due.task, self._shards))
            if due.kind == SOFT:
                entry.soft_due = True
            else:
                entry.inputs.append(Waiting(TimerIn(due.kind, due.subtask, due.epoch)))
            self._wake(entry)

    def _too_early(self, due: Due, monotonic: float) -> float | None:
        """After how many seconds a timer is to ring again, because what the market knows of the agents speaks against it."""
        key = Key(due.task, due.subtask or "")
        if due.kind == "accept":
            # A silent one may have died of its award, which counts: the market suspects it, or it is heard again.
            undecided = self.market.awards.is_silent(monotonic, key) or self.market.awards.says_it_has_it(monotonic, key)
            return self.settings.heartbeat_s if undecided else None
        if due.kind == "unserved" and self.market.wants(key) and self.market.survey.looked(monotonic, [key]).get(key.subtask) != "parked":
            return self.settings.stall_min_s  # somebody fits, or is being asked
        return None
