"""A decision being made: what it records, what follows, and how one subtask's end reaches the others. Reads the state, never changes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Raw

from agentexecutor.coordinator.budgets import budget_error, exceeded, exceeded_by, usage_of
from agentexecutor.coordinator.inputs import (
    Decision,
    Demand,
    Drop,
    Effect,
    GiveAward,
    NeedCompose,
    NeedRevision,
    NeedSplit,
    Send,
    SetTimer,
    Settle,
    Want,
)
from agentexecutor.coordinator.model import SubtaskState, TaskState, body_of, why_cancelled
from agentexecutor.coordinator.policy import answer_to, answer_to_failure, approval_of
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.errors import PlanRefused

__all__ = ["READY_CHUNK", "Draft", "award_effects", "back_off", "check_policies", "demand_of", "result_message", "want_effects"]

READY_CHUNK = 1000
"""So many names in one change, so that a record of thousands can be cut between changes."""


class Draft:
    """Collects one decision about `state` at `now` (seconds since 1970)."""

    def __init__(self, state: TaskState, now: float, settings: Settings, seed: int, id: str = "") -> None:
        self.state = state
        self.now = now
        self.settings = settings
        self.seed = seed
        self.decision = Decision()
        self.bodies: dict[str, Raw | m.BlobRef] = {}
        """Results that this decision brings."""
        self.satisfied: set[str] = set()
        """Subtasks that this decision completes or skips."""
        self.ended: set[str] = set()
        self.over = False
        self.took_s: float | None = None
        self.usage: dict[str, float] = {}
        """What the attempt that this decision is about has used, when it failed."""
        if id:
            self.decision.applied.append(id)

    def change(self, change: r.Change) -> None:
        self.decision.changes.append(change)

    def effect(self, *effects: Effect) -> None:
        self.decision.effects.extend(effects)

    # how a subtask ends

    def complete(self, subtask: SubtaskState, change: r.Completed) -> None:
        """The subtask has its result; what waited for it may start, and the task may end. A planner's result is a new version of the plan."""
        self.bodies[subtask.name] = body_of(change.result, change.result_blob)
        self.change(change)
        if subtask.planner:
            self.ended.add(subtask.name)
            self.effect(NeedRevision(subtask.name, subtask.epoch, self.bodies[subtask.name]))
        else:
            self._end(subtask, satisfied=True)
        self.check_budget(change)

    def fail(self, subtask: SubtaskState, error: m.ErrorInfo, trigger: str = "failed") -> None:
        """The subtask fails for good: by its `on_failure` and the task's policy it is passed over, waits, is replanned, or the task (or its parent) fails."""
        answer = answer_to_failure(self.state, subtask, error, trigger)
        if answer == "wait":
            self._wait(subtask, error)
        elif answer in ("skip", "fail"):
            skip = answer == "skip"
            change = self.failed(subtask, error, "skip" if skip else "final")
            if skip:
                self.bodies[subtask.name] = m.NULL
            self._end(subtask, satisfied=skip, error=error)
            self.check_budget(change)
        else:
            why = r.Why(trigger=trigger, answer=answer, subtask=subtask.name, text=error.message[:1000])
            self.failed(subtask, error, "replan", why=why)
            if self.over:
                return
            self.ended.add(subtask.name)
            self._cancel_children(subtask)
            self.effect(Settle())

    def failed(self, subtask: SubtaskState, error: m.ErrorInfo, outcome: str, **more: Any) -> r.FailedChange:
        """Record that an attempt, or the subtask, has failed."""
        change = r.FailedChange(
            subtask=subtask.name,
            epoch=subtask.epoch,
            agent=subtask.agent or "",
            error=error,
            outcome=outcome,  # type: ignore[arg-type]  # one of the literals
            took_s=self.took_s,
            usage=self.usage,
            **more,
        )
        self.change(change)
        if outcome not in ("final", "skip"):
            self.check_budget(change)
        return change

    def _wait(self, subtask: SubtaskState, error: m.ErrorInfo) -> None:
        """It waits for a person's word whether it is to run again, and then has new shares and children."""
        self.failed(subtask, error, "wait")
        if self.over:
            return
        self._supersede_children(subtask)
        approval = approval_of(self.state, subtask, waits=True)
        if approval is not None and approval.timeout_s is not None:
            self.effect(SetTimer("approval", self.now + approval.timeout_s, subtask.name))

    def check_budget(self, change: r.Completed | r.FailedChange) -> None:
        """The task fails when an attempt that ends, however it does, has exceeded its budget, and is not the last."""
        name = None if self.over else exceeded_by(self.state, change, self.now)
        if name is not None and self._goes_on():
            self.fail_task(budget_error(self.state, name, usage_of(self.state, change, self.now)))

    def _goes_on(self) -> bool:
        """Whether anything is still to be done: by agents, not only the joining of what they have done."""
        subtasks = self.state.subtasks.values()
        return self._is_asked() or any(not (subtask.ended or subtask.name in self.ended or subtask.is_split) for subtask in subtasks)

    def _is_asked(self) -> bool:
        """Whether a new version of the plan may come."""
        state = self.state
        return bool(state.unanswered) or state.thinking is not None or (state.goal is not None and not state.finish)

    def over_budget(self, subtasks: int) -> bool:
        """Whether so many new subtasks are more than the budget allows; then the task fails."""
        more = {"subtasks": subtasks}
        if exceeded(self.state, more) != "subtasks":
            return False
        self.fail_task(budget_error(self.state, "subtasks", more))
        return True

    def _end(self, subtask: SubtaskState, *, satisfied: bool, error: m.ErrorInfo | None = None) -> None:
        self.ended.add(subtask.name)
        if satisfied:
            self.satisfied.add(subtask.name)
        self._cancel_children(subtask)
        if satisfied:
            self._start_dependents(subtask)
        if subtask.parent is not None:
            self._tell_parent(subtask, None if satisfied else error)
        elif error is not None and not satisfied:
            self.fail_task(
                m.ErrorInfo(
                    code=error.code,
                    message=f"Subtask {subtask.name!r} failed: {error.message}",
                    retryable=error.retryable,
                    details={**error.details, "subtask": subtask.name},
                )
            )
        self.finish_if_done()

    def _cancel_children(self, subtask: SubtaskState) -> None:
        subtasks = self.state.subtasks
        names = [name for name in subtask.children if not subtasks[name].ended and name not in self.ended]
        if not names:
            return
        for some in _chunks(names):
            self.change(r.Cancelled(subtasks=some, reason=f"{subtask.name} has ended"))
        for name in names:
            self.ended.add(name)
            self.stop(subtasks[name], f"{subtask.name} has ended")
            self._cancel_children(subtasks[name])

    def _supersede_children(self, subtask: SubtaskState) -> None:
        subtasks = self.state.subtasks
        names = list(subtask.children)
        for name in names:
            names += subtasks[name].children
        if not names:
            return
        for some in _chunks(names):
            self.change(r.Superseded(subtasks=some, cause="wait"))
        for name in names:
            if not subtasks[name].ended and name not in self.ended:
                self.ended.add(name)
                self.stop(subtasks[name], f"{subtask.name} waits for a person's word")
        self.cancel_orphans(names)

    def cancel_orphans(self, gone: Collection[str]) -> None:
        """Children that wait for something that is not to come are cancelled, and their parents told."""
        lost = {*gone, *self.ended}
        children = [subtask for subtask in self.state.subtasks.values() if subtask.parent is not None and subtask.state == "blocked"]
        lacking = set(gone)
        while orphans := [child for child in children if child.name not in lost and not lacking.isdisjoint(child.needs)]:
            names = [child.name for child in orphans]
            for some in _chunks(names):
                self.change(r.Cancelled(subtasks=some, reason="what it waits for is gone"))
            lost.update(names)
            lacking.update(names)
            self.ended.update(names)
            for child in orphans:
                self._tell_parent(child, m.ErrorInfo(code="cancelled", message=f"What {child.name!r} waits for is gone."))

    def stop(self, subtask: SubtaskState, reason: str) -> None:
        """Tell the holder to stop, and the market to look no further."""
        if subtask.held and subtask.agent is not None:
            self.effect(
                Send(
                    subtask.agent,
                    "cancel",
                    m.Cancel(
                        task=str(self.state.name),
                        subtask=subtask.name,
                        epoch=subtask.epoch,
                        reason=reason,
                        grace_s=self.settings.grace_s,
                    ),
                )
            )
        elif subtask.state == "ready":
            self.effect(Drop(subtask.name))

    def _start_dependents(self, subtask: SubtaskState) -> None:
        names = []
        for name in subtask.dependents:
            other = self.state.subtasks[name]
            if other.state == "blocked" and name not in self.ended and other.waits <= self.satisfied:
                names.append(name)
        self.make_ready(names)

    def make_ready(self, names: list[str], planned: TaskState | None = None) -> None:
        """Record that these are ready, and ask for agents. `planned` holds them when this very decision brings them."""
        state = planned or self.state
        asked = {name: approval for name in names if (approval := approval_of(state, state.subtasks[name])) is not None}
        for name, approval in asked.items():
            self.change(r.Asked(subtasks=[name], text=approval.text))
            if approval.timeout_s is not None:
                self.effect(SetTimer("approval", self.now + approval.timeout_s, name))
        names = [name for name in names if name not in asked]
        for some in _chunks(names):
            self.change(r.Ready(subtasks=some))
        for name in names:
            self.want(state, state.subtasks[name])

    def want(self, state: TaskState, subtask: SubtaskState) -> None:
        """Have an agent found for a ready subtask; its policy may want to know when there is none."""
        self.effect(*want_effects(state, subtask), *unserved_timer(state, subtask, self.now))

    def time_deadlines(self, specs: Mapping[str, m.SubtaskSpec], submitted_at: float) -> None:
        """New subtasks whose own deadlines are to be watched."""
        for name, spec in specs.items():
            if spec.deadline_s is not None:
                self.effect(SetTimer("subtask-deadline", submitted_at + spec.deadline_s, name))

    def _tell_parent(self, subtask: SubtaskState, error: m.ErrorInfo | None) -> None:
        parent = self.state.subtasks[subtask.parent or ""]
        if parent.ended or parent.name in self.ended:
            return
        if subtask.call is not None:
            self._send_to_parent(parent, subtask, error)
        elif subtask.name not in self.satisfied:
            self.fail(parent, error or m.ErrorInfo(code="handler", message=f"Share {subtask.name!r} failed."))
        elif parent.spec.split is not None and parent.spec.split.merge is not None:
            if subtask.name == parent.children[-1]:
                body = self.bodies[subtask.name]
                self.complete(parent, completed(parent.name, body, took_s=None))
        elif all(name in self.satisfied or self.state.subtasks[name].ended for name in parent.children):
            self.effect(NeedCompose(parent.name, {name: self.body(name) for name in parent.children}, join=True))

    def _send_to_parent(self, parent: SubtaskState, child: SubtaskState, error: m.ErrorInfo | None) -> None:
        if parent.held and parent.agent is not None:
            body = self.bodies.get(child.name, m.NULL)
            self.effect(Send(parent.agent, "result", child_result(self.state, parent, child, body, error)))

    def body(self, name: str) -> Raw | m.BlobRef:
        """A subtask's result, also when this decision brings it; null when it was skipped."""
        body = self.bodies.get(name)
        if body is None:
            body = self.state.subtasks[name].result
        return m.NULL if body is None else body

    # how the task ends

    def finish_if_done(self) -> None:
        """Complete the task when nothing is open any more."""
        if self.over or self.state.open > len(self.ended):
            return
        if self._is_asked():
            self.effect(Settle())
            return
        finals = [self.state.result_of] if self.state.result_of is not None else self._finals()
        if len(finals) == 1:
            body = self.body(finals[0])
            self._close(r.Completed(subtask=None, of=finals[0]), result_message(self.state, "completed", body, None))
        else:
            self.effect(NeedCompose(None, {name: self.body(name) for name in finals}, join=False))

    def _finals(self) -> list[str]:
        subtasks = self.state.subtasks.values()
        return [
            subtask.name
            for subtask in subtasks
            if subtask.parent is None and not subtask.dependents and not subtask.planner and subtask.state != "superseded"
        ]

    def finish_with(self, body: Raw | m.BlobRef) -> None:
        """The planner has the task's result: whatever is open is cancelled."""
        self._stop_all("the planner has finished the task")
        self.complete_task(body)

    def complete_task(self, body: Raw | m.BlobRef) -> None:
        """The task's result was composed."""
        self._close(completed(None, body, took_s=None), result_message(self.state, "completed", body, None))

    def fail_task(self, error: m.ErrorInfo) -> None:
        """The task fails, and whatever is open is cancelled."""
        self._stop_all(error.message)
        self._close(r.FailedChange(subtask=None, error=error), result_message(self.state, "failed", m.NULL, error))

    def cancel_task(self, reason: str) -> None:
        """The owner ends the task."""
        self._stop_all(reason)
        self._close(r.Cancelled(subtasks=None, reason=reason), result_message(self.state, "cancelled", m.NULL, why_cancelled(reason)))

    def _stop_all(self, reason: str) -> None:
        if self.over:
            return
        for subtask in self.state.subtasks.values():
            if subtask.name not in self.ended and subtask.held:
                self.stop(subtask, reason)

    def _close(self, change: r.Change, result: m.Result) -> None:
        if self.over:
            return
        self.over = True
        self.change(change)
        self.effect(Send(self.state.name.owner, "result", result))


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), READY_CHUNK):
        yield names[start : start + READY_CHUNK]


def completed(subtask: str | None, body: Raw | m.BlobRef, took_s: float | None, **more: object) -> r.Completed:
    """A `completed` change that carries a body in the field that fits."""
    if isinstance(body, m.BlobRef):
        return r.Completed(subtask=subtask, result_blob=body, took_s=took_s, **more)  # type: ignore[arg-type]  # epoch, agent
    return r.Completed(subtask=subtask, result=body, took_s=took_s, **more)  # type: ignore[arg-type]  # epoch, agent


def result_message(state: TaskState, how: str, body: Raw | m.BlobRef, error: m.ErrorInfo | None) -> m.Result:
    """What the owner gets when the task has ended."""
    blob = body if isinstance(body, m.BlobRef) else None
    return m.Result(
        task=str(state.name),
        state=how,  # type: ignore[arg-type]  # an ended state of a task
        result=m.NULL if isinstance(body, m.BlobRef) else body,
        result_blob=blob,
        error=error,
    )


def child_result(state: TaskState, parent: SubtaskState, child: SubtaskState, body: Raw | m.BlobRef, error: m.ErrorInfo | None) -> m.Result:
    """What the holder of a parent gets when its child has ended."""
    return m.Result(
        task=str(state.name),
        subtask=parent.name,
        call=child.call,
        state="completed" if error is None else "cancelled" if error.code == "cancelled" else "failed",
        result=m.NULL if isinstance(body, m.BlobRef) else body,
        result_blob=body if isinstance(body, m.BlobRef) else None,
        error=error,
    )


def demand_of(state: TaskState, subtask: SubtaskState) -> Demand:
    """What a ready subtask asks of the market; what it does not say itself the submit says."""
    spec, submit = subtask.spec, state.submit or m.Submit()
    return Demand(
        capability=spec.capability,
        labels=spec.labels or submit.labels,
        priority=submit.priority if spec.priority is None else spec.priority,
        policy=spec.award or submit.award,
        auction=spec.auction or submit.auction,
        tailored=bool(submit.tailored if spec.tailored is None else spec.tailored),
        prefer=spec.prefer,
        avoid=tuple(dict.fromkeys(attempt.agent for attempt in subtask.attempts if attempt.state not in ("completed", "superseded"))),
        never=tuple(spec.avoid),
        share=1 if subtask.shares is None else max(1, subtask.shares[1] - subtask.shares[0]),
        deadline=state.deadline_of(subtask),
        version=subtask.plan_version,
    )


def want_effects(state: TaskState, subtask: SubtaskState) -> list[Effect]:
    """How a ready subtask finds its agents: by the market, or by its shares when it is to be split."""
    demand = demand_of(state, subtask)
    spec = subtask.spec
    if spec.split is not None and not subtask.children:
        return [NeedSplit(subtask.name, spec.input, spec.input_blob, spec.split, demand)]
    return [Want(subtask.name, demand)]


def unserved_timer(state: TaskState, subtask: SubtaskState, now: float) -> list[Effect]:
    """Look later whether any agent fits, when that is to lead to anything."""
    if subtask.parent is not None or subtask.planner or answer_to(state, "unserved", subtask) is None:
        return []
    return [SetTimer("unserved", now + state.replan.unserved_s, subtask.name, subtask.plan_version)]


def check_policies(named: Iterable[str | None], settings: Settings) -> None:
    """Raises PlanRefused for an award policy that is not installed."""
    for policy in named:
        if policy is not None and settings.policies and policy not in settings.policies:
            raise PlanRefused(f"There is no award policy {policy!r}.", hint=f"Installed are: {', '.join(sorted(settings.policies))}.")


def award_effects(subtask: str, epoch: int, now: float, settings: Settings) -> list[Effect]:
    """What follows from an award."""
    return [GiveAward(subtask, epoch), SetTimer("accept", now + settings.accept_timeout_s, subtask, epoch)]


def back_off(count: int, settings: Settings, seed: int) -> float:
    """Seconds before try number `count` + 1: doubling, capped, and jittered by the seed to between half and all of it."""
    full: float = min(settings.backoff_s * 2.0 ** min(count - 1, 30), settings.backoff_max_s)
    return full * (0.5 + (seed % 1000) / 2000)
