"""What a coordinator tells a trace, and the trace context of its messages (names: `agentexecutor.bus.telemetry`).

An auction is one span from ready to the award, with an event for every recorded bid; the award carries its context, so the agent's work is its child.
Spans are told from stored records and nothing else, and their ids are derived from task, subtask and epoch. So they can be told twice: who takes a shard
over from one that fell silent tells what the log's last seconds say once more (`retold`), because the other may not have sent it (docs/adr/0014).
When nobody collects spans, the context that the submit brought goes on as it came. Pure: the module that talks to OpenTelemetry is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from agentexecutor.coordinator.evolve import apply
from agentexecutor.coordinator.inputs import SubmitIn
from agentexecutor.coordinator.model import Attempt, SubtaskState, TaskState, new_task
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_TRACEPARENT, H_TRACESTATE, from_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts

__all__ = ["Headers", "Spans"]

Headers = dict[str, str]
Event = tuple[str, dict[str, Any]]
SHOWN = 100
"""So many names of subtasks stand in an event."""
DELIVER = "deliver"


class Spans:
    """Spans and contexts of one coordinator. `telemetry`: the module `agentexecutor.bus.telemetry`."""

    def __init__(self, coordinator: str, telemetry: ModuleType) -> None:
        self._coordinator = coordinator
        self._t = telemetry
        self._made: dict[TaskName, dict[tuple[str, int], Headers]] = {}
        """Contexts of auctions, and of deliver, where the SDK does not take derived ids: by subtask and epoch."""
        self._taken: dict[TaskName, Headers] = {}
        """Tasks that were taken over, and the last auction of the one before: the next span is linked to it."""

    # contexts

    def submitted(self, task: TaskName, input: SubmitIn) -> SubmitIn:
        """A submit that came without a context gets the root of a trace, when spans are collected."""
        t = self._t
        if input.traceparent is not None or not t.recording():
            return input
        attributes = {t.ATTR_TASK: str(task), t.ATTR_COORDINATOR: self._coordinator}
        about = _root(task, input.digest, input.stamp)
        span = t.start_span(t.SPAN_SUBMIT, _title(input.submit), parent=None, attributes=attributes, start_s=input.stamp, about=about)
        if not t.derives():
            span.end()  # else it is told when the submit is stored
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
        return self._auction_of(state, subtask, state.subtasks[subtask].epoch) or self.of_task(state)

    def delivered(self, state: TaskState) -> Headers | None:
        """The context for the message that says how the task ended."""
        made = self._context(state, (DELIVER, 0), (DELIVER,)) or self.of_task(state)
        self._made.pop(state.name, None)
        return made

    def forget(self, task: TaskName) -> None:
        """The task is not ours any more."""
        self._made.pop(task, None)
        self._taken.pop(task, None)

    def _auction_of(self, state: TaskState, subtask: str, epoch: int) -> Headers | None:
        return self._context(state, (subtask, epoch), _auction(subtask, epoch)) if epoch else None

    def _context(self, state: TaskState, key: tuple[str, int], about: tuple[object, ...]) -> Headers | None:
        if not self._t.recording():
            return None
        if self._t.derives():
            made: Headers = self._t.derived(self.of_task(state) or {}, (state.name, *about))
            return made or None
        return self._made.get(state.name, {}).get(key)

    # spans

    def stored(self, state: TaskState, changes: Sequence[r.Change], at: float) -> None:
        """Changes are in the log, with the time `at` (seconds since 1970)."""
        if self._t.recording():
            self.tell(state, changes, at, state.coordinators)

    def retold(self, name: TaskName, shard: int, found: Iterable[tuple[int, r.Record]], since: float) -> None:
        """Tell again what others have recorded since `since`; `found`: the task's whole log."""
        state = new_task(name, shard)
        tellers: dict[str, Spans] = {}
        for seq, record in _turns(found):
            holders = [*state.coordinators]
            apply(state, record, seq)
            at = from_rfc3339(record.at)
            teller = tellers.setdefault(record.coordinator, Spans(record.coordinator, self._t))
            if at >= since and record.coordinator != self._coordinator:
                teller.tell(state, record.changes, at, holders)
                continue
            for change in record.changes:
                if isinstance(change, r.Held):
                    teller.take(state, holders)
                elif isinstance(change, r.Planned | r.Awarded):
                    teller.forget(name)

    def take(self, state: TaskState, holders: Sequence[str], new: frozenset[int] = frozenset()) -> None:
        """The task was taken over, if the last of its holders was another: the next span is linked to the last award before (those of `new` came after)."""
        if holders and holders[-1] == self._coordinator:
            return
        epoch, name = max(((_last_epoch(subtask, new), name) for name, subtask in state.subtasks.items()), default=(0, ""))
        context = self._auction_of(state, name, epoch)
        if context is not None:
            self._taken[state.name] = context

    def tell(self, state: TaskState, changes: Sequence[r.Change], at: float, holders: Sequence[str]) -> None:
        """The spans of one record's changes, which `state` has taken; `holders`: who had written to the log before, in order of their first record."""
        if state.traceparent is None:
            return  # nobody collected spans when it was submitted: it has no trace
        new = frozenset(change.epoch for change in changes if isinstance(change, r.Awarded))
        for change in changes:
            if isinstance(change, r.Awarded):
                self._auction(state, state.subtasks[change.subtask], change)
            elif isinstance(change, r.Planned):
                self._plan(state, change, at, new)
            elif isinstance(change, r.FailedChange):
                self._lost(state, change, at)
            elif isinstance(change, r.Submitted):
                self._root(state, change, at)
            elif isinstance(change, r.Held):
                self.take(state, holders, new)
        if state.ended:
            attributes = {self._t.ATTR_STATE: state.state}
            made = self._span(state, self._t.SPAN_DELIVER, "", (DELIVER,), at, at, attributes)
            self.forget(state.name)
            if not self._t.derives():
                self._made[state.name] = {(DELIVER, 0): made}

    def _span(
        self,
        state: TaskState,
        name: str,
        subject: str,
        about: tuple[object, ...],
        start: float,
        end: float,
        attributes: dict[str, Any],
        links: Sequence[Any] = (),
        events: Sequence[Event] = (),
    ) -> Headers:
        """One span below the submit, whole; gives its context."""
        t = self._t
        shared = {t.ATTR_TASK: str(state.name), t.ATTR_PLAN_VERSION: state.plan_version, t.ATTR_COORDINATOR: self._coordinator}
        span = t.start_span(
            name,
            subject,
            parent=self.of_task(state),
            attributes=shared | attributes,
            links=[*links, *t.link(self._taken.pop(state.name, None), t.LINK_TAKEOVER)],
            start_s=min(start, end),
            about=(state.name, *about),
        )
        for event, told in events:
            span.add_event(event, told, t.nanoseconds(end))
        span.end(t.nanoseconds(end))
        made: Headers = t.inject(span)
        return made

    def _root(self, state: TaskState, change: r.Submitted, at: float) -> None:
        """The root that `submitted` made, when it was made here and not by the client."""
        t = self._t
        about = _root(state.name, change.digest, change.at)
        made: Headers = t.derived(None, about)
        if not t.derives() or t.span_id_of(change.traceparent) != t.span_id_of(made):
            return
        attributes = {t.ATTR_TASK: str(state.name), t.ATTR_COORDINATOR: self._coordinator}
        span = t.start_span(t.SPAN_SUBMIT, _title(change.submit), parent=None, attributes=attributes, start_s=change.at, about=about)
        span.end(t.nanoseconds(max(change.at, at)))

    def _plan(self, state: TaskState, change: r.Planned, at: float, new: frozenset[int]) -> None:
        t = self._t
        before = min(new) - 1 if new else state.epochs  # a planner that is asked the same again was awarded in between
        about = ("plan", before, change.version, change.cause, change.parent, change.call, *sorted([*change.add, *change.again]))
        attributes: dict[str, Any] = {t.ATTR_PLAN_VERSION: change.version, t.ATTR_PLAN_SUBTASKS: len(change.add) + len(change.again)}
        if change.cause != "replan":
            self._span(state, t.SPAN_PLAN, "", about, at, at, {**attributes, t.ATTR_CAUSE: change.cause})
            return
        attributes[t.ATTR_CAUSE] = ", ".join(dict.fromkeys(why.trigger for why in change.why))
        self._span(state, t.SPAN_REPLAN, "", about, at, at, attributes, self._causes(state, change, new), _difference(t, change))

    def _causes(self, state: TaskState, change: r.Planned, new: frozenset[int]) -> list[Any]:
        """Links to the work that was the cause of a new version, and to the planner's; not to awards of the same record (`new`)."""
        names = dict.fromkeys([*(why.subtask for why in change.why), change.planner])
        subtasks = [state.subtasks[name] for name in names if name in state.subtasks]
        pairs = [(subtask.name, _last_epoch(subtask, new)) for subtask in subtasks]
        return [link for name, epoch in pairs for link in self._t.link(self._auction_of(state, name, epoch), self._t.LINK_CAUSE)]

    def _auction(self, state: TaskState, subtask: SubtaskState, change: r.Awarded) -> None:
        t = self._t
        attributes = {
            t.ATTR_SUBTASK: subtask.name,
            t.ATTR_EPOCH: change.epoch,
            t.ATTR_PLAN_VERSION: subtask.plan_version,
            t.ATTR_ATTEMPT: change.attempt,
            t.ATTR_AGENT: change.agent,
            t.ATTR_POLICY: change.policy,
            t.ATTR_AUCTION: change.auction,
            t.ATTR_CONSIDERED: change.considered,
            t.ATTR_SHARD: state.shard,
        }
        events: list[Event] = [(t.EVENT_BID, _bid(t, bid)) for bid in change.bids]
        events += [(t.EVENT_DROPPED, {t.ATTR_REASON: reason, t.ATTR_COUNT: count}) for reason, count in change.dropped.items()]
        before = max((attempt.epoch for attempt in subtask.attempts if attempt.epoch < change.epoch), default=0)
        links = t.link(self._auction_of(state, subtask.name, before), t.LINK_EPOCH)
        name, about = subtask.spec.capability, _auction(subtask.name, change.epoch)
        made = self._span(state, t.SPAN_AUCTION, name, about, subtask.ready_at, subtask.awarded_at, attributes, links, events)
        if not t.derives():
            self._made.setdefault(state.name, {})[subtask.name, change.epoch] = made

    def _lost(self, state: TaskState, change: r.FailedChange, at: float) -> None:
        """The span in which a lost agent worked, with the id that its accept named: the agent will not send it, and its steps belong to it."""
        t = self._t
        subtask = state.subtasks.get(change.subtask or "")
        attempt = next((one for one in subtask.attempts if one.epoch == change.epoch), None) if subtask is not None else None
        if subtask is None or attempt is None or attempt.accepted_at is None or change.error.details.get("cause") != "lost":
            return
        parent = self._auction_of(state, subtask.name, attempt.epoch) or self.of_task(state)
        own = attempt.span not in (None, t.span_id_of(parent), t.span_id_of(self.of_task(state)))  # else the agent does not trace
        span = t.start_span(
            t.SPAN_EXECUTE,
            subtask.spec.capability,
            parent=parent,
            attributes=self._of_attempt(state, subtask, attempt),
            start_s=min(attempt.accepted_at, at),
            about=(state.name, t.SPAN_EXECUTE, subtask.name, attempt.epoch),  # as the agent does
            id=attempt.span if own else None,
        )
        span.set_status(t.StatusCode.ERROR, change.error.message)
        span.end(t.nanoseconds(at))

    def _of_attempt(self, state: TaskState, subtask: SubtaskState, attempt: Attempt) -> dict[str, Any]:
        t = self._t
        return {
            t.ATTR_TASK: str(state.name),
            t.ATTR_SUBTASK: subtask.name,
            t.ATTR_EPOCH: attempt.epoch,
            t.ATTR_PLAN_VERSION: subtask.plan_version,
            t.ATTR_ATTEMPT: 1 + [one.epoch for one in subtask.attempts].index(attempt.epoch) - subtask.first,
            t.ATTR_AGENT: attempt.agent,
            t.ATTR_OUTCOME: "lost",
            t.ATTR_COORDINATOR: self._coordinator,
        }


def _title(submit: Any) -> str:
    """What stands behind the word submit."""
    return str(submit.capability or ("plan" if submit.goal is None else "goal"))


def _root(task: TaskName, digest: str, stamp: float) -> tuple[object, ...]:
    """What the ids of a root, and of its trace, are derived from: the same for a submit that comes twice."""
    return "root", task, digest, stamp


def _auction(subtask: str, epoch: int) -> tuple[object, ...]:
    """What an auction's id is derived from."""
    return "auction", subtask, epoch


def _last_epoch(subtask: SubtaskState, new: frozenset[int]) -> int:
    """Of a subtask's last award that is not among the new ones; 0 when there is none."""
    return max((attempt.epoch for attempt in subtask.attempts if attempt.epoch not in new), default=0)


def _turns(found: Iterable[tuple[int, r.Record]]) -> Iterable[tuple[int, r.Record]]:
    """What counts in a log: whole turns, with the sequence of their last record."""
    parts = Parts()
    for seq, record in _unrolled(found):
        whole = parts.whole(record)
        if whole is not None:
            yield seq, whole


def _unrolled(found: Iterable[tuple[int, r.Record]]) -> Iterable[tuple[int, r.Record]]:
    """All records of a log, those in the history of its last one too."""
    for seq, record in found:
        yield from ((entry.seq, entry.record) for entry in record.history)
        yield seq, record


def _difference(t: ModuleType, change: r.Planned) -> list[Event]:
    """Why a new version was made, and what it changed."""
    events: list[Event] = [
        (t.EVENT_CAUSE, {t.ATTR_CAUSE: why.trigger, t.ATTR_ANSWER: why.answer, t.ATTR_SUBTASK: why.subtask or "", t.ATTR_REASON: why.text})
        for why in change.why
    ]
    for event, names in ((t.EVENT_ADDED, change.add), (t.EVENT_AGAIN, change.again), (t.EVENT_REMOVED, change.remove)):
        if names:
            events.append((event, {t.ATTR_SUBTASKS: list(names)[:SHOWN]}))
    return events


def _bid(t: ModuleType, bid: r.ScoredBid) -> dict[str, str | bool | int | float]:
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
