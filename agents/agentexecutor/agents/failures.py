"""What an exception of a handler becomes on the wire: short enough to be sent, and text that every machine can read."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from agentexecutor.agents.errors import AgentError, Fail, InputRefused, Retry
from agentexecutor.schemas.messages import ErrorInfo

__all__ = ["InputBroken", "error_of", "text_of"]

TRACE_LINES = 12
TEXT_LIMIT = 20_000
DETAILS_LIMIT = 50_000
"""Bytes of all details together; what does not fit is left out, and its size said."""


class InputBroken(AgentError):
    """A large part of the input is not there, or is not what its digest says; at another try it may be."""


def error_of(error: BaseException) -> ErrorInfo:
    """How an exception of a handler is told."""
    if isinstance(error, InputRefused):
        return ErrorInfo(code="input", message=text_of(error), details={"parameter": text_of(error.fields.get("parameter", ""))})
    if isinstance(error, InputBroken):
        return ErrorInfo(code="input", message=text_of(error), retryable=True)
    if isinstance(error, Fail):
        return ErrorInfo(code="handler", message=text_of(error), details=_details(error.fields))
    if isinstance(error, Retry):
        return ErrorInfo(code="handler", message=text_of(error), retryable=True, details=_details(error.fields))
    name = type(error).__name__
    trace = text_of("".join(traceback.format_exception(error)[-TRACE_LINES:]), last=True)
    return ErrorInfo(
        code="handler",
        message=f"{name}: {text_of(error)}",
        retryable=not isinstance(error, AgentError),
        details={"type": name, "traceback": trace},
    )


def text_of(value: object, limit: int = TEXT_LIMIT, *, last: bool = False) -> str:
    """`value` as text that can be sent: no lone surrogates, and cut to `limit` characters (its `last` part kept, or its first)."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # an author's __str__
        text = f"a {type(value).__name__} that cannot say what it is"
    if len(text) > limit:
        text = f"... {text[-limit:]}" if last else f"{text[:limit]} ... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _details(fields: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    left = DETAILS_LIMIT
    for name, value in fields.items():
        try:
            body = msgspec.json.encode(value)
            size, plain = len(body), msgspec.json.decode(body)
        except (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
            plain = text_of(value)
            size = len(plain)
        if size > left:
            plain = f"({size} bytes, left out)"
            size = 0
        left -= size
        kept[text_of(name)] = plain
    return kept
