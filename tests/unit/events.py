"""Events of one made-up task, as `watch` gives them, for the tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from agentexecutor.schemas.codec import to_rfc3339
from agentexecutor.schemas.views import Event

TASK = "ada.t1"
START = 1_795_428_000.0
"""2026-11-23T10:00:00Z."""

BIDS = [
    {"agent": "a2", "score": -10.0, "won": True, "reason": "capacity 10 is the largest", "source": "call"},
    {"agent": "a1", "score": -5.0, "reason": "capacity 5"},
]


def event(
    kind: str, subtask: str | None = None, *, at: float = 0.0, seq: int = 1, agent: str | None = None, epoch: int | None = None, **data: Any
) -> Event:
    """An event `at` seconds after the start; the rest is its data."""
    return Event(time=to_rfc3339(START + at), task=TASK, kind=kind, subtask=subtask, agent=agent, epoch=epoch, seq=seq, data=data)


def a_run() -> list[Event]:
    """A plan of three: `features` is split in two shares, one of which fails once; `model` waits for it."""
    shares = {"features-1": {"capability": "text.features"}, "features-2": {"capability": "text.features"}}
    plan = {"features": {"capability": "text.features"}, "model": {"capability": "text.train", "after": ["features"]}}
    oops = {"code": "handler", "message": "RuntimeError: out of memory", "details": {"cause": "failed"}}
    return [
        event("submitted", at=0.0, seq=1, priority=5, coordinator="c1"),
        event("planned", at=0.0, seq=1, version=1, cause="submit", subtasks=plan, coordinator="c1"),
        event("ready", "features", at=0.0, seq=1, coordinator="c1"),
        event("planned", at=0.1, seq=2, version=2, cause="split", parent="features", subtasks=shares, coordinator="c1"),
        event("ready", "features-1", at=0.1, seq=2, coordinator="c1"),
        event("ready", "features-2", at=0.1, seq=2, coordinator="c1"),
        event(
            "awarded",
            "features-1",
            at=0.2,
            seq=3,
            agent="a2",
            epoch=1,
            bids=BIDS,
            considered=9,
            policy="capacity",
            auction="call",
            coordinator="c1",
        ),
        event("awarded", "features-2", at=0.2, seq=3, agent="a1", epoch=2, bids=[], considered=1, coordinator="c1"),
        event(
            "accepted",
            "features-1",
            at=0.3,
            seq=4,
            epoch=1,
            schedule=[{"name": "read", "duration_s": 1.0}, {"name": "count", "start_s": 1.0, "duration_s": 3.0}],
        ),
        event(
            "progress", "features-1", at=0.8, seq=0, agent="a2", epoch=1, step="count", state="started", fraction=0.4, text="400 of 1000"
        ),
        event("failed", "features-2", at=1.0, seq=5, agent="a1", epoch=2, error=oops, outcome="retry", coordinator="c1"),
        event("awarded", "features-2", at=1.3, seq=6, agent="a2", epoch=3, attempt=2, bids=BIDS[:1], coordinator="c2"),
        event("completed", "features-1", at=2.0, seq=7, agent="a2", epoch=1, took_s=1.7, bytes=2048, coordinator="c2"),
        event("completed", "features-2", at=3.0, seq=8, agent="a2", epoch=3, took_s=1.6, bytes=2048, coordinator="c2"),
        event("completed", "features", at=3.0, seq=8, coordinator="c2"),
        event("ready", "model", at=3.0, seq=8, coordinator="c2"),
        event("awarded", "model", at=3.1, seq=9, agent="a1", epoch=4, bids=[], coordinator="c2"),
        event("completed", "model", at=4.0, seq=10, agent="a1", epoch=4, took_s=0.9, bytes=15, usage={"tokens": 12}, coordinator="c2"),
        event("completed", at=4.0, seq=10, coordinator="c2"),
    ]
