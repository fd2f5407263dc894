"""What the environment says about the model and the planner. Every variable is named here and nowhere else; docs/autogpt.md explains them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentexecutor.agents.errors import AgentError

__all__ = ["ASK", "CHAT", "JUDGE", "MODEL_PLANNER", "NOTE", "SEARCH", "ModelSettings", "PlannerSettings"]

MODEL_PLANNER = "plan.model"
"""What the planner that asks a model offers. Not ``plan``: the planner that needs no model is faster, and would win every award."""
ASK, CHAT, JUDGE, NOTE, SEARCH = "llm.ask", "llm.chat", "critic.judge", "memory.note", "memory.search"
"""Capabilities by which the agents of this package know each other."""

SchemaMode = Literal["json_schema", "json_object", "none"]
SCHEMA_MODES: tuple[SchemaMode, ...] = ("json_schema", "json_object", "none")


def _text(environ: Mapping[str, str], *names: str, default: str = "") -> str:
    """The first of these variables that is set."""
    return next((environ[name] for name in names if environ.get(name)), default)


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise AgentError(f"{name}={text!r} is no number.", hint="Give 0 or more.")
    return number


@dataclass(frozen=True)
class ModelSettings:
    """How the model is reached, what it costs (money for a million tokens), and how long an answer may take."""

    model: str
    base_url: str | None = None
    api_key: str = field(default="none", repr=False)
    price_in: float = 0.0
    price_out: float = 0.0
    timeout_s: float = 120.0
    """For one whole answer."""
    silence_s: float = 60.0
    """So long may nothing come."""
    max_tokens: int = 4000
    """Of one answer."""
    limit_field: str = "max_completion_tokens"
    """What the endpoint calls that limit; older ones say ``max_tokens``."""
    stream: bool = True
    schema: SchemaMode = "json_schema"
    provider: str = "openai"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ModelSettings:
        """``AGENTEXECUTOR_LLM_*``, where ``OPENAI_*`` stands in for what is not set. Raises AgentError."""
        model = _text(environ, "AGENTEXECUTOR_LLM_MODEL", "OPENAI_MODEL")
        base_url = _text(environ, "AGENTEXECUTOR_LLM_BASE_URL", "OPENAI_BASE_URL")
        key = _text(environ, "AGENTEXECUTOR_LLM_API_KEY", "OPENAI_API_KEY")
        if not model or not (base_url or key):
            missing = "AGENTEXECUTOR_LLM_MODEL" if not model else "AGENTEXECUTOR_LLM_BASE_URL or AGENTEXECUTOR_LLM_API_KEY"
            raise AgentError(
                f"No model is named: {missing} is not set.",
                hint="For Ollama: AGENTEXECUTOR_LLM_BASE_URL=http://127.0.0.1:11434/v1 AGENTEXECUTOR_LLM_MODEL=NAME (docs/autogpt.md).",
            )
        schema = _text(environ, "AGENTEXECUTOR_LLM_SCHEMA", default="json_schema")
        known: dict[str, SchemaMode] = {mode: mode for mode in SCHEMA_MODES}
        if schema not in known:
            raise AgentError(f"AGENTEXECUTOR_LLM_SCHEMA={schema!r} is unknown.", hint=f"It is one of {', '.join(known)}.")
        return cls(
            model=model,
            base_url=base_url or None,
            api_key=key or "none",
            price_in=_number(environ, "AGENTEXECUTOR_LLM_PRICE_IN", 0),
            price_out=_number(environ, "AGENTEXECUTOR_LLM_PRICE_OUT", 0),
            timeout_s=_number(environ, "AGENTEXECUTOR_LLM_TIMEOUT_S", cls.timeout_s),
            silence_s=_number(environ, "AGENTEXECUTOR_LLM_SILENCE_S", cls.silence_s),
            max_tokens=int(_number(environ, "AGENTEXECUTOR_LLM_MAX_TOKENS", cls.max_tokens)),
            limit_field=_text(environ, "AGENTEXECUTOR_LLM_LIMIT_FIELD", default=cls.limit_field),
            stream=_text(environ, "AGENTEXECUTOR_LLM_STREAM", default="1") != "0",
            schema=known[schema],
            provider=_text(environ, "AGENTEXECUTOR_LLM_PROVIDER", default=cls.provider),
        )


@dataclass(frozen=True)
class PlannerSettings:
    """How the planner and the critic go about it."""

    corrections: int = 2
    """So often an answer that cannot be used goes back to the model with the error."""
    retries: int = 5
    """So often a call of the model is tried again after a time-out, a rate limit or a fault of the server."""
    prompt_chars: int = 60_000
    """About so long is a prompt at most; what is cut is said."""
    answer_tokens: int = 2000
    """Of one answer, unless the budget has less."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> PlannerSettings:
        """``AGENTEXECUTOR_AUTOGPT_*``. Raises AgentError."""
        return cls(
            corrections=int(_number(environ, "AGENTEXECUTOR_AUTOGPT_CORRECTIONS", cls.corrections)),
            retries=int(_number(environ, "AGENTEXECUTOR_AUTOGPT_RETRIES", cls.retries)),
            prompt_chars=int(_number(environ, "AGENTEXECUTOR_AUTOGPT_PROMPT_CHARS", cls.prompt_chars)),
            answer_tokens=int(_number(environ, "AGENTEXECUTOR_AUTOGPT_ANSWER_TOKENS", cls.answer_tokens)),
        )
