"""What is right: what a result must be, what two foldings of one log must agree on, how rows of the tables are counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from actors import work
from msgspec import Raw

from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.plans import dependencies

__all__ = ["Rows", "essence", "expected_result", "plain", "row_name", "same_work"]


class Rows(dict[Any, Any]):
    """A table that counts which of its rows are used."""

    def __init__(self, table: Mapping[Any, Any], name: str, counts: Counter[str]) -> None:
        super().__init__(table)
        self._name, self._counts = name, counts

    def __getitem__(self, key: Any) -> Any:
        self._counts[row_name(self._name, key)] += 1
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  # this is `get`


def row_name(table: str, key: tuple[str, str]) -> str:
    """How a row of a table is counted."""
    return f"{table} {key[0]} + {key[1]}"


def plain(body: Raw | m.BlobRef | None) -> Any:
    """A result as Python has it."""
    return None if body is None else msgspec.json.decode(bytes(body)) if isinstance(body, Raw) else body


def expected_result(state: TaskState, subtask: SubtaskState) -> Any:
    """What the agents' `work` must have made of a subtask, references followed."""
    return work(_resolved(state, json.loads(bytes(subtask.spec.input))), str(state.name), subtask.name)


def same_work(old: m.SubtaskSpec, new: m.SubtaskSpec) -> bool:
    needs = set(dependencies(old)) == set(dependencies(new))
    return needs and (old.capability, old.split) == (new.capability, new.split) and plain(old.input) == plain(new.input)


def _resolved(state: TaskState, value: Any) -> Any:
    if isinstance(value, dict) and "$ref" in value:
        found = plain(state.subtasks[value["$ref"]].result)
        start, end = value.get("$slice", (None, None))
        return found[start:end] if start is not None else found
    if isinstance(value, dict):
        return {key: _resolved(state, inner) for key, inner in value.items()}
    return [_resolved(state, inner) for inner in value] if isinstance(value, list) else value


def essence(state: TaskState) -> Any:
    """What two foldings must agree on."""
    subtasks = []
    for one in state.subtasks.values():
        result = one.result if isinstance(one.result, m.BlobRef) else bytes(one.result or b"")
        held = one.epoch, one.agent, one.boot, one.tries, one.losses
        subtasks.append((one.name, one.state, held, sorted(one.waits), one.children, result))
    return state.state, state.head, state.epochs, state.open, sorted(state.applied), subtasks
