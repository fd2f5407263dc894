"""A server for all tests of a file, and a bus of one's own on it for each test. Who needs a server of one's own takes `server`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from peers import Place, a_place

from agentexecutor.bus.server import embedded_server


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    async with embedded_server() as server:
        yield server.url


@pytest.fixture
async def place(url: str) -> AsyncIterator[Place]:
    async with a_place(url) as made:
        yield made
