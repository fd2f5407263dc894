"""A collector for tests: decodes the protobuf that programs send, over HTTP (gzip too) and over gRPC, and keeps all of it.

Knows OTLP and nothing of tasks; `span_tree` makes a trace of what came.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

__all__ = ["Link", "Point", "Receiver", "Span", "receiving"]

LONG = 90
"""Seconds after which nothing more is expected to come."""
T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """What a span is linked to."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    """A span as it came. Ids are hex digits; `parent_id` of a root is empty; `by`: http, gzip or grpc; `resource`: who sent it."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    status: int
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    links: list[Link]
    resource: dict[str, Any] = field(compare=False)
    by: str = field(compare=False)

    @property
    def process(self) -> tuple[str, Any]:
        """Which process sent it: the service, and its process id (or instance)."""
        return self.resource["service.name"], self.resource.get("process.pid") or self.resource.get("service.instance.id")


@dataclass(frozen=True)
class Point:
    """A number of a metric; of a histogram `value` is its sum and `count` how many there were."""

    name: str
    unit: str
    attributes: dict[str, Any]
    value: float
    count: int
    resource: dict[str, Any]
    by: str


class Receiver:
    """What came so far, in order. `http` and `grpc`: values for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self.http = self.grpc = ""
        self.spans: list[Span] = []
        self.points: list[Point] = []
        self._news = threading.Condition()

    def wait(self, found: Callable[[Receiver], T]) -> T:
        """What `found` gives, as soon as that is something true."""
        with self._news:
            result = self._news.wait_for(lambda: found(self), LONG)
        assert result, (
            f"not within {LONG} s; there came {[span.name for span in self.spans]} and {sorted({point.name for point in self.points})}"
        )
        return result

    def take_traces(self, payload: bytes, by: str) -> None:
        request = trace_pb.ExportTraceServiceRequest.FromString(payload)
        came = [
            _span(span, _attributes(group.resource.attributes), by)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._news:
            self.spans += came
            self._news.notify_all()

    def take_metrics(self, payload: bytes, by: str) -> None:
        request = metrics_pb.ExportMetricsServiceRequest.FromString(payload)
        came = [
            point
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
            for point in _points(metric, _attributes(group.resource.attributes), by)
        ]
        with self._news:
            self.points += came
            self._news.notify_all()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A collector on free ports of 127.0.0.1, for HTTP and for gRPC."""
    receiver = Receiver()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(receiver))
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    calls = grpc.server(ThreadPoolExecutor(4))
    calls.add_generic_rpc_handlers(
        (
            _service("opentelemetry.proto.collector.trace.v1.TraceService", receiver.take_traces),
            _service("opentelemetry.proto.collector.metrics.v1.MetricsService", receiver.take_metrics),
        )
    )
    receiver.http = f"http://127.0.0.1:{web.server_port}"
    receiver.grpc = f"http://127.0.0.1:{calls.add_insecure_port('127.0.0.1:0')}"
    calls.start()
    try:
        yield receiver
    finally:
        calls.stop(None).wait()
        web.shutdown()
        web.server_close()
        thread.join()


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    paths = {"/v1/traces": receiver.take_traces, "/v1/metrics": receiver.take_metrics}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            payload, by = b"".join(self.body()), "http"
            if self.headers.get("Content-Encoding") == "gzip":
                payload, by = gzip.decompress(payload), "gzip"
            take = paths.get(self.path) if self.headers["Content-Type"] == "application/x-protobuf" else None
            if take is not None:
                take(payload, by)
            self.send_response(404 if take is None else 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")  # an empty answer says that all was taken
            self.end_headers()

        def body(self) -> Iterator[bytes]:
            """What was sent, whole or (as Node does) in chunks."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                yield self.rfile.read(int(self.headers["Content-Length"]))
                return
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, *_: Any) -> None:
            """A test reads nothing of it."""

    return Handler


def _service(name: str, take: Callable[[bytes, str], None]) -> Any:
    """A gRPC service with the one method Export; an empty answer says that all was taken."""

    def export(payload: bytes, _context: Any) -> bytes:
        take(payload, "grpc")
        return b""

    return grpc.method_handlers_generic_handler(name, {"Export": grpc.unary_unary_rpc_method_handler(export)})


def _span(span: Any, resource: dict[str, Any], by: str) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=span.status.code,
        attributes=_attributes(span.attributes),
        events=[(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in span.events],
        links=[Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
        resource=resource,
        by=by,
    )


def _points(metric: Metric, resource: dict[str, Any], by: str) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind or "gauge")
    for point in data.data_points:
        if kind == "histogram":
            value, count = point.sum, point.count
        else:
            value, count = float(getattr(point, point.WhichOneof("value") or "as_int")), 1
        yield Point(metric.name, metric.unit, _attributes(point.attributes), value, count, resource, by)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)
