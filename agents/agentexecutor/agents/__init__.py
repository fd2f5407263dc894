"""Agents: `Agent`, `Context`, bidding, schedules, hosting."""

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.bidding import Asked
from agentexecutor.agents.context import Child, Context
from agentexecutor.agents.errors import AgentError, ChildFailed, Fail, InputRefused, NameTaken, Retry
from agentexecutor.schemas.messages import Bid

__all__ = ["Agent", "AgentError", "Asked", "Bid", "Child", "ChildFailed", "Context", "Fail", "InputRefused", "NameTaken", "Retry"]
