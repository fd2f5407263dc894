"""What stands between the SDK and an exporter: a rest after a failure, one warning, an end that nothing holds up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from traces import recorded

from agentexecutor.bus import exporting, sending
from agentexecutor.bus import telemetry as t

ABOUT = ("me.t1", "auction", "main", 1)
HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
METRICS = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
GRPC = "opentelemetry.exporter.otlp.proto.grpc.exporter"
QUEUE = "opentelemetry.sdk._shared_internal"


class Fake(SpanExporter):
    """Takes spans, or not."""

    def __init__(self) -> None:
        self.takes = True
        self.tried = 0
        self.closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.tried += 1
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.closed = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def test_after_a_failure_spans_rest_for_a_while_and_longer_after_another() -> None:
    now, exporter = [0.0], Fake()
    rests: list[float] = []
    courier = sending.Courier(exporter, rests.append, lambda: now[0])
    assert courier.export([]) is SpanExportResult.SUCCESS
    exporter.takes = False
    assert [courier.export([]) for _ in range(5)] == [SpanExportResult.FAILURE] * 5
    assert exporter.tried == 2, "one success, one failure, and no further try"
    for _ in range(5):
        now[0] += sending.LONGEST_REST_S
        courier.export([])
    assert rests == [0.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    exporter.takes = True
    now[0] += sending.LONGEST_REST_S
    assert courier.export([]) is SpanExportResult.SUCCESS
    assert rests[7:] == [0.0]
    assert courier.force_flush()
    courier.shutdown()
    assert exporter.closed


def test_while_nobody_takes_spans_none_are_made_and_contexts_go_on() -> None:
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "k=v"}
    with recorded() as spans:
        t.rest(1e6)
        assert not t.recording()
        assert t.inject(t.start_span(t.SPAN_EXECUTE, "a", parent=parent)) == parent
        with t.span(t.SPAN_SUBMIT, "a", parent=None):
            assert t.inject() == {}
        t.rest(0)
        with t.span(t.SPAN_SUBMIT, "a", parent=None):
            assert t.inject() != {}
    assert len(spans.get_finished_spans()) == 1


def test_ids_are_derived_when_asked_for() -> None:
    provider = TracerProvider(id_generator=sending.SpanIds(), shutdown_on_exit=False)
    t.use(tracers=provider)
    try:
        assert t.derives()
        root = t.start_span(t.SPAN_SUBMIT, "a", parent=None, about=ABOUT)
        assert t.span_id_of(t.inject(root)) == t.span_id_of(t.derived(None, ABOUT))
        assert t.trace_id_of(t.inject(root)) == t.trace_id_of(t.derived(None, ABOUT))
        parent = t.inject(root) | {"tracestate": "k=v"}
        one, two, other = (t.start_span(t.SPAN_AUCTION, "a", parent=parent, about=about) for about in (ABOUT, ABOUT, (*ABOUT, 2)))
        assert t.inject(one) == t.inject(two) == t.derived(parent, ABOUT)
        assert t.span_id_of(t.inject(other)) not in (t.span_id_of(t.inject(one)), None)
        named = t.start_span(t.SPAN_EXECUTE, "a", parent=parent, id="00f067aa0ba902b7", about=ABOUT)
        assert t.span_id_of(t.inject(named)) == "00f067aa0ba902b7"
        chance = {t.span_id_of(t.inject(t.start_span(t.SPAN_STEP, "a", parent=parent))) for _ in range(3)}
        assert len(chance) == 3
    finally:
        t.use()
        provider.shutdown()
    assert t.derived({}, ABOUT) == {}


def test_another_sdk_has_its_own_ids() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    t.use(tracers=provider)
    try:
        assert not t.derives()
        span = t.start_span(t.SPAN_SUBMIT, "a", parent=None, about=ABOUT)
        assert t.span_id_of(t.inject(span)) != t.span_id_of(t.derived(None, ABOUT))
    finally:
        t.use()
        provider.shutdown()
    assert not t.derives(), "nor has none"


@pytest.fixture
def once() -> Iterator[sending._Once]:
    filter = sending._Once("http://here:4317")
    names = (*sending._LOGGERS, sending._QUEUE_LOGGER)
    for name in names:
        logging.getLogger(name).addFilter(filter)
    yield filter
    for name in names:
        logging.getLogger(name).removeFilter(filter)
    t.rest(0)
    logging.getLogger(QUEUE).setLevel(logging.NOTSET)


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_collector_that_is_away_is_told_once(once: sending._Once, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(HTTP).warning("Transient error %s encountered while exporting %s batch, retrying in %.2fs.", "refused", "span", 1.0)
    logging.getLogger(METRICS).error("Failed to export %s batch code: %s, reason: %s", "metrics", None, "refused")
    logging.getLogger(QUEUE).warning("Queue full, dropping %s.", "Span")
    text = "Traces and metrics cannot be sent to http://here:4317; nothing else suffers."
    assert heard(caplog) == [text + " Port 4317 mostly speaks gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc."]
    assert all(failures.over.is_set() for failures in once.failures.values())


def test_what_a_collector_says_is_passed_on(once: sending._Once, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(GRPC).error("Failed to export %s to %s, error code: %s", "traces", "here:4317", "StatusCode.UNAUTHENTICATED")
    (said,) = heard(caplog)
    assert said.endswith("(Failed to export traces to here:4317, error code: StatusCode.UNAUTHENTICATED); nothing else suffers.")


def test_metrics_that_fail_do_not_make_spans_rest(once: sending._Once) -> None:
    text = "Transient error %s encountered while exporting %s to %s"
    logging.getLogger(GRPC).warning(text, "StatusCode.UNAVAILABLE", "metrics", "here:4317")
    assert [once.failures[signal].over.is_set() for signal in ("traces", "metrics")] == [False, True]
    with recorded():
        assert t.recording()
        logging.getLogger(GRPC).warning(text, "StatusCode.UNAVAILABLE", "traces", "here:4317")
        assert not t.recording()


def test_that_jaeger_takes_no_metrics_is_no_trouble(once: sending._Once, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(METRICS).error("Failed to export %s batch code: %s, reason: %s", "metrics", 404, "Not Found")
    logging.getLogger(GRPC).error("Failed to export %s to %s, error code: %s", "metrics", "here:4317", "StatusCode.UNIMPLEMENTED")
    assert heard(caplog) == []
    assert not once.failures["traces"].over.is_set()


def test_spans_that_come_too_fast_are_told_once(once: sending._Once, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        logging.getLogger(QUEUE).warning("Queue is full, dropping %s.", "Span")  # the SDK tells the same only once in 20 s
    assert heard(caplog) == ["Spans come faster than they are sent to http://here:4317, and some are dropped."]
    assert not logging.getLogger(QUEUE).isEnabledFor(logging.WARNING), "the next ones cost nothing"


def test_a_process_that_ends_waits_for_nobody() -> None:
    """A collector that never answers: the time is up. One that is away: at once. One that takes it: as soon as it has."""
    for_ever, ended = threading.Event(), threading.Event()
    leaving = sending._Leaving()
    leaving.add(for_ever.wait, sending._Failures(), 0.01)
    leaving.add(for_ever.wait, failed := sending._Failures(), 1e6)
    leaving.add(ended.set, sending._Failures(), 1e6)
    failed.note()
    leaving.leave()
    assert ended.is_set()
    assert not for_ever.is_set()
    for_ever.set()


def test_a_failure_while_it_ends_ends_the_wait() -> None:
    failures, for_ever = sending._Failures(), threading.Event()
    leaving = sending._Leaving()

    def shutdown() -> None:
        failures.note()
        for_ever.wait()

    leaving.add(shutdown, failures, 1e6)
    leaving.leave()
    for_ever.set()


@pytest.mark.parametrize(
    ("variables", "delay"), [({}, 0.2), ({"OTEL_BSP_SCHEDULE_DELAY": "5000"}, 5.0), ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, 0.2)]
)
def test_how_long_spans_wait(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], delay: float) -> None:
    monkeypatch.delenv("OTEL_BSP_SCHEDULE_DELAY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exporting.delay_s() == delay


def test_a_time_out_is_the_signals_own_or_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    assert sending._timeout_s("TRACES") == sending.EXPORT_S
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "nonsense")
    assert sending._timeout_s("TRACES") == 7
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "8")
    assert (sending._timeout_s("TRACES"), sending._timeout_s("METRICS")) == (8, 7)


def test_variables_that_make_no_sense_cost_the_traces_not_the_program(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**_: Any) -> Any:
        raise ValueError("no such compression")

    broken.__module__ = "their.otlp.exporter"
    with caplog.at_level(logging.WARNING, "agentexecutor.bus"):
        assert not sending.start({"traces": broken}, "x", "there")
    assert "No traces are sent" in caplog.text
    assert "no such compression" in caplog.text
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


SIGNAL = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "none"),
    ],
)
def test_the_exporter_is_the_one_that_the_standard_variables_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for one in SIGNAL:
        monkeypatch.delenv(one, raising=False)
    for one, value in variables.items():
        monkeypatch.setenv(one, value)
    assert exporting._exporter_name("traces") == name


def test_a_protocol_that_nobody_speaks_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for one in SIGNAL:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    monkeypatch.setattr(exporting, "entry_points", lambda **_: [])
    with caplog.at_level(logging.WARNING, "agentexecutor.bus"):
        exporting._exporters(["traces", "metrics"])
    assert caplog.text.count("'http/json' is no protocol") == 2
    assert caplog.text.count("pip install 'agentexecutor[otlp]'") == 1, "one exporter is missing, for both"
    assert "No traces and no metrics are sent" in caplog.text


def test_an_exporter_that_is_there_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in SIGNAL:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setattr(exporting, "entry_points", lambda **_: [EntryPoint("otlp_proto_http", "builtins:object", "x")])
    assert exporting.trouble_with("traces") == ("", "")
    monkeypatch.setattr(exporting, "entry_points", lambda **_: [EntryPoint("otlp_proto_http", "no.such:thing", "x")])
    trouble, todo = exporting.trouble_with("traces")
    assert "cannot be loaded" in trouble
    assert todo == "pip install 'agentexecutor[otlp]'"
