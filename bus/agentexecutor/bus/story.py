"""A task's story told from its log: one Event for each thing that a record says (docs/protocol.md section 9). Pure: no bus, no waiting.

A record holds several changes, and a change may be about several subtasks; each becomes an event of its own, in order. Entries come by
sequence; one that was told already says nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.bodies import readable
from agentexecutor.schemas.codec import to_microseconds
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.parts import Parts
from agentexecutor.schemas.plans import dependencies
from agentexecutor.schemas.views import Event

__all__ = ["Story", "progress_event"]

GROWTH = ("submit", "goal", "split", "extend", "ask")
"""Causes of `planned` changes that begin a plan or add to it; any other cause makes a new version of it."""


class Story:
    """What has been told of a task so far: `position` is the sequence of the last record, `ended` whether it was the end."""

    def __init__(self, task: TaskName) -> None:
        self.position = 0
        self.ended = False
        self._task = str(task)
        self._agents: dict[tuple[str, int], str] = {}
        self._parts = Parts()

    def skip(self, seq: int) -> None:
        """The message of the log with this sequence says nothing."""
        self.position = max(self.position, seq)

    def tell(self, entry: r.LogEntry) -> list[Event]:
        """The events of a record, up to the task's end; those of a part come with the end of its turn. Its history is not looked at."""
        if entry.seq <= self.position or self.ended:
            return []
        self.position = entry.seq
        whole = self._parts.whole(entry.record)
        events: list[Event] = []
        for change in () if whole is None else whole.changes:
            events += self._events(entry, change)
            self.ended = _ends(change)
            if self.ended:
                break
        return events

    def agent_of(self, subtask: str, epoch: int) -> str:
        """Whose award it was."""
        return self._agents.get((subtask, epoch), "")

    def _events(self, entry: r.LogEntry, change: r.Change) -> list[Event]:
        kind = _kind(change)
        epoch = getattr(change, "epoch", None) or None
        events = []
        for subtask in _subtasks(change):
            event = Event(
                time=to_microseconds(entry.time),
                task=self._task,
                kind=kind,
                subtask=subtask,
                agent=self._agent(change, subtask, epoch),
                epoch=epoch,
                seq=entry.seq,
                data={**_data(change), "coordinator": entry.record.coordinator},
            )
            events.append(event)
        return events

    def _agent(self, change: r.Change, subtask: str | None, epoch: int | None) -> str | None:
        """Who the event is about; an accept names the award, not the agent."""
        if subtask is None or epoch is None:
            return None
        if isinstance(change, r.Awarded):
            self._agents[subtask, epoch] = change.agent
        return getattr(change, "agent", None) or self._agents.get((subtask, epoch))


def progress_event(task: TaskName, agent: str, progress: m.Progress) -> Event:
    """What an agent says while it works: not in the log, so without a sequence."""
    said = {"step": progress.step, "state": progress.state, "fraction": progress.fraction, "text": progress.text or None}
    said["feedback"] = progress.feedback
    if progress.schedule is not None:
        said["schedule"] = _plain(progress.schedule)
    return Event(
        time=progress.at,
        task=str(task),
        kind="progress",
        subtask=progress.subtask,
        agent=agent,
        epoch=progress.epoch,
        data=_given(said),
    )


def _kind(change: r.Change) -> str:
    if isinstance(change, r.Planned) and change.cause not in GROWTH:
        return "replanned"
    return str(change.__struct_config__.tag)


def _subtasks(change: r.Change) -> list[str | None]:
    """Whom a change is about; None is the task."""
    if isinstance(change, r.Ready | r.Superseded | r.Asked):
        return list(change.subtasks)
    if isinstance(change, r.Cancelled | r.Approved):
        return [None] if change.subtasks is None else list(change.subtasks)
    return [getattr(change, "subtask", None)]


def _ends(change: r.Change) -> bool:
    """Whether this is the end of the task itself."""
    if isinstance(change, r.Cancelled):
        return change.subtasks is None
    return isinstance(change, r.Completed | r.FailedChange) and change.subtask is None


def _data(change: r.Change) -> dict[str, Any]:
    """What a change adds to its kind, as plain JSON objects. Inputs and results are left out, their size is told."""
    if isinstance(change, r.Submitted):
        return _options(change.submit)
    if isinstance(change, r.Planned):
        subtasks = {name: {"capability": spec.capability, "after": dependencies(spec)} for name, spec in change.add.items()}
        said = {"version": change.version, "cause": change.cause, "subtasks": subtasks, "result": change.result}
        said |= {"parent": change.parent, "call": change.call, "shares": _plain(change.shares) or None, "base": change.base or None}
        said |= {name: _plain(getattr(change, name)) or None for name in ("why", "remove", "again", "finish")}
        return _given(said)
    if isinstance(change, r.Completed):
        size = change.result_blob.bytes if change.result_blob is not None else len(change.result)
        said = {"bytes": size} if change.of is None else {"of": change.of}
        return _given({**said, "took_s": change.took_s, "usage": change.usage or None})
    if isinstance(change, r.Awarded):
        return _award(change)
    return _rest(change)


def _award(change: r.Awarded) -> dict[str, Any]:
    """An award with its bids in full, so that it can be explained without knowing the defaults of the wire."""
    said: dict[str, Any] = _plain({**msgspec.structs.asdict(change), "bids": [msgspec.structs.asdict(bid) for bid in change.bids]})
    for placed in ("subtask", "agent", "epoch", "seed"):
        said.pop(placed)
    return said


def _options(submit: m.Submit) -> dict[str, Any]:
    """The options of a submit; its plan or input stand in `planned`."""
    plain: dict[str, Any] = _plain(submit)
    for body in ("input", "input_blob", "plan", "plan_blob"):
        plain.pop(body, None)
    return plain


def _rest(change: r.Change) -> dict[str, Any]:
    """All fields that an Event has no place of its own for."""
    plain: dict[str, Any] = _plain(change)
    for placed in ("kind", "subtask", "subtasks", "agent", "epoch"):
        plain.pop(placed, None)
    if isinstance(change, r.FailedChange):
        plain.setdefault("outcome", change.outcome)
    return plain


def _plain(value: Any) -> Any:
    """In the types of JSON, a body inside decoded."""
    return readable(msgspec.json.encode(value))


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
