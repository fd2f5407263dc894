"""Spans and metrics in memory, for tests that look at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentexecutor.bus import telemetry
from agentexecutor.bus.sending import SpanIds

__all__ = ["measured", "recorded"]


@contextmanager
def recorded() -> Iterator[InMemorySpanExporter]:
    """All spans of the project that end while the block runs."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=SpanIds(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(tracers=provider)
    try:
        yield exporter
    finally:
        telemetry.use()
        provider.shutdown()


@contextmanager
def measured() -> Iterator[InMemoryMetricReader]:
    """All metrics of the project while the block runs."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    telemetry.use(meters=provider)
    try:
        yield reader
    finally:
        telemetry.use()
        provider.shutdown()
