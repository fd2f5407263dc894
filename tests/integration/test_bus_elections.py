"""A shard's consumers in a cluster that has lost a server: some are answered late, or have no leader yet. tests/containers kills real ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.consumers import BEAT_S, Inbound, ShardConsumers
from agentexecutor.bus.errors import ApiError
from agentexecutor.schemas.codec import headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

if TYPE_CHECKING:
    from agentexecutor.bus import EmbeddedServer
    from agentexecutor.bus.connection import Connection

pytestmark = pytest.mark.anyio

TASK = TaskName("me", "t1")
LEADERLESS = {"cluster": {"name": "c"}}


def no_answer() -> ApiError:
    return ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")


class Electing:
    """JetStream's API, of which two consumers have to elect a leader first. `asked`: how often for what."""

    def __init__(self, connection: Connection) -> None:
        self.asked: Counter[str] = Counter()
        self._api = connection.api

    async def __call__(self, name: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        _, verb, _, consumer, *_ = name.split(".")
        self.asked[f"{verb} {consumer}"] += 1
        match verb, consumer.rpartition("-")[2], self.asked[f"{verb} {consumer}"]:
            case "DELETE", "low", 1:
                raise no_answer()
            case "CREATE", "high", 1:
                await self._api(name, body, **options)
                await anyio.sleep(2 * BEAT_S)  # so long that somebody looks for consumers that are not there
                raise no_answer()
            case "CREATE", "high", 2:
                return LEADERLESS
        return await self._api(name, body, **options)


async def test_who_waits_for_one_leader_leaves_the_other_consumers_alone(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    came = anyio.Event()

    async def take(_inbound: Inbound) -> None:
        came.set()

    async with open_connection(server.url, name="me") as connection:
        shard = shard_of(TASK, connection.shards)
        electing = Electing(connection)
        monkeypatch.setattr(connection, "api", electing)
        consumers = ShardConsumers(connection, on_claim=take, on_submit=take)
        async with consumers.running():
            await consumers.open(shard)
            await connection.store(connection.subjects.submit(TASK, "high"), b"{}", headers("submit"))
            await consumers.pull(shard, "high", 1)
            with anyio.fail_after(60):
                await came.wait()
    names = {"claims": f"claims-{shard}", **{klass: f"submits-{shard}-{klass}" for klass in ("high", "normal", "low")}}
    made = {name: (electing.asked[f"DELETE {full}"], electing.asked[f"CREATE {full}"]) for name, full in names.items()}
    assert made == {"claims": (1, 1), "high": (1, 3), "normal": (1, 1), "low": (2, 1)}


async def test_an_election_that_never_ends_is_an_error(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_inbound: Inbound) -> None:
        return

    async def leaderless(name: str, _body: dict[str, Any], **_options: Any) -> dict[str, Any]:
        return LEADERLESS if ".CREATE." in name else {}

    monkeypatch.setattr("agentexecutor.bus.consumers.ELECTION_S", 0.1)
    async with open_connection(server.url, name="me") as connection:
        monkeypatch.setattr(connection, "api", leaderless)
        consumers = ShardConsumers(connection, on_claim=nothing, on_submit=nothing)
        with pytest.raises(ApiError, match="Nobody leads the consumer"):
            await consumers.open(3)
