"""The agent that calls the model: ``agentexecutor agent agentexecutor.agents.autogpt.llm:agent``.

Every call of the model is a subtask of its own, so its answer stands in the task's log: whoever asked for it finds it there after a crash, and the
model is not asked again. Start as many as the endpoint can bear; the bus shares the calls out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.models import CHARS_A_TOKEN, PRICES_ARE_FOR, Answer, Call, Model, open_model
from agentexecutor.agents.autogpt.settings import CHAT, ModelSettings
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import Fail

__all__ = ["agent", "make"]

LEAST_TOKENS = 100
"""An answer for which the budget leaves less is not asked for."""
CAPACITY = 4


class ChatMessage(msgspec.Struct):
    """One message; `role`: ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


def make(settings: ModelSettings | None = None) -> Agent:
    """An agent for this model (None: as the environment says when it starts)."""

    @asynccontextmanager
    async def model() -> AsyncIterator[Model]:
        async with open_model(settings or ModelSettings.from_environment()) as opened:
            yield opened

    made = Agent("model", capacity=CAPACITY, lifespan=model)

    @made.capability(CHAT, estimate_s=10)
    async def chat(
        ctx: Context,
        messages: list[ChatMessage],
        schema: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        left: dict[str, float] | None = None,
    ) -> Answer:
        """Ask the model once. `schema`: JSON Schema of the answer; `left`: what the budget has left of ``tokens`` and ``money``."""
        asked: Model = ctx.state
        plain = [{"role": message.role, "content": message.content} for message in messages]
        wanted = min(max_tokens or asked.settings.max_tokens, asked.settings.max_tokens)
        limit = affordable(asked.settings, sum(len(message.content) for message in messages), wanted, left or {})
        call = Call(asked.settings, plain)
        ctx.progress(text=f"asks {asked.settings.model}")
        try:
            return await asked.chat(plain, schema=schema, max_tokens=limit, tell=lambda text: ctx.progress(text=text), call=call)
        finally:
            cost = call.answer()
            ctx.spend(
                tokens=cost.tokens_in + cost.tokens_out, tokens_in=cost.tokens_in, tokens_out=cost.tokens_out, money=cost.money, calls=1
            )

    return made


def affordable(settings: ModelSettings, prompt_chars: int, wanted: int, left: dict[str, float]) -> int:
    """How long the answer may be, so that the budget holds. Raises Fail when not even a short one can be paid."""
    prompt = -(-prompt_chars // CHARS_A_TOKEN)
    limits = [float(wanted)]
    if "tokens" in left:
        limits.append(left["tokens"] - prompt)
    if "money" in left:
        rest = left["money"] * PRICES_ARE_FOR - prompt * settings.price_in
        limits.append(rest / settings.price_out if settings.price_out else wanted if rest >= 0 else -1.0)
    limit = int(min(limits))
    if limit < min(LEAST_TOKENS, wanted):
        shown = ", ".join(f"{number:g} {name}" for name, number in left.items())
        raise Fail(
            f"The budget has no room for another call of the model: {shown} left, and the prompt alone is about {prompt:,} tokens.",
            hint="Give the task a larger --budget.",
            budget="exceeded",
            left=left,
        )
    return limit


agent = make()
