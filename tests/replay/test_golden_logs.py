"""Logs that were written once must fold to the same state for ever: a later version may add, never change what an old record means.

Each file of `logs` holds the records of one task as the stream keeps them, and the view that they led to when they were written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import add_golden
import msgspec
import pytest

from agentexecutor.coordinator import evolve
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.states import SUBTASK, TASK
from agentexecutor.coordinator.views import task_view
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_record, encode
from agentexecutor.schemas.names import TaskName

ADDED = ("proposed",)
ADDED_TO_SUBTASKS = ("asked", "not_before")
"""Fields that views have got since the first logs were written."""
LOGS = sorted((Path(__file__).parent / "logs").glob("*.json"))
KINDS = {str(cls.__struct_config__.tag) for cls in r.Change.__args__}


class Golden(msgspec.Struct):
    task: str
    shard: int
    records: list[msgspec.Raw]
    view: msgspec.Raw

    def decoded(self) -> list[tuple[int, r.Record]]:
        return [(seq, decode_record(raw)) for seq, raw in enumerate(self.records, 1)]

    def fold(self) -> TaskState:
        return evolve.fold(TaskName.parse(self.task), self.shard, self.decoded())


def golden(file: Path) -> Golden:
    return msgspec.json.decode(file.read_bytes(), type=Golden)


def told(view: bytes | msgspec.Raw, then: bytes | msgspec.Raw) -> dict[str, Any]:
    """A view without the fields that views have got since `then`."""
    before = msgspec.json.decode(then)
    now = _without(ADDED, msgspec.json.decode(view), before)
    subtasks = {name: _without(ADDED_TO_SUBTASKS, value, before["subtasks"].get(name, {})) for name, value in now["subtasks"].items()}
    return now | {"subtasks": subtasks}


def _without(added: Collection[str], view: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in view.items() if name in before or name not in added}


class Watched(dict[Any, Any]):
    """A transition table that notes which of its rows are used."""

    def __init__(self, table: dict[Any, Any]) -> None:
        super().__init__(table)
        self.unused = dict.fromkeys(table)

    def get(self, key: Any, default: Any = None) -> Any:
        self.unused.pop(key, None)
        return super().get(key, default)


def changes(record: r.Record) -> Iterator[r.Change]:
    for entry in record.history:
        yield from changes(entry.record)
    yield from record.changes


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_a_log_of_old_leads_to_the_same_state(file: Path) -> None:
    log = golden(file)
    state = log.fold()
    assert told(encode(task_view(state)), log.view) == msgspec.json.decode(log.view)
    assert state.head == len(log.records)


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_what_no_view_shows_is_the_same_too_and_what_is_to_be_done_next(file: Path) -> None:
    state, last = add_golden.folded(msgspec.json.decode(file.read_bytes()))
    kept = msgspec.json.decode((file.parents[1] / "states" / file.name).read_bytes())
    assert msgspec.json.decode(encode(add_golden.essence(state, last))) == kept


def test_some_logs_are_of_open_tasks() -> None:
    """That is what a later version meets when it is installed."""
    assert sum(not golden(file).fold().ended for file in LOGS) >= 5


def test_every_kind_of_change_stands_in_a_log() -> None:
    found = {str(change.__struct_config__.tag) for file in LOGS for _, record in golden(file).decoded() for change in changes(record)}
    assert KINDS - found == set(), "tests/replay/README.md says how a log is added"


def test_every_row_of_the_transition_tables_is_used_by_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    task, subtask = Watched(TASK), Watched(SUBTASK)
    monkeypatch.setattr(evolve, "TASK", task)
    monkeypatch.setattr(evolve, "SUBTASK", subtask)
    for file in LOGS:
        golden(file).fold()
    assert [*task.unused, *subtask.unused] == [], "tests/replay/README.md says how a log is added"


def test_a_log_is_added_once(tmp_path: Path) -> None:
    """The tool that README.md names writes what this test reads, and changes nothing that is there."""
    given = msgspec.json.decode(LOGS[0].read_bytes())
    view = given.pop("view")
    for folder in ("logs", "states"):
        (tmp_path / folder).mkdir()
    add_golden.add("new", given, tmp_path)
    assert told(golden(tmp_path / "logs" / "new.json").view, encode(view)) == view
    with pytest.raises(FileExistsError):
        add_golden.add("new", given, tmp_path)
