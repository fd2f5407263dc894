"""When the demo's stage is set: all agents have offered, every shard is held, and everybody holds as many as the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from agentexecutor.bus.connection import Connection
from agentexecutor.bus.follow import Followed
from agentexecutor.console.demo.rollcall import RollCall
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import encode, headers
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import Subjects, shard_of

pytestmark = pytest.mark.anyio

SHARDS = 5


def roll_call(told: list[str] | None = None) -> RollCall:
    connection = cast("Connection", SimpleNamespace(subjects=Subjects(), shards=SHARDS))
    return RollCall(connection, (told if told is not None else []).append)


def lease(shard: int, holder: str) -> Followed:
    return Followed(Subjects().lease(shard), encode(m.Lease(holder=holder, boot="b")), headers("lease"), 1, 0.0)


async def test_agents_are_told_once_and_waited_for() -> None:
    told: list[str] = []
    roll = roll_call(told)
    async with anyio.create_task_group() as group:
        group.start_soon(roll.all_there, ["A1", "A2"])
        for name in ("A1", "A1", "somebody", "A2"):
            await roll.offer_came(Followed(Subjects().offer(name), b"{}", {}, 1, 0.0))
    assert told == ["A1", "somebody", "A2"]


@pytest.mark.parametrize(
    ("holders", "shared"),
    [
        ("aaabb", True),
        ("bbbaa", True),
        ("aaaab", False),
        ("aabb", False),
        ("aabbc", False),
        (["a", "a", "b", "b", ""], False),
    ],
)
async def test_shared_means_all_held_in_even_parts(holders: list[str], *, shared: bool) -> None:
    roll = roll_call()
    for shard, holder in enumerate(holders):
        await roll.lease_came(lease(shard, holder))
    with anyio.CancelScope() as scope:
        scope.deadline = anyio.current_time() if not shared else float("inf")
        await roll.all_share(["a", "b"])
    assert scope.cancelled_caught is not shared


async def test_waiting_ends_with_the_last_change_of_hands() -> None:
    roll = roll_call()
    for shard in range(SHARDS):
        await roll.lease_came(lease(shard, "a"))
    async with anyio.create_task_group() as group:
        group.start_soon(roll.all_share, ["a", "b"])
        await anyio.wait_all_tasks_blocked()
        await roll.lease_came(Followed(Subjects().lease(0), b"no lease", headers("lease"), 2, 0.0))
        for shard, holder in ((0, ""), (0, "b"), (1, "b")):
            await roll.lease_came(lease(shard, holder))


async def test_a_task_is_named_so_that_one_coordinator_holds_it() -> None:
    roll = roll_call()
    for shard in range(SHARDS):
        await roll.lease_came(lease(shard, "starter" if shard == 3 else "A1"))
    ids = [roll.task_held_by("starter", "demo") for _ in range(20)]
    assert {shard_of(TaskName("demo", id), SHARDS) for id in ids} == {3}
    assert len(set(ids)) == 20
