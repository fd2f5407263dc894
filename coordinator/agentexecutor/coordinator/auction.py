"""One bidding round: who was asked, who has answered, when it closes (contract net: Smith 1980; FIPA SC00029H). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from agentexecutor.coordinator.inputs import Key
from agentexecutor.coordinator.offers import KnownAgent
from agentexecutor.schemas import messages as m

__all__ = ["Round", "choose_bidders"]


class Round(Struct):
    """A call that is open. `asked` None: broadcast, so nobody knows how many will answer."""

    key: Key
    call: str
    mode: str
    opened: float
    closes: float
    asked: set[str] | None
    bids: dict[str, m.Bid] = field(default_factory=dict)
    refusals: dict[str, m.Refusal] = field(default_factory=dict)

    def bid(self, peer: str, bid: m.Bid) -> None:
        if self.asked is None or peer in self.asked:
            self.bids[peer] = bid

    def refuse(self, peer: str, refusal: m.Refusal) -> None:
        if self.asked is None or peer in self.asked:
            self.refusals[peer] = refusal

    @property
    def complete(self) -> bool:
        """All that were asked have answered."""
        return self.asked is not None and self.asked <= self.bids.keys() | self.refusals.keys()

    def is_over(self, now: float) -> bool:
        return self.complete or now >= self.closes


def choose_bidders(fitting: Sequence[KnownAgent], count: int, seed: int) -> list[KnownAgent]:
    """Whom to ask: at most `count`, the least busy ones and one in four at random, so that newcomers get a hearing."""
    if len(fitting) <= count:
        return list(fitting)
    by_load = sorted(fitting, key=lambda agent: (agent.busy / max(1, agent.capacity), agent.name))
    sure = count - max(1, count // 4)
    chosen, rest = by_load[:sure], by_load[sure:]
    for step in range(count - sure):
        chosen.append(rest.pop((seed + step * 7919) % len(rest)))
    return chosen
