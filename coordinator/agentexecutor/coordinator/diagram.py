"""The state diagrams of the documentation, generated from the tables in `states`.

``python -m agentexecutor.coordinator.diagram`` prints docs/states.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentexecutor.coordinator.states import CLAIMS, SUBTASK, TASK

__all__ = ["document"]


def _mermaid(table: Mapping[Any, str], first: str) -> list[str]:
    events: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in table.items():
        events.setdefault((before, after), []).append(event)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {before} --> {after}: {', '.join(names)}" for (before, after), names in events.items()]
    return [*lines, "```"]


def _claims() -> list[str]:
    kinds = list(dict.fromkeys(kind for _, kind in CLAIMS))
    standings = list(dict.fromkeys(standing for standing, _ in CLAIMS))
    lines = ["| sender | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    lines += [f"| {standing} | " + " | ".join(CLAIMS[standing, kind] for kind in kinds) + " |" for standing in standings]
    return lines


def document() -> str:
    """The text of docs/states.md."""
    lines = [
        "# States",
        "",
        "Generated from `coordinator/agentexecutor/coordinator/states.py` by `python -m agentexecutor.coordinator.diagram`; do not edit.",
        "`calling` and `parked` are a coordinator's view of `ready` (docs/adr/0005).",
        "",
        "## A subtask",
        "",
        *_mermaid(SUBTASK, "blocked"),
        "",
        "`retry`, `final`, `skip`, `replan`, `wait` are the outcomes of a `failed` change: declined, not accepted in time, lost, released, ...",
        "",
        "## A task",
        "",
        *_mermaid(TASK, "unknown"),
        "",
        "## What a claim leads to",
        "",
        *_claims(),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201  # its output is the document
