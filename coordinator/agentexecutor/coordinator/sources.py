"""What can give something to a plan, and what takes it: capabilities on offer, and subtasks that are there already. By their schemas. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from agentexecutor.coordinator.briefing import OfferLine
from agentexecutor.coordinator.shapes import Shape, exactly
from agentexecutor.schemas.references import Ref

__all__ = ["LEAST", "UNKNOWN", "Source", "Taker", "cost_of", "of_capability", "of_subtask"]

UNKNOWN = 1.0
"""Seconds that are reckoned for a capability that has no estimate."""
LEAST = 0.001
"""The cost of any new subtask: it has to be awarded. So what is there already is always cheaper."""


def cost_of(offer: OfferLine) -> float:
    """What one new subtask of this capability is reckoned to cost."""
    return max(LEAST, (UNKNOWN if offer.estimate_s is None else offer.estimate_s) + offer.cost)


@dataclass(frozen=True)
class Source:
    """What gives something: a capability, or a `subtask` of it that is there already.

    `whole`: what it gives; `parts`: the properties of that, when it is an object that has some.
    """

    capability: str
    title: str | None
    whole: Shape
    parts: dict[str, Shape]
    subtask: str | None = None

    def answers(self, word: str) -> bool:
        """Whether it gives what a goal calls by this word (in lower case)."""
        return word in [name.casefold() for name in (self.capability, self.title or "", *self.parts)]

    def given(self, parameter: str) -> Shape | None:
        """What it gives for a parameter: its property of that name, or the whole when it has no properties and is called so."""
        if self.parts:
            return self.parts.get(parameter)
        called = (self.capability, self.capability.rpartition(".")[2], self.title)
        return self.whole if parameter in called else None

    def reference(self, name: str, parameter: str) -> Ref:
        """What the input of a subtask has for a parameter, when a subtask `name` of this kind gives it."""
        return Ref(name)[parameter] if self.parts else Ref(name)


def of_capability(capability: str, offer: OfferLine | None, subtask: str | None = None) -> Source:
    """By what it is said to give."""
    gives = Shape.of(None if offer is None else offer.gives)
    return Source(capability, gives.title, gives, gives.properties, subtask)


def of_subtask(capability: str, offer: OfferLine | None, subtask: str, result: Raw) -> Source:
    """By the result that it has given."""
    value = msgspec.json.decode(result)
    parts = {name: exactly(part) for name, part in value.items()} if isinstance(value, dict) else {}
    return Source(capability, Shape.of(None if offer is None else offer.gives).title, exactly(value), parts, subtask)


class Taker:
    """A capability as one that takes an input: values of the goal's `input` of the names and types of its parameters, and what is missing from others."""

    def __init__(self, offer: OfferLine, input: dict[str, Any]) -> None:
        takes = Shape.of(offer.takes)
        self.parameters = takes.properties
        self.literal = input
        """What it takes of the input. All of it, when it does not say what it takes."""
        if offer.takes is not None:
            self.literal = {
                name: input[name] for name, shape in self.parameters.items() if name in input and exactly(input[name]).fits(shape)
            }
        self.missing = [name for name in takes.required if name not in self.literal]
        """The required parameters that another has to give."""

    def suits(self, parameter: str, shape: Shape | None) -> bool:
        """Whether this can be given for a parameter."""
        return shape is not None and shape.fits(self.parameters.get(parameter, Shape({})))
