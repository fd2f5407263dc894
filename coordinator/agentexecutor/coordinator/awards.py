"""The awards in hand: who holds each, what his offers say of it, whether he seems to be gone. Pure; `now` is monotonic seconds of the caller.

What becomes of a suspect is decided elsewhere: it counts as lost once that is confirmed and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Raw, Struct

from agentexecutor.coordinator.inputs import Key
from agentexecutor.coordinator.offers import AgentBook, Holding, KnownAgent
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.errors import NameRefused
from agentexecutor.schemas.names import TaskName

__all__ = ["Awards", "Suspect"]

ON_ITS_WAY_S = 30.0
"""So long the accept of an agent that names the award in its offer may take: the inbox may be without a leader."""
UNRECORDED_S = 10.0
"""An assignment that was never recorded gives its slot back after so long."""
_RUNNING = msgspec.json.Decoder(list[m.Running])


class Suspect(Struct, frozen=True):
    """An award whose holder seems to be gone; to be confirmed before it counts as lost."""

    key: Key
    epoch: int
    agent: str
    boot: str
    reason: str


class Awards:
    """Of the agents in `book`. `freed` is told of an agent that has a slot more."""

    def __init__(self, book: AgentBook, settings: Settings, freed: Callable[[KnownAgent, float], None]) -> None:
        self._book = book
        self._settings = settings
        self._freed = freed
        self._holdings: dict[Key, Holding] = {}
        self._orphans: dict[Key, Holding] = {}
        """Awards whose holder has died: a newer life of it is heard."""

    def get(self, key: Key) -> Holding | None:
        """The award of this subtask."""
        return self._holdings.get(key)

    def adopt(self, agent: KnownAgent) -> None:
        """What an agent of another book holds."""
        self._holdings.update(agent.ours)

    # what happens to them

    def hold(self, now: float, holding: Holding) -> KnownAgent:
        """It is given to its agent."""
        self._holdings[holding.key] = holding
        return self._book.hold(holding, now)

    def recorded(self, holding: Holding, epoch: int, promised_s: float | None) -> None:
        """It has this number from now on."""
        holding.epoch = epoch
        holding.promised_s = promised_s
        self._orphans.pop(holding.key, None)
        if self._book.agents[holding.agent].boot > holding.boot:
            self._orphans[holding.key] = holding

    def accepted(self, now: float, key: Key, epoch: int) -> None:
        """The holder accepted."""
        holding = self._holdings.get(key)
        if holding is not None and holding.epoch == epoch:
            holding.accepted_at = now
            agent = self._book.agents.get(holding.agent)
            if agent is not None:
                agent.suspensions = 0

    def orphaned(self, holdings: Iterable[Holding]) -> None:
        """A newer life of their holder was heard."""
        self._orphans |= {holding.key: holding for holding in holdings}

    def named(self, agent: KnownAgent, running: Raw) -> None:
        """The agent was heard to run this. It counts while an accept of it is awaited."""
        if any(holding.accepted_at is None for holding in agent.ours.values()):
            agent.named = _read(running)

    def unassign(self, now: float, key: Key) -> None:
        """It is not to be recorded any more; one that was stays."""
        holding = self._holdings.get(key)
        if holding is not None and holding.epoch == 0:
            self.release(now, holding)

    def release(self, now: float, holding: Holding) -> None:
        """It has ended, or was never recorded: the slot is free again."""
        self._holdings.pop(holding.key, None)
        self._orphans.pop(holding.key, None)
        agent = self._book.let_go(holding)
        if agent is not None:
            self._freed(agent, now)

    # what is known of their holders

    def is_silent(self, now: float, key: Key) -> bool:
        """Whether the life of an agent that got an award is over, or has missed a beat."""
        holding = self._holdings.get(key)
        agent = self._holder(holding)
        return holding is not None and agent is not None and (agent.boot > holding.boot or self._book.overdue(agent, now))

    def says_it_has_it(self, now: float, key: Key) -> bool:
        """Whether the agent's offer names an award that it has not accepted: then its accept is on its way, for as long as it may take."""
        holding = self._holdings.get(key)
        agent = self._holder(holding)
        if holding is None or agent is None or agent.offer is None or holding.since < now - ON_ITS_WAY_S:
            return False
        award = (str(key.task), key.subtask, holding.epoch)
        return award in agent.named or any((entry.task, entry.subtask, entry.epoch) == award for entry in agent.offer.running)

    def last_queued(self, now: float, key: Key, epoch: int) -> float | None:
        """When its holder's offer said last that an award waits for its turn: `now` if it still does, None if that was never seen."""
        holding = self._holdings.get(key)
        agent = self._holder(holding)
        if holding is None or agent is None or holding.epoch != epoch:
            return None
        award = (str(key.task), key.subtask, epoch)
        named = [] if agent.offer is None else agent.offer.running
        if any(entry.state != "running" for entry in named if (entry.task, entry.subtask, entry.epoch) == award):
            holding.queued_at = now
        return holding.queued_at

    def stale_running(self, now: float, peer: str) -> list[m.Running]:
        """Entries of an agent's last offer that no award of ours backs: an older epoch, or nothing we know of (perhaps another's)."""
        agent = self._book.agents.get(peer)
        if agent is None or agent.offer is None or not self._book.alive(agent, now):
            return []
        return [entry for entry in agent.offer.running if self._is_stale(agent, entry)]

    def _is_stale(self, agent: KnownAgent, entry: m.Running) -> bool:
        try:
            holding = self._holdings.get(Key(TaskName.parse(entry.task), entry.subtask))
        except NameRefused:
            return False
        return holding is None or holding.agent != agent.name or entry.epoch < holding.epoch

    def _holder(self, holding: Holding | None) -> KnownAgent | None:
        return None if holding is None else self._book.agents.get(holding.agent)

    # who is gone

    def suspects(self, now: float) -> list[Suspect]:
        """Awards whose holder is silent, has a newer life, or does not name them; told each time until they are released."""
        self._book.bury(now)
        for holding in [held for held in self._holdings.values() if held.epoch == 0 and now - held.since > UNRECORDED_S]:
            self.release(now, holding)
        doubtful = list(self._orphans.values())
        for agent in self._book.agents.values():
            if self._book.overdue(agent, now):
                self._book.refresh(agent, now)
            if agent.missing or self._book.overdue(agent, now):
                doubtful += [holding for holding in agent.ours.values() if holding.key not in self._orphans]
        reasons = ((holding, self._why_gone(now, holding)) for holding in doubtful if holding.epoch > 0)
        return [Suspect(one.key, one.epoch, one.agent, one.boot, reason) for one, reason in reasons if reason]

    def is_suspect(self, now: float, key: Key, epoch: int) -> bool:
        """Whether the holder of an award still seems to be gone: it may have been heard since."""
        holding = self._holdings.get(key)
        return holding is not None and holding.epoch == epoch and self._why_gone(now, holding) != ""

    def _why_gone(self, now: float, holding: Holding) -> str:
        """Why the holder of an award seems to be gone; empty when it does not."""
        if holding.key in self._orphans:
            return "a newer process has its name"
        agent = self._book.agents.get(holding.agent)
        if agent is None:
            return ""
        if not self._book.alive(agent, now):
            return f"silent for {now - agent.seen:.1f} s"
        if holding.key in agent.missing:
            return "its offer does not name the subtask"
        overdue = holding.accepted_at is None and holding.since <= now - self._settings.accept_timeout_s
        return "it neither accepted nor was heard again" if overdue and self._book.overdue(agent, now) else ""


def _read(running: Raw) -> set[tuple[str, str, int]]:
    """The awards that an offer names; none when it cannot be read, which is told where it is read for good."""
    try:
        return {(entry.task, entry.subtask, entry.epoch) for entry in _RUNNING.decode(running)}
    except (msgspec.MsgspecError, RecursionError):
        return set()
