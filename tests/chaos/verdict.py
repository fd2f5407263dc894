"""The checker: what must be true of the recorded history, whoever died. Pure: it is told what was submitted, watched, answered, logged and executed.

`watch` has holes while a server is away: a record of the log that was not watched is counted (`unseen`), one that was watched and is not in the
log is a finding. A handler may run again, but each run needs an award of its own in the log.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace
from traffic import Wish

from agentexecutor.coordinator.errors import TransitionError
from agentexecutor.coordinator.evolve import fold
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, encode, from_rfc3339
from agentexecutor.schemas.names import TaskName

__all__ = ["Fault", "Finding", "Remains", "Run", "Takeover", "Verdict", "runs_of"]

ENDED = ("completed", "failed", "cancelled")
OVER = (*ENDED, "superseded", "skipped")


@dataclass(frozen=True)
class Fault:
    """What was done to whom; `at`: seconds since 1970."""

    at: float
    victim: str
    name: str
    signal: str


class Finding(NamedTuple):
    """A rule that does not hold."""

    rule: str
    task: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.task}: {self.what}"


class Takeover(NamedTuple):
    """Seconds from a kill to the record that goes on without the victim; of which task."""

    seconds: float
    fault: Fault
    task: str


class Run(NamedTuple):
    """A handler has begun to work on an award."""

    task: str
    subtask: str
    epoch: int
    agent: str


@dataclass
class Remains:
    """What is left on the bus when all is over.

    `heads`: each task's last sequence and its state; `running`: what offers still name; `silent`: agents that are not heard.
    """

    heads: dict[str, tuple[int, str]]
    submits: int = 0
    claims: int = 0
    running: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)


@dataclass
class _Told:
    """A task that has ended: what the later checks need of it."""

    state: str
    seqs: list[int]
    awards: dict[tuple[str, int], str]
    ends: dict[tuple[str, int], str]
    """How each award ended: `completed`, else the error's cause or code."""


class Verdict:
    """Told everything, in any order that may happen; `findings` grow with it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.faults: list[Fault] = []
        self.wishes: dict[str, Wish] = {}
        self.ended: dict[str, _Told] = {}
        self.states: Counter[str] = Counter()
        self.records = 0
        self.unseen = 0
        """Records of the log that `watch` has missed."""
        self.runs = 0
        self.again: Counter[str] = Counter()
        """Runs that were not the last of their subtask, by how they ended."""
        self.takeovers: dict[str, list[Takeover]] = {"coordinator": [], "agent": []}
        """By what the victim was to the task; an agent may be both."""
        self._back: dict[Fault, Takeover] = {}
        """The first record of any task after the kill of a server."""
        self._watched: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        self._results: dict[str, bytes] = {}

    def find(self, rule: str, task: str, what: str) -> None:
        """Something is not as it must be."""
        self.findings.append(Finding(rule, task, what))

    def count(self, *rules: str) -> int:
        """How many findings are of these rules."""
        return sum(finding.rule in rules for finding in self.findings)

    # what is told while it runs

    def fault(self, fault: Fault) -> None:
        """Somebody was killed or stopped; told in the order of time."""
        self.faults.append(fault)

    def submitted(self, task: str, wish: Wish) -> None:
        """Told before it is sent."""
        self.wishes[task] = wish

    def watched(self, task: str, seq: int, payload: bytes) -> None:
        """A record that the server republished."""
        told = self.ended.get(task)
        if told is None:
            self._watched[task][seq] = payload
        elif seq not in told.seqs:
            self.find("no record after the end", task, f"sequence {seq} after {told.seqs[-1]}")

    def answered(self, result: m.Result) -> None:
        """A result that was sent to the client; more than once is allowed, two different ones are not."""
        said = encode(replace(result, task=""))
        if result.subtask is None and self._results.setdefault(result.task, said) != said:
            self.find("one result", result.task, f"told {self._results[result.task]!r:.200} and then {said!r:.200}")

    # a task's end

    def finished(self, task: str, state: str, result: Any, log: Sequence[r.LogEntry]) -> None:
        """How the task ended for its client, and its whole log, oldest first."""
        wish = self.wishes[task]
        self.states[state] += 1
        if state not in wish.states:
            self.find("ends as wished", task, f"{wish.kind} is {state}: {result!r:.300}")
        elif state == "completed" and result != wish.result:
            self.find("the right result", task, f"{wish.kind} is {result!r:.100}, not {wish.result!r:.100}")
        self._one_end(task, state, log)
        self._awards(task, state, log)
        self._plans(task, log)
        self._folds(task, state, log)
        self._as_watched(task, log)
        self._measure(task, log)
        self.records += len(log)

    def _one_end(self, task: str, state: str, log: Sequence[r.LogEntry]) -> None:
        ends = [(entry.seq, end) for entry in log for change in entry.record.changes if (end := _end_of(change)) is not None]
        if len(ends) > 1:
            self.find("one result", task, f"it ended {ends}")
        elif not ends:
            self.find("submitted is ended", task, "its log has no end")
        elif ends[0] != (log[-1].seq, state):
            self.find("ends as recorded", task, f"its client was told {state}, the log has {ends[0]} and ends at {log[-1].seq}")

    def _awards(self, task: str, state: str, log: Sequence[r.LogEntry]) -> None:
        told = self.ended[task] = _Told(state, [entry.seq for entry in log], {}, {})
        last, held, completed = 0, dict[str, int](), set[str]()
        for entry in log:
            for change in entry.record.changes:
                match change:
                    case r.Awarded():
                        if change.epoch <= last:
                            self.find("epochs grow", task, f"{change.subtask} awarded with epoch {change.epoch} after {last}")
                        last = held[change.subtask] = max(change.epoch, last)
                        told.awards[change.subtask, change.epoch] = change.agent
                    case r.Completed(subtask=str() as name):
                        if name in completed:
                            self.find("one result", task, f"{name} completed twice")
                        if change.epoch and (held.get(name) != change.epoch or told.awards.get((name, change.epoch)) != change.agent):
                            self.find(
                                "results of the holder", task, f"{name} by {change.agent}, epoch {change.epoch}; awarded {held.get(name)}"
                            )
                        completed.add(name)
                        told.ends[name, change.epoch] = "completed"
                    case r.FailedChange(subtask=str() as name):
                        told.ends[name, change.epoch] = str(change.error.details.get("cause", change.error.code))

    def _plans(self, task: str, log: Sequence[r.LogEntry]) -> None:
        """A part is cut, and a child added, once."""
        parts = Counter((change.parent, change.call) for entry in log for change in entry.record.changes if isinstance(change, r.Planned))
        for (parent, call), times in parts.items():
            if times > 1:
                self.find("one plan", task, f"the plan of {parent or 'the task'} (call {call}) was made {times} times")

    def _folds(self, task: str, state: str, log: Sequence[r.LogEntry]) -> None:
        try:
            folded = fold(TaskName.parse(task), 0, [(entry.seq, entry.record) for entry in log])
        except (TransitionError, KeyError) as error:
            self.find("the log folds", task, str(error))
            return
        if folded.state != state:
            self.find("the log folds", task, f"to {folded.state}, not {state}")
        open = [subtask.name for subtask in folded.subtasks.values() if subtask.state not in OVER]
        if open and folded.state == state:
            self.find("no orphan", task, f"{state}, but open: {open}")

    def _as_watched(self, task: str, log: Sequence[r.LogEntry]) -> None:
        watched = self._watched.pop(task, {})
        for entry in log:
            payload = watched.pop(entry.seq, None)
            if payload is None:
                self.unseen += 1
            elif _bare(decode_record(payload)) != _bare(entry.record):
                self.find("the log is what was watched", task, f"sequence {entry.seq} was another record")
        for seq, payload in watched.items():
            self.find("the log is what was watched", task, f"sequence {seq} is not in it: {payload!r:.300}")

    # times

    def _measure(self, task: str, log: Sequence[r.LogEntry]) -> None:
        stamps = [from_rfc3339(entry.time) for entry in log]
        first = bisect_left(self.faults, stamps[0], key=_at)
        for fault in self.faults[first : bisect_left(self.faults, stamps[-1], key=_at)]:
            at = bisect_right(stamps, fault.at)
            if fault.signal != "SIGKILL":
                continue
            if fault.victim == "server":
                back = Takeover(stamps[at] - fault.at, fault, task)
                self._back[fault] = min(back, self._back.get(fault, back), key=_seconds)
                continue
            for victim, ends in (("coordinator", _taken_over(fault, log, at)), ("agent", _awarded_again(fault, log, at))):
                self.takeovers[victim] += [Takeover(stamps[end] - fault.at, fault, task) for end in ends]

    def all_takeovers(self) -> dict[str, list[Takeover]]:
        """By victim; of a server: from its kill to the next record of any task."""
        return {**self.takeovers, "server": list(self._back.values())}

    # when all is over

    def executed(self, runs: Iterable[Run]) -> None:
        """Every run of a handler needs an award in the log, and every result a run."""
        epochs: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for run in runs:
            self.runs += 1
            told = self.ended.get(run.task)
            if told is None:
                if run.task not in self.wishes:
                    self.find("every run has its award", run.task, f"nobody submitted it, {run.agent} ran {run.subtask}")
                continue
            if told.awards.get((run.subtask, run.epoch)) != run.agent:
                self.find("every run has its award", run.task, f"{run.agent} ran {run.subtask} in epoch {run.epoch}")
            if run.epoch in epochs[run.task, run.subtask]:
                self.find("an award runs once", run.task, f"{run.agent} ran {run.subtask} twice in epoch {run.epoch}")
            epochs[run.task, run.subtask].append(run.epoch)
        for (task, subtask), ran in epochs.items():
            self.again.update(self.ended[task].ends.get((subtask, epoch), "open") for epoch in sorted(ran)[:-1])
        for task, told in self.ended.items():
            for (subtask, epoch), end in told.ends.items():
                if end == "completed" and epoch and epoch not in epochs[task, subtask]:
                    self.find("every result has its run", task, f"{subtask} completed in epoch {epoch}, which nobody ran")

    def over(self, remains: Remains) -> None:
        """Nothing is left, and nothing has changed after its end."""
        for task in self._watched:
            if task not in self.wishes:
                self.find("no orphan", task, "watched, and nobody submitted it")
        for what, number in (("submits", remains.submits), ("claims", remains.claims)):
            if number:
                self.find("no orphan", "-", f"{number} {what} still wait")
        for line in remains.running:
            self.find("no orphan", "-", f"still offered as running: {line}")
        for name in remains.silent:
            self.find("everybody is back", "-", f"{name} runs, and is not heard")
        self._heads(remains.heads)

    def _heads(self, heads: Mapping[str, tuple[int, str]]) -> None:
        for task, (seq, state) in heads.items():
            told = self.ended.get(task)
            if state not in ENDED:
                self.find("no orphan", task, f"is {state or 'without a state'}")
            elif task not in self.wishes:
                self.find("no orphan", task, "nobody submitted it")
            elif told is not None and (seq, state) != (told.seqs[-1], told.state):
                self.find("no record after the end", task, f"{told.state} at {told.seqs[-1]}, now {state} at {seq}")
        for task in self.wishes:
            if task not in heads:
                self.find("submitted is ended", task, "it is not in the log")


def runs_of(lines: Iterable[str]) -> list[Run]:
    """What the handlers wrote (worker.py)."""
    read = [json.loads(line) for line in lines]
    return [Run(one["task"], one["subtask"], one["epoch"], one["agent"]) for one in read]


def _at(fault: Fault) -> float:
    return fault.at


def _seconds(takeover: Takeover) -> float:
    return takeover.seconds


def _taken_over(fault: Fault, log: Sequence[r.LogEntry], at: int) -> Iterator[int]:
    """Who wrote the last record before `at` died: the first record of another."""
    holder = log[at - 1].record.coordinator
    if holder == fault.name or holder.startswith(f"{fault.name}-"):
        yield from [index for index in range(at, len(log)) if log[index].record.coordinator != holder][:1]


def _awarded_again(fault: Fault, log: Sequence[r.LogEntry], at: int) -> Iterator[int]:
    """Who held awards died at `at`: the records in which the same subtasks are awarded again."""
    holds = set[str]()
    for index, entry in enumerate(log):
        for change in entry.record.changes:
            match change:
                case r.Awarded(subtask=name):
                    if index >= at and name in holds:
                        yield index
                    holds.discard(name)
                    if index < at and change.agent == fault.name:
                        holds.add(name)
                case r.Completed(subtask=str() as name) | r.FailedChange(subtask=str() as name) if index < at or not _lost(change):
                    holds.discard(name)


def _end_of(change: r.Change) -> str | None:
    """The task's own end."""
    match change:
        case r.Completed(subtask=None):
            return "completed"
        case r.FailedChange(subtask=None):
            return "failed"
        case r.Cancelled(subtasks=None):
            return "cancelled"
    return None


def _lost(change: r.Completed | r.FailedChange) -> bool:
    return isinstance(change, r.FailedChange) and change.error.details.get("cause") == "lost"


def _bare(record: r.Record) -> r.Record:
    """Without the history that the last record carries."""
    return replace(record, history=[], history_blob=None)
