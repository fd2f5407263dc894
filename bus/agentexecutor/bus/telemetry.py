"""All names of spans, attributes and metrics, and how trace context travels: the only module that says what a trace looks like.

One trace a task. Names hold no ids; ids are attributes. Libraries use the OpenTelemetry API only; programs call `setup`, which does nothing unless the
standard OTEL_* variables ask for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentexecutor.schemas.codec import H_TRACEPARENT, H_TRACESTATE

__all__ = [
    "AE_AGENT",
    "AE_ATTEMPT",
    "AE_AUCTION",
    "AE_CAPABILITY",
    "AE_COORDINATOR",
    "AE_EPOCH",
    "AE_PLAN_VERSION",
    "AE_POLICY",
    "AE_STATE",
    "AE_SUBTASK",
    "AE_TASK",
    "BID_EVENT",
    "COUNTERS",
    "HISTOGRAMS",
    "SpanKind",
    "bid_event",
    "context_of",
    "count",
    "enabled",
    "inject",
    "link_to",
    "record",
    "setup",
    "span",
    "span_auction",
    "span_deliver",
    "span_execute",
    "span_plan",
    "span_step",
    "span_submit",
    "trace_id_of",
]

logger = logging.getLogger("agentexecutor.telemetry")

SCOPE = "agentexecutor"

AE_TASK = "ae.task"
AE_SUBTASK = "ae.subtask"
AE_EPOCH = "ae.epoch"
AE_PLAN_VERSION = "ae.plan.version"
AE_CAPABILITY = "ae.capability"
AE_AGENT = "ae.agent"
AE_ATTEMPT = "ae.attempt"
AE_POLICY = "ae.policy"
AE_AUCTION = "ae.auction"
AE_COORDINATOR = "ae.coordinator"
AE_STATE = "ae.state"
BID_EVENT = "bid"

COUNTERS = {
    "ae.tasks.submitted": "tasks taken from the queue",
    "ae.tasks.ended": "tasks that ended, by ae.state",
    "ae.auctions": "awards, by ae.auction",
    "ae.bids": "bids that awards considered",
    "ae.declines": "awards declined or not accepted in time",
    "ae.tries": "attempts that failed and are tried again",
    "ae.takeovers": "shards taken from another coordinator",
    "ae.appends": "records appended",
    "ae.appends.refused": "appends that the fence refused or that were not answered",
    "ae.undecodable": "messages that did not decode",
    "ae.executions": "subtasks that an agent ended, by ae.state",
}
HISTOGRAMS = {
    "ae.wait": "seconds from ready to awarded",
    "ae.execution": "seconds of work of one subtask",
}

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer(SCOPE)


# names of spans


def span_submit(capability: str) -> str:
    return f"submit {capability}"


def span_plan() -> str:
    return "plan"


def span_auction(capability: str) -> str:
    return f"auction {capability}"


def span_execute(capability: str) -> str:
    return f"execute {capability}"


def span_step(name: str) -> str:
    return f"step {name}"


def span_deliver() -> str:
    return "deliver"


# spans


def enabled() -> bool:
    """Whether an SDK is set up: without one spans are nothing and cost next to nothing."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: otel_context.Context | None = None,
    attributes: Mapping[str, Any] | None = None,
    links: Sequence[Link] = (),
    start_ns: int | None = None,
) -> Iterator[Span]:
    """A span, current while the block runs; an exception is recorded on it. `parent` None: the current one."""
    if not enabled():
        yield trace.INVALID_SPAN
        return
    given = {key: value for key, value in (attributes or {}).items() if value is not None}
    with _tracer.start_as_current_span(name, context=parent, kind=kind, attributes=given, links=links, start_time=start_ns) as made:
        yield made


def bid_event(made: Span, *, agent: str, score: float, won: bool, reason: str, source: str) -> None:
    """A recorded bid as an event of its auction's span."""
    made.add_event(
        BID_EVENT, {"ae.agent": agent, "ae.bid.score": score, "ae.bid.won": won, "ae.bid.reason": reason, "ae.bid.source": source}
    )


def inject(context: otel_context.Context | None = None) -> dict[str, str]:
    """Headers traceparent and tracestate of a context (None: the current one); empty without a valid span."""
    carrier: dict[str, str] = {}
    if enabled():
        _propagator.inject(carrier, context)
    return carrier


def context_of(traceparent: str | None, tracestate: str | None = None) -> otel_context.Context | None:
    """The context that these headers carry; None when they carry none (or no SDK would use it)."""
    if not traceparent or not enabled():
        return None
    carrier = {H_TRACEPARENT: traceparent}
    if tracestate:
        carrier[H_TRACESTATE] = tracestate
    return _propagator.extract(carrier, otel_context.Context())


def link_to(traceparent: str | None) -> list[Link]:
    """A link to the span that a traceparent names; none when it names none."""
    parts = (traceparent or "").split("-")
    if len(parts) != 4:  # noqa: PLR2004  # W3C: version-trace-span-flags
        return []
    try:
        made = SpanContext(
            int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=TraceFlags(int(parts[3], 16)), trace_state=TraceState()
        )
    except ValueError:
        return []
    return [Link(made)] if made.is_valid else []


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id in a traceparent, 32 hex digits."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else None  # noqa: PLR2004  # W3C: version-trace-span-flags


# metrics


@cache
def _counter(name: str) -> Any:
    return metrics.get_meter(SCOPE).create_counter(name, description=COUNTERS[name])


@cache
def _histogram(name: str) -> Any:
    return metrics.get_meter(SCOPE).create_histogram(name, unit="s", description=HISTOGRAMS[name])


def count(name: str, by: int = 1, **attributes: Any) -> None:
    """Count one of COUNTERS."""
    _counter(name).add(by, attributes or None)


def record(name: str, seconds: float, **attributes: Any) -> None:
    """Measure one of HISTOGRAMS."""
    _histogram(name).record(seconds, attributes or None)


# programs

ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


def setup(service: str) -> None:
    """Export traces and metrics when the standard OTEL_* variables ask for it; else do nothing. For programs, once at their start."""
    if not any(os.environ.get(name) for name in ASKED_BY) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # an extra
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # an extra
    except ImportError:
        logger.warning("OTEL_* variables ask for traces, but no exporter is installed: pip install 'agentexecutor[otlp]'")
        return
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # only when it is asked for
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or service})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())]))
