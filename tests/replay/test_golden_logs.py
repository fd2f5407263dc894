"""Logs that were written once must fold to the same state for ever: a later version may add, never change what an old record means.

Each file of `logs` holds the records of one task as the stream keeps them, and the view that they led to when they were written.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentexecutor.coordinator.evolve import fold
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas.codec import decode_record, encode
from agentexecutor.schemas.names import TaskName

LOGS = sorted((Path(__file__).parent / "logs").glob("*.json"))


class Golden(msgspec.Struct):
    task: str
    shard: int
    records: list[msgspec.Raw]
    view: msgspec.Raw


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_a_log_of_old_leads_to_the_same_state(file: Path) -> None:
    golden = msgspec.json.decode(file.read_bytes(), type=Golden)
    records = [(seq, decode_record(raw)) for seq, raw in enumerate(golden.records, 1)]
    state = fold(TaskName.parse(golden.task), golden.shard, records)
    assert msgspec.json.decode(encode(task_view(state))) == msgspec.json.decode(golden.view)
    assert state.head == len(records)


def test_there_are_logs() -> None:
    assert {file.stem for file in LOGS} >= {"retry", "split", "children", "cancelled", "feedback"}
