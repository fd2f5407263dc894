"""The market: brings ready subtasks and agents together. Pure; `now` is monotonic seconds of the caller, `seed` an integer that it drew.

How an award is found stands in `_serve`: from the standing offers, or by a call for bids; where bids are scored is `policies`. What an agent can still
take is kept by `offers`, what waits by `ready`, what was given by `awards`, a bidding round by `auction`; `survey` says who fits and who is there. Nothing
here is recorded: what it proposes becomes true by a record.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import islice

from msgspec import Raw, Struct
from msgspec.structs import replace

from agentexecutor.coordinator.auction import Round, choose_bidders
from agentexecutor.coordinator.awards import Awards
from agentexecutor.coordinator.inputs import AwardIn, Demand, Key
from agentexecutor.coordinator.offers import AgentBook, Holding, KnownAgent, Reputation
from agentexecutor.coordinator.policies import Candidate, Context, Policy, Scored, fastest, load_policies, rank
from agentexecutor.coordinator.ready import Pool, ReadyQueue, Wanted
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.survey import AVOIDED, Survey, fits
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.records import ScoredBid

__all__ = ["Action", "Assign", "Market", "SendCall", "Snapshot"]

FIRST_ROUND_S = 0.005
ROUNDS_WITHOUT_BIDS = 3
"""After so many calls that brought no bid the standing offers decide."""
SHOWN = 200
"""So many characters are told of what a policy raised."""
COUNTED = 64
"""Up to so many agents the reasons for which some were left out are counted."""


class Assign(Struct, frozen=True):
    """Award `key` as `award` says."""

    key: Key
    award: AwardIn


class SendCall(Struct, frozen=True):
    """Send a call for proposals to `peers` (name, boot), or to everybody (None).

    `demand` is tailored, too, when an agent of the capability makes its bids for the input.
    """

    key: Key
    call: str
    peers: list[tuple[str, str]] | None
    reply_by_s: float
    demand: Demand


Action = Assign | SendCall


class Snapshot(Struct, frozen=True):
    """A market at a moment (`at`, monotonic), for one other market that begins like it (`Market.of`).

    `agents`: the living ones, longest without an award first; `waiting`: what waits for an agent, and since when.
    """

    at: float
    settings: Settings
    policies: Mapping[str, Policy]
    share: float
    awards: int
    reputation: Reputation
    agents: list[KnownAgent]
    waiting: list[tuple[Key, Demand, float]]


class Market:
    """All offers, all demand, and the awards of this coordinator."""

    def __init__(self, settings: Settings, policies: Mapping[str, Policy] | None = None) -> None:
        self.policies: Mapping[str, Policy] = load_policies() if policies is None else policies
        self.reputation = Reputation()
        self.round_s = FIRST_ROUND_S
        """Moving average of what a bidding round takes."""
        self._settings = settings
        self._book = AgentBook(settings)
        self._ready = ReadyQueue()
        self.survey = Survey(self._book, self._ready)
        self._rounds: dict[str, Round] = {}
        self.awards = Awards(self._book, settings, self._refresh)
        self._dirty: dict[Pool, None] = {}
        self._keys: dict[TaskName, dict[Key, None]] = {}
        """The subtasks of each task that were wanted or awarded."""
        self._now = 0.0
        """The latest time that a caller gave."""
        self._due: list[tuple[float, int, str, Key | None]] = []
        self._count = 0
        self._award_count = 0

    @classmethod
    def of(cls, snapshot: Snapshot) -> Market:
        """A market with the agents of a snapshot, whose silence means nothing; what waits there is not wanted here yet."""
        market = cls(dataclasses.replace(snapshot.settings, lost_after_s=math.inf, heartbeat_s=math.inf), snapshot.policies)
        market.share, market.reputation, market._award_count = snapshot.share, snapshot.reputation, snapshot.awards
        for agent in snapshot.agents:
            market.awards.adopt(agent)
            market._book.adopt(agent, snapshot.at)
            if agent.suspended_until > snapshot.at:
                market._at(agent.suspended_until, "agent", None, agent.name)
        return market

    @property
    def share(self) -> float:
        """The coordinator's part of all shards: it gives no more than that of an agent's capacity."""
        return self._book.share

    @share.setter
    def share(self, share: float) -> None:
        self._book.share = share

    # what is heard

    def offer(self, now: float, peer: str, offer: m.Offer) -> None:
        """An agent's standing offer; one of an older boot is ignored."""
        agent, orphans = self._book.take_offer(now, peer, offer)
        self.awards.orphaned(orphans)
        if agent is not None:
            self._refresh(agent, now)

    def said(self, now: float, peer: str, boot: str, running: Raw = m.NULL) -> None:
        """An agent's offer was heard, whatever else stands in it: this life of it is not silent, and may name awards whose accepts have not come."""
        agent = self._book.agents.get(peer)
        if agent is None or agent.boot != boot:
            return
        agent.seen = now
        self._refresh(agent, now)
        self.awards.named(agent, running)

    def bid(self, now: float, peer: str, bid: m.Bid) -> None:
        """An answer to a call."""
        answered = self._rounds.get(bid.call)
        if answered is not None and answered.key.subtask == bid.subtask and now < answered.closes:
            answered.bid(peer, bid)
            self._close_if_complete(now, answered)

    def refusal(self, now: float, peer: str, refusal: m.Refusal) -> None:
        """The other answer to a call."""
        answered = self._rounds.get(refusal.call)
        if answered is not None:
            answered.refuse(peer, refusal)
            self._close_if_complete(now, answered)

    def _close_if_complete(self, now: float, round: Round) -> None:
        if round.complete:
            self.round_s += 0.2 * (now - round.opened - self.round_s)
            self._at(now, "round", None, round.call)

    # demand

    def want(self, now: float, key: Key, demand: Demand, not_before: float = 0.0) -> None:
        """A subtask is ready. Wanting it again unchanged changes nothing."""
        self._now = now
        self._keys.setdefault(key.task, {})[key] = None
        self.awards.unassign(now, key)
        wanted = self._ready.add(now, key, demand)
        if not_before > now:
            wanted.calling = True
            self._at(not_before, "again", key)
        elif not wanted.calling:
            self._dirty[wanted.pool] = None

    def drop(self, key: Key) -> None:
        """It is not wanted any more."""
        self._ready.remove(key)
        self.awards.unassign(self._now, key)

    def forget(self, task: TaskName) -> None:
        """Everything about a task: it has ended, or another coordinator has it."""
        for key in self._keys.pop(task, {}):
            self._ready.remove(key)
            holding = self.awards.get(key)
            if holding is not None:
                self.awards.release(self._now, holding)

    # what became of awards

    def awarded(self, now: float, key: Key, epoch: int, agent: str, boot: str, promised_s: float | None) -> None:
        """An award was recorded, here or (as the log tells) by another coordinator."""
        self._now = now
        self._keys.setdefault(key.task, {})[key] = None
        wanted = self._ready.remove(key)
        holding = self.awards.get(key)
        if holding is None or (holding.agent, holding.boot) != (agent, boot) or holding.epoch not in (0, epoch):
            if holding is not None:
                self.awards.release(now, holding)
            capability = wanted.demand.capability if wanted is not None else ""
            holding = Holding(key, agent, boot, capability, now, queued_at=now)  # by the log alone nobody knows when it began
            self._refresh(self.awards.hold(now, holding), now)
        self.awards.recorded(holding, epoch, promised_s)

    def ended(self, now: float, key: Key, epoch: int, how: str, took_s: float | None = None) -> None:
        """An attempt ended: completed, failed, timeout, declined, accept-timeout, lost, released, cancelled, ... Its slot is free again."""
        holding = self.awards.get(key)
        if holding is None or holding.epoch not in (0, epoch):
            return
        if how == "completed" and holding.capability:
            spent = took_s if took_s is not None else now - (holding.accepted_at or holding.since)
            self.reputation.learn(holding.agent, holding.capability, spent, holding.promised_s)
        agent = self._book.agents.get(holding.agent)
        if how in ("declined", "accept-timeout") and agent is not None:
            pause = min(self._settings.suspend_s * 2.0**agent.suspensions, self._settings.suspend_max_s)
            agent.suspensions += 1
            agent.suspended_until = now + pause
            self._at(agent.suspended_until, "agent", None, agent.name)
        elif how == "lost" and agent is not None and self._book.overdue(agent, now):
            agent.suspended_until = agent.seen + self._settings.lost_after_s  # dead by then, or heard
            self._at(agent.suspended_until, "agent", None, agent.name)
        self.awards.release(now, holding)

    def _refresh(self, agent: KnownAgent, now: float) -> None:
        """An agent's room may have changed; what waits for it is looked at again."""
        if self._book.refresh(agent, now):
            for capability in agent.offered:
                for pool in self._ready.of_capability(capability):
                    self._dirty[pool] = None

    # what is to be done

    def poll(self, now: float, seed: int) -> list[Action]:
        """All awards and calls that are possible now."""
        self._now = now
        actions: list[Action] = []
        while self._due and self._due[0][0] <= now:
            _, _, what, key = heapq.heappop(self._due)
            self._wake(now, what, key, actions, seed)
        while self._dirty:
            pool = next(iter(self._dirty))
            del self._dirty[pool]
            while (wanted := self._ready.first(pool)) is not None:
                if not self._serve(now, wanted, actions, seed + self._count):
                    break
                self._ready.served(pool)
        return actions

    def next_due(self, now: float) -> float | None:
        """When `poll` has something to do next, monotonic; None: only after something is heard."""
        if self._dirty:
            return now
        return self._due[0][0] if self._due else None

    def _at(self, when: float, what: str, key: Key | None, name: str = "") -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, f"{what}:{name}", key))

    def _wake(self, now: float, what: str, key: Key | None, actions: list[Action], seed: int) -> None:
        kind, _, name = what.partition(":")
        if kind == "agent" and name in self._book.agents:
            self._refresh(self._book.agents[name], now)
        elif kind == "again" and key is not None and key in self._ready.wanted:
            wanted = self._ready.wanted[key]
            self._ready.put_back(wanted)
            self._dirty[wanted.pool] = None
        elif kind == "round" and name in self._rounds and self._rounds[name].is_over(now):
            self._close(now, self._rounds.pop(name), actions, seed)

    def _serve(self, now: float, wanted: Wanted, actions: list[Action], seed: int) -> bool:
        """Find an agent for one subtask, or call for bids. False: nobody is free."""
        demand = wanted.demand
        free = self._free(demand)
        if not free:
            return False
        mode = self._mode(wanted, free)
        if mode == "standing":
            bids = [self._standing(agent, demand.capability) for agent in free]
            self._assign(now, wanted, bids, {}, "standing", actions, seed)
        else:
            self._call(now, wanted, mode, actions, seed)
        return True

    def _free(self, demand: Demand) -> list[KnownAgent]:
        """Agents that fit and are free, the preferred one among them, no more than `candidates` of them."""
        fitting = (agent for agent in self._book.available(demand.capability) if fits(agent, demand))
        free = list(islice(fitting, self._settings.candidates))
        preferred = self._book.agents.get(demand.prefer or "")
        if preferred is not None and preferred not in free and preferred in self._book.available(demand.capability):
            free += [preferred] if fits(preferred, demand) else []
        return free

    def _mode(self, wanted: Wanted, free: list[KnownAgent]) -> str:
        mode = wanted.demand.auction or "auto"
        if wanted.rounds >= ROUNDS_WITHOUT_BIDS:
            return "standing"
        if mode != "auto":
            return mode
        if wanted.demand.tailored:
            return "call"
        if len(free) == 1:
            return "standing"
        work = min(self._estimate(agent, wanted.demand.capability)[0] for agent in free)
        return "call" if work > self._settings.call_factor * self.round_s else "standing"

    # standing offers

    def _estimate(self, agent: KnownAgent, capability: str) -> tuple[float, str]:
        promised = agent.offered[capability].estimate_s if capability in agent.offered else None
        if promised is not None:
            return promised, ""
        mean = self.reputation.mean(agent.name, capability)
        return (0.0, "no estimate") if mean is None else (mean, "measured")

    def _standing(self, agent: KnownAgent, capability: str) -> Candidate:
        estimate, note = self._estimate(agent, capability)
        offer = agent.offer
        return Candidate(
            agent=agent.name,
            boot=agent.boot,
            estimate_s=estimate,
            queue_s=0.0 if offer is None else offer.queue_s,
            cost=agent.offered[capability].cost if capability in agent.offered else 0.0,
            capacity=max(1, agent.capacity),
            free=agent.free(self.share),
            busy=agent.busy,
            factor=1.0 if note else self.reputation.factor(agent.name, capability),
            last_award=agent.last_award,
            note=note,
        )

    def _assign(
        self, now: float, wanted: Wanted, bids: list[Candidate], dropped: dict[str, int], auction: str, actions: list[Action], seed: int
    ) -> None:
        demand = wanted.demand
        name, ranking = self._ranking(demand, bids, Context(share=demand.share, seed=seed, prefer=demand.prefer, avoid=demand.avoid))
        winner = ranking[0].bid
        dropped = {**dropped, **self._left_out(now, demand, bids)}
        agent = self.awards.hold(now, Holding(wanted.key, winner.agent, winner.boot, demand.capability, now))
        self._award_count += 1
        agent.last_award = self._award_count
        self._ready.remove(wanted.key)
        self._book.refresh(agent, now)
        self._book.used(agent)
        award = AwardIn(
            subtask=wanted.key.subtask,
            agent=winner.agent,
            boot=winner.boot,
            policy=name,
            auction=auction,
            bids=[_recorded(scored, index == 0) for index, scored in enumerate(ranking[: self._settings.bids_kept])],
            considered=len(bids),
            dropped=dropped,
            seed=seed,
            version=demand.version,
        )
        actions.append(Assign(wanted.key, award))

    def _ranking(self, demand: Demand, bids: list[Candidate], context: Context) -> tuple[str, list[Scored]]:
        """The policy that judged, and how. One from another package that fails, or ranks nobody, is replaced by `fastest`, which the winning bid tells."""
        name = demand.policy or "fastest"
        why = "it ranked nobody"
        try:
            if ranking := rank(self.policies[name], bids, context):
                return name, ranking
        except Exception as error:  # noqa: BLE001  # the code of others
            why = f"{type(error).__name__}: {error}"
        best, *others = rank(fastest, bids, context)
        return "fastest", [replace(best, reason=f"{best.reason} (policy {name!r} failed: {why[:SHOWN]})"), *others]

    def _left_out(self, now: float, demand: Demand, bids: list[Candidate]) -> dict[str, int]:
        """Why the others of the capability were not considered, counted."""
        agents = self._book.of(demand.capability)
        if len(agents) > COUNTED or len(agents) <= len(bids):
            return {}
        seen = {bid.agent for bid in bids}
        return Counter(self.survey.why_not(now, agent, demand) for agent in agents.values() if agent.name not in seen)

    # calls

    def _call(self, now: float, wanted: Wanted, mode: str, actions: list[Action], seed: int) -> None:
        wanted.calling = True
        self._count += 1
        call = f"{self._count}-{seed % 1_000_000}"
        closes = now + self._settings.bidding_s
        asked = None if mode == "broadcast" else choose_bidders(self.survey.fitting(now, wanted.demand), self._settings.bidders, seed)
        peers = None if asked is None else [(agent.name, agent.boot) for agent in asked]
        names = None if asked is None else {agent.name for agent in asked}
        self._rounds[call] = Round(wanted.key, call, mode, now, closes, names)
        self._at(closes, "round", None, call)
        demand = wanted.demand
        if any(agent.offered[demand.capability].tailored for agent in self._book.of(demand.capability).values()):
            demand = replace(demand, tailored=True)
        actions.append(SendCall(wanted.key, call, peers, self._settings.bidding_s, demand))

    def _close(self, now: float, round: Round, actions: list[Action], seed: int) -> None:
        """A round is over: the best bid whose agent still has room wins; without one the subtask waits a little and is called again."""
        wanted = self._ready.wanted.get(round.key)
        if wanted is None or not wanted.calling:
            return
        dropped = Counter("refused: " + refusal.reason[:80] for refusal in round.refusals.values())
        if round.asked is not None and (silent := len(round.asked - round.bids.keys() - round.refusals.keys())):
            dropped["no answer"] = silent
        bids = []
        for peer, bid in round.bids.items():
            agent = self._book.agents.get(peer)
            if peer in wanted.demand.never:
                dropped[AVOIDED] += 1
            elif agent is None or agent.boot != bid.boot or not fits(agent, wanted.demand):
                dropped["not known"] += 1
            elif agent.free(self.share) <= 0 or agent.suspended_until > now:
                dropped["busy"] += 1
            else:
                bids.append(self._tailored(agent, wanted.demand.capability, bid))
        if bids:
            self._assign(now, wanted, bids, dropped, round.mode, actions, seed)
            return
        wanted.rounds += 1
        self._at(now + self._settings.bidding_s, "again", wanted.key)

    def _tailored(self, agent: KnownAgent, capability: str, bid: m.Bid) -> Candidate:
        return Candidate(
            agent=agent.name,
            boot=agent.boot,
            source="call",
            estimate_s=bid.estimate_s,
            queue_s=bid.queue_s,
            cost=bid.cost,
            capacity=max(1, agent.capacity),
            free=agent.free(self.share),
            busy=agent.busy,
            factor=self.reputation.factor(agent.name, capability),
            last_award=agent.last_award,
        )

    def listen_again(self, now: float) -> None:
        """Silence counts from now on: offers are listened to (again), or this process was asleep."""
        for agent in self._book.agents.values():
            agent.seen = max(agent.seen, now)
            agent.missing = {}
            self._refresh(agent, now)

    # for others

    def wants(self, key: Key) -> bool:
        """Whether it looks for an agent for this subtask."""
        return key in self._ready.wanted

    def snapshot(self, now: float) -> Snapshot:
        """All of it that a forecast needs, copied."""
        living = [agent.copy() for agent in self._book.agents.values() if agent.offer is not None and self._book.alive(agent, now)]
        return Snapshot(
            at=now,
            settings=self._settings,
            policies=self.policies,
            share=self.share,
            awards=self._award_count,
            reputation=self.reputation.copy(),
            agents=sorted(living, key=lambda agent: agent.last_award),
            waiting=[(wanted.key, wanted.demand, wanted.since) for wanted in self._ready.wanted.values()],
        )


def _recorded(scored: Scored, won: bool) -> ScoredBid:
    bid = scored.bid
    return ScoredBid(
        agent=bid.agent,
        boot=bid.boot,
        source="call" if bid.source == "call" else "offer",
        score=_finite(scored.score),
        won=won,
        reason=scored.reason,
        estimate_s=_finite(bid.estimate_s),
        queue_s=_finite(bid.queue_s),
        cost=_finite(bid.cost),
        capacity=bid.capacity,
        free=bid.free,
        factor=bid.factor,
    )


def _finite(number: float) -> float:
    """JSON has no infinity and no NaN: a record that held one could not be read."""
    return round(number, 6) if math.isfinite(number) else math.copysign(sys.float_info.max, number)
