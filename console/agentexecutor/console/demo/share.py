"""The share of coordinating that the demo's starting process takes, to be killed in the middle of the plan. Knows nothing of the task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from agentexecutor.bus.connection import Connection, open_connection
from agentexecutor.coordinator.shell import Coordinator

__all__ = ["STARTER", "Share", "coordinating"]

STARTER = "starter"
"""Its name as a coordinator."""


class Share:
    """A coordinator that can be killed: it says no goodbye and gives nothing back, so the others have to find out."""

    def __init__(self) -> None:
        self.killed = False
        self._scope = anyio.CancelScope()

    def kill(self) -> None:
        """End it where it stands; its leases run out."""
        self.killed = True
        self._scope.cancel()

    async def run(self, connection: Connection, *, task_status: TaskStatus[None]) -> None:
        """Coordinate until killed."""
        with self._scope:
            await Coordinator(connection).run(task_status=task_status)


@asynccontextmanager
async def coordinating(url: str, name: str = STARTER) -> AsyncIterator[Share]:
    """Take a share of coordinating on the bus at `url`, by a connection of its own, while the block runs."""
    share = Share()
    async with open_connection(url, name=name) as connection, anyio.create_task_group() as group:

        async def run(*, task_status: TaskStatus[None]) -> None:
            await share.run(connection, task_status=task_status)

        await group.start(run)
        yield share
        group.cancel_scope.cancel()
