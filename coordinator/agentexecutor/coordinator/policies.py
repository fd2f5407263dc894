"""Where a bid is scored: award policies are pure functions from bids to a ranking with reasons. A smaller score is better.

A package adds its own under the entry point group ``agentexecutor.award_policies``: a name, and a function of the same shape as these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points

from msgspec import Struct

__all__ = [
    "Candidate",
    "Context",
    "Policy",
    "Scored",
    "capacity",
    "cheapest",
    "fastest",
    "least_loaded",
    "load_policies",
    "rank",
    "round_robin",
    "two_choices",
]

GROUP = "agentexecutor.award_policies"


class Candidate(Struct, frozen=True):
    """A bid: what an agent promises (its standing offer or its answer to a call), and what is known of the agent.

    `estimate_s`, `queue_s`: seconds of work, seconds until it could start. `factor`: real over promised time so far. `busy`, `free`,
    `capacity`: subtasks at once. `last_award`: number of the last award that it got, 0 for none. `note`: something to be said with the reason.
    """

    agent: str
    boot: str
    source: str = "offer"
    estimate_s: float = 0.0
    queue_s: float = 0.0
    cost: float = 0.0
    capacity: int = 1
    free: int = 1
    busy: int = 0
    factor: float = 1.0
    last_award: int = 0
    note: str = ""


class Context(Struct, frozen=True):
    """What the award is about: `share`: size of the subtask (the seed's C_j), `seed`: an integer for what is left to chance."""

    share: int = 1
    seed: int = 0
    prefer: str | None = None
    avoid: tuple[str, ...] = ()


class Scored(Struct, frozen=True):
    """A bid as the policy judged it."""

    bid: Candidate
    score: float
    reason: str


Policy = Callable[[Sequence[Candidate], Context], list[Scored]]


def fastest(bids: Sequence[Candidate], _context: Context) -> list[Scored]:
    """Who would be done first: queue and work, the promise corrected by how such promises were kept so far."""
    return [_scored(bid, bid.queue_s + bid.estimate_s * bid.factor, _seconds(bid)) for bid in bids]


def _seconds(bid: Candidate) -> str:
    text = f"{bid.estimate_s * bid.factor:.3g} s of work"
    if bid.queue_s > 0:
        text += f" after {bid.queue_s:.3g} s of queue"
    return text if bid.factor == 1 else f"{text}, promise corrected by {bid.factor:.2f}"


def capacity(bids: Sequence[Candidate], context: Context) -> list[Scored]:
    """The seed's argmax C_i / C_j: the largest capacity over the subtask's size."""
    share = max(1, context.share)
    return [_scored(bid, -bid.capacity / share, f"capacity {bid.capacity} for a size of {share}") for bid in bids]


def round_robin(bids: Sequence[Candidate], _context: Context) -> list[Scored]:
    """Who has waited longest for an award."""
    return [
        _scored(bid, float(bid.last_award), "had no award yet" if bid.last_award == 0 else f"last had award {bid.last_award}")
        for bid in bids
    ]


def least_loaded(bids: Sequence[Candidate], _context: Context) -> list[Scored]:
    """The smallest part of its capacity in use."""
    return [_scored(bid, bid.busy / bid.capacity, f"{bid.busy} of {bid.capacity} in use") for bid in bids]


def cheapest(bids: Sequence[Candidate], _context: Context) -> list[Scored]:
    """The smallest cost."""
    return [_scored(bid, bid.cost, f"costs {bid.cost:g}") for bid in bids]


def two_choices(bids: Sequence[Candidate], context: Context) -> list[Scored]:
    """Two at random, the less loaded of them (Mitzenmacher 2001)."""
    ordered = sorted(bids, key=lambda bid: bid.agent)
    count = len(ordered)
    first = context.seed % count
    second = (first + 1 + context.seed // count % (count - 1)) % count if count > 1 else first
    drawn = {ordered[first].agent, ordered[second].agent}
    return [_scored(bid, bid.busy / bid.capacity + (0.0 if bid.agent in drawn else 1e6), _drawn(bid, bid.agent in drawn)) for bid in bids]


def _drawn(bid: Candidate, drawn: bool) -> str:
    return f"{'drawn' if drawn else 'not drawn'}, {bid.busy} of {bid.capacity} in use"


def _scored(bid: Candidate, score: float, reason: str) -> Scored:
    return Scored(bid, score, f"{reason} ({bid.note})" if bid.note else reason)


def rank(policy: Policy, bids: Sequence[Candidate], context: Context) -> list[Scored]:
    """Best first. Before the score: the preferred agent first, those to avoid last. After it: fewer in use, longer without an award, the name."""

    def order(scored: Scored) -> tuple[bool, bool, float, int, int, str]:
        bid = scored.bid
        return bid.agent != context.prefer, bid.agent in context.avoid, scored.score, bid.busy, bid.last_award, bid.agent

    return [_explained(scored, context) for scored in sorted(policy(bids, context), key=order)]


def _explained(scored: Scored, context: Context) -> Scored:
    if scored.bid.agent == context.prefer:
        return Scored(scored.bid, scored.score, f"asked for by name; {scored.reason}")
    if scored.bid.agent in context.avoid:
        return Scored(scored.bid, scored.score, f"had it before, so others go first; {scored.reason}")
    return scored


def load_policies() -> Mapping[str, Policy]:
    """All installed policies by name: those of this file and those of entry points."""
    own: dict[str, Policy] = {
        "fastest": fastest,
        "capacity": capacity,
        "round-robin": round_robin,
        "least-loaded": least_loaded,
        "cheapest": cheapest,
        "two-choices": two_choices,
    }
    return own | {entry.name: entry.load() for entry in entry_points(group=GROUP) if entry.name not in own}
