"""Where spans and metrics should go nobody listens: one warning a process, and nothing else suffers."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import programs
from take_over import TRACED

from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio


NOBODY = "http://127.0.0.1:1"
WARNING = f"Traces and metrics cannot be sent to {NOBODY}; nothing else suffers."
OFTEN = {
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_METRIC_EXPORT_INTERVAL": "50",
    "OTEL_BSP_MAX_QUEUE_SIZE": "2",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
}
"""So that it fails again and again, and more waits than there is room for."""


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_without_a_collector_there_is_one_warning_and_all_goes_on(server: EmbeddedServer, tmp_path: Path, protocol: str) -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    async with programs(server.url, tmp_path, **asked, **OFTEN) as place:
        coordinator = await place.start("coordinator")
        agent = await place.start("agent", f"{TRACED}:first", "--name", "first")
        for _ in range(3):
            view, said = await place.run("submit", "load", "{}")
            assert (view["state"], view["result"]) == ("completed", [1, 2, 3])
            assert said.strip() == WARNING, "that, and nothing else"
        for program in (agent, coordinator):
            assert await program.stop() == 0, program.said
            assert program.said.count("cannot be sent") == 1, program.said
            assert "Traceback" not in program.said
