"""docs/tracing.md lists what `telemetry.py` names: no more, no less, with the same kinds, units and words."""

from __future__ import annotations

import re
from pathlib import Path

from agentexecutor.bus import exporting
from agentexecutor.bus import telemetry as t

DOC = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
KINDS = {"sum": "sum", "level": "level", "histogram": "histogram", "gauge": "gauge"}


def values(prefix: str) -> set[str]:
    return {getattr(t, name) for name in t.__all__ if name.startswith(prefix)}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first heading it is."""
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", DOC, re.MULTILINE)
    assert found, f"there is no table of {heading}"
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in found[1].splitlines()]


def named(heading: str) -> list[str]:
    """What stands in code in the first column."""
    return [name for row in rows(heading) for name in re.findall(r"`([^`]+)`", row[0])]


def test_spans_events_and_links_are_those_of_the_code() -> None:
    assert set(named("span")) == values("SPAN_")
    assert set(named("event")) == values("EVENT_")
    assert set(named("link (`ae.link`)")) == values("LINK_")


def test_attributes_are_those_of_the_code() -> None:
    listed = named("attribute")
    families = [name.removesuffix("*") for name in listed if name.endswith("*")]
    told = {name for name in values("ATTR_") if name.startswith(tuple(families))}
    assert set(listed) - {f"{family}*" for family in families} == values("ATTR_") - told
    assert all(any(name.startswith(family) for name in told) for family in families)
    assert len(listed) == len(set(listed))


def test_metrics_are_those_of_the_code() -> None:
    found = {row[0].strip("`"): (row[1], row[2].strip("`"), row[3]) for row in rows("metric")}
    assert found == {name: (metric.kind, metric.unit, metric.description) for name, metric in t.METRICS.items()}


def test_what_a_program_says_of_itself_is_there() -> None:
    assert {name for name in values("RESOURCE_") if f"`{name}`" not in DOC} == set()


def test_the_variables_that_switch_it_on_are_there() -> None:
    for name in (name for names in exporting.ASKED_BY.values() for name in names):
        assert f"`{name}`" in DOC or f"`{name.replace('OTEL_EXPORTER_OTLP', '...')}`" in DOC, name


def test_no_name_of_ours_in_the_text_is_unknown() -> None:
    known = values("ATTR_") | values("METRIC_")
    mentioned = set(re.findall(r"`(ae\.[a-z_.]+[a-z_])(?:=[^`]*)?`", DOC))
    assert mentioned - known == set()
