"""The checker fails on wrong histories, and only on those."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from traffic import Wish
from verdict import Fault, Remains, Run, Verdict

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode, to_rfc3339

TASK = "client.t1"
LOST = m.ErrorInfo(code="lost", message="silent", retryable=True, details={"cause": "lost"})


class History:
    """The records of one task, a second apart, and what else is told of it."""

    def __init__(self) -> None:
        self.log: list[r.LogEntry] = []
        self.watched: list[tuple[int, bytes]] = []
        self.runs = [Run(TASK, "main", 1, "w1")]
        self.state, self.result = "completed", 3
        self.heads: dict[str, tuple[int, str]] | None = None
        self.remains = Remains({})
        self.faults: list[Fault] = []

    def add(self, *changes: r.Change, coordinator: str = "c1-a", watched: bool = True) -> None:
        seq = len(self.log) + 1
        record = r.Record(coordinator=coordinator, at=to_rfc3339(seq), changes=list(changes))
        self.log.append(r.LogEntry(seq=seq, time=to_rfc3339(seq), record=record))
        if watched:
            self.watched.append((seq, encode(record)))

    def judge(self) -> Verdict:
        verdict = Verdict()
        for fault in self.faults:
            verdict.fault(fault)
        verdict.submitted(TASK, Wish("single", "chaos.add", result=3))
        for seq, payload in self.watched:
            verdict.watched(TASK, seq, payload)
        verdict.finished(TASK, self.state, self.result, self.log)
        verdict.executed(self.runs)
        self.remains.heads = {TASK: (len(self.log), "completed")} if self.heads is None else self.heads
        verdict.over(self.remains)
        return verdict

    def rules(self) -> set[str]:
        return {finding.rule for finding in self.judge().findings}


def begun() -> r.Submitted:
    return r.Submitted(submit=m.Submit(capability="chaos.add"), digest="d", at=0.0)


def planned() -> r.Planned:
    return r.Planned(add={"main": m.SubtaskSpec(capability="chaos.add")})


def awarded(epoch: int = 1, agent: str = "w1") -> r.Awarded:
    return r.Awarded(subtask="main", epoch=epoch, agent=agent, boot=f"b-{agent}")


def done(epoch: int = 1, agent: str = "w1") -> list[r.Change]:
    return [r.Accepted(subtask="main", epoch=epoch), r.Completed(subtask="main", epoch=epoch, agent=agent, result=Raw(b"3"))]


def over() -> r.Completed:
    return r.Completed(of="main")


def lost(epoch: int = 1, agent: str = "w1") -> r.FailedChange:
    return r.FailedChange(subtask="main", epoch=epoch, agent=agent, error=LOST, outcome="retry")


def times(verdict: Verdict) -> dict[str, list[float]]:
    return {victim: [takeover.seconds for takeover in takeovers] for victim, takeovers in verdict.all_takeovers().items()}


@pytest.fixture
def history() -> History:
    """As far as the first award."""
    made = History()
    made.add(begun(), planned(), r.Ready(subtasks=["main"]), awarded())
    return made


def test_a_right_history(history: History) -> None:
    history.add(*done(), over())
    assert history.rules() == set()


def test_what_runs_again_is_counted_and_explained(history: History) -> None:
    history.faults = [Fault(1.5, "agent", "w1", "SIGKILL")]
    history.add(lost(), awarded(2, "w2"))
    history.add(*done(2, "w2"), over())
    history.runs.append(Run(TASK, "main", 2, "w2"))
    verdict = history.judge()
    assert verdict.findings == []
    assert dict(verdict.again) == {"lost": 1}
    assert times(verdict) == {"coordinator": [], "agent": [0.5], "server": []}


def test_the_time_from_a_coordinators_death_to_the_next_ones_record(history: History) -> None:
    history.faults = [
        Fault(1.25, "coordinator", "c2", "SIGKILL"),
        Fault(1.5, "coordinator", "c1", "SIGKILL"),
        Fault(1.75, "server", "s0", "SIGKILL"),
    ]
    history.add(r.Held(), coordinator="c2-b")
    history.add(*done(), over(), coordinator="c2-b")
    verdict = history.judge()
    assert verdict.findings == []
    assert times(verdict) == {"coordinator": [0.5], "agent": [], "server": [0.25]}


def test_a_hole_in_watch_is_no_loss(history: History) -> None:
    history.add(*done(), over(), watched=False)
    verdict = history.judge()
    assert (verdict.findings, verdict.unseen) == ([], 1)


def test_what_was_watched_must_be_in_the_log(history: History) -> None:
    history.add(*done(), over())
    history.watched.append((17, history.watched[-1][1]))
    assert history.rules() == {"the log is what was watched"}
    history.watched[-1] = (1, history.watched[1][1])
    assert history.rules() == {"the log is what was watched"}


def test_a_result_twice(history: History) -> None:
    history.add(*done())
    history.add(*done(), over())
    assert "one result" in history.rules()


def test_two_ends(history: History) -> None:
    history.add(*done(), over())
    history.add(over())
    assert "one result" in history.rules()


def test_two_different_results_told(history: History) -> None:
    history.add(*done(), over())
    verdict = history.judge()
    told = m.Result(task=TASK, state="completed", result=Raw(b"3"))
    verdict.answered(told)
    verdict.answered(told)
    assert verdict.findings == []
    verdict.answered(m.Result(task=TASK, state="completed", result=Raw(b"4")))
    assert verdict.count("one result") == 1


def test_a_wrong_result(history: History) -> None:
    history.add(*done(), over())
    history.result = 4
    assert history.rules() == {"the right result"}


def test_an_end_that_nobody_wished(history: History) -> None:
    history.add(r.Cancelled(reason="oops"))
    history.state = "cancelled"
    history.heads = {TASK: (2, "cancelled")}
    assert history.rules() == {"ends as wished"}


def test_another_end_than_its_client_was_told(history: History) -> None:
    history.add(r.Cancelled(reason="oops"))
    history.heads = {TASK: (2, "cancelled")}
    assert {"ends as recorded", "the log folds"} <= history.rules()


def test_a_lost_task(history: History) -> None:
    history.add(*done())
    assert "submitted is ended" in history.rules()
    verdict = Verdict()
    verdict.submitted(TASK, Wish("single", "chaos.add"))
    verdict.over(Remains({}))
    assert verdict.count("submitted is ended") == 1


@pytest.mark.parametrize("epoch", [1, 0])
def test_an_epoch_that_does_not_grow(history: History, epoch: int) -> None:
    history.add(lost(), awarded(epoch, "w2"))
    history.add(*done(epoch, "w2"), over())
    history.runs = [Run(TASK, "main", epoch, "w2")]
    assert "epochs grow" in history.rules()


def test_a_result_of_an_old_award(history: History) -> None:
    history.add(lost(), awarded(2, "w2"))
    history.add(*done(1, "w1"), over())
    assert "results of the holder" in history.rules()


def test_a_plan_made_twice(history: History) -> None:
    history.add(planned())
    history.add(*done(), over())
    assert "one plan" in history.rules()


def test_a_log_that_does_not_fold(history: History) -> None:
    history.add(r.Completed(subtask="other", epoch=1, agent="w1"))
    history.add(*done(), over())
    assert "the log folds" in history.rules()


def test_an_open_subtask_of_an_ended_task(history: History) -> None:
    history.add(r.Planned(version=1, cause="extend", parent="main", call=1, add={"main-1": m.SubtaskSpec(capability="chaos.add")}))
    history.add(*done(), over())
    assert history.rules() == {"no orphan"}


@pytest.mark.parametrize(
    "run",
    [
        Run(TASK, "main", 2, "w1"),
        Run(TASK, "main", 1, "w2"),
        Run(TASK, "other", 1, "w1"),
        Run("client.unknown", "main", 1, "w1"),
    ],
)
def test_a_run_without_an_award(history: History, run: Run) -> None:
    history.add(*done(), over())
    history.runs.append(run)
    assert "every run has its award" in history.rules()


def test_an_award_that_ran_twice(history: History) -> None:
    history.add(*done(), over())
    history.runs *= 2
    assert history.rules() == {"an award runs once"}


def test_a_result_that_nobody_made(history: History) -> None:
    history.add(*done(), over())
    history.runs = []
    assert history.rules() == {"every result has its run"}


@pytest.mark.parametrize(
    "left", [{"submits": 1}, {"claims": 1}, {"running": ["client.t1/main by w1"]}], ids=["a submit", "a claim", "a running subtask"]
)
def test_something_is_left(history: History, left: dict[str, Any]) -> None:
    history.add(*done(), over())
    history.remains = Remains({}, **left)
    assert history.rules() == {"no orphan"}


def test_an_agent_that_did_not_come_back(history: History) -> None:
    history.add(*done(), over())
    history.remains = Remains({}, silent=["w1"])
    assert history.rules() == {"everybody is back"}


def test_tasks_in_the_log_that_are_open_or_nobodys(history: History) -> None:
    history.add(*done(), over())
    for head in ((1, "running"), (1, "completed")):
        history.heads = {TASK: (2, "completed"), "client.t2": head}
        assert history.rules() == {"no orphan"}


def test_a_watched_task_that_nobody_submitted(history: History) -> None:
    history.add(*done(), over())
    verdict = history.judge()
    verdict.watched("client.t2", 5, history.watched[0][1])
    verdict.over(history.remains)
    assert [finding.rule for finding in verdict.findings] == ["no orphan"]


def test_a_record_after_the_end(history: History) -> None:
    history.add(*done(), over())
    history.heads = {TASK: (3, "completed")}
    assert history.rules() == {"no record after the end"}
    verdict = history.judge()
    before = len(verdict.findings)
    verdict.watched(TASK, 2, b"{}")
    assert len(verdict.findings) == before, "the last record may be watched late"
    verdict.watched(TASK, 9, b"{}")
    assert len(verdict.findings) == before + 1
