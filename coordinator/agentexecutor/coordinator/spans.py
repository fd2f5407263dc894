"""What a coordinator tells OpenTelemetry, and the trace context of its messages (names: `agentexecutor.bus.telemetry`).

An auction is one span from ready to the award, with an event for every recorded bid; the award carries its context, so the agent's work is its child.
When nobody collects spans, the context that the submit brought goes on as it came. Pure: the module that talks to OpenTelemetry is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from msgspec.structs import replace

from agentexecutor.coordinator.inputs import SubmitIn
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_TRACEPARENT, H_TRACESTATE
from agentexecutor.schemas.names import TaskName

__all__ = ["Headers", "Spans"]

Headers = dict[str, str]
SHOWN = 100
"""So many names of subtasks stand in an event."""


class Spans:
    """Spans and contexts of one coordinator. `telemetry`: the module `agentexecutor.bus.telemetry`."""

    def __init__(self, coordinator: str, telemetry: ModuleType) -> None:
        self._coordinator = coordinator
        self._t = telemetry
        self._awards: dict[TaskName, dict[str, Headers]] = {}
        """The context of each subtask's last auction."""
        self._unserved: list[str] = []

    def submitted(self, input: SubmitIn) -> SubmitIn:
        """A submit that came without a context gets the root of a trace, when spans are collected."""
        t = self._t
        if input.traceparent is not None or not t.recording():
            return input
        what = input.submit.capability or ("plan" if input.submit.goal is None else "goal")
        span = t.start_span(t.SPAN_SUBMIT, what, parent=None, start_s=input.stamp)
        span.end()
        made: Headers = t.inject(span)
        return replace(input, traceparent=made.get(H_TRACEPARENT), tracestate=made.get(H_TRACESTATE))

    def of_task(self, state: TaskState | None) -> Headers | None:
        """The context that the submit brought."""
        if state is None or state.traceparent is None:
            return None
        if state.tracestate is None:
            return {H_TRACEPARENT: state.traceparent}
        return {H_TRACEPARENT: state.traceparent, H_TRACESTATE: state.tracestate}

    def of_award(self, state: TaskState, subtask: str) -> Headers | None:
        """The context of a subtask's auction; the submit's when there was no span for it."""
        return self._awards.get(state.name, {}).get(subtask) or self.of_task(state)

    def stored(self, state: TaskState, changes: Sequence[r.Change]) -> None:
        """Changes are in the log: a span for each plan and each award, and the figures that an operator asks for."""
        t = self._t
        recording = t.recording()
        if not (recording or t.measuring()):
            return
        for change in changes:
            if isinstance(change, r.Awarded):
                subtask = state.subtasks[change.subtask]
                capability = subtask.spec.capability
                t.count(t.METRIC_AUCTIONS, 1, {t.ATTR_AUCTION: change.auction, t.ATTR_POLICY: change.policy, t.ATTR_CAPABILITY: capability})
                t.measure(t.METRIC_WAIT, max(0.0, subtask.awarded_at - subtask.ready_at), {t.ATTR_CAPABILITY: capability})
                if recording:
                    self._auction(state, subtask, change)
            elif isinstance(change, r.Planned) and recording:
                self._plan(state, change)
            elif isinstance(change, r.Completed | r.FailedChange) and change.subtask is not None:
                self._ended(state.subtasks[change.subtask], change)
        if state.ended:
            self._awards.pop(state.name, None)
            t.count(t.METRIC_TASKS_ENDED, 1, {t.ATTR_STATE: state.state})

    def appended(self, took_s: float, outcome: str) -> None:
        """An append was answered. `outcome`: stored, or unknown."""
        self._t.count(self._t.METRIC_APPENDS, 1, {self._t.ATTR_OUTCOME: outcome})
        self._t.measure(self._t.METRIC_APPEND_DURATION, took_s)

    def unusable(self, why: str) -> None:
        """A message could not be used."""
        self._t.count(self._t.METRIC_UNDECODABLE, 1, {self._t.ATTR_REASON: why})

    def levels(self, tasks: int, shards: int, unserved: Sequence[v.UnservedLine]) -> None:
        """How things stand."""
        t = self._t
        t.level(t.METRIC_TASKS_OPEN, tasks)
        t.level(t.METRIC_SHARDS, shards)
        counts = dict.fromkeys(self._unserved, 0)
        for line in unserved:
            counts[line.capability] = counts.get(line.capability, 0) + line.subtasks
        self._unserved = [capability for capability, count in counts.items() if count]
        for capability, count in counts.items():
            t.level(t.METRIC_UNSERVED, count, {t.ATTR_CAPABILITY: capability})

    def forget(self, task: TaskName) -> None:
        """The task is not ours any more."""
        self._awards.pop(task, None)

    def _plan(self, state: TaskState, change: r.Planned) -> None:
        if change.cause == "replan":
            self._replan(state, change)
            return
        t = self._t
        attributes = {
            t.ATTR_TASK: str(state.name),
            t.ATTR_PLAN_VERSION: change.version,
            t.ATTR_PLAN_SUBTASKS: len(change.add),
            t.ATTR_CAUSE: change.cause,
            t.ATTR_COORDINATOR: self._coordinator,
        }
        t.start_span(t.SPAN_PLAN, parent=self.of_task(state), attributes=attributes).end()

    def _replan(self, state: TaskState, change: r.Planned) -> None:
        """A new version: why, and what it changed; linked to the work that was the cause, and to the planner's."""
        t = self._t
        attributes = {
            t.ATTR_TASK: str(state.name),
            t.ATTR_PLAN_VERSION: change.version,
            t.ATTR_PLAN_SUBTASKS: len(change.add) + len(change.again),
            t.ATTR_CAUSE: ", ".join(dict.fromkeys(why.trigger for why in change.why)),
            t.ATTR_COORDINATOR: self._coordinator,
        }
        mine = self._awards.get(state.name, {})
        causes = dict.fromkeys([*(why.subtask for why in change.why), change.planner])
        links = [link for name in causes for link in t.link(mine.get(name or ""), t.LINK_CAUSE)]
        span = t.start_span(t.SPAN_REPLAN, parent=self.of_task(state), attributes=attributes, links=links)
        for why in change.why:
            told = {t.ATTR_CAUSE: why.trigger, t.ATTR_ANSWER: why.answer, t.ATTR_SUBTASK: why.subtask or "", t.ATTR_REASON: why.text}
            span.add_event(t.EVENT_CAUSE, told)
        for event, names in ((t.EVENT_ADDED, change.add), (t.EVENT_AGAIN, change.again), (t.EVENT_REMOVED, change.remove)):
            if names:
                span.add_event(event, {t.ATTR_SUBTASKS: list(names)[:SHOWN]})
        span.end()

    def _auction(self, state: TaskState, subtask: SubtaskState, change: r.Awarded) -> None:
        t = self._t
        mine = self._awards.setdefault(state.name, {})
        attributes = {
            t.ATTR_TASK: str(state.name),
            t.ATTR_SUBTASK: subtask.name,
            t.ATTR_EPOCH: change.epoch,
            t.ATTR_PLAN_VERSION: subtask.plan_version,
            t.ATTR_AGENT: change.agent,
            t.ATTR_POLICY: change.policy,
            t.ATTR_AUCTION: change.auction,
            t.ATTR_CONSIDERED: change.considered,
            t.ATTR_COORDINATOR: self._coordinator,
            t.ATTR_SHARD: state.shard,
        }
        span = t.start_span(
            t.SPAN_AUCTION,
            subtask.spec.capability,
            parent=self.of_task(state),
            attributes=attributes,
            links=t.link(mine.get(subtask.name), t.LINK_EPOCH),
            start_s=min(subtask.ready_at, subtask.awarded_at),
        )
        for bid in change.bids:
            span.add_event(t.EVENT_BID, self._bid(bid))
        for reason, count in change.dropped.items():
            span.add_event(t.EVENT_DROPPED, {t.ATTR_REASON: reason, t.ATTR_COUNT: count})
        span.end()
        mine[subtask.name] = t.inject(span)

    def _ended(self, subtask: SubtaskState, change: r.Completed | r.FailedChange) -> None:
        t = self._t
        capability = subtask.spec.capability
        if isinstance(change, r.Completed):
            outcome = "completed"
        else:
            outcome = str(change.error.details.get("cause", change.error.code))
            if outcome in ("declined", "accept-timeout"):
                t.count(t.METRIC_DECLINES, 1, {t.ATTR_REASON: outcome, t.ATTR_CAPABILITY: capability})
            elif outcome == "lost":
                t.count(t.METRIC_LOSSES, 1, {t.ATTR_CAPABILITY: capability})
        t.count(t.METRIC_TRIES, 1, {t.ATTR_OUTCOME: outcome, t.ATTR_CAPABILITY: capability})

    def delivered(self, state: TaskState, now: float) -> Headers | None:
        """The task's end is on its way to the owner: the context for the message. `now`: seconds since 1970."""
        t = self._t
        t.measure(t.METRIC_TASK_DURATION, max(0.0, now - state.submitted_at), {t.ATTR_STATE: state.state})
        if not t.recording():
            return self.of_task(state)
        attributes = {t.ATTR_TASK: str(state.name), t.ATTR_STATE: state.state, t.ATTR_COORDINATOR: self._coordinator}
        span = t.start_span(t.SPAN_DELIVER, parent=self.of_task(state), attributes=attributes)
        span.end()
        made: Headers = t.inject(span)
        return made

    def _bid(self, bid: r.ScoredBid) -> dict[str, str | bool | int | float]:
        t = self._t
        return {
            t.ATTR_BID_AGENT: bid.agent,
            t.ATTR_BID_SOURCE: bid.source,
            t.ATTR_BID_SCORE: bid.score,
            t.ATTR_BID_WON: bid.won,
            t.ATTR_BID_REASON: bid.reason,
            t.ATTR_BID_ESTIMATE: bid.estimate_s,
            t.ATTR_BID_QUEUE: bid.queue_s,
            t.ATTR_BID_COST: bid.cost,
            t.ATTR_BID_FACTOR: bid.factor,
        }
