"""A customer on the bus: every text is a task, what is said about an answer is feedback for it. Knows nothing of terminals.

All that the conversation needs of this process is its name and the task of the last turn: another can go on with `Conversation(bus, name, task)`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar

import msgspec
from examples.customer_service.shapes import Answer, Question
from examples.customer_service.texts import LONGEST, normal
from opentelemetry import trace

from agentexecutor.bus import Bus, Task, TaskRefused, telemetry
from agentexecutor.schemas import Feedback, Goal, Replan
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.names import new_id
from agentexecutor.schemas.views import Event, TaskView

__all__ = ["Conversation", "NoAnswerYet", "Reply", "judged"]

T = TypeVar("T")
SENT = 2 * LONGEST
"""Characters that travel: enough for the service to see that it was too long."""
POLICY = Replan(planner="service.plan", unserved_s=120.0)
BUDGET = {"replans": 50}
YES = frozenset(
    {
        "yes",
        "y",
        "ok",
        "okay",
        "sure",
        "please",
        "yep",
        "yeah",
        "yes please",
        "yes it did",
        "yes thanks",
        "yes thank you",
        "that helped",
        "it helped",
        "perfect",
    }
)
NO = frozenset(
    {"no", "n", "nope", "no it did not", "that did not help", "no that did not help", "it did not help", "wrong", "that is wrong"}
    | {"no that is wrong", "not helpful", "this is wrong", "that is not what i asked", "no thanks", "no thank you"}
)
PERSON = frozenset({"person", "human", "a person", "a person please", "colleague", "ask a colleague"})


class NoAnswerYet(AgentExecutorError):
    """Something was said about an answer, and there is none."""


class Reply(msgspec.Struct, frozen=True):
    """What the customer hears. `question`: what is asked about the answer, if it is; `waits`: a person of the staff was asked; `took_s`: until here."""

    text: str
    source: str
    task: str
    took_s: float
    question: str = ""
    waits: bool = False
    found: str | None = None


def judged(text: str) -> Literal["yes", "no", "person"] | None:
    """Whether a text says what one thinks of an answer; None: it is something new."""
    said = normal(text)
    return "yes" if said in YES else "no" if said in NO else "person" if said in PERSON else None


class Conversation:
    """One customer's conversation, and the `last` of its tasks when it goes on. All its turns are one trace, which ends with `done`."""

    def __init__(self, bus: Bus, name: str | None = None, last: str | None = None) -> None:
        self.bus = bus
        self.name = name or new_id()
        self._task: Task | None = None if last is None else bus.task(last)
        self._events: AsyncGenerator[Event, None] | None = None
        self._round = 0
        self._question: Question | None = None
        self._span = telemetry.start_span("conversation", parent=None, attributes={"conversation": self.name})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.done()

    async def done(self) -> None:
        """The customer has gone: what was asked is settled, but for what a person was asked."""
        await self._let_go()
        self._span.end()

    def part(self) -> Conversation:
        """The turn that waits for a person, as a conversation of its own; this one goes on without it."""
        part = Conversation(self.bus, self.name, self.task)
        part._events, part._round = self._events, self._round
        self._task, self._events, self._question, self._round = None, None, None, 0
        return part

    @property
    def task(self) -> str | None:
        """The full name of the task that an answer, or a word about one, is still to come for."""
        return None if self._task is None else self._task.name

    @property
    def trace_id(self) -> str | None:
        """The trace of this conversation, 32 hex digits."""
        found = self._span.get_span_context()
        return format(found.trace_id, "032x") if found.is_valid else None

    # what the customer says

    async def say(self, text: str) -> Reply:
        """A text: a word about the last answer when it is one and there is one, else a question."""
        word = judged(text)
        if word is not None and self._question is not None:
            return await self._judge(word, text)
        return await self.ask(text)

    async def ask(self, text: str) -> Reply:
        """A question, whatever it looks like; what was asked before it is settled. Gives the reply."""
        begun = time.monotonic()
        await self._let_go()
        sendable = text[:SENT].encode(errors="replace").decode()
        input = {"conversation": self.name, "text": sendable}
        with trace.use_span(self._span, end_on_exit=False):
            self._task = await self.bus.submit(Goal("answer the customer"), input, replan=POLICY, budget=BUDGET)
        return await self._reply(begun)

    async def unhappy(self, text: str = "", *, person: bool = False) -> Reply:
        """The last answer has not helped; gives what follows. `person`: let a person answer. Raises NoAnswerYet."""
        task = self._waiting_task()
        begun = time.monotonic()
        subtask = "respond" if self._round <= 1 else f"respond_{self._round}"
        data = {"person": True} if person else None
        with trace.use_span(self._span, end_on_exit=False):
            await task.feedback(Feedback("revise", text or "it has not helped", subtask, data=data))
        return await self._reply(begun)

    async def content(self, text: str = "") -> None:
        """The last answer is fine. Raises NoAnswerYet."""
        task = self._waiting_task()
        subtask = "keep" if self._round <= 1 else f"keep_{self._round}"
        await task.feedback(Feedback("accept", text, subtask))
        await self._forget()

    async def wait(self) -> Reply:
        """What comes after `Reply.waits`: the answer of a person of the staff. Also what the last turn stands at, in a conversation that goes on."""
        return await self._reply(time.monotonic())

    async def _judge(self, word: str, text: str) -> Reply:
        question = self._question
        if question is None or word == "person":
            return await self.unhappy(text, person=True)
        meant = question.yes if word == "yes" else question.no
        if meant == "unhappy":
            return await self.unhappy(text)
        task = self._waiting_task().name
        await self.content(text)
        return Reply("Good." if word == "yes" else "All right.", "talk", task, 0.0)

    def _waiting_task(self) -> Task:
        if self._task is None or self._question is None:
            raise NoAnswerYet("There is no answer yet that you could judge.", hint="Ask something first.")
        return self._task

    async def _let_go(self) -> None:
        """The customer goes on to something else: the turn before ends without a word about it. One that a person was asked for goes on."""
        if self._task is not None and self._question is not None:
            with suppress(TaskRefused):  # it has ended by itself
                await self.content()
        await self._forget()

    async def _forget(self) -> None:
        await self._stop_listening()
        self._task, self._question, self._round = None, None, 0

    # what the service says

    async def _reply(self, begun: float) -> Reply:
        """Follow the task until the customer is to speak, or a person of the staff, or it has ended."""
        task = self._task
        if task is None:
            raise NoAnswerYet("Nothing was asked yet.", hint="Ask something first.")
        self._question = None
        self._events = self._events or task.events()
        async for event in self._events:
            reply = await self._asked(task, event, begun) if event.kind == "asked" else None
            if reply is not None:
                return reply
        await self._forget()
        output = await task.result(dict[str, Any])
        return Reply(output["text"], str(output["source"]), task.name, time.monotonic() - begun, found=output.get("found"))

    async def _asked(self, task: Task, event: Event, begun: float) -> Reply | None:
        """Somebody's word is waited for: the customer's, or a person's; None when that is over already, and what follows is read on."""
        name = event.subtask or ""
        view = await task.view()
        if view.subtasks[name].state != "approval":
            return None
        kind, _, round = name.partition("_")
        took_s = time.monotonic() - begun
        if kind == "person":
            return Reply("One moment, I ask a colleague.", "talk", task.name, took_s, waits=True)
        self._round = int(round or 1)
        suffix = name.removeprefix(kind)
        answer = _result(view, f"respond{suffix}", Answer)
        self._question = _result(view, f"ask{suffix}", Question)
        return Reply(answer.text, answer.source, task.name, took_s, self._question.text, found=answer.found)

    async def _stop_listening(self) -> None:
        if self._events is not None:
            await self._events.aclose()
            self._events = None


def _result(view: TaskView, subtask: str, type: type[T]) -> T:
    """What a subtask has given."""
    return msgspec.json.decode(view.subtasks[subtask].result or b"null", type=type)
