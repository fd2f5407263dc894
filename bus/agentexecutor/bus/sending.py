"""Sends spans and metrics with OpenTelemetry's SDK: ids that can be derived, one warning when nobody listens, an end that is not held up.

Imported only by programs that were asked to send something (`agentexecutor.bus.exporting`).
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from agentexecutor.bus import exporting
from agentexecutor.bus import telemetry as t

__all__ = ["Courier", "SpanIds", "start"]

logger = logging.getLogger("agentexecutor.bus")

EXPORT_S = 2.0
"""Seconds for one export, unless OTEL_EXPORTER_OTLP_TIMEOUT (or the signal's own) says otherwise. A process that ends waits no longer until its last
spans and metrics are sent; when nobody takes them, not at all."""
REST_S, LONGEST_REST_S = 5.0, 60.0
"""When nobody took spans, none are made for so long before it is tried again; twice as long each time."""
TAKES_NONE = ("404", "405", "501", "StatusCode.UNIMPLEMENTED")
"""The answers of a collector that takes no metrics, such as Jaeger: no trouble."""

_LOGGERS: dict[str, tuple[str, ...]] = {
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": ("traces",),
    "opentelemetry.exporter.otlp.proto.http.metric_exporter": ("metrics",),
    "opentelemetry.exporter.otlp.proto.grpc.exporter": ("traces", "metrics"),
    "opentelemetry.sdk.metrics._internal.export": ("metrics",),
}
"""Who says that something could not be sent, and what that may be."""
_QUEUE_LOGGER = "opentelemetry.sdk._shared_internal"


class SpanIds(RandomIdGenerator):
    """Ids for an SDK: derived where a coordinator asks for that, else random. A program with a TracerProvider of its own gives it these."""

    derives = True

    def generate_span_id(self) -> int:
        """See IdGenerator."""
        return t.wanted_ids().span or super().generate_span_id()

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return t.wanted_ids().trace or super().generate_trace_id()


class Courier(SpanExporter):
    """Hands spans to an exporter. When it fails, none are made for a while, and those that wait are dropped: while nobody listens they cost nothing.

    `rest`: called with the seconds (0 after a success).
    """

    def __init__(
        self, exporter: SpanExporter, rest: Callable[[float], object] = t.rest, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exporter = exporter
        self._rest = rest
        self._clock = clock
        self._rest_s = 0.0
        self._rests_until = float("-inf")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        if self._clock() < self._rests_until:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._rest_s = 0.0
            self._rest(0.0)
            return result
        self._rest_s = min(max(REST_S, 2 * self._rest_s), LONGEST_REST_S)
        self._rests_until = self._clock() + self._rest_s
        self._rest(self._rest_s)
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See SpanExporter."""
        return self._exporter.force_flush(timeout_millis)


class _Failures:
    """When something could not be sent at the first try; `over` is set by that, and by whoever has no more to send."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._last = float("-inf")

    def note(self) -> None:
        self._last = time.monotonic()
        self.over.set()

    def begin(self) -> None:
        """The last things are sent from now on: that is over already when nobody took any just before."""
        if time.monotonic() > self._last + REST_S:
            self.over.clear()


class _Once(logging.Filter):
    """An exporter says at every try, in many lines, that nobody listens: once, in one line of ours, is enough."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._told = False
        self.failures = {"traces": _Failures(), "metrics": _Failures()}

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the record for ours, and tell the first."""
        given = record.args if isinstance(record.args, tuple) else ()
        signals: Sequence[str] = _LOGGERS.get(record.name, ("traces",))
        if "metrics" in signals and any(str(one) in TAKES_NONE for one in given):
            return False
        if record.name == _QUEUE_LOGGER and record.levelno < logging.ERROR:
            logging.getLogger(_QUEUE_LOGGER).setLevel(logging.ERROR)  # it says so for every span, and each time costs
            self._tell("Spans come faster than they are sent to %s, and some are dropped.", self._where)
            return False
        signals = [signal for signal in signals if signal in given] or signals
        for signal in signals:
            self.failures[signal].note()
        if "traces" in signals:
            t.rest(REST_S)  # the exporter goes on trying for a while; what is made meanwhile would be dropped
        said = f" ({record.getMessage()[:200]})" if record.levelno >= logging.ERROR else ""
        grpc = (
            " Port 4317 mostly speaks gRPC: OTEL_EXPORTER_OTLP_PROTOCOL=grpc." if ":4317" in self._where and "http." in record.name else ""
        )
        self._tell("Traces and metrics cannot be sent to %s%s; nothing else suffers.%s", self._where, said, grpc)
        return False

    def _tell(self, text: str, *given: str) -> None:
        if not self._told:
            self._told = True
            logger.warning(text, *given)


class _Leaving:
    """Sends what is left when the process ends. Its threads are made before: an interpreter that ends makes no new ones."""

    def __init__(self) -> None:
        self._begins = threading.Event()
        self._works: list[tuple[_Failures, float]] = []

    def add(self, shutdown: Callable[[], object], failures: _Failures, timeout_s: float) -> None:
        """At the end call `shutdown`, which sends the rest; it is over when that returns, or something could not be sent at once, or the time is up."""
        self._works.append((failures, timeout_s))

        def work() -> None:
            self._begins.wait()
            shutdown()
            failures.over.set()

        threading.Thread(target=work, name="ae-last-spans", daemon=True).start()

    def leave(self) -> None:
        """The process ends."""
        for failures, _ in self._works:
            failures.begin()
        self._begins.set()
        now = time.monotonic()
        for failures, timeout_s in self._works:
            failures.over.wait(max(0.0, now + timeout_s - time.monotonic()))


def start(exporters: Mapping[Any, Any], service_name: str, where: str) -> bool:
    """Set up OpenTelemetry's global providers. `exporters`: traces, metrics → class; `where`: for the warning that nobody is there.

    A variable that makes no sense costs the signal, with a warning, not the program. Gives whether anything is sent.
    """
    once = _Once(where)
    for name in (*_LOGGERS, _QUEUE_LOGGER):
        logging.getLogger(name).addFilter(once)
    leaving = _Leaving()
    resource = _resource(service_name)
    make = {"traces": _send_spans, "metrics": _send_metrics}
    sent = False
    for signal, exporter in exporters.items():
        try:
            shutdown = make[signal](exporter, resource)
        except Exception as error:  # noqa: BLE001  # exporters raise whatever they like about their variables
            logger.warning("No %s are sent: the environment's OTEL_* variables cannot be used: %s", signal, error)
        else:
            leaving.add(shutdown, once.failures[signal], _timeout_s(signal.upper()))
            sent = True
    atexit.register(leaving.leave)
    return sent


def _send_spans(exporter: Any, resource: Resource) -> Callable[[], object]:
    courier = Courier(_made(exporter, "TRACES"))
    processor = BatchSpanProcessor(courier, schedule_delay_millis=exporting.delay_s() * 1000)
    tracers = TracerProvider(resource=resource, id_generator=SpanIds(), shutdown_on_exit=False)
    tracers.add_span_processor(processor)
    trace.set_tracer_provider(tracers)
    return tracers.shutdown


def _send_metrics(exporter: Any, resource: Resource) -> Callable[[], object]:
    reader = PeriodicExportingMetricReader(_made(exporter, "METRICS"))
    meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    return meters.shutdown


def _made(exporter: Any, signal: str) -> Any:
    """The exporter. Its time-out is given, not put into the environment: that would reach the programs that we start."""
    return exporter(timeout=_timeout_s(signal)) if ".otlp." in exporter.__module__ else exporter()


def _timeout_s(signal: str) -> float:
    """Seconds for one export (as OpenTelemetry for Python reads the variables)."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"):
        with suppress(KeyError, ValueError):
            return float(os.environ[name])
    return EXPORT_S


def _resource(service_name: str) -> Resource:
    about: dict[str, str | int] = {
        t.RESOURCE_HOST: platform.node(),
        t.RESOURCE_PID: os.getpid(),
        t.RESOURCE_VERSION: version("agentexecutor"),
    }
    if not (os.environ.get("OTEL_SERVICE_NAME") or f"{t.RESOURCE_SERVICE}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        about[t.RESOURCE_SERVICE] = service_name
    return Resource.create(about)
