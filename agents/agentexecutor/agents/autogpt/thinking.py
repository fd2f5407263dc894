"""Asking the model from within a subtask, so that a second run of the subtask finds the first one's answers (docs/autogpt.md, "After a crash").

The calls of a subtask's children are numbered; a child of the same number is the same child. Whether a memory is on the bus may change between two
runs, so a number may hold an answer of the other kind: it is told by its shape and used as what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import msgspec

from agentexecutor.agents.autogpt.settings import CHAT, NOTE, SEARCH, PlannerSettings
from agentexecutor.agents.context import Child, Context
from agentexecutor.agents.errors import ChildFailed, Fail

__all__ = ["Mind", "Said"]

STRANGE = 3
"""So often a result that is no answer of a model is passed over."""
MEMORY_S = 20.0
"""A memory that takes longer is done without."""


class Said(msgspec.Struct):
    """What `llm.chat` gives, as far as it matters here."""

    text: str
    refusal: str | None = None
    finish: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0


class Mind:
    """One run of a subtask that thinks. `left`: what the budget had left when it began."""

    def __init__(self, ctx: Context, settings: PlannerSettings, left: Mapping[str, float]) -> None:
        self._ctx = ctx
        self._settings = settings
        self._left = {name: number for name, number in left.items() if name in ("tokens", "money")}
        self._early: Said | None = None
        self._price = 0.0
        """Money for a token, by the last answer."""

    async def ask(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> Said:
        """The model's answer. Raises Fail when it gives none."""
        if self._early is not None:
            early, self._early = self._early, None
            return early
        input = {"messages": list(messages), "schema": dict(schema), "max_tokens": self._settings.answer_tokens, "left": dict(self._left)}
        for _number in range(STRANGE):
            child = await self._ctx.submit(CHAT, input, retries=self._settings.retries)
            try:
                said = _said(await child.result())
            except ChildFailed as failed:
                raise Fail(f"The model gives no answer: {_reason(failed)}") from failed
            if said is not None:  # else it is what an earlier run asked of the memory
                self._spent(said)
                return said
        raise Fail(f"Whoever does {CHAT} gives what is no answer of a model.", hint="Which agents offer it? See `agentexecutor agents`.")

    def _spent(self, said: Said) -> None:
        self._price = said.money / max(1, said.tokens_in + said.tokens_out)
        for name, used in (("tokens", said.tokens_in + said.tokens_out), ("money", said.money)):
            if name in self._left:
                self._left[name] -= used

    def affords(self, tokens: int) -> bool:
        """Whether what is left pays for another call of so many tokens."""
        return self._left.get("tokens", tokens) >= tokens and self._left.get("money", math.inf) >= tokens * self._price

    async def remember(self, query: str, limit: int = 5) -> list[str]:
        """What the memory finds; nothing when it does not answer."""
        got = await self._from_memory(await self._ctx.submit(SEARCH, {"query": query, "limit": limit}, retries=1))
        self._early = _said(got)  # an earlier run had no memory, and asked the model with this number
        notes = got.get("notes", []) if isinstance(got, dict) else []
        return [str(note["text"]) for note in notes if isinstance(note, dict) and "text" in note]

    async def note(self, texts: Sequence[str], goal: str) -> None:
        """Have it kept what was learned; when that fails it is not kept."""
        await self._from_memory(await self._ctx.submit(NOTE, {"texts": list(texts), "goal": goal}, retries=1))

    async def _from_memory(self, child: Child) -> Any:
        with anyio.move_on_after(MEMORY_S):
            try:
                return await child.result()
            except ChildFailed as failed:
                self._ctx.log.info("The memory gives no answer: %s", _reason(failed))
        return None


def _said(got: Any) -> Said | None:
    """A result as an answer of the model; None: it is none."""
    try:
        return msgspec.convert(got, Said)
    except msgspec.ValidationError:
        return None


def _reason(failed: ChildFailed) -> str:
    error = failed.fields.get("error")
    return error.message if error is not None else str(failed)
