"""The critic: ``agentexecutor agent agentexecutor.agents.autogpt.critic:agent``. It asks a model whether an answer reaches the goal.

The planner asks it about the final answer. A plan may ask it about any result: with `subtask` named, what it does not accept it says as feedback, which
the task's policy answers (with a goal: by a new version of the plan).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.answers import json_part
from agentexecutor.agents.autogpt.prompts import cut, judge_prompt
from agentexecutor.agents.autogpt.settings import JUDGE, PlannerSettings
from agentexecutor.agents.autogpt.thinking import Mind, Said
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import Fail
from agentexecutor.schemas.plans import Feedback

__all__ = ["Judged", "agent", "make"]

SHOWN = 1000
SCHEMA: dict[str, Any] = {
    "title": "verdict",
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "Why, in a sentence or two; what is missing."},
        "verdict": {"type": "string", "enum": ["accept", "revise", "reject"]},
    },
    "required": ["text", "verdict"],
    "additionalProperties": False,
}


class Judged(msgspec.Struct):
    """The critic's word."""

    verdict: Literal["accept", "revise", "reject"]
    text: str = ""


_decoder = msgspec.json.Decoder(Judged)


def make(settings: PlannerSettings | None = None) -> Agent:
    """A critic."""
    made = Agent("critic", capacity=8)

    @made.capability(JUDGE, estimate_s=10)
    async def judge(ctx: Context, goal: str, answer: Any, criteria: str = "", subtask: str | None = None) -> Judged:
        """Whether the answer (any JSON) reaches the goal. `criteria`: what to look at; `subtask`: the step that gave it, planned anew when it is refused."""
        how = settings or PlannerSettings.from_environment()
        judged = await _judge(ctx, Mind(ctx, how, {}), judge_prompt(goal, answer, criteria, how.prompt_chars), how.corrections)
        ctx.progress(text=f"{judged.verdict}: {judged.text}")
        if subtask is not None and judged.verdict != "accept":
            await ctx.say(Feedback(judged.verdict, cut(judged.text, SHOWN), subtask))
        return judged

    return made


async def _judge(ctx: Context, mind: Mind, messages: list[dict[str, str]], corrections: int) -> Judged:
    problem = ""
    for _attempt in range(corrections + 1):
        ctx.progress(text="asks the model")
        said = await mind.ask(messages, SCHEMA)
        judged = _judged(said)
        if isinstance(judged, Judged):
            return judged
        problem = judged
        messages = [
            *messages,
            {"role": "assistant", "content": cut(said.text or said.refusal or "(nothing)", SHOWN)},
            {"role": "user", "content": f"This answer cannot be used. {problem} {messages[1]['content'][-SHOWN:]}"},
        ]
    raise Fail(f"The model has given {corrections + 1} judgements in a row that cannot be used; the last: {problem}")


def _judged(said: Said) -> Judged | str:
    """The judgement, or what is wrong with it."""
    if said.refusal:
        return "You have refused; you are only asked to judge."
    try:
        return _decoder.decode(json_part(said.text))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return f"It does not fit the JSON Schema: {error}."


agent = make()
