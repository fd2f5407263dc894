"""A coordinator's turns: the order of inputs, what rides on one record, what is held back, and what the market is told."""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from typing import Any

import pytest
from msgspec import Raw

from agentexecutor.coordinator.clock import Clock
from agentexecutor.coordinator.entry import Entry, Waiting
from agentexecutor.coordinator.inputs import (
    AwardIn,
    CancelIn,
    ClaimIn,
    FeedbackIn,
    GiveAward,
    HeldIn,
    Input,
    Key,
    LostIn,
    NeedSplit,
    Send,
    SubmitIn,
)
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.model import new_task
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.turns import Desk, Turn
from agentexecutor.schemas import ApprovalPolicy, Plan, Replan, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT, to_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.records import Awarded, FailedChange, Planned
from agentexecutor.schemas.subjects import shard_of

T1, T2 = TaskName("me", "t1"), TaskName("me", "t2")
SETTINGS = Settings()
WALL = 1_000_000.0


class Office:
    """A desk whose clock stands at `at` (monotonic) until it is moved; server time is WALL later."""

    def __init__(self) -> None:
        self.at = 100.0
        self.woken: list[TaskName] = []
        numbers = count(1)
        clock = Clock(0.0, WALL)
        self.desk = Desk(SETTINGS, Market(SETTINGS), clock, 16, lambda entry: self.woken.append(entry.name), lambda: next(numbers))
        self.ids = count(1)

    def agent(self, name: str = "a1", *capabilities: str, capacity: int = 2) -> None:
        offered = [m.Capability(name=capability) for capability in capabilities or ("echo",)]
        self.desk.market.offer(self.at, name, m.Offer(boot="b1", capabilities=offered, capacity=capacity))

    def entry(self, name: TaskName = T1) -> Entry:
        entry = self.desk.tasks.open(name, shard_of(name, 16))
        if entry.state is None:
            entry.state = new_task(name, entry.shard)
        return entry

    def turn(self, *inputs: Input, name: TaskName = T1) -> Turn:
        entry = self.entry(name)
        entry.inputs.extend(Waiting(input) for input in inputs)
        return self.desk.turn(entry, self.at)

    def submit(self, **fields: Any) -> SubmitIn:
        fields.setdefault("capability", "echo")
        return SubmitIn(m.Submit(**fields), "d", WALL + self.at, f"s{next(self.ids)}")

    def claim(self, cls: type[m.Claim], epoch: int = 1, **fields: Any) -> ClaimIn:
        return ClaimIn("a1", cls(subtask="main", epoch=epoch, boot="b1", **fields), f"c{next(self.ids)}")

    def free(self) -> int:
        (agent,) = self.desk.market.survey.agents(self.at)
        return agent.free


@pytest.fixture
def office() -> Office:
    return Office()


def kinds(turn: Turn) -> list[str]:
    return [type(change).__name__ for change in turn.changes]


def test_submit_and_award_are_one_record(office: Office) -> None:
    office.agent()
    turn = office.turn(office.submit())
    assert kinds(turn) == ["Submitted", "Planned", "Ready", "Awarded"]
    assert turn.effects == [GiveAward("main", 1)]
    assert turn.at == to_rfc3339(WALL + office.at)
    assert turn.applied == ["s1"]
    assert len(turn.encoded) == len(turn.changes)
    assert office.free() == 1


def test_an_accept_waits_for_company(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    entry = office.entry()
    assert kinds(office.turn(office.claim(m.Accept))) == []
    assert (len(entry.soft), entry.idle) == (1, True)
    turn = office.turn(office.claim(m.Done))
    assert kinds(turn) == ["Accepted", "Completed", "Completed"]
    assert len(turn.answered) == 2
    assert entry.soft == []
    assert office.free() == 2


def test_an_accept_waits_no_longer_than_a_second(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    office.turn(office.claim(m.Accept))
    office.at += SETTINGS.soft_accept_s - 0.01
    office.desk.ring(office.at)
    assert office.woken.count(T1) == 1, "by its award only"
    office.at += 0.02
    office.desk.ring(office.at)
    assert office.woken.count(T1) == 2
    assert kinds(office.turn()) == ["Accepted"]


def test_an_accept_counts_before_its_time_out(office: Office) -> None:
    """It came in time, was held back, and the time-out stands behind it in the queue."""
    office.agent()
    office.turn(office.submit())
    office.at += SETTINGS.accept_timeout_s - 0.1
    office.turn(office.claim(m.Accept))
    office.at += 0.2
    office.agent()
    office.desk.ring(office.at)
    assert kinds(office.turn()) == ["Accepted"]


def test_no_accept_in_time(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    office.at += SETTINGS.accept_timeout_s + 0.01
    office.agent()
    office.desk.ring(office.at)
    (change,) = office.turn().changes
    assert isinstance(change, FailedChange)
    assert change.error.details["cause"] == "accept-timeout"
    assert office.free() == 2


def test_no_accept_from_an_agent_that_is_gone_is_a_loss_or_comes_too_late(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    office.at += SETTINGS.accept_timeout_s + 0.01
    office.desk.ring(office.at)
    assert office.turn().changes == [], "the market suspects it"
    assert [suspect.key for suspect in office.desk.market.awards.suspects(office.at)] == [Key(T1, "main")]
    office.at += SETTINGS.heartbeat_s
    office.agent()
    assert office.desk.market.awards.suspects(office.at) == []
    office.desk.ring(office.at)
    (change,) = office.turn().changes
    assert isinstance(change, FailedChange)
    assert change.error.details["cause"] == "accept-timeout"


def test_what_an_agent_said_goes_before_what_follows_from_its_silence(office: Office) -> None:
    """Its claims came while the loss of its work waited for a turn."""
    office.agent()
    office.turn(office.submit())
    office.at += SETTINGS.lost_after_s + 0.1
    lost = LostIn("main", 1, "silent")
    turn = office.turn(lost, office.claim(m.Done))
    assert kinds(turn) == ["Accepted", "Completed", "Completed"]


def test_who_was_heard_while_its_loss_waited_is_not_lost(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    office.turn(office.claim(m.Accept))
    office.at += SETTINGS.lost_after_s + 0.1
    office.agent()
    assert kinds(office.turn(LostIn("main", 1, "silent"))) == []
    office.at += SETTINGS.lost_after_s + 0.1
    assert "FailedChange" in kinds(office.turn(LostIn("main", 1, "silent")))


def test_a_claim_from_the_future_asks_for_a_newer_state(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    entry = office.entry()
    turn = office.turn(office.claim(m.Done, epoch=7), office.claim(m.Done))
    assert (turn.stale, kinds(turn), len(entry.inputs)) == (True, [], 2)
    for waiting in entry.inputs:
        waiting.looked = True
    turn = office.turn()
    assert not turn.stale
    ((waiting, effects),) = turn.refused
    assert isinstance(waiting.input, ClaimIn)
    assert [effect.kind for effect in effects if isinstance(effect, Send)] == ["refused"]
    assert kinds(turn) == ["Accepted", "Completed", "Completed"], "the others go on"


def test_a_record_grows_no_further_than_its_limit(office: Office) -> None:
    office.turn(office.submit())
    said = m.FeedbackClaim(data=Raw(b"1" * 100_000))
    turn = office.turn(*[FeedbackIn("me", said, f"f{n}") for n in range(5)])
    assert kinds(turn) == ["FeedbackGiven"] * 3
    assert INLINE_LIMIT < turn.size < INLINE_LIMIT + 100_200
    assert kinds(office.turn()) == ["FeedbackGiven"] * 2


def test_a_freed_slot_goes_to_the_next_in_line(office: Office) -> None:
    office.agent(capacity=1)
    office.turn(office.submit())
    assert kinds(office.turn(office.submit(), name=T2)) == ["Submitted", "Planned", "Ready"]
    office.woken.clear()
    office.turn(office.claim(m.Done))
    assert office.woken == [T2]
    assert kinds(office.turn(name=T2)) == ["Awarded"]


def test_an_award_that_comes_too_late_gives_its_slot_back(office: Office) -> None:
    office.agent(capacity=1)
    office.turn(office.submit())
    office.turn(office.submit(), name=T2)
    entry = office.entry(T2)
    entry.inputs.append(Waiting(CancelIn("me", "", "x")))
    office.turn(office.claim(m.Done))
    assert isinstance(entry.inputs[-1].input, AwardIn)
    turn = office.turn(name=T2)
    assert kinds(turn) == ["Cancelled"]
    assert office.free() == 1


def test_an_award_for_an_older_version_of_the_plan_leaves_the_newer_one_wanted(office: Office) -> None:
    office.agent("a1", "echo", capacity=1)
    office.agent("p1", "plan", capacity=1)
    office.turn(office.submit(capability="plan"))
    plan = Plan({"main": Subtask("echo"), "after": Subtask("nobody.does", after=["main"])}).spec()
    office.turn(office.submit(capability=None, plan=plan, replan=Replan(message="plan")), name=T2)
    office.turn(office.claim(m.Done), name=T2)
    office.turn(FeedbackIn("me", m.FeedbackClaim(text="think"), "f1"), name=T2)
    entry = office.entry(T2)
    entry.inputs.append(Waiting(FeedbackIn("me", m.FeedbackClaim(subtask="main", verdict="revise"), "f2")))
    office.turn(ClaimIn("p1", m.Done(subtask="main", epoch=1, boot="b1"), "d1"))
    assert isinstance(entry.inputs[-1].input, AwardIn)
    turn = office.turn(name=T2)
    planned = [change for change in turn.changes if isinstance(change, Planned)]
    assert [change.again for change in planned] == [["main", "after", "plan-1"]]
    awarded = [change.subtask for change in turn.changes if isinstance(change, Awarded)]
    assert sorted(awarded) == ["main", "plan-1"]


@pytest.mark.parametrize("agents", [1, 0])
def test_who_is_asked_for_a_bid_is_not_nobody(office: Office, agents: int) -> None:
    """The time that a policy sets for `unserved` runs out during an auction."""
    if agents:
        office.agent()
    office.turn(office.submit(auction="call", replan=Replan(unserved="fail", unserved_s=0.1)))
    office.desk.poll(office.at)
    assert len(office.desk.calls) == agents
    office.at += 0.11
    office.desk.ring(office.at)
    assert office.entry().idle is bool(agents)
    assert kinds(office.turn()) == ([] if agents else ["FailedChange", "FailedChange"])


def test_a_cancelled_task_is_wanted_no_more(office: Office) -> None:
    office.turn(office.submit(), CancelIn("me", "enough", "x"))
    office.agent()
    office.desk.poll(office.at)
    assert office.woken == []
    assert office.desk.market.survey.unserved(office.at) == []


def test_what_is_loaded_is_told_to_the_market(office: Office) -> None:
    office.agent()
    office.turn(office.submit(deadline_s=50.0))
    loaded = Office()
    loaded.agent()
    entry = loaded.desk.tasks.open(T1, 0)
    entry.state = office.entry().state
    assert loaded.desk.adopt(entry, loaded.at) == [GiveAward("main", 1)]
    assert loaded.free() == 1
    assert loaded.desk.timers.has(T1, "task-deadline")
    assert loaded.desk.timers.has(T1, "accept", "main")
    loaded.desk.release(entry)
    assert loaded.free() == 2
    assert loaded.desk.timers.next_due() is None


def test_taken_over(office: Office) -> None:
    office.turn(office.submit())
    assert kinds(office.turn(HeldIn())) == ["Held"]


def test_parked_tasks_leave_memory_and_come_back(office: Office) -> None:
    office.turn(office.submit())
    entry = office.entry()
    assert office.desk.looked(entry.state or new_task(T1, 0), office.at) == {"main": "parked"}
    office.desk.park(10, office.at)
    assert entry.state is None
    assert office.desk.tasks.active == 0
    office.agent()
    office.desk.poll(office.at)
    assert office.woken == [T1]
    assert isinstance(entry.inputs[0].input, AwardIn)


def test_what_waits_for_a_person_leaves_memory_and_comes_back_with_the_word(office: Office) -> None:
    office.agent()
    office.turn(office.submit(approval=m.ApprovalPolicy(capabilities=["*"], timeout_s=3600.0, otherwise="accept")))
    entry = office.entry()
    office.desk.park(10, office.at)
    assert entry.state is None
    assert office.desk.tasks.active == 0
    office.desk.ring(office.at + 3599.0)
    assert office.woken == []
    office.desk.ring(office.at + 3601.0)
    assert office.woken == [T1], "its timer goes on while it is out of memory"


def test_a_split_waits_for_its_first_agent(office: Office) -> None:
    spec = m.SubtaskSpec(capability="echo", input=Raw(b'{"w":[1,2,3]}'), split=m.Split(over="w"))
    turn = office.turn(office.submit(capability=None, plan=m.PlanSpec(subtasks={"all": spec})))
    (need,) = turn.effects
    assert isinstance(need, NeedSplit)
    office.desk.want_split(T1, need, 3, office.at)
    assert office.woken == []
    assert office.desk.looked(office.entry().state or new_task(T1, 0), office.at) == {"all": "parked"}
    office.agent()
    office.desk.cut_splits(office.at)
    assert office.woken == [T1]
    assert kinds(office.turn()) == ["Planned", "Ready", "Awarded"]
    assert office.desk.splits == {}
    office.desk.want_split(T2, need, 3, office.at)
    assert Key(T2, "all") not in office.desk.splits, "nothing waits for a task that is not here"


def test_a_split_that_is_wanted_no_more(office: Office) -> None:
    spec = m.SubtaskSpec(capability="echo", input=Raw(b'{"w":[1]}'), split=m.Split(over="w"))
    turn = office.turn(office.submit(capability=None, plan=m.PlanSpec(subtasks={"all": spec})))
    (need,) = turn.effects
    assert isinstance(need, NeedSplit)
    office.desk.want_split(T1, need, 1, office.at)
    office.turn(CancelIn("me", "", "x"))
    assert office.desk.splits == {}


def test_starting_over(office: Office) -> None:
    office.turn(office.submit())
    entry = office.entry()
    entry.inputs.append(Waiting(HeldIn()))
    office.desk.try_again(entry, office.at + 1)
    assert (entry.state, len(entry.inputs)) == (None, 1)
    office.desk.start_over(entry, office.at + 1)
    assert len(entry.inputs) == 0
    office.desk.ring(office.at + 1.01)
    assert office.woken == [T1]
    assert entry.soft_due


def test_when_the_servers_clock_is_set_deadlines_move_and_waiting_does_not(office: Office) -> None:
    office.agent()
    office.turn(office.submit(deadline_s=3000.0))
    for seconds in (-3600.0, 3600.0, 2999.5):
        office.desk.clock.offset += seconds
        office.desk.ring(office.at)
        assert office.desk.timers.next_due() == pytest.approx(
            office.at + 0.5 if seconds == 2999.5 else office.at + SETTINGS.accept_timeout_s
        )


def test_a_try_that_was_put_off_waits_no_longer_when_the_clock_went_back(office: Office) -> None:
    office.agent()
    office.turn(office.submit())
    office.turn(office.claim(m.Failed, error=m.ErrorInfo(code="handler", message="no", retryable=True)))
    entry = office.entry()
    office.desk.release(entry)
    office.desk.clock.offset -= 3600
    office.desk.adopt(entry, office.at)
    due = office.desk.timers.next_due()
    assert due is not None
    assert office.at < due <= office.at + SETTINGS.backoff_s


@pytest.mark.parametrize(("agents", "failed"), [(["echo"], False), (["other"], True)], ids=["busy", "nobody fits"])
def test_agents_that_are_only_busy_serve(office: Office, agents: list[str], failed: bool) -> None:
    office.agent("a1", *agents, capacity=1)
    office.turn(office.submit(capability=agents[0]))
    office.turn(office.submit(replan=Replan(unserved="fail", unserved_s=5.0)), name=T2)
    assert office.entry(T2).state is not None
    office.at += 5.5
    office.agent("a1", *agents, capacity=1)
    office.desk.ring(office.at)
    turn = office.turn(name=T2)
    assert ("FailedChange" in kinds(turn)) == failed
    assert office.desk.timers.has(T2, "unserved", "main") != failed


@pytest.mark.parametrize("said", [True, False], ids=["a word", "none"])
def test_what_waits_for_a_word_leaves_memory_and_comes_back_after_weeks(office: Office, said: bool) -> None:
    month = 30 * 24 * 3600.0
    office.turn(office.submit(approval=ApprovalPolicy(capabilities=["echo"], timeout_s=month)))
    entry = office.entry()
    kept = deepcopy(entry.state)
    assert kept is not None
    office.desk.park(10, office.at)
    assert (office.desk.tasks.active, office.desk.tasks.get(T1), entry.state) == (0, entry, None)
    office.at += month - 1
    office.desk.ring(office.at)
    assert office.woken == []
    if not said:
        office.at += 1
        office.desk.ring(office.at)
        assert office.woken == [T1]
    entry.state = kept  # as the log has it
    office.desk.tasks.unpark(entry)
    office.agent()
    word = FeedbackIn("me", m.FeedbackClaim(subtask="main", verdict="accept"), "f")
    turn = office.turn(*([word] if said else []))
    assert kinds(turn) == (["FeedbackGiven", "Approved", "Awarded"] if said else ["FailedChange", "FailedChange"])
