"""Names, trace context in messages, and the set-up of programs from the environment."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from opentelemetry import trace
from traces import measured, recorded

from agentexecutor.bus import telemetry as t

TRACE = "ab" * 16
PARENT = f"00-{TRACE}-{'cd' * 8}-01"


def test_names_are_written_as_the_design_says() -> None:
    names = {name: getattr(t, name) for name in t.__all__ if name.startswith(("ATTR_", "METRIC_", "SPAN_"))}
    assert {"submit", "plan", "auction", "execute", "step", "chat", "replan", "deliver"} == {
        value for name, value in names.items() if name.startswith("SPAN_")
    }
    assert (t.ATTR_TASK, t.ATTR_SUBTASK, t.ATTR_EPOCH, t.ATTR_PLAN_VERSION) == ("ae.task", "ae.subtask", "ae.epoch", "ae.plan.version")
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", value) for value in names.values())
    assert len(set(names.values())) == len(names)
    assert set(t.METRICS) == {value for name, value in names.items() if name.startswith("METRIC_")}
    assert set(t.KINDS) == {value for name, value in names.items() if name.startswith("SPAN_")}


def test_without_an_sdk_nothing_is_recorded_and_context_goes_on() -> None:
    assert not t.recording()
    with t.span(t.SPAN_SUBMIT, "text.classify", parent=t.current()) as span:
        assert not span.is_recording()
        assert t.inject() == {}
    with t.span(t.SPAN_EXECUTE, "text.classify", parent={"traceparent": PARENT, "tracestate": "k=v"}):
        assert t.inject() == {"traceparent": PARENT, "tracestate": "k=v"}
    assert t.inject(t.start_span(t.SPAN_AUCTION, "a", parent=PARENT)) == {"traceparent": PARENT}
    assert t.inject() == {}


@pytest.mark.parametrize(
    "given",
    [None, "", {}, {"tracestate": "k=v"}, "nonsense", f"00-{'0' * 32}-{'cd' * 8}-01", f"ff-{TRACE}-{'cd' * 8}-01", "x" * 10_000],
)
def test_a_context_that_cannot_be_read_is_none(given: Any) -> None:
    assert t.inject(t.extract(given)) == {}
    assert t.link(given, t.LINK_CAUSE) == []


def test_what_is_extracted_knows_nothing_of_where_it_is_done() -> None:
    with recorded(), t.span(t.SPAN_SUBMIT, "a", parent=None):
        assert t.inject(t.extract(None)) == {}
        assert t.inject(t.extract(PARENT, "k=v")) == {"traceparent": PARENT, "tracestate": "k=v"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PARENT, TRACE),
        ({"traceparent": PARENT, "Ae-Id": "x"}, TRACE),
        ({}, None),
        (None, None),
        ("", None),
        ("00-12-34-01", None),
        (f"00-{'0' * 32}-{'cd' * 8}-01", None),
    ],
)
def test_the_trace_id_of_a_message(given: Any, expected: str | None) -> None:
    assert t.trace_id_of(given) == expected


def test_spans_carry_their_parent_kind_attributes_and_links() -> None:
    with recorded() as spans:
        assert t.recording()
        with t.span(t.SPAN_SUBMIT, "text.classify", parent=None, attributes={t.ATTR_TASK: "me.t1"}):
            sent = t.inject()
        auction = t.start_span(
            t.SPAN_AUCTION, "text.classify", parent=sent, links=t.link(PARENT, t.LINK_EPOCH) + t.link(None, t.LINK_CAUSE), start_s=1000.5
        )
        auction.end()
        with pytest.raises(ValueError, match="broken"), t.span(t.SPAN_EXECUTE, "text.classify", parent=t.inject(auction)):
            raise ValueError("broken")
    submit, auctioned, executed = spans.get_finished_spans()
    assert [span.name for span in (submit, auctioned, executed)] == [
        "submit text.classify",
        "auction text.classify",
        "execute text.classify",
    ]
    assert [span.kind.name for span in (submit, auctioned, executed)] == ["PRODUCER", "PRODUCER", "CONSUMER"]
    assert submit.attributes == {"ae.task": "me.t1"}
    assert submit.parent is None
    assert auctioned.parent is not None
    assert auctioned.parent.span_id == submit.context.span_id
    assert auctioned.start_time == 1_000_500_000_000
    assert [(trace.format_trace_id(link.context.trace_id), link.attributes) for link in auctioned.links] == [
        (TRACE, {"ae.link": "previous epoch"})
    ]
    assert executed.context.trace_id == submit.context.trace_id
    assert not executed.status.is_ok
    assert t.trace_id_of(sent) == trace.format_trace_id(submit.context.trace_id)
    assert not t.recording(), "the provider is given back"


def test_what_the_sender_did_not_sample_is_not_sampled() -> None:
    with recorded() as spans:
        with t.span(t.SPAN_EXECUTE, "a", parent=PARENT[:-2] + "00"):
            assert t.inject()["traceparent"].endswith("-00")
        assert spans.get_finished_spans() == ()


def test_every_metric_can_be_counted() -> None:
    with measured() as reader:
        for name, metric in t.METRICS.items():
            tell: dict[str, Any] = {"sum": t.count, "histogram": t.measure, "gauge": t.level}
            tell[metric.kind](name, 2, {t.ATTR_CAPABILITY: "a"})
        data = reader.get_metrics_data()
    assert data is not None
    found = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert set(found) == set(t.METRICS)
    assert all(found[name].unit == metric.unit and found[name].description == metric.description for name, metric in t.METRICS.items())
    assert found[t.METRIC_BIDS].data.data_points[0].value == 2  # type: ignore[union-attr]  # a sum has values
    t.count(t.METRIC_BIDS)


ASK = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ASK:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_program_that_is_not_asked_sends_nothing(plain: pytest.MonkeyPatch) -> None:
    assert not t.setup("x")
    plain.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not t.setup("x")
    plain.setenv("OTEL_TRACES_EXPORTER", "console")
    plain.setenv("OTEL_SDK_DISABLED", "true")
    assert not t.setup("x")
    assert not t.recording()


@pytest.mark.parametrize(
    ("variables", "install"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "agentexecutor[otlp]"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp-proto-grpc"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "opentelemetry-exporter-zipkin"),
    ],
)
def test_an_exporter_that_is_not_installed_is_a_warning(
    plain: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variables: dict[str, str], install: str
) -> None:
    for name, value in variables.items():
        plain.setenv(name, value)
    plain.setattr(t, "entry_points", lambda **_: [])
    with caplog.at_level(logging.WARNING, "agentexecutor.bus"):
        assert not t.setup("x")
    assert install in caplog.text


def test_an_exporter_that_cannot_be_loaded_is_a_warning(plain: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plain.setenv("OTEL_TRACES_EXPORTER", "otlp")
    broken = EntryPoint("otlp_proto_http", "no.such.module:Exporter", "opentelemetry_traces_exporter")
    plain.setattr(t, "entry_points", lambda **_: [broken])
    with caplog.at_level(logging.WARNING, "agentexecutor.bus"):
        assert not t.setup("x")
    assert "no.such" in caplog.text or "No module named 'no'" in caplog.text


PROGRAM = """
from agentexecutor.bus import telemetry as t
assert t.setup("worker")
assert not t.setup("again")
with t.span(t.SPAN_SUBMIT, "text.classify", parent=None):
    pass
"""


@pytest.mark.parametrize(
    ("variables", "service"),
    [({}, "worker"), ({"OTEL_SERVICE_NAME": "mine"}, "mine"), ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, "theirs")],
)
def test_a_program_that_is_asked_sends_what_is_left_at_its_end(variables: dict[str, str], service: str) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "console", "PATH": "", **variables}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert '"name": "submit text.classify"' in run.stdout
    assert f'"service.name": "{service}"' in run.stdout


def test_metrics_are_sent_when_they_are_asked_for_too() -> None:
    program = PROGRAM + "\nt.count(t.METRIC_BIDS, 3)\n"
    environment = {"OTEL_TRACES_EXPORTER": "console", "PATH": ""}
    alone = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "ae.bids" not in alone.stdout
    environment["OTEL_METRICS_EXPORTER"] = "console"
    both = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "ae.bids" in both.stdout


def test_importing_costs_no_sdk() -> None:
    program = (
        "import sys, agentexecutor.bus.telemetry as t\nt.setup('x')\nprint([name for name in sys.modules if 'opentelemetry.sdk' in name])"
    )
    run = subprocess.run([sys.executable, "-c", program], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
