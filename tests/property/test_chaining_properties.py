"""Plans that are made by chaining can run, supply what is required, and cost no more than the best of all there are; where none is made there is none."""

from __future__ import annotations

import json
from itertools import chain, combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentexecutor.coordinator.briefing import Briefing
from agentexecutor.coordinator.chaining import next_plan
from agentexecutor.coordinator.cheapest import Step, cheapest
from agentexecutor.coordinator.errors import Unplannable
from agentexecutor.coordinator.sources import cost_of
from agentexecutor.schemas.messages import PlanSpec
from agentexecutor.schemas.plans import check_plan
from agentexecutor.schemas.references import find_references

# the search


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Step], list[list[int]]]:
    count = draw(st.integers(1, 7))
    needs = st.lists(st.lists(st.integers(0, count - 1), max_size=3), max_size=3)
    costs = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 1.5])
    steps = [Step(f"s{place}", draw(costs), draw(needs)) for place in range(count)]
    return steps, draw(st.lists(st.lists(st.integers(0, count - 1), min_size=1, max_size=3), min_size=1, max_size=3))


def can_be_done(steps: list[Step], places: tuple[int, ...]) -> set[int]:
    done: set[int] = set()
    for _ in places:
        done |= {place for place in places if all(done.intersection(need) for need in steps[place].needs)}
    return done


def brute_force(steps: list[Step], wanted: list[list[int]]) -> float | None:
    subsets = chain.from_iterable(combinations(range(len(steps)), size) for size in range(len(steps) + 1))
    good = [places for places in subsets if all(can_be_done(steps, places).intersection(need) for need in wanted)]
    return min((sum(steps[place].cost for place in places) for places in good), default=None)


@given(graphs())
def test_a_way_is_the_cheapest_of_all_and_its_steps_come_in_order(graph: tuple[list[Step], list[list[int]]]) -> None:
    steps, wanted = graph
    way, least = cheapest(steps, wanted), brute_force(steps, wanted)
    if way is None:
        assert least is None
        return
    assert way.cost == pytest.approx(least)
    assert way.cost == pytest.approx(sum(steps[place].cost for place in way.uses))
    done: list[int] = []
    for place, givers in way.uses.items():
        assert [giver in need for giver, need in zip(givers, steps[place].needs, strict=True)] == [True] * len(givers)
        assert set(givers) <= set(done)
        done.append(place)
    assert [giver in need and giver in done for giver, need in zip(way.wanted, wanted, strict=True)] == [True] * len(wanted)


@given(graphs(), st.integers(0, 3))
def test_without_effort_there_is_still_a_way(graph: tuple[list[Step], list[list[int]]], effort: int) -> None:
    steps, wanted = graph
    best, quick = cheapest(steps, wanted), cheapest(steps, wanted, effort)
    assert (best is None) == (quick is None)
    assert best is None or quick is None or best.cost <= quick.cost


def test_a_long_chain_and_a_wide_choice_are_searched() -> None:
    long = [Step(f"s{place:04}", 1.0, [[place - 1]] if place else []) for place in range(2000)]
    way = cheapest(long, [[1999]])
    assert way is not None
    assert way.cost == 2000.0
    wide = [Step(f"s{place:02}", 1.0 + place / 100) for place in range(60)]
    way = cheapest(wide, [list(range(place, place + 20)) for place in range(0, 40, 2)])
    assert way is not None
    assert sorted(way.uses) == [18, 38], "two of them serve all twenty needs"


# the planner

NAMES = ["a", "b", "c", "d", "e"]
KINDS = st.sampled_from(["string", "number", "integer", None])
VALUES = {"string": "text", "number": 1.5, "integer": 1}


def schema(kinds: dict[str, str | None]) -> dict[str, Any]:
    properties = {name: {} if kind is None else {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(kinds)}


def objects(size: int) -> st.SearchStrategy[dict[str, str | None]]:
    return st.dictionaries(st.sampled_from(NAMES), KINDS, max_size=size)


OFFERS = st.lists(
    st.builds(
        lambda takes, gives, estimate_s, cost: {"takes": takes, "gives": gives, "estimate_s": estimate_s, "cost": cost},
        objects(2),
        objects(2),
        st.sampled_from([None, 0.0, 0.5, 1.0, 3.0]),
        st.sampled_from([0.0, 0.5]),
    ),
    max_size=6,
)
GIVEN = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["string", "number", "integer"]), max_size=2)


def fits(kind: str | None, wanted: str | None) -> bool:
    return kind is None or wanted is None or kind == wanted or (kind, wanted) == ("integer", "number")


def as_graph(offers: list[dict[str, Any]], given: dict[str, str], goals: list[str]) -> tuple[list[Step], list[list[int]]]:
    """The same question, put together in another way."""
    needs = [
        [
            [place for place, other in enumerate(offers) if name in other["gives"] and fits(other["gives"][name], kind)]
            for name, kind in offer["takes"].items()
            if not (name in given and fits(given[name], kind))
        ]
        for offer in offers
    ]
    steps = [
        Step(f"cap-{place}", max(0.001, (1.0 if offer["estimate_s"] is None else offer["estimate_s"]) + offer["cost"]), needs[place])
        for place, offer in enumerate(offers)
    ]
    return steps, [[place for place, offer in enumerate(offers) if goal in offer["gives"]] for goal in goals]


@given(OFFERS, GIVEN, st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
def test_a_plan_can_run_is_complete_and_the_cheapest(offers: list[dict[str, Any]], given: dict[str, str], goals: list[str]) -> None:
    lines = [
        {**offer, "name": f"cap-{place}", "agents": 1, "free": 1, "takes": schema(offer["takes"]), "gives": schema(offer["gives"])}
        for place, offer in enumerate(offers)
    ]
    least = brute_force(*as_graph(offers, given, goals))
    told = msgspec.json.decode(
        json.dumps({
            "goal": ", ".join(goals), "input": {name: VALUES[kind] for name, kind in given.items()}, "why": [], "errors": [], "version": 1,
            "plan": {"subtasks": {}, "result": None}, "feedback": [], "offers": lines, "spent": {}, "left": {}, "deadline": None,
        }),
        type=Briefing,
    )  # fmt: skip
    try:
        revision = next_plan(told)
    except Unplannable:
        assert least is None
        return
    assert next_plan(told) == revision
    assert sum(cost_of(offer) for spec in revision.add.values() for offer in told.offers if offer.name == spec.capability) == pytest.approx(
        least
    )
    check_plan(PlanSpec(subtasks=revision.add, result=revision.result))
    by_name = {line["name"]: offer for line, offer in zip(lines, offers, strict=True)}
    for spec in revision.add.values():
        takes, input = by_name[spec.capability]["takes"], json.loads(bytes(spec.input))
        assert set(input) == set(takes)
        for found in find_references(spec.input):
            (name,) = found.path
            assert found.at == (name,)
            assert fits(by_name[revision.add[found.subtask].capability]["gives"][name], takes[name])
            del input[name]
        assert all(input[name] == VALUES[given[name]] and fits(given[name], takes[name]) for name in input)
    for goal in goals:
        assert any(goal in by_name[spec.capability]["gives"] for spec in revision.add.values())
