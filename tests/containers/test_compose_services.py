"""The NATS services of compose.yaml as they stand there: one server, and three of which one after the other is killed under work."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import anyio
import pytest
from boxes import NODES, Compose
from flow import Flow, flowing
from place import until

from agentexecutor.bus import BusError
from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.streams import LOG, stream_settings
from agentexecutor.schemas.subjects import DEFAULT_PREFIX

pytestmark = pytest.mark.anyio

STREAMS = [stream["name"] for stream in stream_settings(DEFAULT_PREFIX, 1, 1)]


async def test_the_single_server(single: Compose, tmp_path: Path) -> None:
    async with flowing(tmp_path, single.url) as flow:
        await flow.more(5)
        health = await anyio.to_thread.run_sync(healthy, single.monitor)
        await single("restart", "--timeout", "5", "nats")
        await flow.more(5)
    assert health == 200


def healthy(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz?js-enabled-only=true", timeout=60) as answer:
        return int(answer.status)


async def test_the_cluster_goes_on_without_any_one_of_its_servers(
    cluster: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it is the leader of the log, and the next is killed as soon as the one before has caught up."""
    monkeypatch.setenv("AGENTEXECUTOR_REPLICAS", str(len(NODES)))
    await until_one(cluster.url)
    killed = []
    async with flowing(tmp_path, cluster.url) as flow:
        for _ in range(2):
            await flow.more(5)
            leader = (await stream(flow, LOG))["cluster"]["leader"]
            killed.append(leader)
            await cluster("kill", "--signal", "SIGKILL", leader)
            await flow.more(12)
            await cluster("start", leader)
            await until(lambda: all_copies(flow), f"{leader} does not catch up")
    assert len(set(killed)) == 2
    assert set(killed) < set(NODES)


async def until_one(url: str) -> None:
    """The servers have found each other and made the streams."""

    async def made() -> bool:
        try:
            async with open_connection(url, name="first"):
                return True
        except BusError:
            return False

    await until(made, "the cluster makes no streams")


async def stream(flow: Flow, name: str) -> dict[str, Any]:
    return await flow.client.bus.connection.api(f"STREAM.INFO.{name}", {})


async def all_copies(flow: Flow) -> bool:
    """Every stream has a leader and two copies that are up to date."""
    try:
        found = [await stream(flow, name) for name in STREAMS]
    except BusError:
        return False
    return all(
        info["config"]["num_replicas"] == len(NODES)
        and info["cluster"].get("leader")
        and [copy["current"] and not copy.get("offline") for copy in info["cluster"]["replicas"]] == [True, True]
        for info in found
    )
