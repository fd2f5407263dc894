"""Questions to the coordinators and their answers, matched by id (docs/protocol.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from agentexecutor.bus.connection import Connection, Headers
from agentexecutor.bus.errors import BusError
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, H_RE, H_TYPE, decode, encode, headers
from agentexecutor.schemas.errors import DecodeFailed
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import NOBODY

__all__ = ["Questions"]

AGAIN_S = 1.0


@dataclass(slots=True)
class _Open:
    """A question that waits: the answers so far, and an event for the first."""

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
        """The first answer. Raises BusError when nobody answers, or when the answer is an error."""
        _, payload = await self._first(kind, task, question, timeout_s)
        answer = decode("answer", payload)
        if not isinstance(answer, m.Answer):
            raise DecodeFailed("not an answer", kind="answer", reason="another type")
        if answer.error is not None:
            raise BusError(answer.error.message, error=answer.error)
        return answer

    async def chunk(self, task: TaskName, question: m.Ask, timeout_s: float) -> bytes:
        """The bytes of one chunk of a body. Raises BusError when it is gone."""
        kind, payload = await self._first("blob", task, question, timeout_s)
        if kind == "chunk":
            return payload
        answer = decode("answer", payload)
        error = answer.error if isinstance(answer, m.Answer) else None
        raise BusError(
            error.message if error else f"A body of task {task} cannot be read.", hint="Bodies are kept as long as their task.", error=error
        )

    async def _first(self, kind: str, task: TaskName | None, question: m.Ask, timeout_s: float) -> tuple[str, bytes]:
        made = headers("ask")
        waiting = self._open[made[H_ID]] = _Open()
        give_up = anyio.current_time() + timeout_s
        try:
            while anyio.current_time() < give_up:
                news = waiting.news
                await self._send(kind, task, question, made)
                with anyio.move_on_after(min(AGAIN_S, give_up - anyio.current_time())):
                    await news.wait()
                if waiting.answers:
                    return waiting.answers[0]
        finally:
            del self._open[made[H_ID]]
        raise BusError(
            f"No coordinator answered within {timeout_s:g} s.",
            hint="Is one running? Agents coordinate by default; `agentexecutor coordinator` starts one without an agent.",
            kind=kind,
        )

    async def ask_all(self, kind: str, question: m.Ask, timeout_s: float = 3.0) -> list[m.Answer]:
        """The answers of all coordinators: as many as the first says there are, or those that come within a second. Raises BusError when none does."""
        made = headers("ask")
        waiting = self._open[made[H_ID]] = _Open()
        try:
            with anyio.move_on_after(timeout_s):
                while not waiting.answers:
                    await self._send(kind, None, question, made)
                    with anyio.move_on_after(AGAIN_S):
                        await waiting.news.wait()
            answers = self._decoded(waiting)
            with anyio.move_on_after(AGAIN_S):
                while answers and len(answers) < max(answer.of for answer in answers):
                    await waiting.news.wait()
                    answers = self._decoded(waiting)
        finally:
            del self._open[made[H_ID]]
        if not answers:
            raise BusError(
                f"No coordinator answered within {timeout_s:g} s.", hint="Is one running? See `agentexecutor doctor`.", kind=kind
            )
        return answers

    @staticmethod
    def _decoded(waiting: _Open) -> list[m.Answer]:
        """One answer of each coordinator."""
        answers = [answer for kind, payload in waiting.answers if isinstance(answer := decode(kind, payload), m.Answer)]
        return list({answer.coordinator: answer for answer in answers}.values())

    async def _send(self, kind: str, task: TaskName | None, question: m.Ask, made: Headers) -> None:
        subject = self._connection.subjects.ask(self._connection.name, kind, task or NOBODY)
        await self._connection.publish(subject, encode(question), made)
