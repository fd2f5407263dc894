"""How every box is made: an agent with room for many conversations at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentexecutor.agents import Agent

__all__ = ["box"]

ROOM = 20
"""Conversations at once: what a box does takes milliseconds."""


def box(name: str, lifespan: Callable[[], Any] | None = None) -> Agent:
    """An agent of the customer service."""
    return Agent(name, capacity=ROOM, lifespan=lifespan)
