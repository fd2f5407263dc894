"""The agents as their offers show them: who is alive, who is free, who kept what was promised. Pure; `now` is monotonic seconds of the caller."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from agentexecutor.coordinator.inputs import Key
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m

__all__ = ["AgentBook", "Holding", "KnownAgent", "Reputation"]

A = TypeVar("A", bound="dict[str, KnownAgent]")
SMOOTH = 0.3
"""Weight of the newest measurement in a moving ratio."""
REMEMBERED = 10_000
"""Of so many agents and capabilities it is known how they kept their promises: a pool that grows and shrinks has new names every day."""
SILENT_BEATS = 1.5
"""An agent that was not heard for so many beats has missed one."""


class Holding(Struct):
    """An award of ours that an agent holds. `epoch` 0: assigned, not yet recorded."""

    key: Key
    agent: str
    boot: str
    capability: str
    since: float
    epoch: int = 0
    promised_s: float | None = None
    accepted_at: float | None = None
    queued_at: float | None = None


class KnownAgent(Struct):
    """An agent: its last offer (None: known only from the log), and what we gave it."""

    name: str
    boot: str
    seen: float
    offer: m.Offer | None = None
    offered: dict[str, m.Capability] = field(default_factory=dict)
    ours: dict[Key, Holding] = field(default_factory=dict)
    waiting: set[tuple[str, str]] = field(default_factory=set)
    """(task, subtask) that wait for children: they give their slot back."""
    others: set[tuple[str, str]] = field(default_factory=set)
    """(task, subtask) that its offer names and that are none of ours."""
    missing: dict[Key, Holding] = field(default_factory=dict)
    """Accepted awards that its newest offer does not name."""
    named: set[tuple[str, str, int]] = field(default_factory=set)
    """(task, subtask, epoch) that it was heard to run, while an accept of it was awaited."""
    suspended_until: float = 0.0
    suspensions: int = 0
    last_award: int = 0
    capacity: int = 0

    @property
    def working(self) -> int:
        """Awards of ours that hold a slot: those that wait for children do not."""
        return sum((str(key.task), key.subtask) not in self.waiting for key in self.ours) if self.waiting else len(self.ours)

    @property
    def busy(self) -> int:
        """Slots in use, as far as we know."""
        return self.working + len(self.others)

    def free(self, share: float) -> int:
        """Slots that we may still give: of what is free, no more than our share of its capacity."""
        capacity, working = self.capacity, self.working
        limit = capacity if share >= 1 else max(1, int(capacity * share))
        return min(capacity - working - len(self.others), limit - working)

    def copy(self) -> KnownAgent:
        """The same, for somebody else to change."""
        ours = {key: replace(holding) for key, holding in self.ours.items()}
        return replace(self, ours=ours, waiting=set(self.waiting), others=set(self.others), missing={})

    def fits(self, capability: str, labels: dict[str, str]) -> bool:
        """Offers it, has the labels, and takes new work."""
        if self.offer is None or capability not in self.offered or not self.offer.accepting:
            return False
        return not labels or labels.items() <= self.offer.labels.items()


class Reputation:
    """Moving ratio of real to promised time, and mean real time, by agent and capability."""

    def __init__(self) -> None:
        self._ratio: dict[tuple[str, str], float] = {}
        self._mean: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Whoever completed something last comes last; whoever comes first is forgotten first."""

    def copy(self) -> Reputation:
        """The same, for somebody else to go on with."""
        other = Reputation()
        other._ratio, other._mean = dict(self._ratio), OrderedDict(self._mean)
        return other

    def learn(self, agent: str, capability: str, took_s: float, promised_s: float | None) -> None:
        """A completed subtask."""
        key = agent, capability
        self._mean[key] = took_s if key not in self._mean else (1 - SMOOTH) * self._mean[key] + SMOOTH * took_s
        self._mean.move_to_end(key)
        if len(self._mean) > REMEMBERED:
            self._ratio.pop(self._mean.popitem(last=False)[0], None)
        if promised_s is not None and promised_s > 0.001:  # noqa: PLR2004  # below a millisecond a ratio is noise
            ratio = min(max(took_s / promised_s, 0.1), 10.0)
            self._ratio[key] = (1 - SMOOTH) * self._ratio.get(key, 1.0) + SMOOTH * ratio

    def factor(self, agent: str, capability: str) -> float:
        """By which a promise is corrected."""
        return round(self._ratio.get((agent, capability), 1.0), 3)

    def mean(self, agent: str, capability: str) -> float | None:
        """Measured seconds, for an offer without an estimate."""
        return self._mean.get((agent, capability))


class AgentBook:
    """All known agents, indexed by capability; `available` lists those that can be given something now, longest unused first."""

    def __init__(self, settings: Settings) -> None:
        self.agents: dict[str, KnownAgent] = {}
        self.share = 1.0
        self._settings = settings
        self._by_capability: dict[str, dict[str, KnownAgent]] = {}
        self._available: dict[str, OrderedDict[str, KnownAgent]] = {}

    def of(self, capability: str) -> dict[str, KnownAgent]:
        """All agents, alive or not, whose last offer names the capability."""
        return self._by_capability.get(capability, {})

    def available(self, capability: str) -> Iterator[KnownAgent]:
        """Agents that can be given something now."""
        return iter(self._available.get(capability, {}).values())

    def take_offer(self, now: float, name: str, offer: m.Offer) -> tuple[KnownAgent | None, list[Holding]]:
        """A new offer: the agent, or None when an older boot sent it; and our awards that died with an older boot."""
        agent = self.agents.get(name)
        orphans: list[Holding] = []
        if agent is not None and offer.boot < agent.boot:
            return None, []
        if agent is None or offer.boot > agent.boot:
            orphans = [] if agent is None else list(agent.ours.values())
            self._unindex(agent)
            agent = self.agents[name] = KnownAgent(name, offer.boot, now)
        agent.seen = now
        if agent.offer is None or agent.offer.capabilities != offer.capabilities:
            self._unindex(agent)
            agent.offered = {capability.name: capability for capability in offer.capabilities}
            self._index(agent)
        agent.offer = offer
        agent.capacity = offer.capacity
        self._read_running(agent, now)
        return agent, orphans

    def adopt(self, agent: KnownAgent, now: float) -> None:
        """An agent as another book knows it."""
        self.agents[agent.name] = agent
        self._index(agent)
        self.refresh(agent, now)

    def _read_running(self, agent: KnownAgent, now: float) -> None:
        offer = agent.offer
        if offer is None:
            return
        mine = {(str(key.task), key.subtask): holding for key, holding in agent.ours.items()}
        named = {(entry.task, entry.subtask): entry for entry in offer.running}
        agent.waiting = {pair for pair, entry in named.items() if entry.state == "waiting"}
        agent.others = {pair for pair in named if pair not in mine and pair not in agent.waiting}
        settled = now - self._settings.heartbeat_s
        agent.missing = {
            holding.key: holding
            for pair, holding in mine.items()
            if holding.accepted_at is not None
            and holding.accepted_at < settled
            and (pair not in named or named[pair].epoch < holding.epoch)
        }

    def hold(self, holding: Holding, now: float) -> KnownAgent:
        """An agent got an award of ours; one that has not been heard is known from now on."""
        agent = self.agents.get(holding.agent)
        if agent is None:
            agent = self.agents[holding.agent] = KnownAgent(holding.agent, holding.boot, now)
        agent.ours[holding.key] = holding
        agent.others.discard((str(holding.key.task), holding.key.subtask))
        return agent

    def let_go(self, holding: Holding) -> KnownAgent | None:
        """The award has ended."""
        agent = self.agents.get(holding.agent)
        if agent is not None and agent.ours.get(holding.key) is holding:
            del agent.ours[holding.key]
            agent.others.discard((str(holding.key.task), holding.key.subtask))
            agent.missing.pop(holding.key, None)
        return agent

    def alive(self, agent: KnownAgent, now: float) -> bool:
        return now - agent.seen <= self._settings.lost_after_s

    def overdue(self, agent: KnownAgent, now: float) -> bool:
        """It has missed a beat: perhaps it is dead, so it is given nothing before it is heard again."""
        return now - agent.seen > SILENT_BEATS * self._settings.heartbeat_s

    def refresh(self, agent: KnownAgent, now: float) -> bool:
        """Put the agent where it belongs among the available; True when it has become available."""
        usable = (
            agent.offer is not None
            and agent.offer.accepting
            and agent.suspended_until <= now
            and agent.free(self.share) > 0
            and self.alive(agent, now)
            and not self.overdue(agent, now)
        )
        became = False
        for capability in agent.offered:
            available = self._available.setdefault(capability, OrderedDict())
            if usable and agent.name not in available:
                available[agent.name] = agent
                became = True
            elif not usable:
                available.pop(agent.name, None)
        return became

    def used(self, agent: KnownAgent) -> None:
        """It got something: others go first among equals."""
        for capability in agent.offered:
            available = self._available.get(capability)
            if available is not None and agent.name in available:
                available.move_to_end(agent.name)

    def bury(self, now: float) -> None:
        """Forget agents that have long been silent and hold nothing of ours."""
        for agent in list(self.agents.values()):
            if not self.alive(agent, now):
                self.refresh(agent, now)
                if not agent.ours and now - agent.seen > 10 * self._settings.heartbeat_s:
                    self._unindex(agent)
                    del self.agents[agent.name]

    def _index(self, agent: KnownAgent) -> None:
        for capability in agent.offered:
            self._by_capability.setdefault(capability, {})[agent.name] = agent

    def _unindex(self, agent: KnownAgent | None) -> None:
        if agent is None:
            return
        for capability in agent.offered:
            _take_out(self._by_capability, capability, agent.name)
            _take_out(self._available, capability, agent.name)


def _take_out(index: dict[str, A], capability: str, agent: str) -> None:
    """Nothing is left of a capability that nobody offers."""
    agents = index.get(capability)
    if agents is not None:
        agents.pop(agent, None)
        if not agents:
            del index[capability]
