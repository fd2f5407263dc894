"""Bids made for the subtask at hand: what an agent's own bid function gets, and how its answer becomes a bid or a refusal."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from agentexecutor.agents.schedule import schedule
from agentexecutor.schemas import messages as m

__all__ = ["Asked", "BidFunction", "answer_call", "asked_of"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call for proposals as a bid function sees it.

    `input`: the input as far as it travels with the call; large values are null there, `size` tells how long they are. `capacity`: the
    agent's. `load`: what it is doing.
    """

    capability: str
    input: dict[str, Any]
    sizes: dict[str, int]
    capacity: int
    load: m.Load
    priority: int = 0
    deadline: str | None = None

    def size(self, name: str) -> int:
        """Items of the list in input `name`, also when it is too large to travel with the call; 0 when that is not known."""
        value = self.input.get(name)
        return len(value) if isinstance(value, list | str | dict) else self.sizes.get(name, 0)


Answered = float | int | None | m.Bid
BidFunction = Callable[[Asked], Answered | Awaitable[Answered]]
"""Gives seconds of work, or a whole Bid, or None to refuse."""


def asked_of(call: m.Call, capacity: int, load: m.Load) -> Asked:
    """The call as a bid function sees it."""
    given = msgspec.json.decode(call.input) if isinstance(call.input, msgspec.Raw) else {}
    sizes = {str(fill.at[0]): fill.slice[1] - fill.slice[0] for fill in call.fill if fill.at and fill.slice is not None}
    return Asked(
        capability=call.capability,
        input=given if isinstance(given, dict) else {},
        sizes=sizes,
        capacity=capacity,
        load=load,
        priority=call.priority,
        deadline=call.deadline,
    )


async def answer_call(
    call: m.Call, boot: str, capacity: int, load: m.Load, estimate_s: float | None, cost: float, function: BidFunction | None
) -> m.Bid | m.Refusal:
    """The bid or refusal for a call. An agent without room refuses; without a bid function its standing estimate is the bid."""
    if load.running + load.queued >= 2 * capacity:
        return _refusal(call, boot, f"{load.running} running and {load.queued} queued of {capacity}")
    answer: Answered = estimate_s or 0.0
    if function is not None:
        given = function(asked_of(call, capacity, load))
        answer = await given if inspect.isawaitable(given) else given
    if answer is None:
        return _refusal(call, boot, "not this one")
    if isinstance(answer, m.Bid):
        return msgspec.structs.replace(answer, subtask=call.subtask, call=call.call, boot=boot)
    work = max(0.0, float(answer))
    return m.Bid(
        subtask=call.subtask,
        call=call.call,
        boot=boot,
        estimate_s=work,
        queue_s=load.queue_s,
        cost=cost,
        schedule=schedule([(call.capability, work)], load.queue_s),
    )


def _refusal(call: m.Call, boot: str, reason: str) -> m.Refusal:
    return m.Refusal(subtask=call.subtask, call=call.call, boot=boot, reason=reason)
