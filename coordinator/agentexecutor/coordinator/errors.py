"""Errors of coordinating; the tree is drawn in agentexecutor.schemas.errors."""

from __future__ import annotations

from agentexecutor.schemas.errors import AgentExecutorError, PlanRefused

__all__ = ["NoRoom", "RepeatedWork", "SenselessLog", "SettingRefused", "TransitionError", "Unplannable"]


class SettingRefused(AgentExecutorError):
    """A setting that there is not, or a value that it cannot have; `setting`."""


class NoRoom(PlanRefused):
    """A new version of a plan with more new subtasks than there may be; `wanted`: how many it has."""


class RepeatedWork(PlanRefused):
    """A new version of a plan that asks for the same work once too often; ``path`` names the subtask."""


class SenselessLog(AgentExecutorError):
    """A task's log that leads to no state: `task`, and `seq` of the record that cannot be applied."""


class TransitionError(AgentExecutorError):
    """A record that the task's state does not allow; `task`, `state`, `event`, and `story`: what led there, a line each."""


class Unplannable(AgentExecutorError):
    """A goal that cannot be reached by what is on offer: `missing` names what nothing gives, `offered` the capabilities that there are."""
