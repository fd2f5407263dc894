"""Adds a golden log: `add_golden.py NAME FILE` folds the records in FILE with this version and writes logs/NAME.json, if there is none yet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from agentexecutor.coordinator.evolve import fold
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas.codec import decode_record, encode
from agentexecutor.schemas.names import TaskName


def add(name: str, given: dict[str, object], folder: Path) -> None:
    """Raises FileExistsError: what stands there is never changed."""
    records = msgspec.convert(given["records"], list[dict[str, object]])
    numbered = [(seq, decode_record(encode(record))) for seq, record in enumerate(records, 1)]
    state = fold(TaskName.parse(str(given["task"])), int(str(given["shard"])), numbered)
    golden = {**given, "view": json.loads(encode(task_view(state)))}
    with (folder / f"{name}.json").open("x", encoding="utf-8") as file:
        file.write(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    add(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(__file__).parent / "logs")
