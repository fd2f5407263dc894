"""Calling a handler in a unit test, without bus, server or other processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import AgentError
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.plans import Feedback
from agentexecutor.schemas.references import encode_input

__all__ = ["Called", "call"]

SUBMITTED = "2026-01-01T00:00:00Z"


@dataclass
class Called:
    """What a handler did: its result as its caller would get it, its schedule, what it told, and what it used (`ctx.spend`)."""

    result: Any = None
    schedule: list[m.Step] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    children: list[m.SubtaskSpec] = field(default_factory=list)
    said: list[m.FeedbackClaim] = field(default_factory=list)
    usage: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> list[str]:
        """Names of the steps that it finished."""
        return [told["step"] for told in self.progress if told.get("state") == "finished"]


class _Host:
    """Collects what a handler says; children are answered by a function."""

    def __init__(self, called: Called, child: Callable[[str, Any], Any] | None) -> None:
        self._called = called
        self._child = child
        self.context: Context | None = None

    def tell(self, **progress: Any) -> None:
        self._called.progress.append(progress)

    def scheduled(self, steps: list[m.Step]) -> None:
        self._called.schedule = steps

    async def say(self, said: m.FeedbackClaim) -> None:
        self._called.said.append(said)

    async def extend(self, call: int, child: m.SubtaskSpec) -> None:
        if self._child is None:
            raise AgentError("The handler submits a child.", hint="Give call(..., child=function) to answer it.")
        self._called.children.append(child)
        answer = self._child(child.capability, msgspec.json.decode(child.input))
        body = msgspec.Raw(msgspec.json.encode(answer))
        if self.context is not None:
            self.context.child_ended(m.Result(task="test.task", subtask="main", call=call, state="completed", result=body))

    @asynccontextmanager
    async def waits(self) -> AsyncIterator[None]:
        yield

    async def body(self, result: m.Result) -> bytes:
        return bytes(result.result)

    async def records(self) -> AsyncGenerator[r.LogEntry, None]:
        submitted = r.Submitted(submit=m.Submit(), digest="", at=0.0)
        yield r.LogEntry(seq=1, time=SUBMITTED, record=r.Record(coordinator="test", at=SUBMITTED, changes=[submitted]))


async def call(
    agent: Agent,
    capability: str,
    input: Any = None,
    *,
    attempt: int = 1,
    state: Any = None,
    feedback: Iterable[Feedback] = (),
    child: Callable[[str, Any], Any] | None = None,
) -> Called:
    """Run an agent's handler on an input as the bus would: checked against its annotations, the result through JSON.

    `attempt`, `state` (of `lifespan`) and `feedback` are what its Context shows; `child` answers ``ctx.submit`` (capability, input → result).
    Raises what the handler raises, InputRefused for an input that does not fit, KeyError for a capability that the agent lacks.
    """
    handler = agent.handlers[capability]
    given = [
        m.FeedbackMessage(
            task="test.task",
            subtask="main",
            id=f"feedback-{number}",
            sender="test",
            verdict=said.verdict,
            text=said.text,
            data=msgspec.Raw(msgspec.json.encode(said.data)),
        )
        for number, said in enumerate(feedback)
    ]
    award = m.Award(
        task="test.task",
        subtask="main",
        capability=capability,
        epoch=attempt,
        boot="test",
        attempt=attempt,
        key="test.task/main/1",
        feedback=given,
    )
    called = Called()
    host = _Host(called, child)
    arguments = handler.signature.arguments(encode_input({} if input is None else input))
    if handler.signature.context is not None:
        host.context = Context(award, host, state=state)
        called.usage = host.context.usage
        arguments = {handler.signature.context: host.context, **arguments}
    if handler.signature.blocking:
        result = await anyio.to_thread.run_sync(lambda: handler.function(**arguments))
    else:
        result = await handler.function(**arguments)
    called.result = msgspec.json.decode(msgspec.json.encode(result))
    return called
