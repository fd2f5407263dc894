"""Feedback: who may give it, whom it reaches, and what it leads to (docs/protocol.md sections 4 and 7)."""

from __future__ import annotations

from copy import copy

from msgspec.structs import replace

from agentexecutor.coordinator.approval import approve
from agentexecutor.coordinator.budgets import budget_of, exceeded
from agentexecutor.coordinator.draft import Draft, demand_of
from agentexecutor.coordinator.inputs import FeedbackIn, Send, SetTimer, Settle, Want
from agentexecutor.coordinator.lateness import watch_lateness
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.policy import answer_to
from agentexecutor.coordinator.replanning import take_proposed
from agentexecutor.coordinator.versions import root_of
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


def _gives_word(state: TaskState, peer: str) -> bool:
    """Who may say the word that something waits for: not the agents who wait for it."""
    return peer == state.name.owner or (state.submit is not None and peer in state.submit.critics)


def _waits(state: TaskState, said: m.FeedbackClaim, subtask: SubtaskState | None) -> bool:
    """Whether a verdict would be the word that something waits for: about the task as a whole a proposed version, and for `reject` anything."""
    if subtask is not None:
        return subtask.state == "approval"
    return state.proposed is not None or (said.verdict == "reject" and state.asking > 0)


def _may_speak(state: TaskState, peer: str) -> bool:
    critics = state.submit.critics if state.submit is not None else []
    holds = any(subtask.held and subtask.agent == peer for subtask in state.subtasks.values())
    return peer == state.name.owner or peer in critics or holds


def decide_feedback(draft: Draft, input: FeedbackIn) -> None:
    """Record feedback, deliver it to whoever runs the subtask, keep it for whoever will; and what else it leads to (docs/protocol.md section 11)."""
    state, said = draft.state, input.feedback
    objection = _objection(state, input)
    if objection is not None:
        draft.decision.stale = state.state == "unknown"
        draft.decision.refusal = objection
        draft.effect(Send(input.peer, "refused", m.Refused(task=str(state.name), id=input.id, error=objection)))
        return
    named = None if said.subtask is None else state.subtasks[said.subtask]
    subtask = None if named is None else _concerned(state, named)
    why = _why(state, input, subtask)
    given = _given(input, subtask, why)
    if why is not None and _is_done_at_once(why, subtask):
        draft.change(replace(given, why=None))
        _change_limits(draft, given)
        _reject(draft, subtask if why.answer == "fail" or subtask is None else root_of(state, subtask), input)
        return
    draft.change(given)
    _change_limits(draft, given)
    if why is not None:
        draft.effect(Settle())
    if why is not None and why.trigger != "changed":
        return
    if said.verdict == "reject" and subtask is not None:
        _reject(draft, _rejected(state, subtask), input)
    elif said.verdict in ("accept", "revise") and _gives_word(state, input.peer) and (subtask is None or subtask.state == "approval"):
        _give_word(draft, subtask, input)
    for holder in addressed(state, given) if why is None or said.verdict is not None else ():
        if holder.agent is not None:
            draft.effect(Send(holder.agent, "feedback", message(state, holder.name, given)))


def _concerned(state: TaskState, subtask: SubtaskState) -> SubtaskState:
    """Whom feedback about a subtask concerns: when a share or a child has ended, the subtask that it was made for."""
    while subtask.ended and subtask.parent is not None:
        subtask = state.subtasks[subtask.parent]
    return subtask


def _given(input: FeedbackIn, subtask: SubtaskState | None, why: r.Why | None) -> r.FeedbackGiven:
    said = input.feedback
    return r.FeedbackGiven(
        id=input.id,
        sender=input.peer,
        subtask=None if subtask is None else subtask.name,
        verdict=said.verdict,
        text=said.text,
        data=said.data,
        epoch=subtask.epoch if subtask is not None and subtask.held else None,
        deadline_s=said.deadline_s,
        priority=said.priority,
        why=why,
    )


def _is_done_at_once(why: r.Why, subtask: SubtaskState | None) -> bool:
    """Whether what follows needs no new version. Rejected work that is under way, or to come, is taken away before a planner answers: nobody is to use it."""
    if why.answer == "fail":
        return True
    return why.trigger == "reject" and why.answer == "plan" and subtask is not None and not subtask.ended and not subtask.planner


def _rejected(state: TaskState, subtask: SubtaskState) -> SubtaskState:
    """Whom a rejection ends: with an answer of the policy what a share or child was made for, else itself."""
    return subtask if answer_to(state, "reject", subtask) in (None, "fail") else root_of(state, subtask)


def _why(state: TaskState, input: FeedbackIn, subtask: SubtaskState | None) -> r.Why | None:
    """The trigger that feedback is, with the policy's answer; None: it leads to no new version and no end.

    A verdict and another deadline or priority are two things: what the verdict leads to comes first.
    """
    said = input.feedback
    trigger: str = said.verdict or "message"
    answer = None
    if said.verdict in ("revise", "reject"):
        answer = _answer_to_verdict(state, said.verdict, subtask)
    if answer is None and said.verdict != "reject" and (said.deadline_s is not None or said.priority is not None):
        trigger, answer = "changed", answer_to(state, "changed", subtask)
        answer = answer and _in_a_version(answer)
    about = bool(said.text) or bytes(said.data) != bytes(m.NULL) or (said.deadline_s is None and said.priority is None)
    if answer is None and said.verdict is None and about and (subtask is None or not subtask.ended):
        trigger = "message"
        answer = answer_to(state, trigger, subtask)
        answer = answer if answer in ("plan", "fail") else None
    if answer is None:
        return None
    if subtask is not None and subtask.planner and answer in ("retry", "another", "split"):
        answer = "plan"  # a planner is asked again
    if subtask is not None and answer == "plan":
        subtask = root_of(state, subtask)  # planners know nothing of shares and children
    name = None if subtask is None else subtask.name
    return r.Why(trigger=trigger, answer=answer, subtask=name, feedback=input.id, sender=input.peer, text=said.text[:1000])


def _answer_to_verdict(state: TaskState, verdict: str, subtask: SubtaskState | None) -> str | None:
    answer: str | None = answer_to(state, verdict, subtask)
    if verdict == "reject":
        answer = answer or "fail"
        if answer in ("skip", "wait"):  # done at once, where it can be
            return None if subtask is not None and not subtask.ended else "fail"
        return answer
    if subtask is None:
        return "plan" if state.proposed is not None else answer
    return _in_a_version(answer or "retry") if subtask.ended else None


def _in_a_version(answer: str) -> str:
    """Policies of old may say `skip` or `wait` where only a new version makes sense."""
    return "retry" if answer in ("skip", "wait") else answer


def _change_limits(draft: Draft, given: r.FeedbackGiven) -> None:
    """Another deadline or priority counts from now on, also for what else this decision does."""
    state = draft.state
    if given.deadline_s is not None:
        draft.effect(SetTimer("task-deadline", state.submitted_at + given.deadline_s))
    if state.submit is None or (given.deadline_s is None and given.priority is None):
        return
    submit = replace(
        state.submit,
        deadline_s=state.submit.deadline_s if given.deadline_s is None else given.deadline_s,
        priority=state.submit.priority if given.priority is None else given.priority,
    )
    draft.state = changed = copy(state)
    changed.submit = submit
    for subtask in state.subtasks.values():
        if subtask.state == "ready" and not (subtask.spec.split is not None and not subtask.children):
            draft.effect(Want(subtask.name, demand_of(changed, subtask)))
        elif subtask.state == "running" and subtask.held:
            draft.effect(*watch_lateness(changed, subtask, draft.now))


def _give_word(draft: Draft, subtask: SubtaskState | None, input: FeedbackIn) -> None:
    """A person has agreed: to a subtask, which may start, or to the proposed version."""
    if subtask is not None:
        approve(draft, subtask, input.peer, input.id)
    elif draft.state.proposed is not None:
        draft.change(r.Approved(subtasks=None, sender=input.peer, feedback=input.id))
        take_proposed(draft)


def _objection(state: TaskState, input: FeedbackIn) -> m.ErrorInfo | None:
    """Why the feedback cannot be used; None when it can."""
    said = input.feedback
    name = said.subtask
    subtask = None if name is None else state.subtasks.get(name)
    if state.state == "unknown":
        why = f"There is no task {state.name}."
    elif state.ended:
        why = f"The task has ended already ({state.state})."
    elif not _may_speak(state, input.peer):
        why = f"{input.peer} is neither the owner, nor a holder, nor a critic of task {state.name}."
    elif (said.deadline_s is not None or said.priority is not None) and input.peer != state.name.owner:
        why = f"Only the owner of task {state.name} sets its deadline and its priority."
    elif name is not None and subtask is None:
        why = f"Task {state.name} has no subtask {name!r}; it has {', '.join(list(state.subtasks)[:20])}."
    elif subtask is not None and subtask.state == "cancelled":
        why = f"Subtask {name!r} was cancelled."
    elif said.verdict is not None and _waits(state, said, subtask) and not _gives_word(state, input.peer):
        why = f"{name or 'It'} waits for the word of the task's owner or of a critic, and {input.peer} is neither."
    else:
        wanted = _why(state, input, None if subtask is None else _concerned(state, subtask))
        if wanted is None or wanted.answer == "fail" or exceeded(state, {"replans": 1}) is None:
            return None
        return m.ErrorInfo(code="budget", message=f"The task has used up its {budget_of(state)['replans']:g} new versions of the plan.")
    return m.ErrorInfo(code="refused", message=why)


def _reject(draft: Draft, subtask: SubtaskState | None, input: FeedbackIn) -> None:
    """The subtask fails, and by the task's policy perhaps the task with it; one that has ended fails the task."""
    text = input.feedback.text or "no reason given"
    error = m.ErrorInfo(code="refused", message=f"Rejected by {input.peer}: {text}", details={"cause": "rejected"})
    if subtask is None or subtask.ended:
        details = error.details if subtask is None else {**error.details, "subtask": subtask.name}
        draft.fail_task(replace(error, details=details))
    else:
        draft.stop(subtask, error.message)
        draft.fail(subtask, error, "reject")
