"""Leases as one process sees them."""

from __future__ import annotations

from agentexecutor.coordinator.leases import Beat, Confirm, GiveUp, Leases, Renew, Take
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m


def start(shards: int = 4) -> Leases:
    leases = Leases("me", "1", shards, Settings())
    assert leases.due(0.0, 0) == [Beat()], "it holds nothing before its own beat has told it the server's time"
    leases.member_seen(0.0, "me", m.Member(boot="1"))
    for action in leases.due(0.0, 0):
        if isinstance(action, Confirm):
            leases.confirmed(0.0, action.shard, None, None)
    return leases


def taken(leases: Leases, now: float, seq: int = 1) -> list[int]:
    """Confirm what is unknown, take what is free; give the shards taken."""
    won = []
    for _ in range(3):
        for action in leases.due(now, 0):
            if isinstance(action, Confirm):
                leases.confirmed(now, action.shard, None, None)
            elif isinstance(action, Take):
                leases.won(now, action.shard, seq)
                won.append(action.shard)
    return won


def test_a_lone_process_takes_everything() -> None:
    leases = start()
    assert sorted(taken(leases, 0.2)) == [0, 1, 2, 3]
    assert leases.held(0.2) == [0, 1, 2, 3]


def test_a_lease_is_renewed_with_its_own_sequence_as_the_fence() -> None:
    leases = start(1)
    taken(leases, 0.2, seq=7)
    assert [action for action in leases.due(0.6, 0) if isinstance(action, Renew)] == []
    assert [action for action in leases.due(0.7, 0) if isinstance(action, Renew)] == [Renew(0, 7)]
    assert [action for action in leases.due(0.71, 0) if isinstance(action, Renew)] == [], "told once"


def test_a_renewal_that_another_one_of_ours_overtook_is_no_loss() -> None:
    """The answer took longer than half a second, so a second renewal was sent with the same fence: the first is stored, the second refused."""
    leases = start(1)
    taken(leases, 0.2, seq=7)
    for now in (0.7, 1.2):
        assert Renew(0, 7) in leases.due(now, 0)
    leases.won(0.7, 0, 8)
    leases.lost(1.4, 0, 7)
    assert leases.holds(1.4, 0)
    leases.lost(1.4, 0, 8)
    assert not leases.holds(1.4, 0), "refused with the newest fence: another has it"


def test_a_holder_is_out_when_its_last_good_renewal_is_too_long_ago() -> None:
    leases = start(1)
    taken(leases, 0.2)
    assert leases.holds(1.6, 0)
    assert not leases.holds(1.8, 0)
    leases.due(1.8, 0)
    assert leases.held(1.8) == []


def test_validity_counts_from_sending_not_from_the_answer() -> None:
    leases = start(1)
    taken(leases, 0.2)
    leases.won(0.7, 0, 2)
    assert leases.holds(2.19, 0)
    assert not leases.holds(2.21, 0)


def test_a_live_lease_is_left_alone() -> None:
    leases = start(1)
    now = 0.0
    for seq in range(1, 12):
        leases.lease_seen(now, 0, m.Lease(holder="other", boot="9"), seq)
        now += 0.5
        assert not [action for action in leases.due(now, 0) if isinstance(action, Take | Confirm)]


def test_a_silent_lease_is_confirmed_and_then_taken_with_its_sequence() -> None:
    leases = start(1)
    leases.lease_seen(0.0, 0, m.Lease(holder="other", boot="9"), 5)
    assert not [action for action in leases.due(1.9, 0) if isinstance(action, Confirm)]
    assert Confirm(0) in leases.due(2.1, 0)
    leases.confirmed(2.1, 0, 5, m.Lease(holder="other", boot="9"))
    assert Take(0, 5) in leases.due(2.2, 0)


def test_a_lease_that_was_renewed_meanwhile_is_not_taken() -> None:
    leases = start(1)
    leases.lease_seen(0.0, 0, m.Lease(holder="other", boot="9"), 5)
    leases.due(2.1, 0)
    leases.confirmed(2.1, 0, 6, m.Lease(holder="other", boot="9"))
    assert not [action for action in leases.due(2.2, 0) if isinstance(action, Take | Confirm)]


def test_a_released_lease_is_taken_at_once() -> None:
    leases = start(1)
    leases.lease_seen(1.0, 0, m.Lease(holder="", boot=""), 5)
    assert Take(0, 5) in leases.due(1.1, 0)


def test_a_refused_append_loses_the_lease() -> None:
    leases = start(1)
    taken(leases, 0.2)
    leases.lost(0.5, 0)
    assert leases.held(0.5) == []
    assert Confirm(0) in leases.due(1.1, 0)


def test_ones_own_lease_on_record_is_taken_back() -> None:
    """The acknowledgement was lost, the append was not."""
    leases = start(1)
    taken(leases, 0.2)
    leases.lost(0.5, 0)
    leases.lease_seen(0.6, 0, m.Lease(holder="me", boot="1"), 2)
    assert Take(0, 2) in leases.due(1.1, 0)


def test_members_share_evenly_and_the_excess_is_given_up() -> None:
    leases = start(5)
    taken(leases, 0.2)
    leases.member_seen(0.3, "zoe", m.Member(boot="2"))
    given = [action.shard for action in leases.due(0.4, 0) if isinstance(action, GiveUp)]
    assert given == [3, 4]
    assert leases.draining() == [3, 4]
    assert leases.quota(0.4) == 3
    for shard in given:
        leases.released(0.4, shard)
    assert leases.held(0.4) == [0, 1, 2]


def test_rank_by_name_decides_who_gets_the_odd_one() -> None:
    leases = start(5)
    leases.member_seen(0.3, "adam", m.Member(boot="2"))
    assert leases.quota(0.4) == 2


def test_a_silent_member_does_not_count() -> None:
    leases = start(4)
    leases.member_seen(0.0, "zoe", m.Member(boot="2"))
    assert leases.quota(1.0) == 2
    assert leases.quota(2.5) == 4


def test_leaving_gives_everything_up() -> None:
    leases = start(2)
    taken(leases, 0.2)
    leases.leave(0.3)
    assert [action.shard for action in leases.due(0.3, 0) if isinstance(action, GiveUp)] == [0, 1]
    assert not [action for action in leases.due(0.4, 0) if isinstance(action, Take)]


def test_silence_counts_anew_after_a_reconnect() -> None:
    leases = start(1)
    leases.lease_seen(0.0, 0, m.Lease(holder="other", boot="9"), 5)
    leases.reconnected(1.9)
    assert not [action for action in leases.due(3.8, 0) if isinstance(action, Confirm)]
    assert Confirm(0) in leases.due(4.0, 0)


def test_members_that_are_gone_are_forgotten() -> None:
    leases = start()
    for number in range(1000):
        leases.member_seen(number * 1.0, "me", m.Member(boot="1"))
        assert leases.member_seen(number * 1.0, f"agent-{number}", m.Member(boot="2"))
    assert len(leases._members) < 30
    assert leases.members(999.0) == 4, "silence counts as before"
