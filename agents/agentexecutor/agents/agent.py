"""An agent as its author writes it: a name, a capacity, and handlers for capabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from agentexecutor.agents.bidding import BidFunction
from agentexecutor.agents.errors import AgentError
from agentexecutor.agents.inputs import Signature
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.names import check_capability, check_name

if TYPE_CHECKING:
    from agentexecutor.agents.hosting import Hosting
    from agentexecutor.bus import Bus

__all__ = ["Agent", "Handler"]

MAX_CAPACITY = 1_000_000
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Handler:
    """A function and what it offers. `estimate_s`: expected seconds, None when unknown; `cost`: in any unit that the agents share."""

    capability: str
    function: Callable[..., Any]
    signature: Signature
    estimate_s: float | None = None
    cost: float = 0.0
    bid: BidFunction | None = None

    def offered(self) -> m.Capability:
        """As the offer names it."""
        return m.Capability(
            name=self.capability,
            estimate_s=self.estimate_s,
            cost=self.cost,
            takes=self.signature.takes,
            gives=self.signature.gives,
            tailored=self.bid is not None,
        )


class Agent:
    """Offers capabilities on the bus, bids, and runs what it is awarded.

    `capacity`: how many subtasks at once. `labels`: matched against a subtask's labels. `lifespan`: a function that gives a context manager
    (asynchronous or not), entered once before the first subtask; its value is ``ctx.state``.
    """

    def __init__(
        self, name: str, *, capacity: int = 1, labels: Mapping[str, str] | None = None, lifespan: Callable[[], Any] | None = None
    ) -> None:
        self.name = check_name("peer", name)
        if not isinstance(capacity, int) or not 1 <= capacity <= MAX_CAPACITY:
            raise AgentError(f"Agent {name!r} has a capacity of {capacity}.", hint=f"It is a whole number from 1 to {MAX_CAPACITY}.")
        self.capacity = capacity
        self.labels = dict(labels or {})
        if not all(isinstance(text, str) for pair in self.labels.items() for text in pair):
            raise AgentError(f"Agent {name!r} has labels that are no text: {self.labels!r}.", hint="Names and values are text.")
        self.lifespan = lifespan
        self.handlers: dict[str, Handler] = {}

    def capability(
        self, name: str, *, estimate_s: float | None = None, cost: float = 0.0, bid: BidFunction | None = None
    ) -> Callable[[F], F]:
        """Decorator: the function does this capability. Its parameters are the keys of the input.

        It may be asynchronous or blocking (then it runs in a thread), and its first parameter may be the Context. When its subtask is cancelled,
        an asynchronous one gets one CancelledError, a blocking one finds `ctx.cancelled` true; either has the grace (5 s) to clean up, and is
        given up after it. `estimate_s`: seconds that one subtask takes; `bid`: a function that makes bids for the input at hand (see
        `agentexecutor.agents.Asked`). Raises AgentError.
        """
        check_capability(name)
        for what, number in (("estimate_s", estimate_s), ("cost", cost)):
            if number is not None and not (isinstance(number, int | float) and 0 <= number < math.inf):
                raise AgentError(f"The {what} of {name} is {number!r}.", hint="It is a number, 0 or more.")
        if name in self.handlers:
            raise AgentError(f"Agent {self.name!r} has two handlers for {name!r}.", hint="Remove one.")

        def register(function: F) -> F:
            self.handlers[name] = Handler(name, function, Signature(function), estimate_s, cost, bid)
            return function

        return register

    def serve(self, bus: Bus, *, name: str | None = None, coordinate: bool = True) -> AbstractAsyncContextManager[Hosting]:
        """Serve while the block runs, on connections of its own to the bus's address: ``async with agent.serve(bus):``.

        `name`: the peer name (None: the agent's). `coordinate`: take a share of coordinating. At the end what runs is finished or released.
        Raises AgentError, NameTaken.
        """
        from agentexecutor.agents.hosting import serve  # noqa: PLC0415  # hosting knows agents

        return serve(self, bus, name=name, coordinate=coordinate)

    def run(self, *, url: str | None = None, name: str | None = None, coordinate: bool = True) -> None:
        """Serve until SIGTERM or SIGINT: for a program that does nothing else. The address comes from the environment.

        `name` None: AGENTEXECUTOR_NAME, else the agent's name and a random ending, so that the same program can run several times.
        """
        from agentexecutor.agents.program import run  # noqa: PLC0415  # programs know agents

        run(self, url=url, name=name, coordinate=coordinate)
