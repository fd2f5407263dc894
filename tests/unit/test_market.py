"""The market: offers and demand in, awards and calls out."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from msgspec import Raw

from agentexecutor.coordinator.inputs import Demand, Key
from agentexecutor.coordinator.market import Assign, Market, SendCall
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.names import TaskName


def offer(capability: str = "c", capacity: int = 1, boot: str = "1", **more: Any) -> m.Offer:
    estimate = more.pop("estimate_s", 0.1)
    return m.Offer(boot=boot, capabilities=[m.Capability(name=capability, estimate_s=estimate)], capacity=capacity, **more)


def key(number: int, subtask: str = "main") -> Key:
    return Key(TaskName("me", f"t{number}"), subtask)


def demand(capability: str = "c", **more: Any) -> Demand:
    fields: dict[str, Any] = {"labels": {}, "priority": 0, "policy": None, "auction": "standing", "tailored": False, "prefer": None}
    return Demand(capability=capability, **{**fields, **more})


@pytest.fixture
def market() -> Market:
    return Market(Settings())


def assigned(market: Market, now: float = 0.0, seed: int = 1) -> list[tuple[str, str]]:
    """(task, agent) of all awards that are due; each is recorded at once."""
    made = []
    for action in market.poll(now, seed):
        if isinstance(action, Assign):
            market.awarded(now, action.key, 1, action.award.agent, action.award.boot, 0.1)
            made.append((action.key.task.id, action.award.agent))
    return made


def test_a_ready_subtask_goes_to_who_offers_it(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assert assigned(market) == [("t1", "a")]
    assert assigned(market) == []


def test_what_nobody_fits_is_unserved_until_somebody_does(market: Market) -> None:
    market.want(0, key(1), demand(labels={"zone": "eu"}))
    market.offer(0, "a", offer())
    assert assigned(market) == []
    (line,) = market.survey.unserved(1.0)
    assert (line.capability, line.labels, line.subtasks, line.oldest_s, line.tasks) == ("c", {"zone": "eu"}, 1, 1.0, ["me.t1"])
    assert market.survey.looked(1.0, [key(1)]) == {"main": "parked"}
    market.offer(2.0, "b", offer(labels={"zone": "eu", "x": "y"}))
    assert assigned(market, 2.0) == [("t1", "b")]
    assert market.survey.unserved(2.0) == []


def test_capacity_bounds_awards_and_ended_ones_free_their_slot(market: Market) -> None:
    market.offer(0, "a", offer(capacity=2))
    for number in range(4):
        market.want(0, key(number), demand())
    assert len(assigned(market)) == 2
    market.ended(1, key(0), 1, "completed")
    assert len(assigned(market, 1)) == 1


def test_what_an_offer_names_and_is_not_ours_takes_a_slot(market: Market) -> None:
    market.offer(0, "a", offer(running=[m.Running(task="x.y", subtask="main", epoch=1)]))
    market.want(0, key(1), demand())
    assert assigned(market) == []
    market.offer(1, "a", offer(running=[m.Running(task="x.y", subtask="main", epoch=1, state="waiting")]))
    assert assigned(market, 1) == [("t1", "a")], "one that waits for children gives its slot back"


def test_a_share_of_the_shards_is_a_share_of_the_slots(market: Market) -> None:
    market.share = 0.25
    market.offer(0, "a", offer(capacity=10))
    for number in range(9):
        market.want(0, key(number), demand())
    assert len(assigned(market)) == 2


def test_urgent_goes_first_and_every_tenth_time_who_has_waited_longest(market: Market) -> None:
    for number in range(3):
        market.want(number, key(number), demand(priority=-number))
    for number in range(3, 40):
        market.want(number, key(number), demand(priority=number))
    market.offer(50, "a", offer(capacity=40))
    order = [int(task[1:]) for task, _ in assigned(market, 50)]
    assert [order[9], order[19], order[29]] == [0, 1, 2], "who has waited longest"
    assert [number for number in order if number > 2] == list(range(39, 2, -1)), "by priority"


def test_among_equals_who_waits_longer_goes_first(market: Market) -> None:
    for now, number in enumerate((3, 1, 2)):
        market.want(now, key(number), demand(priority=7))
    market.offer(9, "a", offer(capacity=3))
    assert [task for task, _ in assigned(market, 9)] == ["t3", "t1", "t2"]


def test_wanting_again_keeps_the_place(market: Market) -> None:
    market.want(0, key(1), demand())
    market.want(1, key(2), demand())
    market.want(2, key(1), demand())
    market.offer(3, "a", offer(capacity=2))
    assert [task for task, _ in assigned(market, 3)] == ["t1", "t2"]


def test_what_is_dropped_or_forgotten_is_not_given(market: Market) -> None:
    market.want(0, key(1), demand())
    market.want(0, key(2), demand())
    market.drop(key(1))
    market.forget(TaskName("me", "t2"))
    market.offer(0, "a", offer())
    assert assigned(market) == []
    assert market.survey.unserved(0) == []


def test_forgetting_a_task_frees_what_it_held(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market)
    market.want(0, key(2), demand())
    market.forget(TaskName("me", "t1"))
    assert assigned(market) == [("t2", "a")]


def test_not_before(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand(), not_before=2.0)
    assert assigned(market, 1) == []
    assert market.next_due(1) == 2.0
    assert assigned(market, 2) == [("t1", "a")]


def test_who_does_not_accept_is_suspended_longer_and_longer(market: Market) -> None:
    market.offer(0, "a", offer())
    now = 0.0
    for pause in (1.0, 2.0, 4.0):
        market.want(now, key(1), demand())
        assert assigned(market, now) == [("t1", "a")]
        market.ended(now, key(1), 1, "accept-timeout")
        market.want(now, key(1), demand())
        assert assigned(market, now + pause - 0.1) == []
        now += pause
        market.offer(now, "a", offer())
        assert assigned(market, now) == [("t1", "a")]
        market.ended(now, key(1), 1, "released")
    market.want(now, key(1), demand())
    assigned(market, now)
    market.awards.accepted(now, key(1), 1)
    market.ended(now, key(1), 1, "declined")
    market.want(now, key(2), demand())
    assert assigned(market, now + 1.0) == [("t2", "a")], "an accept forgives"


def test_an_agent_that_is_lost_while_it_seems_to_live_gets_nothing_until_it_is_dead(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assert assigned(market, 0) == [("t1", "a")]
    market.awarded(0, key(1), 1, "a", "b1", None)
    assert not market.awards.is_silent(1.4, key(1))
    assert market.awards.is_silent(1.9, key(1))
    assert market.awards.suspects(1.9) == [], "its accept is not overdue"
    assert [suspect.reason for suspect in market.awards.suspects(2.0)] == ["it neither accepted nor was heard again"]
    market.ended(2.0, key(1), 1, "lost")
    market.want(2.0, key(1), demand())
    assert assigned(market, 3.9) == []
    assert assigned(market, 4.1) == []
    market.offer(4.2, "a", offer())
    assert assigned(market, 4.2) == [("t1", "a")], "it was heard again"


def test_who_names_an_award_has_it_though_its_accept_has_not_come(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market, 0)
    market.awarded(0, key(1), 7, "a", "b1", None)
    assert not market.awards.says_it_has_it(2.0, key(1))
    for epoch, named in ((6, False), (7, True)):
        market.offer(2.1, "a", offer(running=[m.Running(task=str(key(1).task), subtask=key(1).subtask, epoch=epoch)]))
        assert market.awards.says_it_has_it(2.1, key(1)) == named
    assert not market.awards.says_it_has_it(40.0, key(1)), "it may not take for ever"


def test_what_an_agent_is_heard_to_run_counts_though_the_stream_of_offers_takes_nothing(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market, 0)
    market.awarded(0, key(1), 7, "a", "1", None)
    running = Raw(encode([m.Running(task=str(key(1).task), subtask=key(1).subtask, epoch=7)]))
    for heard, named in ((Raw(b"null"), False), (Raw(b"[7]"), False), (running, True)):
        market.said(1.0, "a", "1", heard)
        assert market.awards.says_it_has_it(2.0, key(1)) == named


def test_an_award_to_an_older_life_is_silent(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market, 0)
    market.offer(0.5, "a", offer(boot="b2"))
    assert market.awards.is_silent(0.6, key(1))
    assert not market.awards.is_silent(0.6, key(2)), "nobody has it"


def test_only_the_life_that_holds_an_award_keeps_it_alive(market: Market) -> None:
    """A new life whose clock was set back seems older: it must not speak for the one that is gone."""
    market.offer(0, "a", offer(boot="b2"))
    market.want(0, key(1), demand())
    assigned(market, 0)
    market.awarded(0, key(1), 1, "a", "b2", None)
    market.awards.accepted(0.1, key(1), 1)
    market.said(4.0, "a", "b2")
    market.said(7.0, "a", "b1")
    assert market.awards.suspects(7.9) == []
    assert len(market.awards.suspects(8.1)) == 1


def test_an_agent_that_takes_nothing_new_gets_nothing(market: Market) -> None:
    market.offer(0, "a", offer(accepting=False))
    market.want(0, key(1), demand())
    assert assigned(market) == []


def test_an_award_explains_itself(market: Market) -> None:
    for number in range(12):
        market.offer(0, f"a{number:02}", offer(estimate_s=1.0 + number))
    market.offer(0, "busy", offer(running=[m.Running(task="x.y", subtask="main", epoch=1)]))
    market.offer(0, "other", offer(labels={}, accepting=False))
    market.want(0, key(1), demand())
    (action,) = market.poll(0, 1)
    assert isinstance(action, Assign)
    award = action.award
    assert [bid.agent for bid in award.bids] == [f"a{number:02}" for number in range(8)]
    assert [bid.won for bid in award.bids] == [True] + [False] * 7
    assert award.considered == 12
    assert award.dropped == {"busy": 1, "not accepting": 1}
    assert "1 s of work" in award.bids[0].reason


def test_kept_and_broken_promises_are_remembered(market: Market) -> None:
    market.offer(0, "a", offer(estimate_s=1.0))
    market.offer(0, "b", offer(estimate_s=2.0))
    for number in range(12):
        market.want(0, key(number), demand())
        for action in market.poll(0, 1):
            if isinstance(action, Assign):
                market.awarded(0, action.key, 1, action.award.agent, action.award.boot, action.award.bids[0].estimate_s)
                market.ended(0, action.key, 1, "completed", took_s=10.0 if action.award.agent == "a" else 2.0)
                last = action.award
    assert last.agent == "b"
    assert next(bid for bid in last.bids if bid.agent == "a").factor > 2


def test_a_policy_of_others_that_fails_is_replaced(market: Market) -> None:
    def broken(bids: Any, context: Any) -> Any:
        raise KeyError("gpu")

    market = Market(Settings(), {"broken": broken, "nobody": lambda bids, context: []})
    market.offer(0, "a", offer(capacity=2))
    for number, policy in enumerate(("broken", "nobody")):
        market.want(0, key(number), demand(policy=policy))
    awards = [action.award for action in market.poll(0, 1) if isinstance(action, Assign)]
    assert [(award.agent, award.policy) for award in awards] == [("a", "fastest"), ("a", "fastest")]
    assert awards[0].bids[0].reason.endswith("(policy 'broken' failed: KeyError: 'gpu')")
    assert awards[1].bids[0].reason.endswith("(policy 'nobody' failed: it ranked nobody)")


def test_scores_without_a_json_form_are_bounded(market: Market) -> None:
    market.offer(0, "a", offer(estimate_s=1.7e308, queue_s=1.7e308))
    market.want(0, key(1), demand())
    (action,) = market.poll(0, 1)
    assert isinstance(action, Assign)
    assert action.award.bids[0].score == sys.float_info.max


def test_a_call_carries_the_input_when_an_agent_bids_for_it(market: Market) -> None:
    market.offer(0, "a", m.Offer(boot="1", capabilities=[m.Capability(name="c", tailored=True)]))
    market.offer(0, "b", offer("d"))
    market.want(0, key(1), demand(auction="broadcast"))
    market.want(0, key(2), demand("d", auction="broadcast"))
    calls = [action for action in market.poll(0, 1) if isinstance(action, SendCall)]
    assert {call.demand.capability: call.demand.tailored for call in calls} == {"c": True, "d": False}


def test_a_call_asks_the_fitting_ones_and_the_best_bid_wins(market: Market) -> None:
    market.offer(0, "a", offer())
    market.offer(0, "b", offer())
    market.want(0, key(1), demand(auction="call"))
    (call,) = market.poll(0, 1)
    assert isinstance(call, SendCall)
    assert call.peers == [("a", "1"), ("b", "1")]
    assert market.survey.looked(0, [key(1)]) == {"main": "calling"}
    market.bid(0.01, "a", m.Bid(subtask="main", call=call.call, boot="1", estimate_s=3.0))
    assert market.poll(0.02, 1) == []
    market.bid(0.02, "b", m.Bid(subtask="main", call=call.call, boot="1", estimate_s=1.0))
    (action,) = market.poll(0.02, 1)
    assert isinstance(action, Assign)
    assert (action.award.agent, action.award.auction) == ("b", "call")
    assert [bid.source for bid in action.award.bids] == ["call", "call"]


def test_a_call_closes_at_its_time_with_the_bids_that_came(market: Market) -> None:
    market.offer(0, "a", offer())
    market.offer(0, "b", offer())
    market.want(0, key(1), demand(auction="call"))
    (call,) = market.poll(0, 1)
    assert isinstance(call, SendCall)
    market.refusal(0.01, "a", m.Refusal(subtask="main", call=call.call, boot="1", reason="no thanks"))
    assert market.poll(0.1, 1) == []
    assert market.next_due(0.1) == pytest.approx(0.2)
    assert market.poll(0.2, 1) == []
    assert market.survey.looked(0.2, [key(1)]) == {"main": "calling"}
    (again,) = market.poll(0.5, 1)
    assert isinstance(again, SendCall)
    market.bid(0.5, "b", m.Bid(subtask="main", call=again.call, boot="1", estimate_s=1.0))
    (action,) = market.poll(0.8, 1)
    assert isinstance(action, Assign)
    assert action.award.dropped["no answer"] == 1


def test_calls_that_bring_no_bids_end_in_the_standing_offers(market: Market) -> None:
    market.offer(0, "mute", offer())
    market.want(0, key(1), demand(auction="call"))
    seen = []
    for step in range(1, 40):
        seen += market.poll(step * 0.1, 1)
        market.offer(step * 0.1, "mute", offer())
    assert [type(action).__name__ for action in seen] == ["SendCall"] * 3 + ["Assign"]


def test_broadcast_names_nobody(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand(auction="broadcast"))
    (call,) = market.poll(0, 1)
    assert isinstance(call, SendCall)
    assert call.peers is None
    market.bid(0.01, "a", m.Bid(subtask="main", call=call.call, boot="1", estimate_s=1.0))
    assert market.poll(0.1, 1) == []
    assert [type(action).__name__ for action in market.poll(0.2, 1)] == ["Assign"]


@pytest.mark.parametrize(
    ("estimate", "agents", "tailored", "expected"),
    [(0.1, 2, False, "Assign"), (5.0, 2, False, "SendCall"), (5.0, 1, False, "Assign"), (0.1, 2, True, "SendCall")],
)
def test_auto_calls_when_it_is_worth_it(market: Market, estimate: float, agents: int, tailored: bool, expected: str) -> None:
    for number in range(agents):
        market.offer(0, f"a{number}", offer(estimate_s=estimate))
    market.want(0, key(1), demand(auction=None, tailored=tailored))
    assert [type(action).__name__ for action in market.poll(0, 1)] == [expected]


def test_many_fitting_agents_are_asked_in_part(market: Market) -> None:
    for number in range(100):
        market.offer(0, f"a{number}", offer())
    market.want(0, key(1), demand(auction="call"))
    (call,) = market.poll(0, 12345)
    assert isinstance(call, SendCall)
    assert call.peers is not None
    assert len(set(call.peers)) == 8


def test_silence_makes_a_suspect(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market)
    market.awards.accepted(0.1, key(1), 1)
    assert market.awards.suspects(3.9) == []
    (suspect,) = market.awards.suspects(4.1)
    assert (suspect.key, suspect.epoch, suspect.agent) == (key(1), 1, "a")
    market.listen_again(4.1)
    assert market.awards.suspects(8.0) == []
    assert len(market.awards.suspects(8.2)) == 1
    market.ended(8.2, key(1), 1, "lost")
    assert market.awards.suspects(8.3) == []


def test_who_has_missed_a_beat_is_given_nothing_before_it_is_heard_again(market: Market) -> None:
    market.offer(0, "a", offer(boot="1"))
    market.want(1.4, key(1), demand())
    assert [action.award.agent for action in market.poll(1.4, 0) if isinstance(action, Assign)] == ["a"]
    market.ended(1.5, key(1), 0, "released")
    market.awards.suspects(1.6)
    market.want(1.6, key(2), demand())
    assert market.poll(1.6, 0) == []
    assert market.survey.unserved(1.6) == [], "it waits, as for one that is busy"
    market.said(2.0, "a", "1")
    assert [action.award.agent for action in market.poll(2.0, 0) if isinstance(action, Assign)] == ["a"]


def test_when_nobody_was_listened_to_nobody_has_missed_a_beat(market: Market) -> None:
    market.offer(0, "a", offer())
    market.awards.suspects(1.6)
    market.want(1.6, key(1), demand())
    assert market.poll(1.6, 0) == []
    market.listen_again(1.7)
    assert [action.award.agent for action in market.poll(1.7, 0) if isinstance(action, Assign)] == ["a"]


def test_an_accepted_award_that_newer_offers_do_not_name_makes_a_suspect(market: Market) -> None:
    market.offer(0, "a", offer())
    market.want(0, key(1), demand())
    assigned(market)
    market.awards.accepted(0.1, key(1), 1)
    market.offer(0.5, "a", offer())
    assert market.awards.suspects(0.5) == [], "the offer may be older than the accept"
    market.offer(1.5, "a", offer())
    assert [suspect.key for suspect in market.awards.suspects(1.5)] == [key(1)]
    market.offer(2.0, "a", offer(running=[m.Running(task="me.t1", subtask="main", epoch=1)]))
    assert market.awards.suspects(2.0) == []


def test_a_newer_boot_makes_suspects_of_the_older_ones_awards(market: Market) -> None:
    market.offer(0, "a", offer(boot="1"))
    market.want(0, key(1), demand())
    assigned(market)
    market.offer(0.5, "a", offer(boot="2"))
    (suspect,) = market.awards.suspects(0.5)
    assert suspect.boot == "1"
    market.offer(0.6, "a", offer(boot="1"))
    market.want(0.6, key(2), demand())
    (action,) = market.poll(0.6, 1)
    assert isinstance(action, Assign)
    assert action.award.boot == "2", "the older boot's offers are ignored"


def test_entries_without_an_award_of_ours_are_told(market: Market) -> None:
    market.offer(0, "a", offer(capacity=3))
    market.want(0, key(1), demand())
    assigned(market)
    good = m.Running(task="me.t1", subtask="main", epoch=1)
    old = m.Running(task="me.t9", subtask="main", epoch=4)
    market.offer(1, "a", offer(capacity=3, running=[good, old]))
    assert market.awards.stale_running(1, "a") == [old]


def test_an_award_known_from_the_log_occupies_its_holder(market: Market) -> None:
    market.awarded(0, key(1), 4, "a", "1", None)
    market.offer(0, "a", offer())
    market.want(0, key(2), demand())
    assert assigned(market) == []


def test_a_preferred_agent_is_found_among_many(market: Market) -> None:
    for number in range(80):
        market.offer(0, f"a{number:02}", offer())
    market.want(0, key(1), demand(prefer="a77"))
    assert assigned(market) == [("t1", "a77")]


def test_an_agent_to_be_avoided_never_gets_it_however_it_is_asked(market: Market) -> None:
    market.offer(0, "bad", offer(capacity=9, estimate_s=0.01))
    market.want(0, key(1), demand(never=("bad",), prefer="bad"))
    market.want(0, key(2), demand(never=("bad",), auction="call"))
    assert market.poll(0, 1)[1:] == [], "one call at most, to nobody"
    (line,) = market.survey.unserved(0)
    assert line.reason == "none of the 1 agents that offer it fits: to be avoided (1)"
    assert market.survey.capacities(0, demand(never=("bad",))) == []
    market.want(0, key(3), demand())
    assert assigned(market) == [("t3", "bad")], "what others may not give it does not stand in the way"
    market.offer(1, "good", offer(estimate_s=9.0))
    awards = [action.award for action in market.poll(1, 1) if isinstance(action, Assign)]
    assert [(award.agent, award.considered, award.dropped) for award in awards] == [("good", 1, {"to be avoided": 1})]


def test_a_bid_of_an_agent_to_be_avoided_does_not_count(market: Market) -> None:
    market.offer(0, "bad", offer())
    market.offer(0, "good", offer())
    market.want(0, key(1), demand(never=("bad",), auction="broadcast"))
    (call,) = market.poll(0, 1)
    assert isinstance(call, SendCall)
    for peer, estimate in (("bad", 0.1), ("good", 5.0)):
        market.bid(0.01, peer, m.Bid(subtask="main", call=call.call, boot="1", estimate_s=estimate))
    (action,) = market.poll(0.2, 1)
    assert isinstance(action, Assign)
    assert (action.award.agent, action.award.dropped) == ("good", {"to be avoided": 1})


def test_agents_and_capacities_are_shown_by_name(market: Market) -> None:
    market.offer(0, "b", offer(capacity=10))
    market.offer(0, "a", offer(capacity=5))
    market.offer(0, "z", offer("other"))
    assert market.survey.capacities(0, demand()) == [("a", 5), ("b", 10)]
    assert [view.name for view in market.survey.agents(1)] == ["a", "b", "z"]
    assert market.survey.agents(60) == []


def test_a_hundred_thousand_can_wait(market: Market) -> None:
    for number in range(100_000):
        market.want(0, key(number), demand())
    market.offer(0, "a", offer(capacity=5))
    assert [task for task, _ in assigned(market)] == ["t0", "t1", "t2", "t3", "t4"]
    market.forget(TaskName("me", "t50000"))
    assert market.survey.unserved(0) == []


def test_what_was_offered_a_moment_ago_is_known_still(market: Market) -> None:
    """A planner may name a capability whose only agent is being started anew."""
    market.offer(0, "a", offer())
    assert [line.name for line in market.survey.on_offer(3)] == ["c"]
    assert market.survey.on_offer(6) == []
    assert [(line.name, line.agents) for line in market.survey.on_offer(6, silent=True)] == [("c", 1)]
    market.awards.suspects(20)
    assert market.survey.on_offer(20, silent=True) == []
