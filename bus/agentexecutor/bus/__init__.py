"""The bus: connection, streams, fenced append, bodies by reference, the embedded server, trace context, and the client API."""

from agentexecutor.bus.client import Bus, connect
from agentexecutor.bus.errors import (
    ApiError,
    BusClosed,
    BusError,
    NoBus,
    ReplicasRefused,
    ServerTooOld,
    StoreRefused,
    StoreTimeout,
    StreamMismatch,
    TaskCancelled,
    TaskError,
    TaskFailed,
    TaskLost,
    TaskRefused,
    TaskTimeout,
)
from agentexecutor.bus.queries import NoAnswer
from agentexecutor.bus.server import EmbeddedServer, embedded_server
from agentexecutor.bus.task import Task
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, NameRefused, PlanRefused, TooLarge

__all__ = [
    "AgentExecutorError",
    "ApiError",
    "Bus",
    "BusClosed",
    "BusError",
    "DecodeFailed",
    "EmbeddedServer",
    "NameRefused",
    "NoAnswer",
    "NoBus",
    "PlanRefused",
    "ReplicasRefused",
    "ServerTooOld",
    "StoreRefused",
    "StoreTimeout",
    "StreamMismatch",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskLost",
    "TaskRefused",
    "TaskTimeout",
    "TooLarge",
    "connect",
    "embedded_server",
]
