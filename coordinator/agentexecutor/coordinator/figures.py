"""The metrics of a coordinator (names: `agentexecutor.bus.telemetry`). Pure: the module that talks to OpenTelemetry is passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v

__all__ = ["Figures"]

RETURNED = ("declined", "accept-timeout")


class Figures:
    """What an operator asks for. `telemetry`: the module `agentexecutor.bus.telemetry`."""

    def __init__(self, telemetry: ModuleType) -> None:
        self._t = telemetry
        self._said: dict[str, dict[str, int]] = {}
        """By gauge the capabilities that were not at zero: they are told to be when they are."""

    def stored(self, state: TaskState, changes: Sequence[r.Change], at: float) -> None:
        """Changes are in the log, with the time `at` (seconds since 1970)."""
        t = self._t
        if not t.measuring():
            return
        for change in changes:
            if isinstance(change, r.Awarded):
                self._awarded(state.subtasks[change.subtask], change)
            elif isinstance(change, r.Planned) and change.cause == "replan":
                t.count(t.METRIC_REPLANS, 1, {t.ATTR_CAUSE: ", ".join(dict.fromkeys(why.trigger for why in change.why))})
            elif isinstance(change, r.Completed | r.FailedChange) and change.subtask is not None:
                self._ended(state.subtasks[change.subtask], change)
        if state.ended:
            t.count(t.METRIC_TASKS_ENDED, 1, {t.ATTR_STATE: state.state})
            t.measure(t.METRIC_TASK_DURATION, max(0.0, at - state.submitted_at), {t.ATTR_STATE: state.state})

    def appended(self, took_s: float, outcome: str) -> None:
        """An append was answered. `outcome`: stored, or unknown."""
        self._t.count(self._t.METRIC_APPENDS, 1, {self._t.ATTR_OUTCOME: outcome})
        self._t.measure(self._t.METRIC_APPEND_DURATION, took_s)

    def unusable(self, why: str) -> None:
        """A message could not be used."""
        self._t.count(self._t.METRIC_UNDECODABLE, 1, {self._t.ATTR_REASON: why})

    def taken(self, orphaned: str) -> None:
        """A shard was taken. `orphaned`: see `Leases.orphaned`."""
        self._t.count(self._t.METRIC_TAKEOVERS, 1, {self._t.ATTR_REASON: orphaned or "released"})

    def levels(self, tasks: int, shards: int, unserved: Iterable[v.UnservedLine], ready: Mapping[str, int]) -> None:
        """How things stand. `ready`: subtasks that wait, by capability."""
        t = self._t
        if not t.measuring():
            return
        t.level(t.METRIC_TASKS_OPEN, tasks)
        t.level(t.METRIC_SHARDS, shards)
        counts: Counter[str] = Counter()
        for line in unserved:
            counts[line.capability] += line.subtasks
        self._by_capability(t.METRIC_UNSERVED, counts)
        self._by_capability(t.METRIC_READY, ready)

    def _by_capability(self, metric: str, counts: Mapping[str, int]) -> None:
        now = {capability: count for capability, count in counts.items() if count}
        for capability, count in ({**dict.fromkeys(self._said.get(metric, {}), 0), **now}).items():
            self._t.level(metric, count, {self._t.ATTR_CAPABILITY: capability})
        self._said[metric] = now

    def _awarded(self, subtask: SubtaskState, change: r.Awarded) -> None:
        t = self._t
        capability = {t.ATTR_CAPABILITY: subtask.spec.capability}
        t.count(t.METRIC_AUCTIONS, 1, {**capability, t.ATTR_AUCTION: change.auction, t.ATTR_POLICY: change.policy})
        t.count(t.METRIC_BIDS, change.considered, {**capability, t.ATTR_AUCTION: change.auction})
        t.measure(t.METRIC_WAIT, max(0.0, subtask.awarded_at - subtask.ready_at), capability)

    def _ended(self, subtask: SubtaskState, change: r.Completed | r.FailedChange) -> None:
        t = self._t
        capability = {t.ATTR_CAPABILITY: subtask.spec.capability}
        outcome = "completed" if isinstance(change, r.Completed) else str(change.error.details.get("cause", change.error.code))
        if outcome in RETURNED:
            t.count(t.METRIC_DECLINES, 1, {**capability, t.ATTR_REASON: outcome})
        elif outcome == "lost":
            t.count(t.METRIC_LOSSES, 1, capability)
        t.count(t.METRIC_TRIES, 1, {**capability, t.ATTR_OUTCOME: outcome})
