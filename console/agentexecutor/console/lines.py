"""An event as one line of text, for `watch` and for everything that is no terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentexecutor.console.output import amount, seconds
from agentexecutor.schemas.views import Event

__all__ = ["bids_text", "line_of"]

NAMES_SHOWN = 12
BIDS_SHOWN = 4
TEXT_SHOWN = 500


def line_of(event: Event) -> str:
    """``10:00:00.231  features-1  accepted   a2-77qd  schedule vectorise 4 s, upload 0.25 s``."""
    clock = event.time[11:23] if len(event.time) > len("2026-11-23T10:00:00") else event.time
    who = "" if event.agent is None else event.agent if event.epoch is None else f"{event.agent} (epoch {event.epoch})"
    said = _SAYS.get(event.kind, _plain)(event.data)
    text = " ".join(part for part in (f"{clock}  {event.subtask or 'task':<16} {event.kind:<10}", who, said) if part)
    return " ".join(text[:TEXT_SHOWN].splitlines()).rstrip()


def bids_text(bids: list[dict[str, Any]], considered: int) -> str:
    """The losing bids of an auction: ``against a1-k3f9 5 (capacity 5), 9 more``."""
    others = [bid for bid in bids if not bid.get("won", False)]
    shown = [f"{bid.get('agent')} {bid.get('score', 0.0):.3g} ({bid.get('reason', '')})" for bid in others[:BIDS_SHOWN]]
    rest = considered - 1 - len(shown)
    if rest > 0:
        shown.append(f"{rest} more")
    return f"against {', '.join(shown)}" if shown else "no other bid"


def _names(names: Mapping[str, Any] | list[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more


def _steps(schedule: list[dict[str, Any]]) -> str:
    return ", ".join(f"{step.get('name')} {seconds(step.get('duration_s', 0.0))}" for step in schedule)


def _submitted(data: dict[str, Any]) -> str:
    return f"priority {data['priority']}" if data.get("priority") else ""


def _planned(data: dict[str, Any]) -> str:
    subtasks = data.get("subtasks", {})
    what = {"split": "shares", "extend": "child"}.get(data.get("cause", ""), "subtasks")
    parent = f" of {data['parent']}" if data.get("parent") else ""
    if data.get("cause") == "ask":
        return f"a planner is asked: {_whys(data)}"
    return f"version {data.get('version', 1)}, {what}{parent}: {_names(subtasks)}"


def _whys(data: dict[str, Any]) -> str:
    whys = data.get("why") or []
    said = []
    for why in whys:
        about = f" about {why['subtask']}" if why.get("subtask") else ""
        said.append(f"{why.get('trigger')}{about}" + (f" ({why['text']})" if why.get("text") else ""))
    return "; ".join(said)


def _replanned(data: dict[str, Any]) -> str:
    parts = {"new": data.get("subtasks"), "again": data.get("again"), "removed": data.get("remove")}
    changed = "; ".join(f"{what} {_names(names)}" for what, names in parts.items() if names)
    return f"version {data.get('version')} because of {_whys(data)}: {changed or 'nothing more is to come'}"


def _proposed(data: dict[str, Any]) -> str:
    revision = data.get("revision") or {}
    return f"a new version waits for a person's word: {_whys(data)}" + (f"; new {_names(revision['add'])}" if revision.get("add") else "")


def _asked(data: dict[str, Any]) -> str:
    return f"waits for a person's word{': ' + data['text'] if data.get('text') else ''}"


def _approved(data: dict[str, Any]) -> str:
    return f"by {data['sender']}" if data.get("sender") else "nobody objected in time"


def _awarded(data: dict[str, Any]) -> str:
    bids = data.get("bids", [])
    reason = next((bid.get("reason", "") for bid in bids if bid.get("won")), "")
    considered = data.get("considered", 1)
    attempt = f", attempt {data['attempt']}" if data.get("attempt", 1) > 1 else ""
    how = f"[{data.get('policy', 'fastest')}, {data.get('auction', 'standing')}{attempt}]"
    return f"{reason or 'won'}; {bids_text(bids, considered)} {how}"


def _accepted(data: dict[str, Any]) -> str:
    return f"schedule {_steps(data['schedule'])}" if data.get("schedule") else ""


def _progress(data: dict[str, Any]) -> str:
    fraction = data.get("fraction")
    parts = [
        f"{fraction:.0%}" if fraction is not None else "",
        " ".join(str(data[key]) for key in ("step", "state") if data.get(key)),
        str(data.get("text", "")),
        f"new schedule {_steps(data['schedule'])}" if data.get("schedule") else "",
        "(answers feedback)" if data.get("feedback") else "",
    ]
    return ", ".join(part for part in parts if part)


def _completed(data: dict[str, Any]) -> str:
    took = data.get("took_s")
    size = data.get("bytes")
    usage = [f"{name} {value:g}" for name, value in (data.get("usage") or {}).items()]
    parts = ["" if took is None else f"in {seconds(took)}", "" if size is None else amount(size), *usage]
    return ", ".join(part for part in parts if part)


def _failed(data: dict[str, Any]) -> str:
    error = data.get("error") or {}
    outcome = {
        "retry": "goes back: ",
        "skip": "is skipped: ",
        "replan": "is to be replanned: ",
        "wait": "waits for a person's word: ",
    }.get(data.get("outcome", "final"), "")
    return f"{outcome}{error.get('code', 'handler')}: {error.get('message', '')}"


def _feedback(data: dict[str, Any]) -> str:
    return ": ".join(
        part for part in (f"{data.get('verdict') or 'comment'} by {data.get('sender', '?')}", str(data.get("text", ""))) if part
    )


def _held(data: dict[str, Any]) -> str:
    return f"taken over by {data.get('coordinator', '?')}"


def _plain(data: dict[str, Any]) -> str:
    return str(data.get("reason") or data.get("cause") or "")


_SAYS: dict[str, Callable[[dict[str, Any]], str]] = {
    "submitted": _submitted,
    "planned": _planned,
    "replanned": _replanned,
    "proposed": _proposed,
    "asked": _asked,
    "approved": _approved,
    "awarded": _awarded,
    "accepted": _accepted,
    "progress": _progress,
    "completed": _completed,
    "failed": _failed,
    "feedback": _feedback,
    "held": _held,
}
