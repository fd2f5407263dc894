"""The agent that calls the model: ``agentexecutor agent agentexecutor.agents.autogpt.llm:agent``.

Every call of the model is a subtask of its own, so its answer stands in the task's log: whoever asked for it finds it there after a crash, and the
model is not asked again. Start as many as the endpoint can bear; the bus shares the calls out.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.models import Answer, Call, Model, open_model
from agentexecutor.agents.autogpt.prompts import ask_prompt
from agentexecutor.agents.autogpt.purse import CHARS_A_TOKEN, LEAST_TOKENS, PRICES_ARE_FOR, Grant, Purse
from agentexecutor.agents.autogpt.settings import ASK, CHAT, ModelSettings, PlannerSettings
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import Fail, Retry
from agentexecutor.schemas.names import TaskName

__all__ = ["agent", "make"]

CAPACITY = 4
MESSAGE_CHARS = 16
"""What a model reads at the borders of a message."""
WAIT_S = 5.0
"""So long is waited for what other calls may leave."""
LAG_S = (0.05, 0.2, 1.0)
"""A server's copy of the log may be behind; it is read again after so long."""
NO_LIMIT = Grant({}, others=False)


class ChatMessage(msgspec.Struct):
    """One message; `role`: ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class Written(msgspec.Struct, omit_defaults=True):
    """What the model wrote. `cut`: it would have written more."""

    text: str
    cut: bool = False


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
        """Ask the model once. `schema`: JSON Schema of the answer; `left`: it may use no more of ``tokens`` and ``money``, whatever the budget says."""
        asked: Model = ctx.state
        plain = [{"role": message.role, "content": message.content} for message in messages]
        wanted = min(max_tokens or asked.settings.max_tokens, asked.settings.max_tokens)
        return await call_model(ctx, asked, plain, schema, await _limit(ctx, asked.settings, plain, wanted, left or {}))

    @made.capability(ASK, estimate_s=10)
    async def ask(ctx: Context, instruction: str, data: Any = None) -> Written:
        """Have a language model read, summarise, extract, translate or write: an instruction, and the data (a text, any JSON, or a result) that it is about."""
        asked: Model = ctx.state
        messages = ask_prompt(instruction, data, PlannerSettings.from_environment().prompt_chars)
        limit = await _limit(ctx, asked.settings, messages, asked.settings.max_tokens, {})
        answer = await call_model(ctx, asked, messages, None, limit)
        if answer.refusal or not answer.text.strip():
            raise Fail(f"The model will not: {answer.refusal or 'it says nothing'}")
        return Written(answer.text, cut=answer.finish == "length")

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


async def _limit(ctx: Context, settings: ModelSettings, messages: list[dict[str, str]], wanted: int, left: dict[str, float]) -> int:
    """How long the answer may be. Raises Fail when the budget has no room for it, Retry when it may have once others have ended."""
    grant = await granted(ctx, settings)
    both = {name: min(numbers) for name in {**grant.left, **left} if (numbers := [of[name] for of in (grant.left, left) if name in of])}
    try:
        return affordable(settings, sum(len(message["content"]) + MESSAGE_CHARS for message in messages), wanted, both)
    except Fail as error:
        if grant.others:
            raise Retry("What is left of the budget is set aside for calls of the model that run.", after_s=WAIT_S) from error
        raise


async def granted(ctx: Context, settings: ModelSettings) -> Grant:
    """What is set aside for this call, by the task's log up to its award."""
    for pause_s in itertools.chain(LAG_S, itertools.repeat(LAG_S[-1])):  # a cancel ends it, when the award is no more
        purse = Purse(TaskName.parse(ctx.task), settings)
        async with aclosing(ctx.records()) as records:
            async for entry in records:
                grant = purse.apply(entry.record).get((ctx.subtask, ctx.epoch))
                if grant is not None or not purse.limited:
                    return grant or NO_LIMIT
        await anyio.sleep(pause_s)
    raise AssertionError("unreachable")


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
