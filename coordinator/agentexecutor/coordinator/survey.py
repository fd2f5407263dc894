"""How a market looks: who is there and what they offer, who fits a demand, which demand nobody fits, and why.

Looks, and changes nothing. Pure; `now` is monotonic seconds of the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agentexecutor.coordinator.briefing import OfferLine
from agentexecutor.coordinator.inputs import Demand, Key
from agentexecutor.coordinator.offers import AgentBook, KnownAgent
from agentexecutor.coordinator.ready import Pool, ReadyQueue, Wanted
from agentexecutor.schemas import views as v

__all__ = ["AVOIDED", "Survey", "fits"]

AVOIDED = "to be avoided"


def fits(agent: KnownAgent, demand: Demand) -> bool:
    """Whether it may do it, living and free or not."""
    return agent.fits(demand.capability, demand.labels) and agent.name not in demand.never


class Survey:
    """Of the agents in `book` and the demand in `ready`."""

    def __init__(self, book: AgentBook, ready: ReadyQueue) -> None:
        self._book = book
        self._ready = ready

    def agents(self, now: float) -> list[v.AgentView]:
        """All living agents, by name."""
        return [
            v.AgentView(
                name=agent.name,
                capabilities=sorted(agent.offered),
                capacity=agent.capacity,
                free=max(0, agent.capacity - agent.busy),
                labels=agent.offer.labels,
                running=agent.offer.running,
                seen_s=round(now - agent.seen, 3),
            )
            for _, agent in sorted(self._book.agents.items())
            if agent.offer is not None and self._book.alive(agent, now)
        ]

    def on_offer(self, now: float, *, silent: bool = False) -> list[OfferLine]:
        """What living agents offer, a line for each capability, by name; `silent`: also those that were heard a moment ago, and may come back."""
        lines = []
        for name in sorted({name for agent in self._book.agents.values() for name in agent.offered}):
            agents = [agent for agent in self._book.of(name).values() if agent.fits(name, {}) and (silent or self._book.alive(agent, now))]
            offered = [agent.offered[name] for agent in agents]
            estimates = [offer.estimate_s for offer in offered if offer.estimate_s is not None]
            if agents:
                lines.append(
                    OfferLine(
                        name=name,
                        agents=len(agents),
                        free=sum(max(0, agent.capacity - agent.busy) for agent in agents),
                        estimate_s=min(estimates, default=None),
                        cost=min(offer.cost for offer in offered),
                        takes=next((offer.takes for offer in offered if offer.takes is not None), None),
                        gives=next((offer.gives for offer in offered if offer.gives is not None), None),
                    )
                )
        return lines

    def unserved(self, now: float) -> list[v.UnservedLine]:
        """Demand that no living agent fits."""
        by_pool: dict[Pool, list[Wanted]] = {}
        for wanted in self._ready.wanted.values():
            by_pool.setdefault(wanted.pool, []).append(wanted)
        return [self._unserved(now, wants) for wants in by_pool.values() if not self.fitting(now, wants[0].demand)]

    def waiting(self) -> dict[str, int]:
        """How many ready subtasks wait, by capability."""
        return Counter(wanted.demand.capability for wanted in self._ready.wanted.values())

    def _unserved(self, now: float, wants: list[Wanted]) -> v.UnservedLine:
        demand = wants[0].demand
        return v.UnservedLine(
            capability=demand.capability,
            labels=demand.labels,
            subtasks=len(wants),
            oldest_s=round(now - min(wanted.since for wanted in wants), 3),
            reason=self._why_nobody(now, demand),
            tasks=list(dict.fromkeys(str(wanted.key.task) for wanted in wants))[:8],
        )

    def _why_nobody(self, now: float, demand: Demand) -> str:
        offering = [agent for agent in self._book.of(demand.capability).values() if self._book.alive(agent, now)]
        if not offering:
            return f"no agent offers {demand.capability}"
        counted = Counter(self.why_not(now, agent, demand) for agent in offering)
        counts = ", ".join(f"{reason} ({count})" for reason, count in sorted(counted.items()))
        return f"none of the {len(offering)} agents that offer it fits: {counts}"

    def why_unserved(self, now: float, demand: Demand) -> str:
        """Why no living agent fits; empty when one does."""
        return "" if self.fitting(now, demand) else self._why_nobody(now, demand)

    def looked(self, now: float, keys: Iterable[Key]) -> dict[str, str]:
        """How ready subtasks look from here: ``calling`` or ``parked`` (nobody fits); those that just wait are left out."""
        seen = {}
        for key in keys:
            wanted = self._ready.wanted.get(key)
            if wanted is not None and wanted.calling:
                seen[key.subtask] = "calling"
            elif wanted is not None and not self.fitting(now, wanted.demand):
                seen[key.subtask] = "parked"
        return seen

    def capacities(self, now: float, demand: Demand) -> list[tuple[str, int]]:
        """Fitting agents and their capacities, by name."""
        return sorted((agent.name, agent.capacity) for agent in self.fitting(now, demand))

    def fitting(self, now: float, demand: Demand) -> list[KnownAgent]:
        """Living agents that fit, free or not."""
        agents = self._book.of(demand.capability).values()
        return [agent for agent in agents if fits(agent, demand) and self._book.alive(agent, now)]

    def why_not(self, now: float, agent: KnownAgent, demand: Demand) -> str:
        """Why an agent was left out; "not asked" when nothing is against it."""
        if not self._book.alive(agent, now):
            return "silent"
        if self._book.overdue(agent, now):
            return "a beat missed"
        if agent.offer is not None and not agent.offer.accepting:
            return "not accepting"
        if agent.name in demand.never:
            return AVOIDED
        if not fits(agent, demand):
            return "labels"
        return "suspended" if agent.suspended_until > now else "busy" if agent.free(self._book.share) <= 0 else "not asked"
