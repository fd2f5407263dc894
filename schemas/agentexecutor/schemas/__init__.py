"""The wire: messages, records, subjects and plans (docs/protocol.md). Imports msgspec only.

Users need `Approval`, `ApprovalPolicy`, `Feedback`, `Goal`, `Plan`, `Ref`, `Replan`, `Split` and `Subtask`; the rest is for those who build on the wire itself.
"""

from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, NameRefused, PlanRefused, TooLarge, WireError
from agentexecutor.schemas.messages import Approval, ApprovalPolicy, ErrorInfo, Replan, Split, Step
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import Feedback, Goal, Plan, Subtask
from agentexecutor.schemas.references import Ref
from agentexecutor.schemas.views import AgentView, Event, Forecast, ForecastLine, SubtaskView, TaskView

__all__ = [
    "AgentExecutorError",
    "AgentView",
    "Approval",
    "ApprovalPolicy",
    "DecodeFailed",
    "ErrorInfo",
    "Event",
    "Feedback",
    "Forecast",
    "ForecastLine",
    "Goal",
    "NameRefused",
    "Plan",
    "PlanRefused",
    "Ref",
    "Replan",
    "Split",
    "Step",
    "Subtask",
    "SubtaskView",
    "TaskName",
    "TaskView",
    "TooLarge",
    "WireError",
]
