"""What a call of the model may use of the task's budget, so that calls that run at once hold it together. Pure.

Each award of a call sets something aside, and what that is follows from the task's log up to the award. All agents read the same log, so they reckon
the same without a word to each other, and nothing is given twice (docs/autogpt.md, "Where it ends").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Raw

from agentexecutor.agents.autogpt.settings import ASK, CHAT, JUDGE, ModelSettings
from agentexecutor.coordinator.budgets import budget_of, left
from agentexecutor.coordinator.evolve import evolve
from agentexecutor.coordinator.model import SubtaskState, TaskState, new_task
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_as, from_rfc3339
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import TaskName

__all__ = ["CHARS_A_TOKEN", "LEAST_TOKENS", "PRICES_ARE_FOR", "Grant", "Purse"]

CHARS_A_TOKEN = 4
"""For an estimate."""
PRICES_ARE_FOR = 1_000_000
LEAST_TOKENS = 100
"""An answer for which the budget leaves less is not asked for."""
COUNTED = ("tokens", "money")
FOR_THE_PLANNER = 0.25
"""Of what is left when a version of the plan begins: its own steps leave that to whoever plans the next ones."""
LONGEST_ASK = 60_000
"""Characters: `llm.ask` cuts its prompt to this, unless it is told otherwise."""
ASK_WORDS = 300
"""Characters of `llm.ask`'s own words in a prompt."""
TOLD = ("completed", "failed")
"""Ends of an attempt with which the agent has told what it used."""


class Grant(NamedTuple):
    """What one call may use. `others`: more may come free when the calls that run have ended."""

    left: dict[str, float]
    others: bool


class _ChatInput(m.Message, frozen=True):
    max_tokens: int | None = None


class Purse:
    """A task's log as far as it was given. `settings`: what an answer may be long, and the prices."""

    def __init__(self, task: TaskName, settings: ModelSettings) -> None:
        self._state: TaskState = new_task(task, 0)
        self._settings = settings
        self._aside: dict[tuple[str, int], dict[str, float]] = {}
        """By subtask and epoch: of calls that run, and of those that have ended without a word about what they used."""
        self._accepted: set[tuple[str, int]] = set()
        self._open: set[tuple[str, int]] = set()
        self._kept: dict[str, float] = {}
        """For the planner."""

    @property
    def limited(self) -> bool:
        """Whether the task has a budget that a call of the model can use up."""
        return any(name in COUNTED for name in budget_of(self._state))

    def apply(self, record: r.Record) -> dict[tuple[str, int], Grant]:
        """The next record of the log; gives what is set aside for the calls that it awards, by subtask and epoch."""
        granted = {}
        for change in record.changes:
            evolve(self._state, change, from_rfc3339(record.at))
            if isinstance(change, r.Accepted):
                self._accepted.add((change.subtask, change.epoch))
            elif isinstance(change, r.Awarded) and self._state.subtasks[change.subtask].spec.capability in (ASK, CHAT):
                key = (change.subtask, change.epoch)
                granted[key] = self._grant(self._state.subtasks[change.subtask])
                self._aside[key] = granted[key].left
                self._open.add(key)
            else:
                self._close()
            if isinstance(change, r.Planned) and change.parent is None and self._state.goal is not None:
                self._kept = {name: FOR_THE_PLANNER * number for name, number in left(self._state).items()}
        return granted

    def _close(self) -> None:
        """What was set aside for attempts that have ended is free again, unless they may have used it and nobody knows how much."""
        for key in [key for key in self._open if self._how(key) not in ("awarded", "running")]:
            self._open.discard(key)
            if self._how(key) in TOLD or key not in self._accepted:
                del self._aside[key]

    def _how(self, key: tuple[str, int]) -> str:
        attempts = self._state.subtasks[key[0]].attempts
        return next((attempt.state for attempt in reversed(attempts) if attempt.epoch == key[1]), "gone")

    def _grant(self, subtask: SubtaskState) -> Grant:
        rest = left(self._state)
        kept = self._kept if subtask.spec.capability == ASK else {}
        waiting = 1 + sum(_will_ask(other) for other in self._state.subtasks.values())
        prompt = self._prompt_tokens(subtask)
        least, most = self._cost(prompt, LEAST_TOKENS), self._cost(prompt, self._answer_tokens(subtask))
        given = {}
        for name in COUNTED:
            if name in rest:
                free = rest[name] - kept.get(name, 0.0) - sum(aside.get(name, 0.0) for aside in self._aside.values())
                given[name] = max(0.0, min(free, most[name], max(free / waiting, least[name])))
        return Grant(given, bool(self._open))

    def _cost(self, prompt: int, answer: int) -> Mapping[str, float]:
        money = prompt * self._settings.price_in + answer * self._settings.price_out
        return {"tokens": prompt + answer, "money": money / PRICES_ARE_FOR}

    def _answer_tokens(self, subtask: SubtaskState) -> int:
        limit = self._settings.max_tokens
        if subtask.spec.capability == CHAT and subtask.spec.input_blob is None:
            try:
                limit = min(decode_as(_ChatInput, bytes(subtask.spec.input)).max_tokens or limit, limit)
            except AgentExecutorError:
                return 0  # such an input is refused before anything is asked
        return max(0, limit)

    def _prompt_tokens(self, subtask: SubtaskState) -> int:
        """At most so many: of the input, and of all results that it may refer to."""
        spec = subtask.spec
        chars = spec.input_blob.bytes if spec.input_blob is not None else len(spec.input)
        if spec.capability == ASK:
            chars = min(2 * chars + ASK_WORDS + _size(self._state, subtask.needs), LONGEST_ASK)
        return -(-chars // CHARS_A_TOKEN)


def _size(state: TaskState, names: Iterable[str]) -> int:
    """Of these subtasks' results, in characters at most."""
    results = [state.subtasks[name].result for name in names]
    return sum(result.bytes if isinstance(result, m.BlobRef) else len(result) for result in results if isinstance(result, m.BlobRef | Raw))


def _will_ask(subtask: SubtaskState) -> bool:
    """Whether it will call the model, and has nothing set aside yet."""
    return not (subtask.ended or subtask.held or subtask.is_split) and subtask.spec.capability in (ASK, CHAT, JUDGE)
