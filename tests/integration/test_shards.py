"""The shard that we compute is the one that the server's own partition gives, for submits and for claims."""

from __future__ import annotations

import pytest

from agentexecutor.bus.connection import open_connection
from agentexecutor.bus.server import EmbeddedServer
from agentexecutor.bus.streams import INBOX, SUBMITS
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

NAMES = [TaskName("ada", f"t{n}") for n in range(40)] + [TaskName(new_id(n), new_id(65 - n)) for n in range(1, 65, 3)]
NAMES += [TaskName("-", "-"), TaskName("a", "bc"), TaskName("ab", "c"), TaskName("_" * 64, "9" * 64)]


@pytest.mark.anyio
@pytest.mark.parametrize("shards", [1, 16, 31])
async def test_submits_and_claims_land_in_the_shard_that_we_compute(server: EmbeddedServer, shards: int) -> None:
    async with open_connection(server.url, name="ada", shards=shards) as connection:
        subjects, stream = connection.subjects, connection.nats.jetstream()
        assert connection.shards == shards
        for task in NAMES:
            headers = {"Ae-Type": "submit", "Ae-Id": new_id()}
            seq = await connection.store(subjects.submit(task, "normal"), b"{}", headers)
            stored = (await stream.get_msg(SUBMITS, seq)).subject
            assert stored is not None
            assert subjects.parse_new(stored) == (shard_of(task, shards), "normal", task)
            seq = await connection.store(subjects.claim("agent-1", "done", task), b"{}", headers)
            stored = (await stream.get_msg(INBOX, seq)).subject
            assert stored == subjects.inbox(shard_of(task, shards), "done", task, "agent-1")
