"""The tree of a trace, rebuilt from spans as a collector got them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otlp import Link, Span

from agentexecutor.bus import telemetry as t

__all__ = ["Tree", "bids_recorded", "bids_told", "tree_of"]


@dataclass
class Tree:
    """One trace: every span once, by its id."""

    trace_id: str
    spans: dict[str, Span]

    @property
    def roots(self) -> list[Span]:
        return [span for span in self.spans.values() if not span.parent_id]

    @property
    def orphans(self) -> list[Span]:
        """Spans whose parent did not come."""
        return [span for span in self.spans.values() if span.parent_id and span.parent_id not in self.spans]

    @property
    def dangling(self) -> list[Link]:
        """Links to what did not come."""
        return [link for span in self.spans.values() for link in span.links if link.span_id not in self.spans]

    def path(self, span: Span) -> str:
        """Names from the root down."""
        return f"{self.path(self.spans[span.parent_id])}/{span.name}" if span.parent_id else span.name

    def named(self, name: str) -> list[Span]:
        """All of that name, by epoch and time."""
        found = [span for span in self.spans.values() if span.name == name]
        return sorted(found, key=lambda span: (span.attributes.get(t.ATTR_EPOCH, 0), span.start))

    def linked(self, span: Span, why: str) -> list[Span]:
        """What a span is linked to for that reason."""
        return [self.spans[link.span_id] for link in span.links if link.attributes.get(t.ATTR_LINK) == why]


def tree_of(spans: Sequence[Span], trace_id: str) -> Tree:
    """The trace. A span may come twice, from two coordinators; then it says the same."""
    tree = Tree(trace_id, {})
    for span in spans:
        if span.trace_id == trace_id:
            assert tree.spans.setdefault(span.span_id, span) == span, "the same span twice, and not the same"
    return tree


def bids_told(tree: Tree) -> list[Any]:
    """Every bid in the trace: subtask, epoch, agent, source, score, won, reason."""
    names = (t.ATTR_BID_AGENT, t.ATTR_BID_SOURCE, t.ATTR_BID_SCORE, t.ATTR_BID_WON, t.ATTR_BID_REASON)
    return sorted(
        (span.attributes[t.ATTR_SUBTASK], span.attributes[t.ATTR_EPOCH], *(told[name] for name in names))
        for span in tree.spans.values()
        for event, _, told in span.events
        if event == t.EVENT_BID
    )


def bids_recorded(view: Any) -> list[Any]:
    """The same, from what `show` says."""
    return sorted(
        (name, bid["epoch"], bid["agent"], bid["source"], bid["score"], bid["won"], bid["reason"])
        for name, subtask in view["subtasks"].items()
        for bid in subtask["bids"]
    )
