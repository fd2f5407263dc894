"""The intent recogniser (意图识别器): which intents a text may have, with probabilities, as learnt from the corpus when it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import run_sync
from examples.customer_service.corpus import hold_out, read_exchanges
from examples.customer_service.kit import box
from examples.customer_service.learning import Recogniser, taught
from examples.customer_service.shapes import Guess, Understood

from agentexecutor.agents import Context

__all__ = ["agent"]


@asynccontextmanager
async def learnt() -> AsyncIterator[Recogniser]:
    """Learns from what is not held out; takes a second or two, before the agent offers anything."""
    texts, intents = taught(hold_out(read_exchanges()).learnt)
    yield await run_sync(Recogniser, texts, intents)


agent = box("recogniser", learnt)


@agent.capability("intent.recognise", estimate_s=0.01)
def recognise(ctx: Context, understood: Understood) -> list[Guess]:
    """The likeliest three; none for what has no words."""
    recogniser: Recogniser = ctx.state
    return recogniser.guesses(understood.text) if understood.kind == "question" else []
