"""Feedback: who may give it, whom it reaches, and what it leads to (docs/protocol.md sections 4 and 7)."""

from __future__ import annotations

from agentexecutor.coordinator.draft import Draft
from agentexecutor.coordinator.inputs import FeedbackIn, Send
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r

__all__ = ["addressed", "decide_feedback", "message"]


def message(state: TaskState, subtask: str, given: r.FeedbackGiven) -> m.FeedbackMessage:
    """Feedback on its way to the agent that runs, or will run, `subtask`."""
    return m.FeedbackMessage(
        task=str(state.name),
        subtask=subtask,
        epoch=state.subtasks[subtask].epoch,
        id=given.id,
        sender=given.sender,
        verdict=given.verdict,
        text=given.text,
        data=given.data,
    )


def addressed(state: TaskState, given: r.FeedbackGiven) -> list[SubtaskState]:
    """The subtasks in an agent's hands that feedback is about: the one named, or all."""
    if given.subtask is not None:
        subtask = state.subtasks.get(given.subtask)
        return [subtask] if subtask is not None and subtask.held else []
    return [subtask for subtask in state.subtasks.values() if subtask.held]


def _may_speak(state: TaskState, peer: str) -> bool:
    critics = state.submit.critics if state.submit is not None else []
    holds = any(subtask.held and subtask.agent == peer for subtask in state.subtasks.values())
    return peer == state.name.owner or peer in critics or holds


def decide_feedback(draft: Draft, input: FeedbackIn) -> None:
    """Record feedback, deliver it to whoever runs the subtask, keep it for whoever will; `reject` fails the subtask (or the task)."""
    state, said = draft.state, input.feedback
    objection = _objection(state, input)
    if objection:
        draft.decision.stale = state.state == "unknown"
        error = m.ErrorInfo(code="refused", message=objection)
        draft.decision.refusal = error
        draft.effect(Send(input.peer, "refused", m.Refused(task=str(state.name), id=input.id, error=error)))
        return
    subtask = None if said.subtask is None else state.subtasks[said.subtask]
    given = r.FeedbackGiven(
        id=input.id,
        sender=input.peer,
        subtask=said.subtask,
        verdict=said.verdict,
        text=said.text,
        data=said.data,
        epoch=subtask.epoch if subtask is not None and subtask.held else None,
    )
    draft.change(given)
    if said.verdict == "reject":
        _reject(draft, subtask, input)
        return
    for holder in addressed(state, given):
        if holder.agent is not None:
            draft.effect(Send(holder.agent, "feedback", message(state, holder.name, given)))


def _objection(state: TaskState, input: FeedbackIn) -> str:
    """Why the feedback cannot be used; empty when it can."""
    name = input.feedback.subtask
    subtask = None if name is None else state.subtasks.get(name)
    if state.state == "unknown":
        return f"There is no task {state.name}."
    if state.ended:
        return f"The task has ended already ({state.state})."
    if not _may_speak(state, input.peer):
        return f"{input.peer} is neither the owner, nor a holder, nor a critic of task {state.name}."
    if name is not None and subtask is None:
        return f"Task {state.name} has no subtask {name!r}; it has {', '.join(list(state.subtasks)[:20])}."
    return f"Subtask {name!r} has ended already ({subtask.state})." if subtask is not None and subtask.ended else ""


def _reject(draft: Draft, subtask: SubtaskState | None, input: FeedbackIn) -> None:
    text = input.feedback.text or "no reason given"
    error = m.ErrorInfo(code="refused", message=f"Rejected by {input.peer}: {text}", details={"cause": "rejected"})
    if subtask is None:
        draft.fail_task(error)
    else:
        draft.stop(subtask, error.message)
        draft.fail(subtask, error)
