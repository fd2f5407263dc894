"""Where a bid is scored: each policy, and the rules that stand above the score."""

from __future__ import annotations

import pytest

from agentexecutor.coordinator.policies import Candidate, Context, load_policies, rank

POLICIES = load_policies()


def winner(policy: str, *bids: Candidate, **context: object) -> str:
    return rank(POLICIES[policy], bids, Context(**context))[0].bid.agent  # type: ignore[arg-type]  # fields of Context


def test_the_six_policies_are_installed() -> None:
    assert set(POLICIES) >= {"fastest", "capacity", "round-robin", "least-loaded", "cheapest", "two-choices"}


def test_fastest_counts_queue_and_work() -> None:
    assert winner("fastest", Candidate("a", "1", estimate_s=2, queue_s=1), Candidate("b", "1", estimate_s=2.5)) == "b"


def test_fastest_corrects_promises_by_how_they_were_kept() -> None:
    boaster = Candidate("a", "1", estimate_s=1, factor=3.0)
    honest = Candidate("b", "1", estimate_s=2)
    ranking = rank(POLICIES["fastest"], [boaster, honest], Context())
    assert [scored.bid.agent for scored in ranking] == ["b", "a"]
    assert "corrected by 3.00" in ranking[1].reason


def test_capacity_is_the_seeds_argmax() -> None:
    assert winner("capacity", Candidate("A1", "1", capacity=5), Candidate("A2", "1", capacity=10), share=3) == "A2"


def test_round_robin_takes_who_waited_longest() -> None:
    assert winner("round-robin", Candidate("a", "1", last_award=7), Candidate("b", "1", last_award=3)) == "b"
    assert winner("round-robin", Candidate("a", "1", last_award=7), Candidate("b", "1", last_award=0)) == "b"


def test_least_loaded_compares_parts_of_the_capacity() -> None:
    assert winner("least-loaded", Candidate("a", "1", capacity=2, busy=1), Candidate("b", "1", capacity=10, busy=3)) == "b"


def test_cheapest_looks_at_cost_alone() -> None:
    assert winner("cheapest", Candidate("a", "1", cost=2, estimate_s=0.1), Candidate("b", "1", cost=1, estimate_s=9)) == "b"


@pytest.mark.parametrize("seed", range(12))
def test_two_choices_takes_the_less_loaded_of_two_that_the_seed_draws(seed: int) -> None:
    bids = [Candidate(name, "1", capacity=10, busy=busy) for name, busy in (("a", 1), ("b", 5), ("c", 9))]
    ranking = rank(POLICIES["two-choices"], bids, Context(seed=seed))
    drawn = [scored.bid for scored in ranking if scored.reason.startswith("drawn")]
    assert len(drawn) == 2
    assert ranking[0].bid is min(drawn, key=lambda bid: bid.busy)


def test_two_choices_with_one_bid() -> None:
    assert winner("two-choices", Candidate("a", "1"), seed=5) == "a"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_preferred_agent_goes_first_and_those_to_avoid_last(policy: str) -> None:
    bids = [
        Candidate("a", "1", estimate_s=1, capacity=9),
        Candidate("b", "1", estimate_s=5, cost=5, last_award=4, busy=1),
        Candidate("c", "1", estimate_s=2, cost=3, busy=1, last_award=2),
    ]
    ranking = rank(POLICIES[policy], bids, Context(prefer="b", avoid=("a",)))
    assert [scored.bid.agent for scored in ranking] == ["b", "c", "a"]
    assert ranking[0].reason.startswith("asked for by name")
    assert ranking[2].reason.startswith("had it before")


def test_a_lone_agent_gets_it_again() -> None:
    assert winner("fastest", Candidate("a", "1"), avoid=("a",)) == "a"


def test_ties_break_by_load_then_by_who_waited_longest_then_by_name() -> None:
    assert winner("fastest", Candidate("a", "1", last_award=2), Candidate("b", "1", last_award=1)) == "b"
    assert winner("fastest", Candidate("b", "1", estimate_s=1), Candidate("a", "1", estimate_s=1)) == "a"
    assert winner("fastest", Candidate("b", "1", estimate_s=1), Candidate("a", "1", estimate_s=1, busy=1)) == "b"
