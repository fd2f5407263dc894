"""The pure machine under random orders of everything that can reach it: late, double, forged, and after a reload."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from table import Table

from agentexecutor.coordinator.inputs import (
    AwardIn,
    BrokenIn,
    CancelIn,
    ClaimIn,
    ComposedIn,
    FeedbackIn,
    GiveAward,
    HeldIn,
    LostIn,
    NeedCompose,
    NeedSplit,
    SetTimer,
    Settle,
    SplitIn,
    TimerIn,
    Want,
)
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.states import ENDED
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import encode

AGENTS = st.sampled_from(["a1", "a2", "a3"])
LATE = 12
"""Records after which the rare ends of a task may happen."""
NAMES = ["one", "two", "three", "four"]


@st.composite
def plans(draw: st.DrawFn) -> m.PlanSpec:
    """Acyclic plans: each subtask may need those before it; one of them may be split."""
    count = draw(st.integers(1, 4))
    subtasks: dict[str, m.SubtaskSpec] = {}
    for i, name in enumerate(NAMES[:count]):
        after = draw(st.lists(st.sampled_from(NAMES[:i]), unique=True)) if i else []
        split = draw(st.sampled_from([None, None, m.Split(over="xs", by="equal", into=2), m.Split(over="xs", merge="merge")]))
        subtasks[name] = m.SubtaskSpec(
            capability="work",
            input=Raw(b'{"xs":[1,2,3]}'),
            after=after,
            retries=draw(st.sampled_from([None, 0, 1])),
            timeout_s=draw(st.sampled_from([None, 5.0])),
            deadline_s=draw(st.sampled_from([None, None, 200.0])),
            on_failure=draw(st.sampled_from(["fail", "skip"])),
            split=split,
        )
    return m.PlanSpec(subtasks=subtasks, result=draw(st.sampled_from([None, NAMES[0]])))


class Life(RuleBasedStateMachine):
    """One task, its log, and a world that does what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.said: list[ClaimIn] = []
        self.results: dict[tuple[str, int], int] = {}

    # what can happen

    @initialize(plan=plans(), deadline=st.sampled_from([None, 500.0]))
    def submit(self, plan: m.PlanSpec, deadline: float | None) -> None:
        self.table.submit(plan, deadline_s=deadline)

    def _some(self, data: st.DataObject, *states: str) -> str | None:
        names = [name for name, state in self.table.states().items() if not states or state in states]
        return data.draw(st.sampled_from(names)) if names else None

    @rule(data=st.data(), agent=AGENTS)
    def award(self, data: st.DataObject, agent: str) -> None:
        name = self._some(data, "ready") or "one"
        if name not in self.table.state.subtasks or not _to_split(self.table, name):
            self.table.put(AwardIn(name, agent, f"boot-{agent}", "fastest", "standing", []))

    @rule(data=st.data())
    def an_agent_completes_it(self, data: st.DataObject) -> None:
        ready = [name for name, state in self.table.states().items() if state == "ready" and not _to_split(self.table, name)]
        if ready:
            name = data.draw(st.sampled_from(ready))
            self.table.put(AwardIn(name, "a1", "boot-a1", "fastest", "standing", []))
            self._say("a1", m.Done, name, self.table.state.subtasks[name].epoch, "boot-a1", data)

    @rule(data=st.data(), kind=st.sampled_from([m.Accept, m.Done, m.Failed, m.Decline, m.Release, m.Extend]))
    def holder_claims(self, data: st.DataObject, kind: type[m.Claim]) -> None:
        name = self._some(data, "awarded", "running")
        if name is not None and self.table.state.subtasks[name].agent is not None:
            agent = self.table.state.subtasks[name].agent or ""
            self._say(agent, kind, name, self.table.state.subtasks[name].epoch, f"boot-{agent}", data)

    @rule(data=st.data(), agent=AGENTS, kind=st.sampled_from([m.Accept, m.Done, m.Failed, m.Decline]), epoch=st.integers(0, 6))
    def anybody_claims(self, data: st.DataObject, agent: str, kind: type[m.Claim], epoch: int) -> None:
        self._say(agent, kind, self._some(data) or "nobody", epoch, data.draw(st.sampled_from(["boot-a1", "boot-a2", "old"])), data)

    def _say(self, agent: str, kind: type[m.Claim], name: str, epoch: int, boot: str, data: st.DataObject) -> None:
        more: dict[str, Any] = {}
        if kind is m.Done:
            more = {"result": Raw(b"[%d]" % epoch)}
        elif kind is m.Failed:
            more = {"error": m.ErrorInfo(code="handler", message="x", retryable=data.draw(st.booleans()))}
        elif kind is m.Extend:
            more = {"call": data.draw(st.integers(1, 2)), "child": m.SubtaskSpec(capability="child")}
        self.said.append(ClaimIn(agent, kind(subtask=name, epoch=epoch, boot=boot, **more), self.table.id()))
        self.table.put(self.said[-1])

    @rule(data=st.data())
    @precondition(lambda self: self.said)
    def a_claim_comes_again(self, data: st.DataObject) -> None:
        before = self.table.state.state
        claim = data.draw(st.sampled_from(self.said))
        applied = claim.id in self.table.state.applied
        decision = self.table.put(claim)
        if applied:
            assert decision.changes == []
            assert self.table.state.state == before

    @rule(data=st.data())
    def a_timer_fires(self, data: st.DataObject) -> None:
        timers = [effect for effect in self.table.effects if isinstance(effect, SetTimer)]
        if timers:
            timer = data.draw(st.sampled_from(timers))
            if timer.due - self.table.now > 100 and len(self.table.log) <= LATE:
                return
            self.table.now = max(self.table.now, timer.due)
            self.table.put(TimerIn(timer.kind, timer.subtask, timer.epoch))

    @rule(data=st.data(), epoch=st.integers(1, 6), broken=st.sampled_from([False, False, True]))
    def a_holder_is_lost(self, data: st.DataObject, epoch: int, *, broken: bool) -> None:
        name = self._some(data)
        if name is not None and not (broken and len(self.table.log) <= LATE):
            error = m.ErrorInfo(code="input", message="x")
            self.table.put(BrokenIn(name, epoch, error) if broken else LostIn(name, epoch, "silent"))

    @rule(data=st.data())
    def the_shell_answers(self, data: st.DataObject) -> None:
        needs = [effect for effect in self.table.effects if isinstance(effect, NeedSplit | NeedCompose)]
        if needs:
            need = data.draw(st.sampled_from(needs))
            if isinstance(need, NeedSplit):
                self.table.put(SplitIn(need.subtask, 3, [("a1", 1), ("a2", 2)]))
            else:
                self.table.put(ComposedIn(need.subtask, Raw(b"[]")))

    @rule(data=st.data(), verdict=st.sampled_from([None, "accept", "revise"]), peer=st.sampled_from(["me", "a1", "x"]))
    def feedback(self, data: st.DataObject, verdict: Any, peer: str) -> None:
        self.table.put(FeedbackIn(peer, m.FeedbackClaim(subtask=self._some(data), verdict=verdict, text="t"), self.table.id()))

    @rule(data=st.data())
    @precondition(lambda self: len(self.table.log) > LATE)
    def reject(self, data: st.DataObject) -> None:
        self.table.put(FeedbackIn("me", m.FeedbackClaim(subtask=self._some(data), verdict="reject"), self.table.id()))

    @rule()
    @precondition(lambda self: len(self.table.log) > LATE)
    def cancel(self) -> None:
        self.table.put(CancelIn("me", "enough", self.table.id()))

    @rule()
    def another_takes_over(self) -> None:
        self.table.state = self.table.folded()
        self.table.put(HeldIn())
        self.table.effects += pending(self.table.state, self.table.now, self.table.settings)

    # what must always be so

    @invariant()
    def the_log_alone_leads_to_the_same_state(self) -> None:
        live, folded = self.table.state, self.table.folded()
        assert encode(task_view(folded)) == encode(task_view(live))
        for name in ("open", "epochs", "applied", "head", "state"):
            assert getattr(folded, name) == getattr(live, name), name
        for name, subtask in live.subtasks.items():
            other = folded.subtasks[name]
            assert (other.waits, other.tries, other.losses, other.returns) == (
                subtask.waits,
                subtask.tries,
                subtask.losses,
                subtask.returns,
            )

    @invariant()
    def counts_hold(self) -> None:
        state = self.table.state
        assert state.open == sum(not subtask.ended for subtask in state.subtasks.values())

    @invariant()
    def at_most_one_result_a_subtask_and_epochs_only_grow(self) -> None:
        changes = [change for _, record in self.table.log for change in record.changes]
        completed = [change.subtask for change in changes if isinstance(change, r.Completed)]
        assert len(completed) == len(set(completed))
        epochs = [change.epoch for change in changes if isinstance(change, r.Awarded)]
        assert epochs == sorted(set(epochs))

    @invariant()
    def an_ended_task_has_nothing_open_and_no_record_after_its_last(self) -> None:
        last = [i for i, (_, record) in enumerate(self.table.log) if any(_ends(change) for change in record.changes)]
        assert last in ([], [len(self.table.log) - 1])
        if self.table.state.ended:
            assert self.table.state.open == 0 or self.table.state.state in ("failed", "cancelled")
            assert all(subtask.state in ENDED for subtask in self.table.state.subtasks.values())

    @invariant()
    def something_is_pending_for_every_open_subtask(self) -> None:
        state = self.table.state
        effects = pending(state, self.table.now, self.table.settings)
        if state.ended or state.state == "unknown":
            return
        wanted = {effect.subtask for effect in effects if isinstance(effect, Want | NeedSplit | NeedCompose | GiveAward)}
        timed = {effect.subtask for effect in effects if isinstance(effect, SetTimer)}
        for subtask in state.subtasks.values():
            if subtask.state == "ready":
                assert subtask.name in wanted | timed
            elif subtask.state == "awarded":
                assert subtask.name in wanted & timed
            elif subtask.state == "blocked":
                assert subtask.waits, "a blocked subtask waits for something"
        if state.open == 0:
            assert Settle() in effects, "an open task without open subtasks has something left to be done"


def _ends(change: r.Change) -> bool:
    task_level = isinstance(change, r.Completed | r.FailedChange) and change.subtask is None
    return task_level or (isinstance(change, r.Cancelled) and change.subtasks is None)


def _to_split(table: Table, name: str) -> bool:
    subtask = table.state.subtasks[name]
    return subtask.spec.split is not None and not subtask.children


TestLife = Life.TestCase
TestLife.settings = hypothesis_settings(max_examples=200, stateful_step_count=50, deadline=None)
