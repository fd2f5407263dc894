"""The cheapest set of steps that gives what is wanted, when steps need what other steps give. Pure, and the same for the same input.

A graph of and (all that a step needs) and or (any of those that give it). D. E. Knuth, *A generalization of Dijkstra's algorithm*,
Information Processing Letters 6 (1977), finds a way in one sweep, or that there is none. Its cost counts a step once for each that needs it, and what
is least by that count may not be so when shared steps count once, as they do here. So a search by branch and bound tries to improve on it. The problem is
that of planning without deletion (T. Bylander, 1994), which is hard in general: so the search has a limit, which only unusual graphs reach.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["EFFORT", "Need", "Step", "Way", "cheapest", "reachable"]

EFFORT = 500_000
"""So many givers are looked at before the search is content with what it has: about half a second on a small machine."""

Need = Sequence[int]
"""The steps, by their place, of which any will do."""


@dataclass(frozen=True)
class Step:
    """Something that can be done. `name` breaks ties."""

    name: str
    cost: float
    needs: Sequence[Need] = ()


@dataclass(frozen=True)
class Way:
    """A solution: `uses` are the steps in an order in which they can be done, with whom each takes its needs from; `wanted`: who gives what is wanted."""

    cost: float
    uses: dict[int, list[int]]
    wanted: list[int]


def cheapest(steps: Sequence[Step], wanted: Sequence[Need], effort: int = EFFORT) -> Way | None:
    """The way of least cost, then of fewest steps, then of the first names; None when there is none."""
    everything = range(len(steps))
    way = _sweep(steps, wanted, everything)
    return None if way is None else _improved(steps, wanted, way, effort)


def reachable(steps: Sequence[Step], within: Collection[int] | None = None) -> list[int]:
    """The steps that can be done with only those `within` (None: all), in the order of their cost."""
    return list(_settle(steps, range(len(steps)) if within is None else within))


def _settle(steps: Sequence[Step], within: Collection[int]) -> dict[int, list[int]]:
    """Knuth's algorithm: every step that can be done, in the order of its cost, with the cheapest for each of its needs."""
    asking: dict[int, list[tuple[int, int]]] = {}
    for place in within:
        for number, need in enumerate(steps[place].needs):
            for giver in need:
                asking.setdefault(giver, []).append((place, number))
    taken: dict[int, list[int]] = {place: [-1] * len(steps[place].needs) for place in within}
    open_needs = {place: len(steps[place].needs) for place in within}
    totals = {place: steps[place].cost for place in within}
    heap = [(totals[place], steps[place].name, place) for place in within if not open_needs[place]]
    heapq.heapify(heap)
    settled: dict[int, list[int]] = {}
    while heap:
        total, _, giver = heapq.heappop(heap)
        settled[giver] = taken[giver]
        for place, number in asking.get(giver, ()):
            if taken[place][number] < 0:
                taken[place][number] = giver
                totals[place] += total
                open_needs[place] -= 1
                if not open_needs[place]:
                    heapq.heappush(heap, (totals[place], steps[place].name, place))
    return settled


def _sweep(steps: Sequence[Step], wanted: Sequence[Need], within: Collection[int]) -> Way | None:
    """The way that Knuth's algorithm finds with only the steps `within`."""
    settled = _settle(steps, within)
    givers: list[int] = []
    for need in wanted:
        giver = next((place for place in settled if place in need), None)
        if giver is None:
            return None
        givers.append(giver)
    used: set[int] = set()
    rest = [*givers]
    while rest:
        place = rest.pop()
        if place not in used:
            used.add(place)
            rest += settled[place]
    uses = {place: givers for place, givers in settled.items() if place in used}
    return Way(_sum(steps, uses), uses, givers)


def _improved(steps: Sequence[Step], wanted: Sequence[Need], best: Way, effort: int) -> Way:
    """Branch and bound over sets of steps: a set grows by those that give the need with the fewest givers."""
    can_be_done = frozenset(reachable(steps))
    stack: list[frozenset[int]] = [frozenset()]
    seen = {stack[0]}
    while stack and effort > 0:
        chosen = stack.pop()
        needs = [*wanted, *(need for place in sorted(chosen) for need in steps[place].needs)]
        open_needs = [need for need in needs if not any(giver in chosen for giver in need)]
        if open_needs:
            more = min(([giver for giver in need if giver in can_be_done] for need in open_needs), key=len)
        else:
            way = _sweep(steps, wanted, sorted(chosen))
            effort -= len(needs)
            if way is not None:
                best = min(best, way, key=lambda way: _rank(steps, way))
                continue
            done = set(reachable(steps, sorted(chosen)))  # the chosen need each other in a circle, from which any need may lead out
            more = [giver for need in needs if not any(giver in done for giver in need) for giver in need if giver in can_be_done]
        effort -= len(needs) * (1 + len(more))
        for giver in sorted(set(more) - chosen, key=lambda place: (steps[place].cost, steps[place].name, place), reverse=True):
            larger = chosen | {giver}
            rest = [need for need in open_needs if giver not in need]
            if larger not in seen and _sum(steps, larger) + _least(steps, rest) <= best.cost:
                seen.add(larger)
                stack.append(larger)
    return best


def _least(steps: Sequence[Step], needs: Sequence[Need]) -> float:
    """What these needs cost at least: those of them that share no giver need a step each."""
    total = 0.0
    counted: set[int] = set()
    for need in needs:
        if counted.isdisjoint(need):
            counted.update(need)
            total += min(steps[giver].cost for giver in need)
    return round(total, 9)


def _sum(steps: Sequence[Step], places: Collection[int]) -> float:
    return round(math.fsum(steps[place].cost for place in places), 9)


def _rank(steps: Sequence[Step], way: Way) -> tuple[float, int, list[str]]:
    return way.cost, len(way.uses), sorted(steps[place].name for place in way.uses)
