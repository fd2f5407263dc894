"""Who says the word that something waits for, what waits for it, and for how long: weeks, if need be."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from table import Table

from agentexecutor.bus.versions import plan_versions
from agentexecutor.coordinator.inputs import FeedbackIn, HeldIn, NeedRevision, RevisionIn, Send, SetTimer, SplitIn, TimerIn
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas import Approval, ApprovalPolicy, Plan, Replan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import encode, to_rfc3339

WEEK_S = 7 * 24 * 3600.0
VERSIONS = ApprovalPolicy(versions=True)


def say(table: Table, verdict: Any, subtask: str | None = None, peer: str = "me", **more: Any) -> None:
    table.put(FeedbackIn(peer, m.FeedbackClaim(subtask=subtask, verdict=verdict, **more), table.id()))


def answer(table: Table, planner: str = "plan-1", **fields: Any) -> None:
    """The planner works, and has answered."""
    table.award(planner, agent="p")
    table.claim(m.Done, planner, agent="p", result=Raw(b"{}"))
    table.put(RevisionIn(planner, table.state.subtasks[planner].epoch, r.Revision(**fields)))


def spec(capability: str) -> m.SubtaskSpec:
    return m.SubtaskSpec(capability=capability)


def entries(table: Table) -> list[r.LogEntry]:
    return [r.LogEntry(seq=seq, time=record.at, record=record) for seq, record in table.log]


def paying(**options: Any) -> Table:
    """`a` is in the hands of the agent a1, `pay` waits for the word."""
    table = Table()
    table.submit(Plan({"a": Subtask("a"), "pay": Subtask("pay", approval=Approval())}), critics=["eve"], **options)
    table.award("a")
    return table


def proposing(**policy: Any) -> Table:
    """A goal whose planner has proposed its first version."""
    table = Table()
    table.put_goal(approval=ApprovalPolicy(versions=True, **policy), critics=["eve"])
    answer(table, add={"x": spec("x"), "y": spec("y")}, finish=True, text="two steps")
    assert table.state.state == "waiting"
    return table


def test_what_a_person_is_asked_is_shown() -> None:
    table = paying()
    asked = task_view(table.state).subtasks["pay"].asked
    assert asked == v.AskedView(since=to_rfc3339(table.now), input=Raw(b"{}"))
    large = Table()
    policy = ApprovalPolicy(capabilities=["*"], text="May it?", timeout_s=60.0, otherwise="accept")
    large.submit("big", input=Raw(encode({"text": "x" * 5000})), approval=policy)
    asked = task_view(large.state).subtasks["main"].asked
    assert asked == v.AskedView(since=to_rfc3339(large.now), text="May it?", timeout_s=60.0, otherwise="accept"), (
        "its input is too large to be read here"
    )


# who


@pytest.mark.parametrize("verdict", ["accept", "revise", "reject"])
def test_an_agent_says_no_word_about_what_waits(verdict: Any) -> None:
    table = paying()
    say(table, verdict, "pay", peer="a1")
    assert table.last.refusal is not None
    assert "waits for the word of the task's owner or of a critic, and a1 is neither" in table.last.refusal.message
    assert (table.states()["pay"], table.state.feedback) == ("approval", [])
    say(table, None, "pay", peer="a1", text="it is cheap")
    assert table.last.refusal is None


@pytest.mark.parametrize("peer", ["me", "eve"])
@pytest.mark.parametrize(("verdict", "state"), [("accept", "ready"), ("revise", "ready"), ("reject", "failed")])
def test_owner_and_critics_do(peer: str, verdict: Any, state: str) -> None:
    table = paying()
    say(table, verdict, "pay", peer=peer)
    assert table.states()["pay"] == state


def test_an_agent_rejects_no_task_in_which_something_waits() -> None:
    table = paying()
    say(table, "reject", peer="a1")
    assert table.last.refusal is not None
    say(table, "accept", "pay")
    assert table.state.state == "running"
    say(table, "reject", peer="a1", text="it makes no sense")
    assert table.states()["a"] == "cancelled"


@pytest.mark.parametrize("verdict", ["accept", "revise", "reject"])
def test_an_agent_says_no_word_about_a_proposed_version(verdict: Any) -> None:
    table = Table()
    table.submit(Plan({"a": Subtask("a")}), approval=VERSIONS, replan=Replan(message="plan"))
    table.award("a")
    say(table, None, text="think")
    answer(table, add={"x": spec("x")})
    say(table, verdict, peer="a1")
    assert table.last.refusal is not None
    assert table.state.proposed is not None
    assert table.state.plan_version == 1


# what


def test_a_planners_own_result_waits_for_the_word_too() -> None:
    table = Table()
    table.put_goal(approval=VERSIONS)
    answer(table, finish=True, output=Raw(b"42"))
    assert table.state.state == "waiting"
    shown = task_view(table.state).proposed
    assert shown is not None
    assert (shown.output, shown.add) == (True, [])
    say(table, "accept")
    assert (table.state.state, table.state.result) == ("completed", Raw(b"42"))
    assert table.folded() == table.state


def test_a_rejected_result_is_asked_for_again() -> None:
    table = Table()
    table.put_goal(approval=VERSIONS)
    answer(table, finish=True, output=Raw(b"42"))
    say(table, "reject", text="43, please")
    assert (table.states()["plan-1"], table.state.proposed) == ("ready", None)
    assert task_view(table.state).proposed is None


@pytest.mark.parametrize("policy", ["retry", "another"])
def test_what_the_policy_runs_again_is_not_proposed_but_waits_by_its_capability(policy: Any) -> None:
    table = Table()
    approval = ApprovalPolicy(versions=True, capabilities=["pay"])
    table.submit(Plan({"pay": Subtask("pay", retries=0)}), approval=approval, replan=Replan(failed=policy))
    say(table, "accept", "pay")
    table.award("pay")
    table.fail("pay")
    assert (table.state.plan_version, table.state.proposed, table.states()["pay"]) == (2, None, "approval")


def test_a_proposed_version_is_shown_with_the_plan_that_it_would_lead_to() -> None:
    table = proposing()
    shown = task_view(table.state).proposed
    assert shown is not None
    assert (shown.version, shown.add, shown.text, shown.planner) == (2, ["x", "y"], "two steps", "plan-1")
    assert shown.since == to_rfc3339(table.now)
    first, second = plan_versions(entries(table))
    assert (first.version, first.proposed, second.version, second.proposed) == (1, False, 2, True)
    assert list(second.plan.subtasks) == ["x", "y"]
    say(table, "accept")
    assert [(made.version, made.proposed) for made in plan_versions(entries(table))] == [(1, False), (2, False)]


def test_a_whole_plan_is_shown_without_what_it_leaves_out() -> None:
    table = Table()
    table.submit(Plan({"a": Subtask("a"), "b": Subtask("b"), "c": Subtask("c")}), approval=VERSIONS, replan=Replan(message="plan"))
    say(table, None, text="think")
    answer(table, add={"x": spec("x")}, again=["b"], whole=True)
    last = plan_versions(entries(table))[-1]
    assert (last.proposed, last.add, last.again, last.remove, list(last.plan.subtasks)) == (True, ["x"], ["b"], ["a", "c"], ["b", "x"])
    say(table, "revise", text="no")
    assert [made.version for made in plan_versions(entries(table))] == [1], "the planner is asked again"


def test_the_proposal_of_a_task_that_has_ended_is_no_version() -> None:
    table = proposing(timeout_s=60)
    table.now += 60
    table.put(TimerIn("approval"))
    assert table.state.state == "failed"
    assert [made.version for made in plan_versions(entries(table))] == [1]
    assert task_view(table.state).proposed is None


# how long


@pytest.mark.parametrize(("otherwise", "state", "version"), [("accept", "running", 2), ("reject", "failed", 1)])
def test_nobody_says_a_word_about_a_proposed_version(otherwise: Any, state: str, version: int) -> None:
    table = proposing(timeout_s=60, otherwise=otherwise)
    assert [effect for effect in table.of(SetTimer) if effect.kind == "approval"] == [SetTimer("approval", table.now + 60)]
    table.now += 59
    table.put(TimerIn("approval"))
    assert table.state.state == "waiting"
    assert table.of(SetTimer) == [SetTimer("approval", table.now + 1)]
    table.now += 1
    table.put(TimerIn("approval"))
    assert (table.state.state, table.state.plan_version) == (state, version)
    assert table.folded() == table.state


def test_whoever_takes_over_waits_for_the_rest_of_the_time() -> None:
    table = proposing(timeout_s=60)
    table.now += 20
    assert SetTimer("approval", table.now + 40) in pending(table.folded(), table.now, table.settings)


def test_what_had_failed_is_not_run_again_because_nobody_looks() -> None:
    table = Table()
    table.submit("work", retries=0, approval=ApprovalPolicy(timeout_s=60, otherwise="accept"), replan=Replan(failed="wait"))
    table.award()
    table.fail()
    assert table.states()["main"] == "approval"
    table.now += 60
    table.put(TimerIn("approval", "main"))
    assert table.state.state == "failed"


@pytest.mark.parametrize("weeks", [1, 12])
def test_a_word_that_comes_after_weeks_is_as_good_as_any(weeks: int) -> None:
    table = paying()
    table.done("a")
    for _ in range(weeks):
        table.now += WEEK_S
        table.state = table.folded()  # whoever holds the task has forgotten it meanwhile, or has died
        assert not any(isinstance(effect, SetTimer) for effect in pending(table.state, table.now, table.settings))
        table.put(HeldIn())
        assert (table.state.state, table.states()["pay"]) == ("waiting", "approval")
    say(table, "accept", "pay")
    table.run("pay", b'"paid"')
    assert table.states() == {"a": "completed", "pay": "completed"}
    assert table.folded() == table.state


def test_a_proposed_version_waits_for_weeks_too() -> None:
    table = proposing()
    for _ in range(8):
        table.now += WEEK_S
        table.state = table.folded()
        table.put(HeldIn())
        assert not any(isinstance(effect, NeedRevision) for effect in table.last.effects), "its planner is not read again"
    say(table, "accept", peer="eve")
    assert (table.state.plan_version, table.states()["x"], table.states()["y"]) == (2, "ready", "ready")


def test_a_share_was_agreed_to_with_the_whole() -> None:
    table = Table()
    plan = Plan({"f": Subtask("c", {"rows": [1, 2]}, split=Split(over="rows", into=2))})
    table.submit(plan, approval=ApprovalPolicy(capabilities=["c"]))
    assert table.states() == {"f": "approval"}
    say(table, "accept", "f")
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    assert table.states() == {"f": "running", "f-1": "ready", "f-2": "ready"}


@pytest.mark.parametrize("pattern", ["p*y", "", "a..b", "pay.*.now", "pay me"])
def test_what_no_capability_is_called_is_refused(pattern: str) -> None:
    table = Table()
    table.submit("pay", approval=ApprovalPolicy(capabilities=[pattern]))
    (refused,) = [effect.message for effect in table.of(Send) if isinstance(effect.message, m.Refused)]
    assert "cannot name a capability" in refused.error.message


def test_the_beginning_of_a_name_is_enough() -> None:
    for pattern in ("*", "pa*", "pay.*", "pay"):
        table = Table()
        table.submit("pay.card", approval=ApprovalPolicy(capabilities=[pattern]))
        assert table.states()["main"] == ("ready" if pattern == "pay" else "approval")
