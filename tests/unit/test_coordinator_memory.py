"""What a coordinator holds in memory: its clock, its timers, its tasks, what it asks for."""

from __future__ import annotations

import pytest

from agentexecutor.coordinator.clock import WINDOW_S, Clock
from agentexecutor.coordinator.entry import Entry, Tasks, Twice, Waiting
from agentexecutor.coordinator.inputs import HeldIn
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.offers import AgentBook
from agentexecutor.coordinator.pulling import AGAIN_S, BATCH, EXPIRES_S, FEW, SHORT_S, Pulling
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.timers import SOFT, Due, Timers
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.names import TaskName

T1, T2 = TaskName("me", "t1"), TaskName("me", "t2")


# clock


def test_before_anything_is_learnt_the_wall_clock_counts() -> None:
    assert Clock(100.0, 5000.0).now(130.0) == 5030.0


def test_the_earliest_stamp_counts() -> None:
    clock = Clock(100.0, 9.0)
    clock.learn(110.0, 1000.0)
    clock.learn(120.0, 1009.5)  # came half a second late
    assert clock.now(120.0) == 1010.0
    clock.learn(130.0, 1020.2)  # came faster than those before
    assert clock.now(130.0) == pytest.approx(1020.2)


def test_a_server_whose_clock_is_set_back_is_followed() -> None:
    clock = Clock(0.0, 0.0)
    clock.learn(1.0, 1001.0)
    for step in range(1, 4):
        at = step * (WINDOW_S + 1)
        clock.learn(at, at + 500.0)
    assert clock.now(300.0) == 800.0


# timers


def test_timers_ring_in_order_and_once() -> None:
    timers = Timers()
    timers.set(T1, "accept", 5.0, "a", 1)
    timers.set(T2, "task-deadline", 3.0)
    timers.set(T1, "retry", 9.0, "a")
    assert timers.next_due() == 3.0
    assert timers.pop(5.0) == [Due(T2, "task-deadline", None, 0), Due(T1, "accept", "a", 1)]
    assert timers.pop(5.0) == []
    assert timers.next_due() == 9.0


def test_a_later_timer_of_the_same_kind_replaces_the_earlier() -> None:
    timers = Timers()
    timers.set(T1, "accept", 5.0, "a", 1)
    timers.set(T1, "accept", 7.0, "a", 2)
    timers.set(T1, "accept", 6.0, "b", 3)
    assert timers.pop(10.0) == [Due(T1, "accept", "b", 3), Due(T1, "accept", "a", 2)]


def test_a_tasks_timers_are_dropped_together() -> None:
    timers = Timers()
    timers.set(T1, "accept", 5.0, "a", 1)
    timers.set(T1, SOFT, 6.0)
    timers.set(T2, SOFT, 7.0)
    timers.drop(T1)
    assert not timers.has(T1, SOFT)
    assert timers.has(T2, SOFT)
    assert timers.next_due() == 7.0
    timers.drop(T2)
    timers.drop(T2)
    assert timers.next_due() is None


def test_dropped_timers_do_not_pile_up() -> None:
    timers = Timers()
    for n in range(20_000):
        task = TaskName("me", str(n))
        timers.set(task, "task-deadline", 1e9 + n)
        timers.drop(task)
    assert len(timers._heap) < 3000


# tasks


def ended(name: TaskName) -> TaskState:
    return TaskState(name, 3, state="completed", epochs=2)


def test_ended_tasks_are_remembered_for_a_while() -> None:
    tasks = Tasks(remembered=2)
    for n in range(3):
        entry = tasks.open(TaskName("me", str(n)), 3)
        tasks.end(entry, ended(entry.name), 10.0)
    assert tasks.ended(TaskName("me", "0")) is None
    assert tasks.ended(TaskName("me", "2")) == (3, "completed", 2, 10.0)
    assert len(tasks) == 0
    tasks.open(TaskName("me", "2"), 3)
    assert tasks.ended(TaskName("me", "2")) is None, "it lives again"
    tasks.forget_shard(3)
    assert tasks.ended(TaskName("me", "1")) is None


def test_parked_tasks_do_not_count() -> None:
    tasks = Tasks()
    one, two = tasks.open(T1, 1), tasks.open(T2, 2)
    one.state, two.state = new_task(T1, 1), new_task(T2, 2)
    tasks.park(one)
    assert (len(tasks), tasks.active) == (2, 1)
    assert tasks.open(T1, 1).state is None
    assert tasks.of_shard(1) == [one]
    tasks.unpark(one)
    assert tasks.active == 2
    tasks.park(two)
    tasks.drop(two)
    assert (len(tasks), tasks.active) == (1, 1)


def test_an_entry_that_was_replaced_is_not_dropped_twice() -> None:
    tasks = Tasks()
    old = tasks.open(T1, 1)
    tasks.drop(old)
    new = tasks.open(T1, 1)
    tasks.drop(old)
    assert tasks.get(T1) is new


def test_some_goes_round() -> None:
    tasks = Tasks()
    for n in range(5):
        entry = tasks.open(TaskName("me", str(n)), 0)
        entry.state = new_task(entry.name, 0)
    seen = [entry.name.id for _ in range(3) for entry in tasks.some(2)]
    assert seen == ["0", "1", "2", "3", "4"]
    assert [entry.name.id for entry in tasks.some(2)] == ["0", "1"]


def test_idle() -> None:
    entry = Entry(T1, 0)
    assert entry.idle
    entry.inputs.append(Waiting(HeldIn()))
    assert not entry.idle


def test_twice() -> None:
    twice = Twice(1.0)
    assert not twice.said(0.0, "x")
    assert not twice.said(0.9, "x")
    assert twice.said(1.0, "x")
    assert not twice.said(1.5, "x"), "told once a second"
    assert not twice.said(1.6, "y")
    assert not twice.said(20.0, "x"), "long forgotten"


# pulling

ASKED = {(shard, klass): 0 for shard in range(16) for klass in ("high", "normal", "low")}


def test_all_classes_of_all_shards_are_pulled() -> None:
    pulls = Pulling(20_000).due(0.0, 0, ASKED, {})
    assert {(pull.shard, pull.klass) for pull in pulls} == set(ASKED)
    assert {(pull.batch, pull.expires_s) for pull in pulls} == {(BATCH, EXPIRES_S)}


def test_pulled_again_when_few_are_left_or_the_pull_grows_old() -> None:
    pulling = Pulling(20_000)
    pulling.due(0.0, 0, ASKED, {})
    asked = dict.fromkeys(ASKED, BATCH)
    assert pulling.due(1.0, 0, asked, {}) == []
    asked[3, "normal"] = FEW
    assert [(pull.shard, pull.klass) for pull in pulling.due(1.0, 0, asked, {})] == [(3, "normal")]
    asked[3, "normal"] = BATCH
    assert len(pulling.due(AGAIN_S, 0, asked, {})) == len(ASKED) - 1


def test_no_room_no_pull() -> None:
    assert Pulling(100).due(0.0, 100, ASKED, {}) == []
    asked = dict.fromkeys(ASKED, 0) | {(0, "high"): 100}
    assert Pulling(100).due(0.0, 0, asked, {}) == []


def test_with_little_room_pulls_are_small_and_short() -> None:
    pulls = Pulling(200).due(0.0, 0, ASKED, {(3, "low"): 50})
    assert sum(pull.batch for pull in pulls) == 47 + 50
    assert {(pull.shard, pull.klass): pull.expires_s for pull in pulls if pull.batch > 1} == {(3, "low"): SHORT_S}


# agents


def test_of_agents_that_are_gone_nothing_is_left() -> None:
    book = AgentBook(Settings())
    for number in range(100):
        agent, _ = book.take_offer(1.0, f"a{number}", m.Offer(boot="b1", capabilities=[m.Capability(name=f"c{number}")], capacity=1))
        assert agent is not None
        book.refresh(agent, 1.0)
    assert [agent.name for agent in book.available("c7")] == ["a7"]
    book.bury(1000.0)
    assert (book.agents, book._by_capability, book._available) == ({}, {}, {})
