"""NATS in a container that goes away and comes back under work: what is stored survives, everybody comes back, nothing is lost or counts twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from boxes import Nats
from flow import flowing

pytestmark = pytest.mark.anyio

LOST_S = 8
"""After so much silence an agent is taken for lost; twice the default, for a machine that is busy."""
AWAY_S = LOST_S + 1
"""So long a server is away: longer than any agent or coordinator may be silent."""


async def at_once(nats: Nats) -> None:
    """It is back as soon as it can be."""


FAULTS: dict[str, tuple[Callable[[Nats], Awaitable[None]], Callable[[Nats], Awaitable[None]], float]] = {
    "restarted": (Nats.restart, at_once, 0.0),
    "killed": (Nats.kill, Nats.start, 0.0),
    "stopped": (Nats.stop, Nats.start, AWAY_S),
    "frozen": (Nats.freeze, Nats.thaw, AWAY_S),
}
"""What begins, what ends it, and how long it lasts."""


async def test_a_task_of_every_kind_runs(nats: Nats, tmp_path: Path) -> None:
    async with flowing(tmp_path, nats.url) as flow:
        await flow.more(20)


@pytest.mark.parametrize("fault", FAULTS)
async def test_work_outlives_a_server_that_is(fault: str, nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One handler begins before and ends while the server is away; tasks are submitted and end before, meanwhile and after."""
    monkeypatch.setenv("AGENTEXECUTOR_SETTINGS", f"lost_after_s={LOST_S}")
    begin, end, away_s = FAULTS[fault]
    async with flowing(tmp_path, nats.url) as flow:
        await flow.hold()
        await flow.more(10)
        await begin(nats)
        assert fault == "restarted" or not await flow.answers()
        await flow.let_go()
        await anyio.sleep(away_s)
        await end(nats)
        await flow.more(15)
    (held,) = flow.held
    assert flow.runs(held) == [1], "a server that is away is no reason to do work again"
    assert nats.log().count("Server is ready") == (1 if fault == "frozen" else 2)
