"""Whether a program sends spans and metrics, where to and how: the standard ``OTEL_*`` variables (docs/tracing.md).

Owns what they mean here and the warnings about them; what is sent, and by which threads, is `agentexecutor.bus.sending`, imported only when something is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any, Literal

from agentexecutor.bus import telemetry

__all__ = ["ASKED_BY", "asked", "delay_s", "setup", "trouble_with"]

logger = logging.getLogger("agentexecutor.bus")

Signal = Literal["traces", "metrics"]

ASKED_BY: dict[Signal, tuple[str, ...]] = {
    "traces": ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"),
    "metrics": ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER"),
}
"""Any of these being set asks for the signal."""
DELAY_S = 0.2
"""OpenTelemetry's own is 5 s."""
INSTALL = {"otlp_proto_http": "agentexecutor[otlp]", "otlp_proto_grpc": "agentexecutor[otlp-grpc]"}
"""What brings an exporter."""
_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def setup(service_name: str, *, brief: bool = False) -> bool:
    """Send spans and metrics where the standard ``OTEL_*`` variables say; for programs, once, before they do anything else.

    Nothing happens (and nothing is imported) unless one of `ASKED_BY` is set. `brief`: a command that ends at once, whose metrics would be a series of
    their own each time: it sends some only when they are asked for by name. OTEL_SERVICE_NAME goes before `service_name`. An exporter that is not
    installed is a warning that says what to install. What is left is sent when the process ends. Gives whether anything is sent.
    """
    if telemetry.recording() or telemetry.measuring():
        return False
    wanted: list[Signal] = []
    if asked(ASKED_BY["traces"]):
        wanted.append("traces")
    if asked(ASKED_BY["metrics"][1:] if brief else ASKED_BY["metrics"]):
        wanted.append("metrics")
    exporters = {signal: exporter for signal, exporter in _exporters(wanted).items() if exporter is not None}
    if not exporters:
        return False
    from agentexecutor.bus import sending  # noqa: PLC0415 - the SDK costs 40 ms, and only programs that send something need it

    where = next((os.environ[name] for signal in wanted for name in ASKED_BY[signal] if os.environ.get(name)), "the collector")
    return sending.start(exporters, service_name, where)


def asked(variables: Iterable[str]) -> list[str]:
    """Those of the variables that are set; none when everything is switched off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    return [name for name in variables if os.environ.get(name)]


def delay_s() -> float:
    """Seconds that spans wait for company before they are sent; what a kill -9 takes is what still waits."""
    try:
        return float(os.environ["OTEL_BSP_SCHEDULE_DELAY"]) / 1000
    except (KeyError, ValueError):
        return DELAY_S


def trouble_with(signal: Signal) -> tuple[str, str]:
    """Why the exporter that the variables ask for cannot be used, and what to do; empty when it can."""
    name = _exporter_name(signal)
    trouble = "" if name == "none" else _load(signal, name)[1]
    return (trouble, _todo(name)) if trouble else ("", "")


def _todo(name: str) -> str:
    return f"pip install '{INSTALL.get(name, f'opentelemetry-exporter-{name}')}'"


def _exporter_name(signal: Signal) -> str:
    """The entry point of the exporter that the variables ask for, or ``none``. A protocol that nobody knows is taken for http/protobuf."""
    name = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    return _PROTOCOLS.get(_protocol(signal), "otlp_proto_http") if name == "otlp" else name


def _protocol(signal: Signal) -> str:
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    return own or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"


def _exporters(signals: Sequence[Signal]) -> dict[Signal, Any]:
    """The exporters' classes (None: there is none, which was said once unless it was asked for)."""
    found: dict[Signal, Any] = {}
    troubles: dict[str, list[Signal]] = {}
    for signal in signals:
        name = _exporter_name(signal)
        if name.startswith("otlp_") and _protocol(signal) not in _PROTOCOLS:
            spoken = ", ".join(_PROTOCOLS)
            logger.warning("%r is no protocol that is spoken here (%s): %s go by http/protobuf.", _protocol(signal), spoken, signal)
        found[signal], trouble = (None, "") if name == "none" else _load(signal, name)
        if trouble:
            troubles.setdefault(f"{trouble} ({_todo(name)})", []).append(signal)
    for trouble, silent in troubles.items():
        logger.warning("No %s are sent: %s.", " and no ".join(silent), trouble)
    return found


def _load(signal: Signal, name: str) -> tuple[Any, str]:
    """The exporter's class, or why there is none."""
    trouble = f"the environment asks for the exporter {name}, which is not installed"
    for entry in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        try:
            return entry.load(), ""
        except ImportError as error:
            trouble = f"the exporter {name} cannot be loaded: {error}"
    return None, trouble
