"""All names of spans, attributes and metrics, and how trace context travels (docs/protocol.md section 6).

The only module that knows OpenTelemetry's conventions. Libraries use the API, which does nothing until a program sets up an SDK (`setup`,
or the program's own); then context that came in a message still goes on to the next one. Knows nothing of NATS, messages or tasks.

What is a span, and who makes it:

    submit {capability}    client        around storing the submit; the root of the task's trace
    plan                   coordinator   the submit, an extend or a split becomes subtasks
    auction {capability}   coordinator   from ready to the award; an event for every recorded bid
    execute {capability}   agent         from accept to the last claim; child of the auction
    step {name}            agent         a step of the schedule
    chat {model}           agent         one call of a language model
    replan                 coordinator   a new plan version, linked to its cause
    deliver                coordinator   the task's end and the message that says so
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

logger = logging.getLogger("agentexecutor.bus")

SCOPE = "agentexecutor"
"""Name of the instrumentation scope of all spans and metrics."""

# Spans

SPAN_SUBMIT = "submit"
SPAN_PLAN = "plan"
SPAN_AUCTION = "auction"
SPAN_EXECUTE = "execute"
SPAN_STEP = "step"
SPAN_CHAT = "chat"
SPAN_REPLAN = "replan"
SPAN_DELIVER = "deliver"

KINDS: dict[str, SpanKind] = {
    SPAN_SUBMIT: SpanKind.PRODUCER,
    SPAN_PLAN: SpanKind.CONSUMER,
    SPAN_AUCTION: SpanKind.PRODUCER,
    SPAN_EXECUTE: SpanKind.CONSUMER,
    SPAN_STEP: SpanKind.INTERNAL,
    SPAN_CHAT: SpanKind.CLIENT,
    SPAN_REPLAN: SpanKind.INTERNAL,
    SPAN_DELIVER: SpanKind.PRODUCER,
}
"""The kind of each span, by the first word of its name: who makes a message is its producer, who works it off its consumer."""

# Events in spans, and what a link is for

EVENT_BID = "bid"
EVENT_DROPPED = "dropped"
EVENT_CAUSE = "cause"
EVENT_ADDED = "added"
EVENT_AGAIN = "again"
EVENT_REMOVED = "removed"
EVENT_PROGRESS = "progress"
EVENT_FEEDBACK = "feedback"
EVENT_BLOCKED_LOOP = "blocked loop"

LINK_EPOCH = "previous epoch"
LINK_TAKEOVER = "take-over"
LINK_CAUSE = "cause"

# Attributes

ATTR_TASK = "ae.task"
ATTR_SUBTASK = "ae.subtask"
ATTR_EPOCH = "ae.epoch"
ATTR_PLAN_VERSION = "ae.plan.version"
ATTR_PLAN_SUBTASKS = "ae.plan.subtasks"
ATTR_CAPABILITY = "ae.capability"
ATTR_PEER = "ae.peer"
ATTR_AGENT = "ae.agent"
ATTR_BOOT = "ae.boot"
ATTR_COORDINATOR = "ae.coordinator"
ATTR_SHARD = "ae.shard"
ATTR_ATTEMPT = "ae.attempt"
ATTR_PRIORITY = "ae.priority"
ATTR_STATE = "ae.state"
ATTR_CAUSE = "ae.cause"
ATTR_ANSWER = "ae.answer"
ATTR_SUBTASKS = "ae.subtasks"
ATTR_OUTCOME = "ae.outcome"
ATTR_REASON = "ae.reason"
ATTR_LINK = "ae.link"
ATTR_POLICY = "ae.award.policy"
ATTR_AUCTION = "ae.auction.mode"
ATTR_CONSIDERED = "ae.auction.considered"
ATTR_BID_AGENT = "ae.bid.agent"
ATTR_BID_SOURCE = "ae.bid.source"
ATTR_BID_SCORE = "ae.bid.score"
ATTR_BID_WON = "ae.bid.won"
ATTR_BID_REASON = "ae.bid.reason"
ATTR_BID_ESTIMATE = "ae.bid.estimate_s"
ATTR_BID_QUEUE = "ae.bid.queue_s"
ATTR_BID_COST = "ae.bid.cost"
ATTR_BID_FACTOR = "ae.bid.factor"
ATTR_STEP = "ae.step"
ATTR_FRACTION = "ae.fraction"
ATTR_TEXT = "ae.text"
ATTR_COUNT = "ae.count"

# OpenTelemetry's own conventions (semantic-conventions 1.44: messaging; semantic-conventions-genai: where a model is called)

ATTR_ERROR = "error.type"
ATTR_MESSAGING_SYSTEM = "messaging.system"
ATTR_MESSAGING_OPERATION = "messaging.operation.name"
ATTR_MESSAGING_TYPE = "messaging.operation.type"
ATTR_MESSAGING_TEMPLATE = "messaging.destination.template"
ATTR_MESSAGING_ID = "messaging.message.id"
ATTR_MESSAGING_CONVERSATION = "messaging.message.conversation_id"
ATTR_MESSAGING_SIZE = "messaging.message.body.size"
ATTR_GENAI_OPERATION = "gen_ai.operation.name"
ATTR_GENAI_PROVIDER = "gen_ai.provider.name"
ATTR_GENAI_MODEL = "gen_ai.request.model"
ATTR_GENAI_AGENT = "gen_ai.agent.name"
ATTR_GENAI_INPUT = "gen_ai.usage.input_tokens"
ATTR_GENAI_OUTPUT = "gen_ai.usage.output_tokens"
ATTR_GENAI_LIMIT = "gen_ai.request.max_tokens"
ATTR_GENAI_ANSWERED_BY = "gen_ai.response.model"
ATTR_GENAI_FINISH = "gen_ai.response.finish_reasons"
ATTR_GENAI_OUTPUT_TYPE = "gen_ai.output.type"
ATTR_GENAI_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # tokens of a model
ATTR_SERVER_ADDRESS = "server.address"

# Metrics

METRIC_SUBMITS = "ae.submits"
METRIC_RESUBMITS = "ae.resubmits"
METRIC_TASKS_ENDED = "ae.tasks.ended"
METRIC_TASK_DURATION = "ae.task.duration"
METRIC_TASKS_OPEN = "ae.tasks.open"
METRIC_AUCTIONS = "ae.auctions"
METRIC_BIDS = "ae.bids"
METRIC_DECLINES = "ae.declines"
METRIC_WAIT = "ae.subtask.wait"
METRIC_EXECUTION = "ae.subtask.duration"
METRIC_RUNNING = "ae.subtasks.running"
METRIC_READY = "ae.subtasks.ready"
METRIC_UNSERVED = "ae.subtasks.unserved"
METRIC_TRIES = "ae.tries"
METRIC_LOSSES = "ae.losses"
METRIC_REPLANS = "ae.replans"
METRIC_TAKEOVERS = "ae.takeovers"
METRIC_SHARDS = "ae.shards"
METRIC_APPENDS = "ae.appends"
METRIC_APPEND_DURATION = "ae.append.duration"
METRIC_UNDECODABLE = "ae.messages.undecodable"
METRIC_GENAI_TOKENS = "gen_ai.client.token.usage"
METRIC_GENAI_DURATION = "gen_ai.client.operation.duration"


class Metric(NamedTuple):
    """How a metric is counted: ``sum`` grows, ``histogram`` is a distribution, ``gauge`` is how it stands now."""

    kind: Literal["sum", "histogram", "gauge"]
    unit: str
    description: str


METRICS: dict[str, Metric] = {
    METRIC_SUBMITS: Metric("sum", "{task}", "Tasks that a client stored."),
    METRIC_RESUBMITS: Metric("sum", "{task}", "Tasks that a waiting client stored again, because nobody knew them."),
    METRIC_TASKS_ENDED: Metric("sum", "{task}", "Tasks that ended, by state."),
    METRIC_TASK_DURATION: Metric("histogram", "s", "From the server's stamp of the submit to the task's end."),
    METRIC_TASKS_OPEN: Metric("gauge", "{task}", "Tasks that a coordinator holds open."),
    METRIC_AUCTIONS: Metric("sum", "{auction}", "Awards, by auction mode, policy and capability."),
    METRIC_BIDS: Metric("sum", "{bid}", "Bids that came for a call, and refusals, by capability."),
    METRIC_DECLINES: Metric("sum", "{award}", "Awards that came back unaccepted, by reason and capability."),
    METRIC_WAIT: Metric("histogram", "s", "From ready to the award."),
    METRIC_EXECUTION: Metric("histogram", "s", "From the accept to the last claim."),
    METRIC_RUNNING: Metric("gauge", "{subtask}", "Subtasks that an agent runs."),
    METRIC_READY: Metric("gauge", "{subtask}", "Ready subtasks that wait for a free slot, by capability."),
    METRIC_UNSERVED: Metric("gauge", "{subtask}", "Ready subtasks that no agent fits, by capability."),
    METRIC_TRIES: Metric("sum", "{try}", "Attempts that ended, by outcome and capability."),
    METRIC_LOSSES: Metric("sum", "{award}", "Awards whose agent was taken for lost."),
    METRIC_REPLANS: Metric("sum", "{replan}", "New plan versions, by cause."),
    METRIC_TAKEOVERS: Metric("sum", "{shard}", "Shards that a coordinator took."),
    METRIC_SHARDS: Metric("gauge", "{shard}", "Shards that a coordinator holds."),
    METRIC_APPENDS: Metric("sum", "{record}", "Fenced appends, by outcome: stored, refused, unknown."),
    METRIC_APPEND_DURATION: Metric("histogram", "s", "From sending a record to the server's acknowledgement."),
    METRIC_UNDECODABLE: Metric("sum", "{message}", "Messages that could not be used, by reason."),
    METRIC_GENAI_TOKENS: Metric("histogram", "{token}", "Tokens of a call of a language model, by type: input, output."),
    METRIC_GENAI_DURATION: Metric("histogram", "s", "From a call of a language model to the end of its answer."),
}
"""Every metric. Attributes are few-valued: capability, state, outcome; never a task's name."""

__all__ = [
    "KINDS",
    "METRICS",
    "SCOPE",
    "Attributes",
    "Context",
    "Metric",
    "Span",
    "SpanKind",
    "StatusCode",
    "count",
    "current",
    "extract",
    "inject",
    "level",
    "link",
    "measure",
    "recording",
    "setup",
    "span",
    "start_span",
    "trace_id_of",
    "use",
]
__all__ += [name for name in dir() if name.startswith(("ATTR_", "EVENT_", "LINK_", "METRIC_", "SPAN_"))]

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

_propagator = TraceContextTextMapPropagator()
_NOWHERE = Context()
_TRACEPARENT_PARTS = 4
_TRACE_ID_LENGTH = 32


class _Providers:
    """Where spans and metrics go: None means OpenTelemetry's global providers."""

    tracers: trace.TracerProvider | None = None
    meters: metrics.MeterProvider | None = None


@cache
def _tracer() -> Tracer:
    return trace.get_tracer(SCOPE, tracer_provider=_Providers.tracers)


@cache
def _instrument(name: str) -> Any:
    """The instrument of a metric, made when it is first used."""
    kind, unit, description = METRICS[name]
    meter = metrics.get_meter(SCOPE, meter_provider=_Providers.meters)
    make: dict[str, Callable[..., Any]] = {"sum": meter.create_counter, "histogram": meter.create_histogram, "gauge": meter.create_gauge}
    return make[kind](name, unit=unit, description=description)


def use(tracers: trace.TracerProvider | None = None, meters: metrics.MeterProvider | None = None) -> None:
    """Send spans and metrics to these providers instead of the global ones (None: the global ones again)."""
    _Providers.tracers = tracers
    _Providers.meters = meters
    _tracer.cache_clear()
    _instrument.cache_clear()


def recording() -> bool:
    """Whether anybody collects spans: when not, there is no need to put attributes together."""
    # The API's own function looks into the environment each time: ten microseconds, twice a record.
    return _Providers.tracers is not None or trace._TRACER_PROVIDER is not None  # noqa: SLF001


def measuring() -> bool:
    """Whether anybody collects metrics."""
    return _Providers.meters is not None or metrics._internal._METER_PROVIDER is not None  # noqa: SLF001


# Context in messages


def current() -> Context:
    """The context that the caller stands in: the parent of a span that belongs to what the program does right now."""
    return get_current()


def inject(of: Span | Context | None = None) -> dict[str, str]:
    """The headers ``traceparent`` and ``tracestate`` of a span or a context (None: the current one); empty when it has no valid span."""
    context = trace.set_span_in_context(of, _NOWHERE) if isinstance(of, Span) else of
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return carrier


def extract(given: Mapping[str, str] | str | None, tracestate: str | None = None) -> Context:
    """The context that a message's headers, or a traceparent's text, stand for; an empty one when there is none or it cannot be read.

    It holds nothing of the current context: a callback runs in whatever context its subscription was made in.
    """
    if isinstance(given, str):
        given = {"traceparent": given, "tracestate": tracestate} if tracestate else {"traceparent": given}
    if not given or "traceparent" not in given:
        return _NOWHERE
    return _propagator.extract(given, _NOWHERE)


def trace_id_of(given: Mapping[str, str] | str | None) -> str | None:
    """The trace id (32 hex digits) in a traceparent's text or in a message's headers; None when there is none."""
    text = given.get("traceparent", "") if isinstance(given, Mapping) else given or ""
    parts = text.split("-")
    valid = len(parts) == _TRACEPARENT_PARTS and len(parts[1]) == _TRACE_ID_LENGTH and parts[1].strip("0") != ""
    return parts[1] if valid else None


def link(given: Mapping[str, str] | str | None, why: str) -> list[Link]:
    """The link to the span that a traceparent names, as a list of one, or of none when it names no span. `why`: one of LINK_*."""
    other = trace.get_current_span(extract(given)).get_span_context()
    return [Link(other, {ATTR_LINK: why})] if other.is_valid else []


# Spans


def start_span(
    name: str,
    subject: str = "",
    *,
    parent: Context | Mapping[str, str] | str | None,
    attributes: Attributes | None = None,
    links: Iterable[Link] = (),
    start_s: float | None = None,
) -> Span:
    """Start the span ``{name} {subject}``; who starts it ends it.

    `name`: one of SPAN_*; `subject`: a capability or the name of a step, never an id. `parent`: a context (`current()`), headers, a
    traceparent's text, or None for the root of a new trace. `start_s`: seconds since 1970, when it began before now.
    """
    context = parent if isinstance(parent, Context) else extract(parent)
    return _tracer().start_span(
        f"{name} {subject}" if subject else name,
        context,
        kind=KINDS.get(name, SpanKind.INTERNAL),
        attributes=attributes,
        links=list(links),
        start_time=None if start_s is None else int(start_s * 1e9),
    )


@contextmanager
def span(
    name: str,
    subject: str = "",
    *,
    parent: Context | Mapping[str, str] | str | None,
    attributes: Attributes | None = None,
    links: Iterable[Link] = (),
    start_s: float | None = None,
) -> Iterator[Span]:
    """`start_span` as a block: the span is the current one inside, an exception is recorded in it, and it ends with the block."""
    if not parent and not recording():
        yield trace.INVALID_SPAN
        return
    started = start_span(name, subject, parent=parent, attributes=attributes, links=links, start_s=start_s)
    if not started.get_span_context().is_valid:
        yield started
        return
    with trace.use_span(started, end_on_exit=True):
        yield started


# Metrics


def count(metric: str, number: float = 1, attributes: Attributes | None = None) -> None:
    """Add to a sum."""
    if measuring():
        _instrument(metric).add(number, attributes)


def measure(metric: str, value: float, attributes: Attributes | None = None) -> None:
    """Put a value (mostly seconds) into a histogram."""
    if measuring():
        _instrument(metric).record(value, attributes)


def level(metric: str, value: float, attributes: Attributes | None = None) -> None:
    """Say how a gauge stands now."""
    if measuring():
        _instrument(metric).set(value, attributes)


# Programs

_ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_EXPORTER_LOGGERS = [
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
]
EXPORT_S = "2"
"""Seconds in which spans are sent, or given up, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise: a short command waits for its last ones."""
_METRICS_ASKED_BY = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER")


def setup(service_name: str) -> bool:
    """Send spans and metrics where the standard ``OTEL_*`` variables say; for programs, once, before they do anything else.

    Nothing happens (and nothing is imported) unless OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
    OTEL_TRACES_EXPORTER is set. Metrics are sent when OTEL_METRICS_EXPORTER or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set too: Jaeger
    takes traces only. OTEL_SERVICE_NAME goes before `service_name`. An exporter that is not installed is a warning that says what to
    install. What is left is sent when the process ends. Gives whether spans are sent.
    """
    if not _wanted(_ASKED_BY) or recording():
        return False
    exporter = _exporter("traces")
    if exporter is None:
        return False
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - costs 40 ms, and only programs that send spans need it
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_S)
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).addFilter(_Once())
    tracers = TracerProvider(resource=_resource(service_name))
    tracers.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(tracers)
    if _wanted(_METRICS_ASKED_BY):
        _setup_metrics(service_name)
    return True


class _Once(logging.Filter):
    """An exporter says at every try, in many lines, that nobody listens: once, in one line, is enough."""

    told = False

    def filter(self, _record: logging.LogRecord) -> bool:
        """Let the first record pass, as our own sentence."""
        if not _Once.told:
            _Once.told = True
            where = next((os.environ[name] for name in _ASKED_BY if os.environ.get(name)), "the collector")
            logger.warning("Traces and metrics cannot be sent to %s; nothing else suffers.", where)
        return False


def _wanted(variables: Iterable[str]) -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true" and any(os.environ.get(name) for name in variables)


def _setup_metrics(service_name: str) -> None:
    exporter = _exporter("metrics")
    if exporter is None:
        return
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter())], resource=_resource(service_name)))


def _resource(service_name: str) -> Any:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": service_name})


def _exporter(signal: Literal["traces", "metrics"]) -> Any:
    """The class of the exporter that the variables name; None when there is none, with a warning when that is not what was asked for."""
    name = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    if name == "none":
        return None
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        try:
            return entry.load()
        except ImportError as error:
            logger.warning("The exporter %s cannot be loaded: %s.", name, error)
    install = {"otlp_proto_http": "agentexecutor[otlp]", "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc"}
    logger.warning(
        "No %s are sent: the environment asks for the exporter %s, which is not installed (pip install '%s').",
        signal,
        name,
        install.get(name, f"opentelemetry-exporter-{name}"),
    )
    return None
