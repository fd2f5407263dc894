"""Planner, model, critic, memory and tools in one process: ``agentexecutor agent agentexecutor.agents.autogpt.team:agent``.

For a first try. In earnest each is a process of its own, on the machine where its files or its network are.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt import critic, llm, memory, planner
from agentexecutor.agents.autogpt.tools import calculator, files, http

__all__ = ["agent", "together"]

CAPACITY = 16


def together(name: str, agents: Iterable[Agent], *, capacity: int = CAPACITY) -> Agent:
    """One agent that offers what these offer. At most one of them may have a lifespan: all handlers get its value."""
    listed = list(agents)
    lifespans = [one.lifespan for one in listed if one.lifespan is not None]
    if len(lifespans) > 1:
        raise ValueError("only one of the agents may have a lifespan")
    made = Agent(name, capacity=capacity, lifespan=lifespans[0] if lifespans else None)
    for one in listed:
        made.handlers.update(one.handlers)
    return made


agent = together("autogpt", [planner.agent, llm.agent, critic.agent, memory.agent, calculator.agent, files.agent, http.agent])
