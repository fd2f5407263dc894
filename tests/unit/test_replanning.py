"""New versions of a plan: what feedback, failures and planners make of it, decided by the pure machine on a table."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from table import Table

from agentexecutor.coordinator.briefing import OfferLine
from agentexecutor.coordinator.errands import read_revision
from agentexecutor.coordinator.inputs import (
    ComposedIn,
    FeedbackIn,
    LostIn,
    NeedCompose,
    NeedRevision,
    NeedSplit,
    RevisionIn,
    Send,
    SetTimer,
    Settle,
    SettleIn,
    SplitIn,
    TimerIn,
    Want,
)
from agentexecutor.coordinator.machine import award_of, pending
from agentexecutor.coordinator.versions import work_digests
from agentexecutor.schemas import Approval, ApprovalPolicy, Plan, Ref, Replan, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode


def chain(**options: Any) -> Plan:
    """load -> features -> model, and a report that needs the data only."""
    return Plan(
        {
            "load": Subtask("data.load"),
            "features": Subtask("text.features", {"rows": Ref("load")}, **options),
            "model": Subtask("text.train", {"x": Ref("features")}),
            "report": Subtask("text.report", {"rows": Ref("load")}),
        },
        result="model",
    )


@pytest.fixture
def table() -> Table:
    return Table()


def say(table: Table, verdict: Any = "revise", subtask: str | None = "features", peer: str = "me", **more: Any) -> None:
    table.put(FeedbackIn(peer, m.FeedbackClaim(subtask=subtask, verdict=verdict, **more), table.id()))


def versions(table: Table) -> list[r.Planned]:
    return [change for _, record in table.log for change in record.changes if isinstance(change, r.Planned)]


def run_until_model(table: Table, **options: Any) -> None:
    table.submit(chain(), **options)
    table.run("load", b"[1]")
    table.run("features", b"[2]")
    table.award("model")
    table.claim(m.Accept, "model")


# policies


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({"revise": "skip"}, "'skip' is no answer to 'revise'"),
        ({"revise": "wait"}, "Say retry, another, split, plan or fail"),
        ({"changed": "skip"}, "'skip' is no answer to 'changed'"),
        ({"changed": "wait"}, "'wait' is no answer to 'changed'"),
        ({"message": "retry"}, "Say plan or fail"),
        ({"late": "split"}, "replan.split"),
        ({"planner": "no name"}, "no name"),
    ],
)
def test_a_policy_of_which_nothing_could_come_is_refused(table: Table, policy: dict[str, Any], word: str) -> None:
    table.submit(replan=Replan(**policy))
    assert table.last.refusal is not None
    assert (table.last.refusal.code, word in table.last.refusal.message) == ("input", True)
    assert table.log == []


# feedback


def test_revise_on_a_completed_subtask_runs_it_again_and_what_depends_on_it(table: Table) -> None:
    run_until_model(table)
    before = table.state.subtasks["model"].epoch
    say(table, text="use bigrams")
    assert table.states() == {"load": "completed", "features": "ready", "model": "blocked", "report": "ready"}
    change = versions(table)[-1]
    assert (change.version, change.base, change.cause, change.again) == (2, 1, "replan", ["features", "model"])
    assert (change.why[0].trigger, change.why[0].answer, change.why[0].text) == ("revise", "retry", "use bigrams")
    (cancel,) = [effect for effect in table.of(Send) if effect.kind == "cancel"]
    assert isinstance(cancel.message, m.Cancel)
    assert (cancel.message.subtask, cancel.message.epoch) == ("model", before)
    assert [effect.subtask for effect in table.of(Want)] == ["features"]
    # what the old epoch says changes nothing
    table.claim(m.Done, "model", epoch=before, result=Raw(b'"old"'))
    assert table.states()["model"] == "blocked"
    # the text comes with the award, and the award belongs to version 2
    table.award("features")
    award = award_of(table.state, "features")
    assert [given.text for given in award.feedback] == ["use bigrams"]
    assert (award.plan_version, award.attempt, award.key) == (2, 1, "me.t1/features/2")
    table.done("features", b"[3]")
    table.run("model", b'"new"')
    table.run("report")
    assert (table.state.state, table.state.result) == ("completed", Raw(b'"new"'))
    assert table.folded() == table.state


def test_revise_on_running_work_is_delivered_and_on_what_waits_kept(table: Table) -> None:
    run_until_model(table)
    say(table, subtask="model", text="faster")
    (feedback,) = table.of(Send)
    assert (feedback.kind, feedback.peer) == ("feedback", "a1")
    say(table, subtask="report", text="shorter")
    assert table.of(Send) == []
    assert table.state.plan_version == 1
    table.award("report")
    assert [given.text for given in award_of(table.state, "report").feedback] == ["shorter"]


def test_revise_about_a_share_that_has_ended_concerns_the_split_subtask(table: Table) -> None:
    table.submit(Plan({"f": Subtask("c", {"rows": [1, 2]}, split=Split(over="rows", into=2)), "g": Subtask("d", {"x": Ref("f")})}))
    table.put(SplitIn("f", 2, [(None, 1)]))
    table.run("f-1", b"[1]")
    table.run("f-2", b"[2]")
    table.put(ComposedIn("f", Raw(b"[1,2]")))
    say(table, subtask="f-1", text="again")
    assert table.states() == {"f": "ready", "g": "blocked", "f-1": "superseded", "f-2": "superseded"}
    table.put(SplitIn("f", 2, [(None, 1)]))  # an answer to the question of version 1
    assert table.states()["f"] == "ready"
    table.put(SplitIn("f", 2, [(None, 1)], version=2))
    assert table.states() == {"f": "running", "g": "blocked", "f-1": "ready", "f-2": "ready"}
    assert table.folded() == table.state


def split_in_two(**options: Any) -> Plan:
    return Plan({"f": Subtask("c", {"rows": [1, 2]}, split=Split(over="rows", into=2), **options), "g": Subtask("d", {"x": Ref("f")})})


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        ("retry", {"f": "ready", "g": "blocked", "f-1": "superseded", "f-2": "superseded"}),
        ("another", {"f": "ready", "g": "blocked", "f-1": "superseded", "f-2": "superseded"}),
        ("plan", {"f": "failed", "g": "blocked", "f-1": "cancelled", "f-2": "cancelled", "plan-1": "ready"}),
        ("skip", {"f": "skipped", "g": "ready", "f-1": "cancelled", "f-2": "cancelled"}),
        ("fail", {"f": "failed", "g": "cancelled", "f-1": "failed", "f-2": "cancelled"}),
    ],
)
def test_reject_of_a_running_share_is_answered_for_what_was_split(table: Table, policy: Any, states: dict[str, str]) -> None:
    table.submit(split_in_two(), replan=Replan(reject=policy))
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    table.award("f-1", agent="bad")
    table.award("f-2", agent="good")
    say(table, "reject", "f-1", text="no")
    assert table.states() == states
    if policy in ("retry", "another"):
        assert [effect.peer for effect in table.of(Send) if effect.kind == "cancel"] == ["bad", "good"]
        assert table.state.subtasks["f"].spec.avoid == (["bad"] if policy == "another" else [])
        table.put(SplitIn("f", 2, [(None, 1)], version=2))
        table.award("f-1")
        assert [given.text for given in award_of(table.state, "f-1").feedback] == ["no"]
    if policy == "plan":
        whys = table.state.subtasks["plan-1"].whys
        assert whys is not None
        assert [(why.trigger, why.subtask) for why in whys] == [("reject", "f")]
    assert table.folded() == table.state


def test_what_is_said_about_what_was_split_reaches_its_shares(table: Table) -> None:
    table.submit(split_in_two())
    say(table, None, "f", text="with care")
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    table.award("f-2")
    assert [given.text for given in award_of(table.state, "f-2").feedback] == ["with care"]


def test_feedback_about_a_planner_has_it_asked_again(table: Table) -> None:
    table.submit(chain(), replan=Replan(message="plan", reject="another"))
    table.run("load")
    say(table, None, None, text="think")
    table.award("plan-1", agent="p")
    first = table.state.subtasks["plan-1"].epoch
    say(table, "reject", "plan-1", text="not you")
    assert table.states()["plan-1"] == "ready"
    (cancel,) = table.of(Send)
    assert isinstance(cancel.message, m.Cancel)
    assert (cancel.peer, cancel.message.epoch) == ("p", first)
    whys = table.state.subtasks["plan-1"].whys
    assert whys is not None
    assert [why.trigger for why in whys] == ["message", "reject"]
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    answer(table, add={"x": spec("x")})
    say(table, "revise", "plan-1", text="better")
    assert (table.states()["plan-2"], table.state.plan_version) == ("ready", 2)
    say(table, "reject", "plan-1", text="worse than I thought")
    assert not table.state.ended
    assert table.folded() == table.state


def test_reject_fails_the_task_unless_its_policy_says_otherwise() -> None:
    table = Table()
    run_until_model(table)
    say(table, "reject", "features", text="wrong")
    assert table.state.state == "failed"
    assert table.state.error is not None
    assert (table.state.error.code, table.state.error.details["subtask"]) == ("refused", "features")
    table = Table()
    run_until_model(table, replan=Replan(reject="another"))
    say(table, "reject", "features", text="wrong")
    assert table.states()["features"] == "ready"
    assert versions(table)[-1].add["features"].avoid == ["a1"]
    assert table.of(Want)[0].demand.never == ("a1",)


def test_the_owner_sets_deadline_and_priority_and_nobody_else(table: Table) -> None:
    run_until_model(table, critics=["eve"])
    say(table, None, None, peer="eve", priority=5)
    assert table.last.refusal is not None
    say(table, None, None, deadline_s=60, priority=5)
    assert table.state.deadline == table.state.submitted_at + 60
    assert [effect.kind for effect in table.of(SetTimer)] == ["task-deadline"]
    assert [(want.subtask, want.demand.priority) for want in table.of(Want)] == [("report", 5)]
    assert table.state.plan_version == 1


def test_a_verdict_and_a_deadline_are_two_things(table: Table) -> None:
    run_until_model(table)
    say(table, "revise", "features", deadline_s=60, priority=2)
    assert (table.state.deadline, table.state.plan_version) == (table.state.submitted_at + 60, 2)
    assert [want.demand.priority for want in table.of(Want) if want.subtask == "features"] == [2]
    say(table, "reject", None, deadline_s=90)
    assert (table.state.state, table.state.deadline) == ("failed", table.state.submitted_at + 90)


def test_a_word_and_a_priority_are_two_things(table: Table) -> None:
    table.submit("pay", approval=ApprovalPolicy(capabilities=["pay"]))
    say(table, "accept", "main", priority=7, deadline_s=60)
    assert table.states() == {"main": "ready"}
    assert [(want.demand.priority, want.demand.deadline) for want in table.of(Want)] == [(7, table.now + 60)]


def test_a_word_is_given_and_a_message_delivered_whatever_the_policy_says_about_limits(table: Table) -> None:
    plan = Plan({"pay": Subtask("pay", approval=Approval()), "work": Subtask("work")})
    table.submit(plan, replan=Replan(changed="plan"))
    table.award("work")
    say(table, "accept", "pay", priority=7)
    assert table.states() == {"pay": "ready", "work": "awarded", "plan-1": "ready"}
    say(table, "revise", "work", priority=6)
    assert [effect.kind for effect in table.of(Send)] == ["feedback"]
    assert [why.trigger for why in table.state.unanswered] == ["changed"]
    assert table.folded() == table.state


def test_a_text_and_a_deadline_are_two_things_and_a_deadline_alone_is_no_message(table: Table) -> None:
    table.submit("work", replan=Replan(message="plan"))
    say(table, None, None, deadline_s=60)
    assert table.states() == {"main": "ready"}
    say(table, None, None, text="think", priority=3)
    assert table.states() == {"main": "ready", "plan-1": "ready"}
    assert table.state.submit is not None
    assert table.state.submit.priority == 3


def test_rejected_work_is_taken_away_while_the_planner_thinks(table: Table) -> None:
    run_until_model(table, replan=Replan(reject="plan"))
    epoch = table.state.subtasks["model"].epoch
    say(table, "reject", "model", text="no")
    assert (table.states()["model"], table.states()["plan-1"]) == ("failed", "ready")
    assert [effect.kind for effect in table.of(Send)] == ["cancel"]
    table.claim(m.Done, "model", epoch=epoch, result=Raw(b'"bad"'))
    assert table.states()["model"] == "failed"
    whys = table.state.subtasks["plan-1"].whys
    assert whys is not None
    assert [(why.trigger, why.answer, why.subtask, why.text) for why in whys] == [("reject", "plan", "model", "Rejected by me: no")]
    assert table.folded() == table.state


def test_a_rejection_that_leads_to_a_version_too_many_is_refused(table: Table) -> None:
    run_until_model(table, replan=Replan(reject="plan"), budget={"replans": 0})
    say(table, "reject", "model", text="no")
    assert table.last.refusal is not None
    assert (table.last.refusal.code, table.states()["model"]) == ("budget", "running")


@pytest.mark.parametrize(("peer", "subtask", "word"), [("eve", "features", "critic"), ("me", "nothing", "no subtask")])
def test_feedback_that_cannot_be_used_is_refused(table: Table, peer: str, subtask: str, word: str) -> None:
    run_until_model(table)
    say(table, "revise", subtask, peer=peer)
    assert table.last.refusal is not None
    assert word in table.last.refusal.message
    assert table.state.feedback == []


def test_a_version_too_many_is_refused_to_who_asks_for_it(table: Table) -> None:
    run_until_model(table, budget={"replans": 1})
    say(table)
    table.run("features", b"[2]")
    say(table)
    assert table.last.refusal is not None
    assert table.last.refusal.code == "budget"
    assert table.state.state == "running"


# failures


@pytest.mark.parametrize(
    ("answer", "add", "states"),
    [
        ("retry", {}, {"features": "ready", "model": "blocked"}),
        ("another", {"avoid": ["a1"]}, {"features": "ready", "model": "blocked"}),
        ("split", {"split": Split(over="rows")}, {"features": "ready", "model": "blocked"}),
        ("plan", None, {"features": "failed", "model": "blocked", "plan-1": "ready"}),
        ("wait", None, {"features": "approval", "model": "blocked"}),
        ("skip", None, {"features": "skipped", "model": "ready"}),
        ("fail", None, {"features": "failed", "model": "cancelled"}),
    ],
)
def test_every_answer_to_a_failure(table: Table, answer: Any, add: dict[str, Any] | None, states: dict[str, str]) -> None:
    table.submit(chain(retries=0), replan=Replan(failed=answer, split=Split(over="rows")))
    table.run("load", b"[1]")
    table.run("report", b"[9]")
    table.award("features")
    table.fail("features")
    assert {name: state for name, state in table.states().items() if name not in ("load", "report")} == states
    assert table.state.state == {"wait": "waiting", "fail": "failed"}.get(answer, "running")
    assert table.state.plan_version == (2 if add is not None else 1)
    if add:
        spec = versions(table)[-1].add["features"]
        assert {name: getattr(spec, name) for name in add} == add
    assert table.folded() == table.state


def test_what_was_split_and_waits_is_split_anew(table: Table) -> None:
    table.submit(split_in_two(retries=0), replan=Replan(failed="wait"))
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    table.run("f-1", b"[1]")
    table.award("f-2")
    table.fail("f-2")
    assert table.states() == {"f": "approval", "g": "blocked", "f-1": "superseded", "f-2": "superseded"}
    say(table, "accept", "f")
    assert [need.subtask for need in table.of(NeedSplit)] == ["f"]
    assert [effect.subtask for effect in pending(table.folded(), table.now, table.settings) if isinstance(effect, NeedSplit)] == ["f"]
    table.put(SplitIn("f", 2, [(None, 1)], version=1))
    table.run("f-1", b"[3]")
    table.run("f-2", b"[4]")
    (need,) = table.of(NeedCompose)
    assert need.parts == {"f-1": Raw(b"[3]"), "f-2": Raw(b"[4]")}
    table.put(ComposedIn("f", Raw(b"[3,4]")))
    table.run("g", b"7")
    assert (table.state.state, table.state.result) == ("completed", Raw(b"7"))
    assert table.folded() == table.state


def test_what_has_children_and_waits_makes_them_anew(table: Table) -> None:
    table.submit(Plan({"load": Subtask("load"), "p": Subtask("p", retries=0)}), replan=Replan(failed="wait"))
    table.award("p")
    table.claim(m.Extend, "p", call=1, child=spec("kid", after=["load"]))
    table.claim(m.Extend, "p", call=2, child=spec("kid"))
    table.award("p-2", agent="a2")
    table.fail("p")
    assert table.states() == {"load": "ready", "p": "approval", "p-1": "superseded", "p-2": "superseded"}
    assert [(effect.peer, effect.kind) for effect in table.of(Send)] == [("a2", "cancel")]
    say(table, "accept", "p")
    table.award("p")
    table.claim(m.Extend, "p", call=1, child=spec("kid", after=["load"]))
    assert table.of(Send) == []
    assert table.states()["p-1"] == "blocked"
    table.run("load")
    assert table.states()["p-1"] == "ready"
    table.run("p-1")
    (result,) = table.of(Send)
    assert isinstance(result.message, m.Result)
    assert (result.kind, result.message.call, result.message.state) == ("result", 1, "completed")
    table.done("p")
    assert table.state.ended
    assert table.folded() == table.state


def test_children_that_wait_for_what_is_removed_are_cancelled(table: Table) -> None:
    table.submit(Plan({"load": Subtask("load"), "p": Subtask("p")}), replan=Replan(message="plan"))
    table.award("p")
    table.claim(m.Extend, "p", call=1, child=spec("kid", after=["load"]))
    table.claim(m.Extend, "p", call=2, child=spec("kid", after=["p-1"]))
    table.claim(m.Extend, "p", call=3, child=spec("kid"))
    say(table, None, None, text="think")
    table.award("plan-1", agent="boss")
    table.claim(m.Done, "plan-1", agent="boss", result=Raw(b"{}"))
    answer(table, remove=["load"], finish=True)
    assert table.states() == {
        "load": "superseded",
        "p": "running",
        "p-1": "cancelled",
        "p-2": "cancelled",
        "p-3": "ready",
        "plan-1": "completed",
    }
    told = [effect.message for effect in table.of(Send) if isinstance(effect.message, m.Result)]
    assert [(result.call, result.state) for result in told] == [(1, "cancelled"), (2, "cancelled")]
    table.claim(m.Extend, "p", call=4, child=spec("kid", after=["load"]))
    assert table.last.refusal is not None
    assert "load" in table.last.refusal.message
    table.done("p")
    assert table.state.ended
    assert table.folded() == table.state


def test_what_waits_for_a_person_goes_on_with_the_word(table: Table) -> None:
    table.submit("work", retries=0, replan=Replan(failed="wait"))
    table.award()
    table.fail()
    assert (table.state.state, table.states()["main"]) == ("waiting", "approval")
    say(table, "revise", "main", text="with more memory")
    assert (table.state.state, table.states()["main"]) == ("running", "ready")
    table.award()
    assert [given.text for given in award_of(table.state, "main").feedback] == ["with more memory"]
    table.fail()  # a new number of tries, so none is left again
    assert table.states()["main"] == "approval"
    say(table, "reject", "main", text="enough")
    assert table.state.state == "failed"


def test_nobody_fits_and_the_policy_has_an_answer(table: Table) -> None:
    table.submit("work", replan=Replan(unserved="fail", unserved_s=5))
    (timer,) = [effect for effect in table.of(SetTimer) if effect.kind == "unserved"]
    assert timer.due == table.now + 5
    table.now += 5
    table.put(TimerIn("unserved", "main", 1))
    assert table.state.error is not None
    assert table.state.error.code == "unserved"


def test_a_lost_agent_may_be_answered_too(table: Table) -> None:
    table.submit("work", replan=Replan(lost="plan"))
    epoch = table.award()
    table.put(LostIn("main", epoch, "gone"))
    assert table.states() == {"main": "failed", "plan-1": "ready"}


# planners


def asked(table: Table, **options: Any) -> None:
    """A task with a goal whose planner has been asked."""
    table.put_goal(**options)
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))


def answer(table: Table, planner: str = "plan-1", error: str = "", **fields: Any) -> None:
    epoch = table.state.subtasks[planner].epoch
    revision = None if error else r.Revision(**fields)
    table.put(RevisionIn(planner, epoch, revision, error))


def spec(capability: str, input: bytes = b"{}", **more: Any) -> m.SubtaskSpec:
    return m.SubtaskSpec(capability=capability, input=Raw(input), **more)


def test_a_goal_is_planned_step_by_step(table: Table) -> None:
    table.put_goal()
    assert (table.state.state, table.states()) == ("planning", {"plan-1": "ready"})
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b'{"add":{}}'))
    (need,) = table.of(NeedRevision)
    assert (need.subtask, need.body) == ("plan-1", Raw(b'{"add":{}}'))
    assert not table.state.ended
    answer(table, add={"a": spec("one")})
    assert (table.state.state, table.state.plan_version, table.states()["a"]) == ("running", 2, "ready")
    table.run("a")
    assert table.states()["plan-2"] == "ready"
    assert table.state.subtasks["plan-2"].whys is not None
    assert [why.trigger for why in table.state.subtasks["plan-2"].whys] == ["continue"]
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", add={"b": spec("two", b'{"x":{"$ref":"a"}}')}, finish=True)
    table.run("b", b'"end"')
    assert (table.state.state, table.state.result) == ("completed", Raw(b'"end"'))
    assert table.folded() == table.state


def test_a_planner_may_end_the_task_with_a_result_of_its_own(table: Table) -> None:
    asked(table)
    answer(table, finish=True, output=Raw(b"42"))
    assert (table.state.state, table.state.result) == ("completed", Raw(b"42"))


def test_a_planners_large_result_is_named_by_reference(table: Table) -> None:
    asked(table)
    ref = m.BlobRef(digest="d", bytes=300_000, chunks=2)
    answer(table, finish=True, output_blob=ref)
    assert (table.state.state, table.state.result) == ("completed", ref)
    assert table.folded() == table.state


def test_a_planner_may_end_a_task_that_waits_for_a_person(table: Table) -> None:
    asked(table)
    answer(table, add={"a": spec("one"), "pay": spec("bank.pay", approval=Approval())})
    say(table, None, None, text="think")
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    assert table.state.state == "waiting"
    answer(table, "plan-2", finish=True, output=Raw(b"42"))
    assert (table.state.state, table.state.result) == ("completed", Raw(b"42"))
    assert table.folded() == table.state


def test_an_answer_that_nobody_has_used_is_pending_also_while_others_work(table: Table) -> None:
    table.submit(chain(), replan=Replan(message="plan"))
    table.award("load")
    say(table, None, None, text="think")
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    assert Settle() in pending(table.folded(), table.now, table.settings)
    table.put(SettleIn())
    assert [need.subtask for need in table.of(NeedRevision)] == ["plan-1"]


def test_the_same_work_is_kept_and_other_work_replaced(table: Table) -> None:
    asked(table)
    first = {"a": spec("one"), "b": spec("two", b'{"x":{"$ref":"a"}}'), "c": spec("three")}
    answer(table, add=first)
    table.run("a", b"1")
    table.run("c", b"3")
    table.run("b", b"2")
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    again = {
        "a": spec("one"),
        "b": spec("two", b'{ "x" : {"$ref": "a"} }'),
        "c": spec("three", b'{"n":2}'),
        "d": spec("four", b'{"x":{"$ref":"c"}}'),
    }
    answer(table, "plan-2", add=again, whole=True, finish=True)
    change = versions(table)[-1]
    assert (list(change.add), change.again, change.remove) == (["c", "d"], [], [])
    assert {name: state for name, state in table.states().items() if not name.startswith("plan")} == {
        "a": "completed",
        "b": "completed",
        "c": "ready",
        "d": "blocked",
    }
    assert len(table.state.subtasks["a"].attempts) == 1


def test_what_is_kept_needs_nobody_who_offers_it(table: Table) -> None:
    asked(table)
    answer(table, add={"load": spec("load"), "b": spec("two", b'{"x":{"$ref":"load"}}', retries=0)})
    table.run("load")
    table.award("b")
    table.fail("b")
    table.award("plan-2", agent="p")
    whole = {"load": spec("load"), "b": spec("new", b'{"x":{"$ref":"load"}}')}
    offers = [OfferLine(name="plan", agents=1, free=1), OfferLine(name="new", agents=1, free=1)]

    def read(**add: m.SubtaskSpec) -> RevisionIn:
        body = Raw(encode(r.Revision(add={**whole, **add}, whole=True, finish=True)))
        errand = read_revision(table.state, NeedRevision("plan-2", table.state.epochs, body), offers)
        decode = next(errand)
        assert callable(decode)
        with pytest.raises(StopIteration) as read:
            errand.send(decode())
        value: RevisionIn = read.value.value
        return value

    assert read().error == ""
    assert "Nobody offers 'load'" in read(load=spec("load", b'{"n":2}')).error
    assert "Nobody offers 'three'" in read(c=spec("three")).error
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    table.put(read())
    assert (table.states()["load"], table.states()["b"]) == ("completed", "ready")


def test_what_a_subtask_needs_is_part_of_its_work_in_any_order() -> None:
    others = {name: spec(name) for name in "abc"}

    def digest_of(input: bytes, *after: str) -> str:
        return work_digests({**others, "x": spec("x", input, after=list(after))})["x"]

    first = digest_of(b'{"a":{"$ref":"a"},"b":{"$ref":"b"}}', "c")
    assert digest_of(b'{"b":{"$ref":"b"},"a":{"$ref":"a"}}', "c", "a") == first
    assert digest_of(b'{"b":{"$ref":"b"},"a":{"$ref":"a"}}') != first
    assert digest_of(b'{"b":{"$ref":"a"},"a":{"$ref":"b"}}', "c") != first


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"add": {"a": spec("one", after=["b"]), "b": spec("two", after=["a"])}}, "cycle"),
        ({"add": {"a": spec("one", after=["nobody"])}}, "nobody"),
        ({"again": ["nobody"]}, "nobody"),
        ({"remove": ["plan-1"]}, "plan-1"),
        ({"add": {"plan-1": spec("one")}}, "planner"),
        ({"add": {"a": spec("not a name")}}, "not a name"),
        ({"add": {f"s{n}": spec("one") for n in range(21_000)}}, "20000"),
        ({}, "changes nothing"),
        ({"error": "no JSON"}, "no JSON"),
    ],
)
def test_nonsense_goes_back_to_the_planner_and_the_third_time_fails_the_task(table: Table, fields: dict[str, Any], word: str) -> None:
    asked(table)
    for count in range(3):
        answer(table, **fields)
        if count < 2:
            assert table.states()["plan-1"] == "ready"
            assert table.state.plan_version == 1
            planner = table.state.subtasks["plan-1"]
            assert planner.whys is not None
            assert word in planner.whys[-1].text
            table.award("plan-1", agent="p")
            table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    assert table.state.error is not None
    assert (table.state.state, table.state.error.details["cause"]) == ("failed", "nonsense")
    assert word in table.state.error.message


def test_the_same_for_the_third_time_is_told_and_then_fails_the_task(table: Table) -> None:
    asked(table)
    planner = "plan-1"
    for number in range(2):
        answer(table, planner, add={f"a{number}": spec("one", b'{"q":1}')})
        table.run(f"a{number}")
        planner = f"plan-{number + 2}"
        table.award(planner, agent="p")
        table.claim(m.Done, planner, agent="p", result=Raw(b"{}"))
    answer(table, planner, add={"a2": spec("one", b'{"q":1}')})
    whys = table.state.subtasks[planner].whys
    assert whys is not None
    assert whys[-1].trigger == "repeated"
    table.award(planner, agent="p")
    table.claim(m.Done, planner, agent="p", result=Raw(b"{}"))
    answer(table, planner, add={"a3": spec("one", b'{"q": 1}')})
    assert table.state.error is not None
    assert (table.state.error.code, table.state.error.details["cause"]) == ("budget", "repeated")
    assert any("a1" in line for line in table.state.error.details["story"])


def test_the_same_for_the_third_time_fails_the_task_without_a_planner_too(table: Table) -> None:
    table.submit("work", retries=0, replan=Replan(failed="retry"))
    for _ in range(2):
        assert not table.state.ended
        table.award()
        table.fail()
    assert table.state.error is not None
    assert (table.state.error.code, table.state.error.details["cause"]) == ("budget", "repeated")
    assert "for time 3" in table.state.error.message
    assert table.folded() == table.state


def test_a_planner_for_the_goal_is_told_what_was_tried_too_often(table: Table) -> None:
    asked(table, replan=Replan(failed="another"))
    answer(table, add={"a": spec("one", retries=0)}, finish=True)
    for agent in ("a1", "a2"):
        table.award("a", agent=agent)
        table.fail("a", agent=agent)
    whys = table.state.subtasks["plan-2"].whys
    assert whys is not None
    assert [(why.trigger, why.subtask) for why in whys] == [("failed", "a"), ("repeated", "a")]
    assert (table.states()["a"], table.state.unanswered) == ("failed", [])
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", add={"a": spec("one")}, finish=True)
    assert table.state.error is not None
    assert table.state.error.details["cause"] == "repeated"


def test_any_number_of_times_when_the_policy_says_so(table: Table) -> None:
    table.submit("work", retries=0, replan=Replan(failed="retry", repeats=0))
    for _ in range(10):
        table.award()
        table.fail()
    assert table.states() == {"main": "ready"}


def test_a_vote_of_equal_subtasks_is_no_repetition(table: Table) -> None:
    """Nothing of it has begun; later each subtask of it counts by itself, but not for a planner."""
    asked(table, replan=Replan(failed="retry"))
    answer(table, add={f"vote{n}": spec("one", retries=0) for n in range(3)})
    assert (table.state.plan_version, table.states()["vote2"]) == (2, "ready")
    for name in ("vote0", "vote1", "vote2"):
        table.award(name)
        table.fail(name)
    assert (table.state.plan_version, {table.states()[f"vote{n}"] for n in range(3)}) == (5, {"ready"})
    say(table, None, None, text="one more?")
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", add={"vote3": spec("one")})
    whys = table.state.subtasks["plan-2"].whys
    assert whys is not None
    assert whys[-1].trigger == "repeated"


@pytest.mark.parametrize("verdict", ["revise", "reject"])
def test_work_with_other_feedback_is_other_work(table: Table, verdict: Any) -> None:
    run_until_model(table, replan=Replan(reject="retry"))
    for number in range(5):
        say(table, verdict, "features", text=f"better ({number})")
        assert table.state.plan_version == number + 2
        table.run("features", b"[2]")
        table.run("model", b'"m"') if number < 4 else table.award("model")
    assert not table.state.ended
    assert all(times == {name: 1} for times in table.state.works.values() for name in times)


def test_shares_count_as_work_of_what_was_split(table: Table) -> None:
    table.submit(split_in_two(retries=0), replan=Replan(failed="retry"))
    for version in (1, 2):
        table.put(SplitIn("f", 2, [(None, 1)], version=version))
        table.award("f-1")
        table.fail("f-1")
    assert table.state.error is not None
    assert table.state.error.details["cause"] == "repeated"


def test_a_failure_is_put_before_the_planner_which_must_replace_it(table: Table) -> None:
    asked(table)
    answer(table, add={"a": spec("one", retries=0), "b": spec("two", after=["a"])}, finish=True)
    table.award("a")
    table.fail("a")
    assert table.states() == {"plan-1": "completed", "a": "failed", "b": "blocked", "plan-2": "ready"}
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", add={"c": spec("three")}, finish=True)
    assert table.state.plan_version == 2  # b needs a, which has failed
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", add={"a": spec("three")}, finish=True)
    assert table.states()["a"] == "ready"
    table.run("a")
    table.run("b", b"7")
    assert (table.state.state, table.state.result) == ("completed", Raw(b"7"))
    assert table.folded() == table.state


def test_a_version_made_meanwhile_has_the_planner_begin_anew(table: Table) -> None:
    table.submit(chain(), replan=Replan(message="plan"))
    table.run("load", b"[1]")
    say(table, None, None, text="think again")
    table.award("plan-1", agent="p")
    epoch = table.state.subtasks["plan-1"].epoch
    say(table, "revise", "load")
    assert (table.state.plan_version, table.states()["plan-1"], table.states()["load"]) == (2, "ready", "ready")
    table.claim(m.Done, "plan-1", agent="p", epoch=epoch, result=Raw(b"{}"))
    assert table.states()["plan-1"] == "ready"
    assert table.state.subtasks["plan-1"].whys is not None
    assert [why.trigger for why in table.state.subtasks["plan-1"].whys] == ["message"]


def two_ways() -> Plan:
    """`end` needs both `work`, which is to fail, and `other`."""
    subtasks = {"work": Subtask("work", retries=0), "other": Subtask("other"), "lone": Subtask("lone", retries=0)}
    return Plan({**subtasks, "end": Subtask("end", {"a": Ref("work"), "b": Ref("other")})}, result="end")


@pytest.mark.parametrize("trigger", ["revise", "lost"])
def test_a_version_that_answers_something_else_leaves_to_the_planner_what_has_failed(table: Table, trigger: str) -> None:
    table.submit(two_ways(), replan=Replan(failed="plan", lost="another"))
    for name in ("work", "lone"):
        table.award(name)
        table.fail(name)
    assert (table.states()["work"], table.states()["lone"], table.states()["plan-1"]) == ("failed", "failed", "ready")
    if trigger == "revise":
        table.run("other")
        say(table, "revise", "other")
    else:
        table.put(LostIn("other", table.award("other"), "gone"))
    assert table.state.plan_version == 2
    assert table.states() == {
        "work": "failed",
        "other": "ready",
        "lone": "failed",
        "end": "blocked",
        "plan-1": "ready",
    }
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    answer(table, add={"work": spec("better")}, finish=True)
    # the second failure came after the question, so it is asked about too
    assert (table.states()["lone"], table.states()["plan-2"]) == ("failed", "ready")
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", remove=["lone"], finish=True)
    for name in ("work", "other"):
        table.run(name)
    table.run("end", b"7")
    assert (table.state.state, table.state.result) == ("completed", Raw(b"7"))
    assert table.folded() == table.state


# approval


def test_a_subtask_waits_for_the_word_and_its_time_out(table: Table) -> None:
    table.submit(Plan({"a": Subtask("one"), "pay": Subtask("bank.pay", after=["a"], approval=Approval(timeout_s=60, text="pay?"))}))
    table.run("a")
    assert (table.states()["pay"], table.state.state) == ("approval", "waiting")
    assert table.of(Want) == []
    assert [effect for effect in pending(table.folded(), table.now, table.settings) if isinstance(effect, SetTimer)] == [
        SetTimer("approval", table.now + 60, "pay")
    ]
    say(table, "accept", "pay", peer="a1")
    assert table.last.refusal is not None
    say(table, "accept", "pay")
    assert (table.states()["pay"], table.state.state) == ("ready", "running")
    assert [want.subtask for want in table.of(Want)] == ["pay"]


@pytest.mark.parametrize(("otherwise", "state"), [("accept", "running"), ("reject", "failed")])
def test_nobody_says_a_word(table: Table, otherwise: Any, state: str) -> None:
    table.submit("bank.pay", approval=ApprovalPolicy(capabilities=["bank.*"], timeout_s=60, otherwise=otherwise))
    table.now += 59
    table.put(TimerIn("approval", "main"))
    assert table.state.state == "waiting"
    table.now += 1
    table.put(TimerIn("approval", "main"))
    assert table.state.state == state


def test_a_version_waits_for_the_word(table: Table) -> None:
    asked(table, approval=ApprovalPolicy(versions=True))
    answer(table, add={"a": spec("one")}, finish=True)
    assert (table.state.state, table.state.plan_version, list(table.states())) == ("waiting", 1, ["plan-1"])
    say(table, "revise", None, text="cheaper, please")
    assert (table.state.state, table.states()) == ("running", {"plan-1": "ready"})
    table.award("plan-1", agent="p")
    table.claim(m.Done, "plan-1", agent="p", result=Raw(b"{}"))
    answer(table, add={"b": spec("two")}, finish=True)
    say(table, "accept", None)
    assert (table.state.plan_version, table.states()["b"]) == (2, "ready")
    table.run("b")
    assert table.state.ended
    assert table.folded() == table.state


# budgets


def test_a_budget_that_is_exceeded_fails_the_task_with_its_account(table: Table) -> None:
    table.submit(Plan({"a": Subtask("one"), "b": Subtask("two", after=["a"])}), budget={"tokens": 100})
    table.award("a")
    table.claim(m.Done, "a", result=Raw(b"1"), usage={"tokens": 120.0}, took_s=2.0)
    assert table.state.error is not None
    assert table.state.error.code == "budget"
    details = table.state.error.details
    assert (details["exceeded"], details["spent"]["tokens"], details["budget"]["tokens"]) == ("tokens", 120.0, 100)


def test_failed_attempts_count_and_the_last_result_is_taken(table: Table) -> None:
    table.submit("work", budget={"tokens": 100})
    table.award()
    table.claim(m.Failed, error=m.ErrorInfo(code="handler", message="x", retryable=True), usage={"tokens": 60.0})
    assert not table.state.ended
    table.award()
    table.claim(m.Done, result=Raw(b"1"), usage={"tokens": 60.0})
    assert table.state.state == "completed"
    assert table.state.spent["work"]["tokens"] == 120.0


def test_what_runs_uses_seconds(table: Table) -> None:
    table.submit("work", budget={"seconds": 10})
    table.award()
    table.claim(m.Accept)
    table.put(TimerIn("budget"))
    (timer,) = table.of(SetTimer)
    assert timer.due == pytest.approx(table.now + 10)
    table.now = timer.due
    table.put(TimerIn("budget"))
    assert table.state.error is not None
    assert table.state.error.details["exceeded"] == "seconds"


def test_a_plan_larger_than_its_budget_is_refused(table: Table) -> None:
    table.submit(chain(), budget={"subtasks": 3})
    assert table.last.refusal is not None
    assert table.log == []


# once too often, to the same agents


def test_another_agent_is_none_of_all_that_had_it(table: Table) -> None:
    table.submit("work", retries=1, replan=Replan(failed="another", repeats=0))
    for agent in ("a1", "a2"):
        table.award(agent=agent)
        table.fail(agent=agent)
    assert versions(table)[-1].add["main"].avoid == ["a1", "a2"]
    for agent in ("a3", "a4"):
        table.award(agent=agent)
        table.fail(agent=agent)
    assert versions(table)[-1].add["main"].avoid == ["a1", "a2", "a3", "a4"]


def test_work_that_was_superseded_counts_as_done_before(table: Table) -> None:
    """The same under the same name, taken away and asked for again."""
    asked(table)
    answer(table, add={"a": spec("one", b'{"q":1}'), "b": spec("two")})
    for number, way in ((2, "other"), (3, "one"), (4, "other"), (5, "one")):
        table.award("a")
        say(table, None, None, text="think")
        table.award(f"plan-{number}", agent="p")
        table.claim(m.Done, f"plan-{number}", agent="p", result=Raw(b"{}"))
        answer(table, f"plan-{number}", add={"a": spec(way, b'{"q":%d}' % (1 if way == "one" else number))})
    assert table.state.plan_version == 5
    whys = table.state.subtasks["plan-5"].whys
    assert whys is not None
    assert (whys[-1].trigger, "'one' with the same input for time 3" in whys[-1].text) == ("repeated", True)


# what a version keeps


def test_a_result_that_was_removed_is_the_result_no_more(table: Table) -> None:
    asked(table)
    answer(table, add={"a": spec("one"), "b": spec("two")}, result="b")
    say(table, None, None, text="think")
    table.award("plan-2", agent="p")
    table.claim(m.Done, "plan-2", agent="p", result=Raw(b"{}"))
    answer(table, "plan-2", remove=["b"], finish=True)
    assert table.state.result_of is None
    table.run("a", b"7")
    assert (table.state.state, table.state.result) == ("completed", Raw(b"7"))


def test_the_same_work_after_a_revise_is_other_work() -> None:
    specs = {"a": spec("one"), "b": spec("two", b'{"x":{"$ref":"a"}}'), "c": spec("three")}
    said = [r.FeedbackGiven(id="f1", sender="me", subtask="a", verdict="revise"), r.FeedbackGiven(id="f2", sender="me", subtask="c")]
    before, after = work_digests(specs), work_digests(specs, said)
    assert {name for name in specs if before[name] != after[name]} == {"a", "b"}


@pytest.mark.parametrize("answer", ["retry", "another", "split", "wait"])
def test_what_is_too_late_is_not_tried_again(table: Table, answer: Any) -> None:
    table.submit(Plan({"a": Subtask("one", deadline_s=5.0)}), replan=Replan(failed=answer, split=Split(over="rows")))
    table.now += 5
    table.put(TimerIn("subtask-deadline", "a"))
    assert (table.state.state, table.state.plan_version) == ("failed", 1)
