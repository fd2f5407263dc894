"""Questions to the coordinators and their answers, matched by id, asked again until somebody answers (docs/protocol.md section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat

import anyio

from agentexecutor.bus.blobs import join
from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.errors import BusError
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import H_RE, H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import NOBODY

__all__ = ["NoAnswer", "Questions", "merge_unserved"]

AGAIN_S = (1.0, 2.0, 4.0)
"""A question is asked again after so many seconds, the last for ever: an answer may take its coordinator a while."""
TASKS_NAMED = 8
"""So many tasks are named in a line of unserved demand."""


class NoAnswer(BusError):
    """No coordinator answered a question of this `kind` in time."""


@dataclass(slots=True)
class _Open:
    """A question that waits: the answers so far (Ae-Type and payload), and an event for the next."""

    answers: list[tuple[str, bytes]] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)


class Questions:
    """Asks, and asks again until somebody answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[str, _Open] = {}

    def answered(self, got: Headers, payload: bytes) -> None:
        """An answer came; one that nobody waits for is dropped."""
        question = self._open.get(got.get(H_RE, ""))
        if question is not None:
            question.answers.append((got[H_TYPE], payload))
            question.news.set()
            question.news = anyio.Event()

    async def ask(self, kind: str, task: TaskName | None, question: m.Ask, timeout_s: float) -> m.Answer:
        """The first answer. Raises NoAnswer, BusError (the answer is an error), BusClosed."""
        type, payload = await self._first(kind, task, question, timeout_s)
        return _usable(type, payload)

    async def ask_all(self, kind: str, question: m.Ask, timeout_s: float) -> list[m.Answer]:
        """One answer of each coordinator, of as many as they say there are; of those that answered when the time is over. Raises NoAnswer."""
        waiting = await self._ask_until(_all_answered, kind, None, question, timeout_s)
        answers = _by_coordinator(waiting)
        if not answers:
            raise _no_answer(kind, timeout_s)
        return [answer for answer in answers.values() if answer.error is None]

    async def fetch(self, task: TaskName, ref: m.BlobRef, timeout_s: float) -> bytes:
        """A body by its reference, chunk by chunk. `timeout_s`: for each chunk. Raises BusError (it is gone, or is not what was stored), NoAnswer."""

        async def read(number: int) -> bytes:
            type, payload = await self._first("blob", task, m.Ask(digest=ref.digest, chunk=number), timeout_s)
            if type == "chunk":
                return payload
            _usable(type, payload)
            raise DecodeFailed("The answer to a question for a chunk holds none.", kind=type, reason="another type")

        return await join(ref, read)

    async def _first(self, kind: str, task: TaskName | None, question: m.Ask, timeout_s: float) -> tuple[str, bytes]:
        waiting = await self._ask_until(_is_answered, kind, task, question, timeout_s)
        if not waiting.answers:
            raise _no_answer(kind, timeout_s)
        return waiting.answers[0]

    async def _ask_until(
        self, enough: Callable[[_Open], bool], kind: str, task: TaskName | None, question: m.Ask, timeout_s: float
    ) -> _Open:
        """Ask, and ask again, until there are answers enough or the time is over."""
        pauses = chain(AGAIN_S, repeat(AGAIN_S[-1]))
        with self._asking() as (id, waiting), anyio.move_on_after(timeout_s):
            while not enough(waiting):
                await self._send(kind, task, question, id)
                with anyio.move_on_after(next(pauses)):
                    while not enough(waiting):
                        await waiting.news.wait()
        return waiting

    @contextmanager
    def _asking(self) -> Iterator[tuple[str, _Open]]:
        id = new_id()
        waiting = self._open[id] = _Open()
        try:
            yield id, waiting
        finally:
            del self._open[id]

    async def _send(self, kind: str, task: TaskName | None, question: m.Ask, id: str) -> None:
        subject = self._connection.subjects.ask(self._connection.name, kind, task or NOBODY)
        await self._connection.publish(subject, encode(question), headers("ask", id=id))


def _usable(type: str, payload: bytes) -> m.Answer:
    answer = decode(type, payload)
    if not isinstance(answer, m.Answer):
        raise DecodeFailed(f"A {type} is no answer.", kind=type, reason="another type")
    if answer.error is not None:
        raise BusError(answer.error.message, error=answer.error)
    return answer


def _by_coordinator(waiting: _Open) -> dict[str, m.Answer]:
    """One answer of each coordinator that has answered."""
    return {answer.coordinator: answer for answer in map(_read, waiting.answers) if answer is not None}


def _is_answered(waiting: _Open) -> bool:
    return bool(waiting.answers)


def _all_answered(waiting: _Open) -> bool:
    answers = _by_coordinator(waiting)
    return bool(answers) and len(answers) >= max(answer.of for answer in answers.values())


def _read(got: tuple[str, bytes]) -> m.Answer | None:
    """An answer among several; one that does not decode is passed over."""
    try:
        answer = decode(*got)
    except DecodeFailed:
        return None
    return answer if isinstance(answer, m.Answer) else None


def _no_answer(kind: str, timeout_s: float) -> NoAnswer:
    return NoAnswer(
        f"No coordinator answered within {timeout_s:g} s.",
        hint="Is one running? Agents coordinate by default; `agentexecutor coordinator` starts one without an agent.",
        kind=kind,
    )


def merge_unserved(views: list[v.UnservedView]) -> list[v.UnservedLine]:
    """What several coordinators cannot serve, one line for each capability with its labels, largest first."""
    merged: dict[tuple[str, tuple[tuple[str, str], ...]], v.UnservedLine] = {}
    for line in (line for view in views for line in view.unserved):
        key = line.capability, tuple(sorted(line.labels.items()))
        other = merged.get(key)
        merged[key] = line if other is None else _joined(other, line)
    return sorted(merged.values(), key=lambda line: (-line.subtasks, line.capability))


def _joined(one: v.UnservedLine, other: v.UnservedLine) -> v.UnservedLine:
    return v.UnservedLine(
        capability=one.capability,
        labels=one.labels,
        subtasks=one.subtasks + other.subtasks,
        oldest_s=max(one.oldest_s, other.oldest_s),
        reason=one.reason,
        tasks=[*one.tasks, *other.tasks][:TASKS_NAMED],
    )
