"""A task in memory and on a list of records, to drive the pure machine by hand: what a shell does, without bus and clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Raw

from agentexecutor.coordinator.evolve import evolve, fold
from agentexecutor.coordinator.inputs import AwardIn, ClaimIn, Decision, Input, Settle, SettleIn, SubmitIn
from agentexecutor.coordinator.machine import decide
from agentexecutor.coordinator.model import TaskState, new_task
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, encode, from_rfc3339, to_rfc3339
from agentexecutor.schemas.names import TaskName

if TYPE_CHECKING:
    from agentexecutor.coordinator.inputs import Effect
    from agentexecutor.schemas.plans import Plan

E = TypeVar("E")
START = 1_000_000.0


class Table:
    """One task on the table: `put` an input, look at `last` (the decision), `effects`, `state`, `log`."""

    def __init__(self, settings: Settings | None = None, owner: str = "me") -> None:
        self.settings = settings or Settings()
        self.name = TaskName(owner, "t1")
        self.state: TaskState = new_task(self.name, 3)
        self.log: list[tuple[int, r.Record]] = []
        self.now = START
        self.effects: list[Effect] = []
        self.last = Decision()
        self.count = 0

    def put(self, input: Input, *, seed: int = 500) -> Decision:
        """Decide on one input, record what it says (through bytes, as the log would), evolve."""
        decision = decide(self.state, input, self.now, self.settings, seed)
        if decision.changes:
            record = r.Record(coordinator="c1", at=to_rfc3339(self.now), changes=decision.changes, applied=decision.applied)
            record = decode_record(encode(record))
            at = from_rfc3339(record.at)
            for change in record.changes:
                evolve(self.state, change, at)
            self.state.applied.update(record.applied)
            if "c1" not in self.state.coordinators:
                self.state.coordinators.append("c1")
            self.state.head = len(self.log) + 1
            self.log.append((self.state.head, record))
        self.last = decision
        self.effects += decision.effects
        if any(isinstance(effect, Settle) for effect in decision.effects):
            then = self.put(SettleIn(), seed=seed)
            decision.changes += then.changes
            decision.effects = [*(effect for effect in decision.effects if not isinstance(effect, Settle)), *then.effects]
            self.last = decision
        return decision

    def id(self) -> str:
        self.count += 1
        return f"id{self.count}"

    def submit(self, what: str | Plan | m.PlanSpec = "work", digest: str = "d1", **options: Any) -> Decision:
        if isinstance(what, str):
            submit = m.Submit(capability=what, **options)
        else:
            submit = m.Submit(plan=what if isinstance(what, m.PlanSpec) else what.spec(), **options)
        return self.put(SubmitIn(submit, digest, self.now, self.id()))

    def put_goal(self, goal: str = "accuracy", **options: Any) -> Decision:
        return self.put(SubmitIn(m.Submit(goal=goal, **options), "d1", self.now, self.id()))

    def award(self, subtask: str = "main", agent: str = "a1", boot: str = "b1") -> int:
        """Award a ready subtask and give the epoch."""
        version = self.state.subtasks[subtask].plan_version
        self.put(AwardIn(subtask, agent, boot, "fastest", "standing", [], version=version))
        return self.state.subtasks[subtask].epoch

    def claim(
        self, cls: type[m.Claim], subtask: str = "main", agent: str = "a1", boot: str = "b1", epoch: int | None = None, **more: Any
    ) -> Decision:
        number = self.state.subtasks[subtask].epoch if epoch is None else epoch
        return self.put(ClaimIn(agent, cls(subtask=subtask, epoch=number, boot=boot, **more), self.id()))

    def done(self, subtask: str = "main", result: bytes = b"1", **more: Any) -> Decision:
        return self.claim(m.Done, subtask, result=Raw(result), **more)

    def fail(self, subtask: str = "main", *, retryable: bool = True, **more: Any) -> Decision:
        return self.claim(m.Failed, subtask, error=m.ErrorInfo(code="handler", message="broke", retryable=retryable), **more)

    def run(self, subtask: str = "main", result: bytes = b"1") -> Decision:
        """Award and complete."""
        self.award(subtask)
        return self.done(subtask, result)

    def of(self, cls: type[E]) -> list[E]:
        """The effects of one class that the last decision had."""
        return [effect for effect in self.last.effects if isinstance(effect, cls)]

    def states(self) -> dict[str, str]:
        return {name: subtask.state for name, subtask in self.state.subtasks.items()}

    def folded(self) -> TaskState:
        """The state that the log alone leads to."""
        return fold(self.name, 3, self.log)
