"""Adds a golden log: `add_golden.py NAME FILE` folds the records in FILE with this version and writes NAME.json to `logs` and `states`, if it is new."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from agentexecutor.coordinator.evolve import fold
from agentexecutor.coordinator.inputs import SetTimer
from agentexecutor.coordinator.machine import pending
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, encode, from_rfc3339
from agentexecutor.schemas.names import TaskName

HERE = Path(__file__).parent


def add(name: str, given: dict[str, object], folder: Path) -> None:
    """Raises FileExistsError: what stands there is never changed."""
    state, last = folded(given)
    _write(folder / "logs" / f"{name}.json", {**given, "view": json.loads(encode(task_view(state)))})
    _write(folder / "states" / f"{name}.json", essence(state, last))


def folded(given: dict[str, Any]) -> tuple[TaskState, r.Record]:
    """The state that the records lead to, and the last of them."""
    records = msgspec.convert(given["records"], list[dict[str, object]])
    numbered = [(seq, decode_record(encode(record))) for seq, record in enumerate(records, 1)]
    return fold(TaskName.parse(str(given["task"])), int(str(given["shard"])), numbered), numbered[-1][1]


def _write(path: Path, content: object) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=path.parent.name == "states") + "\n")


def essence(state: TaskState, last: r.Record) -> dict[str, Any]:
    """What no later version may see otherwise, though no view shows it; and what is to be done from there, a second after the last record."""
    doing = [
        [effect.kind, effect.subtask, round(effect.due, 3)]
        if isinstance(effect, SetTimer)
        else [type(effect).__name__, getattr(effect, "subtask", None)]
        for effect in pending(state, from_rfc3339(last.at) + 1.0, Settings())
    ]
    return {
        "epochs": state.epochs,
        "open": state.open,
        "applied": sorted(state.applied),
        "feedback": [given.id for given in state.feedback],
        "subtasks": {name: _essence(subtask) for name, subtask in state.subtasks.items()},
        "pending": sorted(doing, key=str),
    }


def _essence(subtask: SubtaskState) -> dict[str, Any]:
    counts = {name: getattr(subtask, name) for name in ("epoch", "tries", "losses", "returns", "plan_version", "ready_at", "accepted_at")}
    return {**counts, "waits": sorted(subtask.waits), "children": subtask.children, "holds": [subtask.agent, subtask.boot]}


if __name__ == "__main__":
    add(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), HERE)
