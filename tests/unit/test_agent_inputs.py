"""Handlers' annotations: what is taken, what is given, and clear words about what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from agentexecutor.agents import Agent, AgentError, Context, InputRefused
from agentexecutor.agents.inputs import Signature


@dataclass
class Point:
    x: float
    y: float = 0.0


async def classify(ctx: Context, texts: list[str], top: int = 3) -> list[str]:
    return texts[:top]


def plain(a, b=2):  # type: ignore[no-untyped-def]
    return a + b


def typed(point: Point) -> dict[str, float]:
    return {"x": point.x}


def takes_all(first: int, **more: Any) -> int:
    return first


def test_parameters_become_a_schema() -> None:
    signature = Signature(classify)
    assert not signature.blocking
    assert signature.context == "ctx"
    assert signature.takes is not None
    struct = signature.takes["$defs"]["Input"]
    assert struct["properties"]["texts"] == {"type": "array", "items": {"type": "string"}}
    assert struct["required"] == ["texts"]
    assert signature.gives == {"type": "array", "items": {"type": "string"}}


def test_arguments_are_converted_and_defaults_filled_in() -> None:
    assert Signature(classify).arguments(b'{"texts": ["a"]}') == {"texts": ["a"], "top": 3}
    assert Signature(typed).arguments(b'{"point": {"x": 1}}') == {"point": Point(1.0)}
    assert Signature(plain).arguments(b'{"a": [1]}') == {"a": [1], "b": 2}
    assert Signature(takes_all).arguments(b'{"first": 1, "second": 2}') == {"first": 1, "second": 2}


@pytest.mark.parametrize(
    ("handler", "body", "parameter"),
    [
        (classify, b'{"texts": ["a", 5]}', "texts"),
        (classify, b"{}", "texts"),
        (classify, b'{"texts": [], "tops": 1}', "tops"),
        (classify, b'{"texts": [], "top": "x"}', "top"),
        (typed, b'{"point": {"y": 1}}', "point"),
        (typed, b"[]", ""),
        (typed, b"{not json", ""),
    ],
)
def test_what_does_not_fit_names_the_parameter(handler: Any, body: bytes, parameter: str) -> None:
    with pytest.raises(InputRefused) as refused:
        Signature(handler).arguments(body)
    assert refused.value.fields["parameter"] == parameter
    assert parameter in str(refused.value)


def test_positional_parameters_cannot_be_filled() -> None:
    def positional(*texts: str) -> None:
        """Takes a list that no input can name."""

    with pytest.raises(AgentError, match="positional"):
        Signature(positional)


def test_an_agent_registers_handlers_and_refuses_nonsense() -> None:
    agent = Agent("worker", capacity=2)

    @agent.capability("a.b", estimate_s=1.5, cost=2.0)
    def work(x: int) -> int:
        return x

    assert work(3) == 3, "the function stays what it was"
    offered = agent.handlers["a.b"].offered()
    assert (offered.name, offered.estimate_s, offered.cost, offered.tailored) == ("a.b", 1.5, 2.0, False)
    with pytest.raises(AgentError, match="two handlers"):
        agent.capability("a.b")(work)
    with pytest.raises(AgentError, match="capacity"):
        Agent("worker", capacity=0)
