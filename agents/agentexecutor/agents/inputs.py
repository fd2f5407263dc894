"""A handler's annotations: what it takes and gives as JSON Schema, and the check of each input before it runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from agentexecutor.agents.errors import AgentError, InputRefused

__all__ = ["Signature"]

_CONTEXT = "Context"


class Signature:
    """The parameters of a handler, its context apart. Raises AgentError for parameters that no input can fill."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.blocking = not inspect.iscoroutinefunction(handler)
        hints = _hints(handler)
        parameters = list(inspect.signature(handler).parameters.values())
        self.context: str | None = None
        if parameters and _is_context(parameters[0], hints):
            self.context = parameters.pop(0).name
        self.open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        """Takes any further keys (``**more``)."""
        fields: list[Any] = []
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise AgentError(
                    f"Handler {handler.__name__!r} has a positional parameter {parameter.name!r}.",
                    hint="An input is an object: its keys are given by name.",
                )
            if parameter.kind is not parameter.VAR_KEYWORD:
                fields.append(_field(parameter, hints.get(parameter.name, Any)))
        self._names = [field[0] for field in fields]
        self._struct = msgspec.defstruct(
            "Input", fields, kw_only=True, forbid_unknown_fields=not self.open, namespace={"__doc__": inspect.getdoc(handler) or ""}
        )
        self._decoder = msgspec.json.Decoder(self._struct)
        self.takes = _schema(self._struct)
        self.gives = _schema(hints["return"]) if "return" in hints else None

    def arguments(self, body: bytes | msgspec.Raw) -> dict[str, Any]:
        """The keyword arguments that an input holds. Raises InputRefused, which names the parameter."""
        try:
            decoded = self._decoder.decode(body)
            arguments = {name: getattr(decoded, name) for name in self._names}
            if self.open:
                arguments = {**msgspec.json.decode(body), **arguments}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _refused(error) from error
        return arguments


def _refused(error: Exception) -> InputRefused:
    """What msgspec says (``... - at `$.texts[0]```), told by the parameter."""
    text, _, path = str(error).partition(" - at `$")
    path = path.strip("`").lstrip(".")
    name = path.split(".")[0].split("[")[0]
    if not name and "field `" in text:
        name = text.rsplit("`", 2)[1]
    where = f"parameter {name!r}" if name else "as a whole"
    if path != name and path:
        where += f" (at {path})"
    return InputRefused(f"The input does not fit, {where}: {text}.", hint="Correct the input.", parameter=name)


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(handler, include_extras=True)
    except NameError:
        return dict.fromkeys(inspect.signature(handler).parameters, Any)


def _is_context(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    hint = hints.get(parameter.name, parameter.annotation)
    named = getattr(hint, "__name__", str(hint)).rpartition(".")[2] == _CONTEXT
    return named or (parameter.name in ("ctx", "context") and hint in (Any, inspect.Parameter.empty))


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[Any, ...]:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, hint
    default = parameter.default
    if isinstance(default, list | dict | set):
        return parameter.name, hint, msgspec.field(default_factory=default.copy)
    return parameter.name, hint, msgspec.field(default=default)


def _schema(kind: Any) -> dict[str, Any] | None:
    """JSON Schema of an annotation; None for what has none."""
    if kind in (Any, None, type(None), inspect.Parameter.empty):
        return None
    try:
        schema: dict[str, Any] = msgspec.json.schema(kind)
    except (TypeError, RuntimeError):
        return None
    return schema
