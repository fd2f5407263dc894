"""All names of spans, attributes and metrics, and how trace context travels (docs/protocol.md section 6).

The only module that knows OpenTelemetry's conventions; docs/tracing.md lists the same names (a test compares them). Libraries use the API, which does
nothing until a program sets up an SDK (`setup`, or the program's own); then context that came in a message still goes on to
the next one. Knows nothing of NATS, messages or tasks.

What is a span, and who makes it:

    submit {capability}    client        around storing the submit; the root of the task's trace
    plan                   coordinator   the submit, an extend or a split becomes subtasks
    auction {capability}   coordinator   from ready to the award; an event for every recorded bid
    execute {capability}   agent         from accept to the last claim; child of the auction. Of an agent that was lost: the coordinator tells it
    step {name}            agent         a step of the schedule
    chat {model}           agent         one call of a language model
    replan                 coordinator   a new plan version, linked to its cause
    deliver                coordinator   the task's end and the message that says so

A coordinator's spans are told from its records, and their ids are derived from what they are about: who takes over tells those again that the
one before may not have sent (docs/adr/0014).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from hashlib import blake2b
from threading import Lock
from typing import Any, Literal, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

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
ATTR_GENAI_INPUT = "gen_ai.usage.input_tokens"
ATTR_GENAI_OUTPUT = "gen_ai.usage.output_tokens"
ATTR_GENAI_LIMIT = "gen_ai.request.max_tokens"
ATTR_GENAI_ANSWERED_BY = "gen_ai.response.model"
ATTR_GENAI_FINISH = "gen_ai.response.finish_reasons"
ATTR_GENAI_OUTPUT_TYPE = "gen_ai.output.type"
ATTR_GENAI_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # tokens of a model
ATTR_SERVER_ADDRESS = "server.address"

# What the programs say about themselves (attributes of the resource)

RESOURCE_SERVICE = "service.name"
RESOURCE_VERSION = "service.version"
RESOURCE_INSTANCE = "service.instance.id"
RESOURCE_HOST = "host.name"
RESOURCE_PID = "process.pid"

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
    """How a metric is counted: ``sum`` grows, ``level`` grows and shrinks, ``histogram`` is a distribution, ``gauge`` is how it stands now."""

    kind: Literal["sum", "level", "histogram", "gauge"]
    unit: str
    description: str


METRICS: dict[str, Metric] = {
    METRIC_SUBMITS: Metric("sum", "{task}", "Tasks that a client stored, by capability (plan, goal)."),
    METRIC_RESUBMITS: Metric("sum", "{task}", "Tasks that a waiting client stored again, because nobody knew them."),
    METRIC_TASKS_ENDED: Metric("sum", "{task}", "Tasks that ended, by state."),
    METRIC_TASK_DURATION: Metric("histogram", "s", "From the server's stamp of the submit to the task's end, by state."),
    METRIC_TASKS_OPEN: Metric("gauge", "{task}", "Tasks that a coordinator holds open."),
    METRIC_AUCTIONS: Metric("sum", "{auction}", "Awards, by auction mode, policy and capability."),
    METRIC_BIDS: Metric("sum", "{bid}", "Bids that awards were chosen from, by auction mode and capability."),
    METRIC_DECLINES: Metric("sum", "{award}", "Awards that came back unaccepted, by reason and capability."),
    METRIC_WAIT: Metric("histogram", "s", "From ready to the award, by capability."),
    METRIC_EXECUTION: Metric("histogram", "s", "Work of an agent on a subtask, by outcome and capability."),
    METRIC_RUNNING: Metric("level", "{subtask}", "Subtasks that an agent has accepted and not ended, by capability."),
    METRIC_READY: Metric("gauge", "{subtask}", "Ready subtasks that wait for a free slot, by capability."),
    METRIC_UNSERVED: Metric("gauge", "{subtask}", "Ready subtasks that no agent fits, by capability."),
    METRIC_TRIES: Metric("sum", "{try}", "Attempts that ended, by outcome and capability."),
    METRIC_LOSSES: Metric("sum", "{award}", "Awards whose agent was taken for lost, by capability."),
    METRIC_REPLANS: Metric("sum", "{replan}", "New plan versions, by cause."),
    METRIC_TAKEOVERS: Metric(
        "sum", "{shard}", "Shards that a coordinator took, by what became of who held it before: silent, released, nobody."
    ),
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
    "Ids",
    "Metric",
    "Span",
    "SpanKind",
    "StatusCode",
    "count",
    "current",
    "derived",
    "derives",
    "event",
    "extract",
    "inject",
    "level",
    "link",
    "measure",
    "measuring",
    "nanoseconds",
    "recording",
    "rest",
    "setup",
    "span",
    "span_id_of",
    "start_span",
    "trace_id_of",
    "use",
    "wanted_ids",
]
__all__ += [name for name in dir() if name.startswith(("ATTR_", "EVENT_", "LINK_", "METRIC_", "RESOURCE_", "SPAN_"))]

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]

_propagator = TraceContextTextMapPropagator()
_NOWHERE = Context()
_TRACEPARENT_PARTS = 4
_TRACE_ID_LENGTH = 32
_SPAN_ID_LENGTH = 16
_SPAN_ID_BYTES = 8
_TRACE_ID_BYTES = 16


class _Providers:
    """Where spans and metrics go: None means OpenTelemetry's global providers."""

    tracers: trace.TracerProvider | None = None
    meters: metrics.MeterProvider | None = None
    rest_until = float("-inf")
    """Nobody takes spans before, monotonic."""


@cache
def _tracer() -> Tracer:
    return trace.get_tracer(SCOPE, tracer_provider=_Providers.tracers)


Tally = dict[tuple[tuple[str, Any], ...], float]
"""By attributes, how a metric stands."""

_TALLYING = Lock()
"""An agent and its share of coordinating count in two threads."""


@cache
def _tally(name: str) -> Tally:
    """The numbers of a sum, level or gauge, which the SDK asks for when it sends: an addition here costs a twentieth of one in an instrument."""
    kind, unit, description = METRICS[name]
    meter = metrics.get_meter(SCOPE, meter_provider=_Providers.meters)
    tally: Tally = {}

    def tell(_: metrics.CallbackOptions) -> list[metrics.Observation]:
        with _TALLYING:
            return [metrics.Observation(value, dict(attributes)) for attributes, value in tally.items()]

    make: dict[str, Callable[..., Any]] = {
        "sum": meter.create_observable_counter,
        "level": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    make[kind](name, [tell], unit=unit, description=description)
    return tally


@cache
def _histogram(name: str) -> metrics.Histogram:
    metric = METRICS[name]
    meter = metrics.get_meter(SCOPE, meter_provider=_Providers.meters)
    return meter.create_histogram(name, unit=metric.unit, description=metric.description)


def use(tracers: trace.TracerProvider | None = None, meters: metrics.MeterProvider | None = None) -> None:
    """Send spans and metrics to these providers instead of the global ones (None: the global ones again)."""
    _Providers.tracers = tracers
    _Providers.meters = meters
    for made in (_tracer, _tally, _histogram):
        made.cache_clear()


def recording() -> bool:
    """Whether anybody collects spans: when not, there is no need to put attributes together."""
    # The API's own function looks into the environment each time: ten microseconds, twice a record.
    there = _Providers.tracers is not None or trace._TRACER_PROVIDER is not None  # noqa: SLF001
    return there and time.monotonic() >= _Providers.rest_until


def rest(seconds: float) -> None:
    """Nobody takes spans now: for so long none are made, and contexts go on as they came. 0: somebody does."""
    _Providers.rest_until = time.monotonic() + seconds if seconds else float("-inf")


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
    parts = _parts(given)
    return parts[1] if parts else None


def span_id_of(given: Mapping[str, str] | str | None) -> str | None:
    """The span id (16 hex digits) likewise."""
    parts = _parts(given)
    return parts[2] if parts and len(parts[2]) == _SPAN_ID_LENGTH else None


def _parts(given: Mapping[str, str] | str | None) -> list[str] | None:
    text = given.get("traceparent", "") if isinstance(given, Mapping) else given or ""
    parts = text.split("-")
    valid = len(parts) == _TRACEPARENT_PARTS and len(parts[1]) == _TRACE_ID_LENGTH and parts[1].strip("0") != ""
    return parts if valid else None


def link(given: Mapping[str, str] | str | None, why: str) -> list[Link]:
    """The link to the span that a traceparent names, as a list of one, or of none when it names no span. `why`: one of LINK_*."""
    other = trace.get_current_span(extract(given)).get_span_context()
    return [Link(other, {ATTR_LINK: why})] if other.is_valid else []


# Ids that are derived: whoever tells the span gives it the same one


class Ids(NamedTuple):
    """What the next span is to be called; None: as chance has it."""

    trace: int | None = None
    span: int | None = None


_ANY = Ids()
_WANTED: ContextVar[Ids] = ContextVar("agentexecutor-ids", default=_ANY)


def wanted_ids() -> Ids:
    """For the generator of ids (`agentexecutor.bus.sending.SpanIds`): what the span that is being started is to be called."""
    return _WANTED.get()


def derives() -> bool:
    """Whether the SDK takes the ids that `start_span` is given; else they are as chance has it, and `derived` names no span."""
    return getattr(getattr(_tracer(), "id_generator", None), "derives", False)


def _derive(size: int, about: Iterable[object]) -> str:
    """An id from what a span is about; never all zeros."""
    digest = blake2b("\x1f".join(map(str, about)).encode(), digest_size=size).hexdigest()
    return digest if digest.strip("0") else digest[:-1] + "1"


def derived(parent: Mapping[str, str] | None, about: Sequence[object]) -> dict[str, str]:
    """The headers of the span that `start_span` makes below the same parent (None: as a root), about the same; empty when the parent has no span."""
    if parent is None:
        return {"traceparent": f"00-{_derive(_TRACE_ID_BYTES, about)}-{_derive(_SPAN_ID_BYTES, about)}-01"}
    parts = _parts(parent)
    if not parts:
        return {}
    parts[2] = _derive(_SPAN_ID_BYTES, about)
    return {**parent, "traceparent": "-".join(parts)}


# Spans


def start_span(
    name: str,
    subject: str = "",
    *,
    parent: Context | Mapping[str, str] | str | None,
    attributes: Attributes | None = None,
    links: Iterable[Link] = (),
    start_s: float | None = None,
    about: Sequence[object] = (),
    id: str | None = None,
) -> Span:
    """Start the span ``{name} {subject}``; who starts it ends it.

    `name`: one of SPAN_*; `subject`: a capability or the name of a step, never an id. `parent`: a context (`current()`), headers, a
    traceparent's text, or None for the root of a new trace. `start_s`: seconds since 1970, when it began before now. `about`: what its id is derived
    from (and its trace's, when it is a root), together unlike any other span's of the trace; or `id`: 16 hex digits. They count where `derives`.
    While nobody is `recording` it is no span of its own: it stands for its parent.
    """
    context = parent if isinstance(parent, Context) else extract(parent)
    if not recording():
        return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())
    wanted = _ANY
    if id is not None:
        wanted = Ids(span=int(id, 16))
    elif about:
        wanted = Ids(int(_derive(_TRACE_ID_BYTES, about), 16), int(_derive(_SPAN_ID_BYTES, about), 16))
    token = _WANTED.set(wanted)
    try:
        return _tracer().start_span(
            f"{name} {subject}" if subject else name,
            context,
            kind=KINDS.get(name, SpanKind.INTERNAL),
            attributes=attributes,
            links=list(links),
            start_time=None if start_s is None else nanoseconds(start_s),
        )
    finally:
        _WANTED.reset(token)


def nanoseconds(at: float) -> int:
    """Seconds since 1970 as OpenTelemetry counts them."""
    return round(at * 1e6) * 1000


@contextmanager
def span(
    name: str,
    subject: str = "",
    *,
    parent: Context | Mapping[str, str] | str | None,
    attributes: Attributes | None = None,
    links: Iterable[Link] = (),
    start_s: float | None = None,
    about: Sequence[object] = (),
) -> Iterator[Span]:
    """`start_span` as a block: the span is the current one inside, an exception is recorded in it, and it ends with the block."""
    if not parent and not recording():
        yield trace.INVALID_SPAN
        return
    started = start_span(name, subject, parent=parent, attributes=attributes, links=links, start_s=start_s, about=about)
    if not started.get_span_context().is_valid:
        yield started
        return
    with trace.use_span(started, end_on_exit=True):
        yield started


def event(name: str, attributes: Attributes) -> None:
    """Note something in the span that the caller stands in. `name`: one of EVENT_*."""
    trace.get_current_span().add_event(name, attributes)


# Metrics


def count(metric: str, number: float = 1, attributes: Attributes | None = None) -> None:
    """Add to a sum, or (below zero too) to a level."""
    if measuring():
        tally, which = _tally(metric), tuple(attributes.items()) if attributes else ()
        with _TALLYING:
            tally[which] = tally.get(which, 0) + number


def measure(metric: str, value: float, attributes: Attributes | None = None) -> None:
    """Put a value (mostly seconds) into a histogram."""
    if measuring():
        _histogram(metric).record(value, attributes)


def level(metric: str, value: float, attributes: Attributes | None = None) -> None:
    """Say how a gauge stands now."""
    if measuring():
        tally, which = _tally(metric), tuple(attributes.items()) if attributes else ()
        with _TALLYING:
            tally[which] = value


# Programs


def setup(service_name: str, *, brief: bool = False) -> bool:
    """Send spans and metrics where the standard ``OTEL_*`` variables say; for programs, once, before anything else. See `exporting.setup`."""
    from agentexecutor.bus import exporting  # noqa: PLC0415 - it is made of this module

    return exporting.setup(service_name, brief=brief)
