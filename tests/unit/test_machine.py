"""The pure machine: what each input leads to, one behaviour a test."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from table import START, Table

from agentexecutor.coordinator.evolve import evolve
from agentexecutor.coordinator.inputs import (
    AwardIn,
    BrokenIn,
    CancelIn,
    ClaimIn,
    ComposedIn,
    Drop,
    FeedbackIn,
    GiveAward,
    HeldIn,
    LostIn,
    NeedCompose,
    NeedSplit,
    Send,
    SetTimer,
    Settle,
    SettleIn,
    SplitIn,
    SubmitIn,
    TimerIn,
    Want,
)
from agentexecutor.coordinator.machine import award_of, decide, pending
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.views import state_view, task_view
from agentexecutor.schemas import Plan, Ref, Split, Subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import to_rfc3339


@pytest.fixture
def table() -> Table:
    return Table()


def sent(table: Table, kind: str) -> list[m.Message]:
    return [effect.message for effect in table.of(Send) if effect.kind == kind]


def test_one_capability_from_submit_to_result(table: Table) -> None:
    table.submit("text.classify")
    assert [want.demand.capability for want in table.of(Want)] == ["text.classify"]
    assert table.award() == 1
    assert table.of(GiveAward) == [GiveAward("main", 1)]
    table.claim(m.Accept, schedule=[m.Step(name="go", duration_s=1)])
    assert table.last.soft
    table.done(result=b'{"x":1}')
    (result,) = sent(table, "result")
    assert isinstance(result, m.Result)
    assert result.state == "completed"
    assert bytes(result.result) == b'{"x":1}'
    assert table.state.ended
    assert state_view(table.state).state == "completed"
    assert bytes(task_view(table.folded()).result) == b'{"x":1}'


@pytest.mark.parametrize("limit", [{"timeout_s": 5.0}, {"budget": {"seconds": 60.0}}])
def test_an_accept_that_begins_a_time_is_recorded_at_once(table: Table, limit: dict[str, Any]) -> None:
    table.submit("x", **limit)
    table.award()
    table.claim(m.Accept)
    assert not table.last.soft


def test_done_stands_for_the_accept(table: Table) -> None:
    table.submit()
    table.award()
    table.done(schedule=[m.Step(name="go")])
    assert [type(change).__name__ for change in table.last.changes] == ["Accepted", "Completed", "Completed"]


def test_the_same_submit_again_is_the_same_task(table: Table) -> None:
    table.submit(digest="d1")
    assert table.submit(digest="d1").changes == []
    table.run()
    table.submit(digest="d1")
    assert [message.state for message in sent(table, "result") if isinstance(message, m.Result)] == ["completed"]


def test_the_same_id_with_other_content_is_refused(table: Table) -> None:
    table.submit(digest="d1")
    table.submit(digest="d2")
    (refused,) = sent(table, "refused")
    assert isinstance(refused, m.Refused)
    assert refused.error.code == "refused"
    assert table.last.changes == []


def test_a_submit_of_which_only_the_first_record_was_written_is_planned_when_it_comes_again(table: Table) -> None:
    submit = SubmitIn(m.Submit(capability="c", deadline_s=60), "d", START, "s1")
    first, *_ = decide(table.state, submit, table.now, table.settings, 1).changes
    evolve(table.state, first, table.now)
    assert [type(effect) for effect in pending(table.state, table.now, table.settings)] == [SetTimer]
    assert table.put(ComposedIn(None, Raw(b"{}"))).changes == []
    assert table.put(HeldIn()).changes == [r.Held()]
    table.put(submit)
    assert table.states() == {"main": "ready"}
    table.run()
    assert table.state.state == "completed"


@pytest.mark.parametrize(
    "submit",
    [
        m.Submit(),
        m.Submit(capability="a", goal="b"),
        m.Submit(goal="b", replan=m.Replan(late="split")),
        m.Submit(capability="no spaces"),
        m.Submit(plan=m.PlanSpec(subtasks={})),
        m.Submit(plan=m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="c", after=["b"])})),
        m.Submit(plan=m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="c", after=["a"])})),
        m.Submit(capability="a", input=Raw(b'{"x":{"$ref":"nobody"}}')),
        m.Submit(capability="a", input=Raw(b'{"x":{"$ref":5}}')),
        m.Submit(capability="a", award="magic"),
    ],
)
def test_a_submit_that_cannot_run_is_refused_and_not_recorded(submit: m.Submit) -> None:
    table = Table(Settings(policies=frozenset({"fastest"})))
    table.put(SubmitIn(submit, "d", START, "s1"))
    (refused,) = sent(table, "refused")
    assert isinstance(refused, m.Refused)
    assert (refused.id, refused.error.code) == ("s1", "input")
    assert table.last.changes == []
    assert table.state.state == "unknown"


def test_a_cycle_is_shown_as_a_path(table: Table) -> None:
    table.submit(m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="c", after=["b"]), "b": m.SubtaskSpec(capability="c", after=["a"])}))
    (refused,) = sent(table, "refused")
    assert isinstance(refused, m.Refused)
    assert refused.error.details["path"] == ["a", "b", "a"]


def test_a_plan_runs_in_its_order(table: Table) -> None:
    plan = Plan(result="join")
    plan.add("left", Subtask("c"))
    plan.add("right", Subtask("c"))
    plan.add("join", Subtask("c", {"l": Ref("left"), "r": Ref("right")}))
    table.submit(plan)
    assert [want.subtask for want in table.of(Want)] == ["left", "right"]
    table.run("left", b"[1]")
    assert table.of(Want) == []
    table.run("right", b"[2]")
    assert [want.subtask for want in table.of(Want)] == ["join"]
    table.run("join", b"[1,2]")
    assert bytes(state_view(table.state).result) == b"[1,2]"


def test_without_a_named_result_all_final_ones_are_composed(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c"), "b": Subtask("c")}))
    table.run("a", b"1")
    table.run("b", b"2")
    (need,) = table.of(NeedCompose)
    assert (need.subtask, list(need.parts), need.join) == (None, ["a", "b"], False)
    assert not table.state.ended
    assert pending(table.state, table.now, table.settings) == [Settle()]
    table.put(SettleIn())
    assert table.of(NeedCompose) == [need]
    table.put(ComposedIn(None, Raw(b'{"a":1,"b":2}')))
    assert table.state.state == "completed"


def test_a_failed_attempt_is_tried_again_after_a_back_off(table: Table) -> None:
    table.submit()
    table.award()
    table.fail()
    (timer,) = table.of(SetTimer)
    assert timer.kind == "retry"
    assert START + 0.1 <= timer.due <= START + 0.2
    assert table.of(Want) == []
    table.now = timer.due
    table.put(TimerIn("retry", "main"))
    (want,) = table.of(Want)
    assert want.demand.avoid == ("a1",)
    assert table.award() == 2


def test_tries_end_and_the_task_fails_with_the_last_error(table: Table) -> None:
    table.submit(retries=1)
    for _ in range(2):
        table.award()
        table.fail()
        table.now += 60
        table.put(TimerIn("retry", "main"))
    assert table.state.state == "failed"
    assert table.state.error is not None
    assert table.state.error.code == "handler"
    assert table.state.error.details["subtask"] == "main"
    assert [attempt.state for attempt in table.state.subtasks["main"].attempts] == ["failed", "failed"]


def test_an_error_that_is_not_retryable_is_final(table: Table) -> None:
    table.submit()
    table.award()
    table.fail(retryable=False)
    assert table.state.state == "failed"


def test_retry_after_is_obeyed(table: Table) -> None:
    table.submit()
    table.award()
    table.fail(retry_after_s=7.0)
    (timer,) = table.of(SetTimer)
    assert timer.due == table.now + 7.0


def test_a_decline_uses_up_no_try(table: Table) -> None:
    table.submit(retries=0)
    for _ in range(10):
        table.award()
        table.claim(m.Decline, reason="full")
        table.now += 60
        table.put(TimerIn("retry", "main"))
    assert table.state.subtasks["main"].state == "ready"
    table.run()
    assert table.state.state == "completed"


def test_declines_in_a_row_wait_longer(table: Table) -> None:
    table.submit()
    for _ in range(3):
        table.award()
        table.claim(m.Decline)
        assert [want.subtask for want in table.of(Want)] == ["main"]
    table.award()
    table.claim(m.Decline)
    assert [timer.kind for timer in table.of(SetTimer)] == ["retry"]


def test_not_accepted_in_time_goes_to_another(table: Table) -> None:
    table.submit()
    table.award()
    timer = next(timer for timer in table.of(SetTimer) if timer.kind == "accept")
    table.now = timer.due
    table.put(TimerIn("accept", "main", 1))
    assert [type(message).__name__ for message in sent(table, "cancel")] == ["Cancel"]
    assert [want.subtask for want in table.of(Want)] == ["main"]
    table.award(agent="a2")
    table.claim(m.Done, epoch=1, result=Raw(b"1"))
    assert table.state.subtasks["main"].state == "awarded", "the older epoch changes nothing"
    assert [type(message).__name__ for message in sent(table, "cancel")] == ["Cancel"]


def test_an_old_accept_timer_does_nothing(table: Table) -> None:
    table.submit()
    table.award()
    table.claim(m.Accept)
    assert table.put(TimerIn("accept", "main", 1)).changes == []


def test_losses_are_counted_apart_and_end(table: Table) -> None:
    table.submit(retries=0)
    for number in range(1, 6):
        epoch = table.award()
        table.put(LostIn("main", epoch, "silent for 4 s"))
        assert table.state.ended == (number == 5)
    assert table.state.error is not None
    assert table.state.error.code == "lost"


def test_a_release_uses_up_nothing(table: Table) -> None:
    table.submit(retries=0)
    table.award()
    table.claim(m.Accept)
    table.claim(m.Release, reason="stopping")
    assert table.states() == {"main": "ready"}
    assert table.state.subtasks["main"].tries == 0
    assert [want.subtask for want in table.of(Want)] == ["main"]


@pytest.mark.parametrize(
    ("agent", "boot", "epoch", "expected"),
    [("a1", "b1", 1, "done"), ("a2", "b1", 1, "refused"), ("a1", "b2", 1, "refused"), ("a1", "b1", 2, "stale")],
)
def test_only_the_holder_of_the_epoch_counts(table: Table, agent: str, boot: str, epoch: int, expected: str) -> None:
    table.submit()
    table.award()
    decision = table.claim(m.Done, agent=agent, boot=boot, epoch=epoch, result=Raw(b"1"))
    assert table.state.ended == (expected == "done")
    assert decision.stale == (expected == "stale")
    assert (decision.refusal is not None) == (expected != "done")


def test_a_claim_about_an_unknown_subtask_asks_for_the_log(table: Table) -> None:
    table.submit()
    table.award()
    assert table.put(ClaimIn("a1", m.Done(subtask="x", epoch=1, boot="b1"), "i")).stale


def test_a_claim_applied_twice_counts_once(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c"), "b": Subtask("c", after=["a"])}))
    table.award("a")
    table.done("a")
    table.count -= 1
    assert table.claim(m.Done, "a", epoch=1, result=Raw(b"2")).changes == []
    assert bytes(table.state.subtasks["a"].result) == b"1"  # type: ignore[arg-type]  # inline


def test_claims_about_an_ended_task_are_answered_with_cancel(table: Table) -> None:
    table.submit()
    table.award()
    table.put(CancelIn("me", "enough", "x"))
    assert [type(message).__name__ for message in sent(table, "cancel")] == ["Cancel"]
    table.done()
    assert table.last.changes == []
    assert [type(message).__name__ for message in sent(table, "cancel")] == ["Cancel"]


def test_only_the_owner_cancels(table: Table) -> None:
    table.submit()
    table.put(CancelIn("eve", "I do not like it", "x"))
    assert table.last.changes == []
    (refused,) = table.of(Send)
    assert (refused.peer, refused.kind) == ("eve", "refused")
    assert isinstance(refused.message, m.Refused)
    assert "eve is not the owner" in refused.message.error.message
    assert not table.state.ended


@pytest.mark.parametrize("reason", ["enough", ""])
def test_who_asks_again_hears_the_same_reason_of_a_cancel(table: Table, reason: str) -> None:
    table.submit()
    table.put(CancelIn("me", reason, "x"))
    (told,) = sent(table, "result")
    table.put(CancelIn("me", reason, "x"))
    assert sent(table, "result") == [told], "the claim came twice"
    assert isinstance(told, m.Result)
    assert state_view(table.state).error == told.error
    assert told.error is not None
    assert (told.error.code, told.error.message) == ("cancelled", reason or "The owner cancelled the task.")


def test_a_cancel_that_comes_after_the_result_is_told_the_result(table: Table) -> None:
    table.submit()
    table.award()
    table.done(result=b'"here it is"')
    (told,) = sent(table, "result")
    table.put(CancelIn("me", "too late?", "another claim"))
    assert table.last.changes == []
    assert sent(table, "result") == [told]
    assert table.state.state == "completed"


def test_cancel_before_the_submit_writes_a_tombstone(table: Table) -> None:
    table.put(CancelIn("me", "changed my mind", "x"))
    assert table.state.state == "cancelled"
    table.submit()
    assert [message.state for message in sent(table, "result") if isinstance(message, m.Result)] == ["cancelled"]
    assert table.last.changes == []


def test_the_task_deadline_ends_everything(table: Table) -> None:
    table.submit(deadline_s=10)
    (timer,) = table.of(SetTimer)
    table.award()
    table.now = timer.due - 1
    table.put(TimerIn("task-deadline"))
    assert not table.state.ended
    table.now = timer.due
    table.put(TimerIn("task-deadline"))
    assert table.state.error is not None
    assert table.state.error.code == "deadline"
    assert sent(table, "cancel")


def test_a_passed_deadline_names_what_nobody_had_taken(table: Table) -> None:
    table.submit(Plan({"a": Subtask("text.clasify"), "b": Subtask("c", {"x": Ref("a")})}), deadline_s=10)
    table.now += 10
    table.put(TimerIn("task-deadline"))
    assert table.state.error is not None
    assert table.state.error.message == "The task passed its deadline of 10 s; no agent had taken 'a' (text.clasify)."


def test_a_passed_deadline_tells_what_was_to_be_tried_again(table: Table) -> None:
    table.submit("x", deadline_s=10)
    table.award()
    error = m.ErrorInfo(code="handler", message="Too many requests.", retryable=True)
    table.claim(m.Failed, error=error, retry_after_s=60.0)
    assert task_view(table.state).subtasks["main"].not_before == to_rfc3339(table.now + 60)
    assert task_view(table.state, {"main": "parked"}).subtasks["main"].not_before is None, "that time has come"
    table.now += 10
    table.put(TimerIn("task-deadline"))
    assert table.state.error is not None
    told = "'main' (x) was to be tried again later: Too many requests."
    assert table.state.error.message == f"The task passed its deadline of 10 s; {told}"


def test_a_subtask_deadline_ends_the_subtask(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c", deadline_s=5, on_failure="skip"), "b": Subtask("c", {"x": Ref("a")})}))
    table.now += 5
    table.put(TimerIn("subtask-deadline", "a"))
    assert table.states() == {"a": "skipped", "b": "ready"}
    assert table.of(Drop) == [Drop("a")]


def test_an_attempt_that_takes_too_long_is_tried_again(table: Table) -> None:
    table.submit(timeout_s=3)
    table.award()
    table.claim(m.Accept)
    (timer,) = table.of(SetTimer)
    assert (timer.kind, timer.due) == ("attempt", START + 3)
    table.now = timer.due
    table.put(TimerIn("attempt", "main", 1))
    assert table.state.subtasks["main"].tries == 1
    assert sent(table, "cancel")


def test_an_award_that_comes_too_late_changes_nothing(table: Table) -> None:
    table.submit()
    table.award()
    assert table.put(AwardIn("main", "a2", "b2", "fastest", "standing", [])).changes == []


def test_an_input_that_cannot_be_composed_fails_the_subtask(table: Table) -> None:
    table.submit()
    table.award()
    table.put(BrokenIn("main", 1, m.ErrorInfo(code="input", message="nothing at 'rows'")))
    assert table.state.error is not None
    assert table.state.error.code == "input"


def test_a_failed_subtask_cancels_the_rest(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c"), "b": Subtask("c"), "c": Subtask("c", after=["a", "b"])}))
    table.award("a")
    table.award("b", agent="a2")
    table.fail("a", retryable=False)
    assert table.states() == {"a": "failed", "b": "cancelled", "c": "cancelled"}
    assert [effect.peer for effect in table.of(Send) if effect.kind == "cancel"] == ["a2"]


def test_split_in_proportion_with_a_merge(table: Table) -> None:
    plan = Plan({"f": Subtask("features", {"texts": list(range(15)), "n": 2}, split=Split(over="texts", merge="stack"))})
    table.submit(plan)
    (need,) = table.of(NeedSplit)
    assert need.split.over == "texts"
    table.put(SplitIn("f", 15, [("A1", 5), ("A2", 10)]))
    assert table.states() == {"f": "running", "f-1": "ready", "f-2": "ready", "f-merge": "blocked"}
    assert [(want.demand.prefer, want.demand.share) for want in table.of(Want)] == [("A1", 5), ("A2", 10)]
    assert bytes(award_of(table.state, "f-1").input) == b'{"n":2,"texts":[0,1,2,3,4]}'
    table.run("f-1", b'"one"')
    table.run("f-2", b'"two"')
    assert [want.subtask for want in table.of(Want)] == ["f-merge"]
    table.run("f-merge", b'"merged"')
    assert bytes(state_view(table.state).result) == b'"merged"'


def test_split_equally_joins_the_lists(table: Table) -> None:
    plan = Plan({"f": Subtask("c", {"xs": Ref("l/xs")}, split=Split(over="xs", by="equal", into=3)), "l": Subtask("load")})
    table.submit(plan)
    table.run("l", b'{"xs":[0,1,2,3,4,5,6,7]}')
    (need,) = table.of(NeedSplit)
    assert bytes(need.input) == b'{"xs":{"$ref":"l/xs"}}'
    table.put(SplitIn("f", 8, [("A", 1), ("B", 9)]))
    assert bytes(award_of(table.state, "f-2").input) == b'{"xs":{"$ref":"l/xs","$slice":[3,6]}}'
    for name in ("f-1", "f-2", "f-3"):
        table.run(name, b"[0]")
    (compose,) = table.of(NeedCompose)
    assert (compose.subtask, list(compose.parts), compose.join) == ("f", ["f-1", "f-2", "f-3"], True)
    table.put(ComposedIn("f", Raw(b"[0,0,0]")))
    assert table.states()["f"] == "completed"


def test_a_share_that_fails_fails_its_parent(table: Table) -> None:
    table.submit(Plan({"f": Subtask("c", {"xs": [1, 2]}, split=Split(over="xs", by="equal", into=2))}))
    table.put(SplitIn("f", 2, [("A", 1)]))
    table.award("f-1")
    table.fail("f-1", retryable=False)
    assert table.states() == {"f": "failed", "f-1": "failed", "f-2": "cancelled"}
    assert table.state.state == "failed"


def test_a_running_subtask_adds_children(table: Table) -> None:
    table.submit()
    table.award()
    table.claim(m.Accept)
    child = m.SubtaskSpec(capability="child")
    table.claim(m.Extend, call=1, child=child)
    assert [want.subtask for want in table.of(Want)] == ["main-1"]
    assert table.claim(m.Extend, call=1, child=child).changes == []
    table.award("main-1", agent="a2", boot="b2")
    table.done("main-1", b"7", agent="a2", boot="b2")
    (result,) = [effect for effect in table.of(Send) if effect.kind == "result"]
    assert result.peer == "a1"
    assert isinstance(result.message, m.Result)
    assert (result.message.subtask, result.message.call, bytes(result.message.result)) == ("main", 1, b"7")
    assert not table.state.ended
    table.claim(m.Extend, call=1, child=child)
    assert len(sent(table, "result")) == 1, "asked again, told again"
    table.done()
    assert table.state.state == "completed"


def test_a_childs_failure_is_its_parents_business(table: Table) -> None:
    table.submit()
    table.award()
    table.claim(m.Extend, call=1, child=m.SubtaskSpec(capability="child"))
    table.award("main-1", agent="a2")
    table.fail("main-1", retryable=False, agent="a2")
    assert not table.state.ended
    (result,) = sent(table, "result")
    assert isinstance(result, m.Result)
    assert result.state == "failed"


def test_children_end_with_their_parent(table: Table) -> None:
    table.submit()
    table.award()
    table.claim(m.Extend, call=1, child=m.SubtaskSpec(capability="child"))
    table.award("main-1", agent="a2")
    table.done()
    assert table.states() == {"main": "completed", "main-1": "cancelled"}
    assert table.state.state == "completed"
    assert [effect.peer for effect in table.of(Send) if effect.kind == "cancel"] == ["a2"]


def test_feedback_reaches_the_agent_that_runs_the_subtask(table: Table) -> None:
    table.submit()
    table.award()
    table.claim(m.Accept)
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask="main", verdict="revise", text="use bigrams"), "f1"))
    (message,) = sent(table, "feedback")
    assert isinstance(message, m.FeedbackMessage)
    assert (message.text, message.epoch, message.sender) == ("use bigrams", 1, "me")
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask="main", verdict="revise", text="use bigrams"), "f1"))
    assert table.last.changes == []
    assert sent(table, "feedback") == [message]


def test_feedback_is_kept_for_a_subtask_that_has_not_started(table: Table) -> None:
    table.submit()
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask="main", text="careful"), "f1"))
    assert sent(table, "feedback") == []
    table.award()
    assert [given.text for given in award_of(table.state, "main").feedback] == ["careful"]


def test_reject_fails_the_subtask(table: Table) -> None:
    table.submit()
    table.award()
    table.put(FeedbackIn("me", m.FeedbackClaim(subtask="main", verdict="reject", text="wrong"), "f1"))
    assert table.state.error is not None
    assert table.state.error.code == "refused"
    assert sent(table, "cancel")


@pytest.mark.parametrize(("peer", "subtask"), [("stranger", "main"), ("me", "nobody")], ids=["a stranger", "an unknown subtask"])
def test_feedback_that_cannot_be_used_is_refused(table: Table, peer: str, subtask: str) -> None:
    table.submit(critics=["critic"])
    table.put(FeedbackIn(peer, m.FeedbackClaim(subtask=subtask), "f1"))
    assert table.last.changes == []
    assert [type(message).__name__ for message in sent(table, "refused")] == ["Refused"]
    table.put(FeedbackIn("critic", m.FeedbackClaim(subtask="main"), "f2"))
    assert len(table.last.changes) == 1


def test_what_is_added_while_a_task_runs_is_timed_at_once(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c", {"x": [1, 2]}, deadline_s=50, split=Split(over="x", into=2)), "b": Subtask("c", timeout_s=9)}))
    table.put(SplitIn("a", 2, [("a1", 1)]))
    assert {(timer.kind, timer.subtask, timer.due) for timer in table.of(SetTimer)} == {
        ("subtask-deadline", "a-1", START + 50),
        ("subtask-deadline", "a-2", START + 50),
    }
    table.award("b")
    table.claim(m.Extend, "b", call=1, child=m.SubtaskSpec(capability="c", deadline_s=7))
    assert {(timer.kind, timer.subtask, timer.due) for timer in table.of(SetTimer)} == {
        ("attempt", "b", START + 9),
        ("subtask-deadline", "b-1", START + 7),
    }


def test_taking_over_writes_held_and_everything_that_matters_is_pending(table: Table) -> None:
    table.submit(
        Plan({"a": Subtask("c", deadline_s=50), "b": Subtask("c", timeout_s=9), "c": Subtask("c"), "d": Subtask("c", after=["a"])}),
        deadline_s=99,
    )
    table.award("a")
    table.award("b")
    table.claim(m.Accept, "b")
    table.put(HeldIn())
    assert table.last.changes == [r.Held()]
    effects = pending(table.folded(), table.now, table.settings)
    timers = {(timer.kind, timer.subtask) for timer in effects if isinstance(timer, SetTimer)}
    assert timers == {("task-deadline", None), ("subtask-deadline", "a"), ("accept", "a"), ("attempt", "b")}
    assert [want.subtask for want in effects if isinstance(want, Want)] == ["c"]
    assert [give.subtask for give in effects if isinstance(give, GiveAward)] == ["a"]


def test_loading_a_log_of_an_earlier_version_mends_what_was_cut_between_two_records(table: Table) -> None:
    table.submit(Plan({"a": Subtask("c"), "b": Subtask("c", after=["a"])}))
    table.award("a")
    table.done("a")
    seq, record = table.log[-1]
    table.log[-1] = (
        seq,
        r.Record(coordinator="c1", at=record.at, changes=[change for change in record.changes if not isinstance(change, r.Ready)]),
    )
    table.state = table.folded()
    assert table.states() == {"a": "completed", "b": "blocked"}
    assert Settle() in pending(table.state, table.now, table.settings)
    table.put(SettleIn())
    assert table.states() == {"a": "completed", "b": "ready"}


def test_ten_thousand_subtasks_cost_no_more_each(table: Table) -> None:
    plan = Plan({f"s{i}": Subtask("c") for i in range(10_000)})
    table.submit(plan)
    assert len(table.of(Want)) == 10_000
    ready = [change for change in table.last.changes if isinstance(change, r.Ready)]
    assert max(len(change.subtasks) for change in ready) == 1000
    table.award("s9999")
    assert len(table.last.changes) == 1
    table.done("s9999")
    assert len(table.last.changes) == 2
