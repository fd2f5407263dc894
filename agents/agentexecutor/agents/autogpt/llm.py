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
from agentexecutor.agents.autogpt.prompts import ask_prompt
from agentexecutor.agents.autogpt.settings import ASK, CHAT, ModelSettings, PlannerSettings
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


class Written(msgspec.Struct):
    """What the model wrote."""

    text: str


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
        return await call_model(ctx, asked, plain, schema, limit)

    @made.capability(ASK, estimate_s=10)
    async def ask(ctx: Context, instruction: str, data: Any = None) -> Written:
        """Have a language model read, summarise, extract, translate or write: an instruction, and the data (a text, any JSON, or a result) that it is about."""
        asked: Model = ctx.state
        messages = ask_prompt(instruction, data, PlannerSettings.from_environment().prompt_chars)
        answer = await call_model(ctx, asked, messages, None, asked.settings.max_tokens)
        if answer.refusal or not answer.text.strip():
            raise Fail(f"The model will not: {answer.refusal or 'it says nothing'}")
        return Written(answer.text)

    return made


async def call_model(ctx: Context, model: Model, messages: list[dict[str, str]], schema: dict[str, Any] | None, max_tokens: int) -> Answer:
    """One call, told as progress; what it used is spent, also when it breaks off."""
    call = Call(model.settings, messages)
    ctx.progress(text=f"asks {model.settings.model}")
    try:
        return await model.chat(messages, schema=schema, max_tokens=max_tokens, tell=lambda text: ctx.progress(text=text), call=call)
    finally:
        cost = call.answer()
        ctx.spend(tokens=cost.tokens_in + cost.tokens_out, tokens_in=cost.tokens_in, tokens_out=cost.tokens_out, money=cost.money, calls=1)


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
