"""Fixtures that every folder of tests shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentexecutor.bus.server import embedded_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentexecutor.bus.server import EmbeddedServer


@pytest.fixture
def anyio_backend() -> str:
    """The bus client needs asyncio."""
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server of one's own, with an empty store."""
    async with embedded_server() as running:
        yield running
