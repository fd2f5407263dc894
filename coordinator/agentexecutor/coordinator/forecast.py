"""The forecast: who would do what of a submit, when and at what cost, if it came now (docs/protocol.md section 11). Pure; nothing is recorded.

The plan is made by `machine`, the agents are found by `market`: both as they are, on a copy of the market and in virtual time. What cannot be known
is taken for granted:

* An agent needs what it promises, corrected by how such promises were kept. Nothing fails, and nobody comes or goes.
* Standing offers decide: nobody is asked for a bid.
* What agents hold ends as promised (`_Forecast._occupy`); what waits at this coordinator has its turn by its priority. Of the queues of other
  coordinators nothing is known.
* A split subtask is cut for the agents that fit, as it would be, and its shares stand in its place. A share needs its part of the estimate. Where the
  list is not there yet, its length is unknown, and the parts are exactly in proportion.
* A person who has to agree does so at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from msgspec.structs import replace

from agentexecutor.coordinator.briefing import Briefing, OfferLine, brief, misfits
from agentexecutor.coordinator.chaining import next_plan
from agentexecutor.coordinator.draft import demand_of
from agentexecutor.coordinator.errors import Unplannable
from agentexecutor.coordinator.evolve import evolve
from agentexecutor.coordinator.inputs import Demand, Key, SubmitIn
from agentexecutor.coordinator.machine import decide
from agentexecutor.coordinator.market import Assign, Market, Snapshot
from agentexecutor.coordinator.model import SubtaskState, TaskState, new_task
from agentexecutor.coordinator.offers import KnownAgent
from agentexecutor.coordinator.ready import Pool, pool_of
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.split import list_reference, share_specs
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import decode_as
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.plans import dependencies
from agentexecutor.schemas.subjects import NOBODY

__all__ = ["make_forecast"]

UNKNOWN_LENGTH = 1_000_000
"""Stands for the length of a list that is not there yet."""
LONGEST_S = 1e9
"""No promise counts for more: sums stay numbers."""


def make_forecast(input: SubmitIn, snapshot: Snapshot, settings: Settings) -> v.Forecast | m.ErrorInfo:
    """What would happen to the submit, or the error with which it would be refused. The snapshot is used up."""
    state = new_task(NOBODY, 0)
    decision = decide(state, input, 0.0, settings, 0)
    if decision.refusal is not None:
        return decision.refusal
    planned = next(change for change in decision.changes if isinstance(change, r.Planned))
    plan = m.PlanSpec(subtasks=planned.add, result=planned.result)
    forecast = _Forecast(input.submit, snapshot)
    try:
        if input.submit.goal is not None:
            for change in decision.changes:
                evolve(state, change, 0.0)
            plan = _plan_of_goal(state, forecast.offers)
        return forecast.run(plan)
    except (PlanRefused, Unplannable) as error:
        return m.ErrorInfo(code="input", message=str(error), details={"path": error.fields.get("path", [])})


def _plan_of_goal(state: TaskState, offers: Sequence[OfferLine]) -> m.PlanSpec:
    """The plan that the planner without a model would make; what another planner makes is not known before it is asked. Raises Unplannable."""
    (planner,) = state.subtasks.values()
    revision = next_plan(decode_as(Briefing, brief(state, planner, offers)))
    return m.PlanSpec(subtasks=revision.add, result=revision.result)


class _Forecast:
    """One run through virtual time, which begins when the snapshot was taken."""

    def __init__(self, submit: m.Submit, snapshot: Snapshot) -> None:
        self.task = TaskState(NOBODY, 0, submit=submit)
        self.market = Market.of(snapshot)
        self.now = self.began = snapshot.at
        self.offers = self.market.survey.on_offer(self.began)
        self.lines: dict[str, v.ForecastLine] = {}
        self.unserved: dict[str, None] = {}
        self._parts: dict[str, float] = {}
        """What part of the whole work a share is."""
        self._whys: dict[Pool, str] = {}
        self._open = 0
        """Subtasks of the plan that have begun to look for an agent, and have not ended."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        for agent in snapshot.agents:
            self._occupy(agent)
        for key, demand, since in snapshot.waiting:
            self.market.want(since, key, _standing(demand))

    def run(self, plan: m.PlanSpec) -> v.Forecast:
        """Let time pass until all of the plan has ended that can be done. Called once."""
        self._add([SubtaskState(name, spec) for name, spec in plan.subtasks.items()])
        while self._let_awards_be_made():
            due = [when for when in (self._due[0][0] if self._due else None, self.market.next_due(self.now)) if when is not None]
            if not due:
                break
            self.now = max(self.now, min(due))
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[-1]()
        return self._told(plan)

    def _let_awards_be_made(self) -> bool:
        """Whether anything of the plan is still to come."""
        for action in self.market.poll(self.now, 0):
            if isinstance(action, Assign):
                self._assigned(action)
        return self._open > 0

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), happen))

    # what the agents do already

    def _occupy(self, agent: KnownAgent) -> None:
        """Slots in use come free: those of ours when the promised time is over, those of others after the agent's longest estimate.

        An agent that says it is full keeps its word for when one more could start (`queue_s`), which is then the end of the first.
        """
        offer = agent.offer
        if offer is None:
            return
        room = self.began + min(offer.queue_s, LONGEST_S)
        full = sum(entry.state != "waiting" for entry in offer.running) >= agent.capacity
        longest = min(LONGEST_S, max((capability.estimate_s or 0.0 for capability in offer.capabilities), default=0.0))
        if offer.queue_s:
            self._at(room, partial(self._say, agent))
        for key, holding in agent.ours.items():
            factor = self.market.reputation.factor(agent.name, holding.capability)
            expected = longest if holding.promised_s is None else min(LONGEST_S, holding.promised_s * factor)
            end = max(self.began, (holding.accepted_at or holding.since) + expected, room if full else self.began)
            self._at(end, partial(self._release, key, holding.epoch))
        for number, pair in enumerate(sorted(agent.others)):
            end = room if full and number == 0 else max(room, self.began + longest)
            self._at(end, partial(self._say, agent, pair))

    def _say(self, agent: KnownAgent, gone: tuple[str, str] | None = None) -> None:
        """A new offer: nothing waits in a queue any more, and `gone` has ended."""
        if agent.offer is None:
            return
        held = {(str(key.task), key.subtask) for key in agent.ours} | agent.waiting | agent.others - {gone}
        running = [entry for entry in agent.offer.running if (entry.task, entry.subtask) in held]
        self.market.offer(self.now, agent.name, replace(agent.offer, running=running, queue_s=0.0))

    def _release(self, key: Key, epoch: int) -> None:
        self.market.ended(self.now, key, epoch, "forecast")

    # the plan

    def _add(self, new: list[SubtaskState]) -> None:
        """Subtasks of which some wait for others of them; the rest starts."""
        names = {subtask.name: subtask for subtask in new}
        self.task.subtasks.update(names)
        for subtask in new:
            for other in dependencies(subtask.spec):
                if other in names:
                    subtask.waits.add(other)
                    names[other].dependents.append(subtask.name)
        for subtask in new:
            if not subtask.waits:
                self._start(subtask)

    def _start(self, subtask: SubtaskState) -> None:
        demand = _standing(demand_of(self.task, subtask))
        why = self._why_unserved(demand)
        if why:
            self.unserved[demand.capability] = None
            self.lines[subtask.name] = _nobody(subtask, why)
        elif subtask.spec.split is not None:
            self._split(subtask, subtask.spec.split, demand)
        else:
            self._open += 1
            self.market.want(self.now, Key(NOBODY, subtask.name), demand)

    def _why_unserved(self, demand: Demand) -> str:
        """The same for all that ask alike: nobody comes or goes."""
        pool = pool_of(demand)
        if pool not in self._whys:
            self._whys[pool] = self.market.survey.why_unserved(self.now, demand)
        return self._whys[pool]

    def _split(self, subtask: SubtaskState, split: m.Split, demand: Demand) -> None:
        """Its shares stand in its place; those that fit share them out as they would."""
        length = _length(subtask.spec, split.over)
        items = UNKNOWN_LENGTH if length is None else length
        specs, ranges = share_specs(subtask, items, [*self.market.survey.capacities(self.now, demand)])
        if taken := [name for name in specs if name in self.task.subtasks]:
            raise PlanRefused(f"The share {taken[0]!r} has the name of another subtask.", hint="Rename that one.", path=taken[:1])
        for name, (first, last) in ranges.items():
            self._parts[name] = (last - first) / max(1, items)
        subtask.children = list(specs)
        subtask.waits = set(specs)
        shares = {} if length is None else ranges
        self._add([SubtaskState(name, spec, parent=subtask.name, shares=shares.get(name)) for name, spec in specs.items()])

    def _assigned(self, action: Assign) -> None:
        """An award: the agent begins when it says that it can, and needs what it promises."""
        task, name = action.key
        won = action.award.bids[0]
        start = max(self.now, self.began + min(won.queue_s, LONGEST_S))
        work = min(won.estimate_s * won.factor, LONGEST_S)
        if task != NOBODY:
            self._at(start + work, partial(self._release, action.key, 0))
            return
        finish = start + work * self._parts.get(name, 1.0)
        self.lines[name] = v.ForecastLine(
            name=name,
            capability=self.task.subtasks[name].spec.capability,
            agent=won.agent,
            start_s=round(start - self.began, 6),
            finish_s=round(finish - self.began, 6),
            cost=won.cost,
            reason=won.reason,
        )
        self._at(finish, partial(self._ended, action.key))

    def _ended(self, key: Key) -> None:
        self._release(key, 0)
        self._open -= 1
        self._complete(self.task.subtasks[key.subtask])

    def _complete(self, subtask: SubtaskState) -> None:
        """What waited for it may start; with the last of its shares a split subtask is complete."""
        for name in subtask.dependents:
            other = self.task.subtasks[name]
            other.waits.discard(subtask.name)
            if not other.waits:
                self._start(other)
        if subtask.parent is not None:
            parent = self.task.subtasks[subtask.parent]
            parent.waits.discard(subtask.name)
            if not parent.waits:
                self._complete(parent)

    # what is told

    def _told(self, plan: m.PlanSpec) -> v.Forecast:
        """Lines in order of their start, those of one moment in the order of their awards; last what nobody does, in the plan's order."""
        for subtask in self.task.subtasks.values():
            if subtask.name not in self.lines and not subtask.children:
                waits = [name for name in dependencies(subtask.spec) if name in subtask.waits]
                self.lines[subtask.name] = _nobody(subtask, f"waits for {', '.join(waits)}" if waits else "no agent becomes free")
        served = [line for line in self.lines.values() if line.start_s is not None]
        finish = max((line.finish_s or 0.0 for line in served), default=0.0)
        return v.Forecast(
            plan=plan,
            subtasks=[
                *sorted(served, key=lambda line: line.start_s or 0.0),
                *(self.lines[name] for name in self.task.subtasks if name in self.lines and self.lines[name].start_s is None),
            ],
            finish_s=finish if len(served) == len(self.lines) else None,
            cost=sum(line.cost or 0.0 for line in served),
            unserved=list(self.unserved),
            misfits=misfits(plan.subtasks, self.offers),
        )


def _standing(demand: Demand) -> Demand:
    return replace(demand, auction="standing")


def _nobody(subtask: SubtaskState, why: str) -> v.ForecastLine:
    return v.ForecastLine(name=subtask.name, capability=subtask.spec.capability, reason=why)


def _length(spec: m.SubtaskSpec, over: str) -> int | None:
    """Items in the list that a subtask is split over; None when it is not there yet. Raises PlanRefused when the input has no such key."""
    if spec.input_blob is not None:
        return None
    held = list_reference(spec.input, over)
    return len(held) if isinstance(held, list) else None
