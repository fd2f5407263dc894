"""From a task's state to what people read (docs/protocol.md section 9)."""

from __future__ import annotations

from msgspec import UNSET, Raw

from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import approval_of
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import to_rfc3339

__all__ = ["state_view", "task_view"]

INPUT_SHOWN = 4096
"""Bytes of an input that a person is shown who is asked for a word."""


def _body(result: Raw | m.BlobRef | None) -> tuple[Raw, m.BlobRef | None]:
    if isinstance(result, m.BlobRef):
        return m.NULL, result
    return m.NULL if result is None else result, None


def _trace_id(state: TaskState) -> str | None:
    parts = (state.traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None  # noqa: PLR2004  # W3C: version-trace-span-flags


def _asked(state: TaskState, subtask: SubtaskState) -> v.AskedView | None:
    approval = approval_of(state, subtask) if subtask.state == "approval" else None
    if approval is None:
        return None
    input = subtask.spec.input if subtask.spec.input_blob is None and len(subtask.spec.input) <= INPUT_SHOWN else m.NULL
    return v.AskedView(
        since=to_rfc3339(subtask.asked_at), text=approval.text, input=input, timeout_s=approval.timeout_s, otherwise=approval.otherwise
    )


def subtask_view(state: TaskState, subtask: SubtaskState, looked: str | None = None) -> v.SubtaskView:
    """A subtask as ``show`` prints it; `looked`: calling or parked, as the market sees a ready one, or stalled, as a running one may be."""
    result, blob = _body(subtask.result)
    last = subtask.attempts[-1] if subtask.attempts else None
    return v.SubtaskView(
        capability=subtask.spec.capability,
        state=looked if looked is not None and subtask.state in ("ready", "running") else subtask.state,
        agent=last.agent if last else None,
        epoch=last.epoch if last else None,
        plan_version=subtask.plan_version,
        bids=[
            v.BidView(agent=bid.agent, epoch=bid.epoch, source=bid.source, score=bid.score, won=bid.won, reason=bid.reason)
            for bid in subtask.bids
        ],
        attempts=[v.AttemptView(agent=a.agent, boot=a.boot, epoch=a.epoch, state=a.state, error=a.error) for a in subtask.attempts],
        result=result,
        result_blob=blob,
        error=subtask.error,
        asked=_asked(state, subtask),
        not_before=_not_before(subtask) if looked is None else None,
    )


def _not_before(subtask: SubtaskState) -> str | None:
    """When what has failed is tried again."""
    return to_rfc3339(subtask.ready_at) if subtask.state == "ready" and subtask.attempts and subtask.pause_s > 0 else None


def _proposed(state: TaskState) -> v.ProposedView | None:
    proposed = state.proposed
    if proposed is None or state.ended:
        return None
    revision = proposed.revision or r.Revision()
    return v.ProposedView(
        version=state.plan_version + 1,
        since=to_rfc3339(state.proposed_at),
        planner=proposed.planner,
        why=proposed.why,
        add=list(revision.add),
        again=revision.again,
        remove=revision.remove,
        whole=revision.whole,
        finish=revision.finish,
        output=revision.output is not UNSET or revision.output_blob is not None,
        text=revision.text,
    )


def task_view(state: TaskState, looked: dict[str, str] | None = None) -> v.TaskView:
    """A task as ``show`` prints it; `looked`: subtask → calling, parked or stalled."""
    result, blob = _body(state.result)
    return v.TaskView(
        task=str(state.name),
        state=state.state,
        plan_version=max(1, state.plan_version),
        result=result,
        result_blob=blob,
        error=state.error,
        trace_id=_trace_id(state),
        proposed=_proposed(state),
        subtasks={name: subtask_view(state, subtask, (looked or {}).get(name)) for name, subtask in state.subtasks.items()},
    )


def state_view(state: TaskState) -> v.StateView:
    """The short answer about a task."""
    result, blob = _body(state.result)
    return v.StateView(state=state.state, result=result, result_blob=blob, error=state.why, trace_id=_trace_id(state))
