"""The planner that asks a model: ``agentexecutor agent agentexecutor.agents.autogpt.planner:agent``.

Each time it is asked it says the next steps, or the answer. Before an answer is final the critic is asked, by a step of its own in the plan; an answer
that the critic accepts is given without asking the model again. What the model is told is in `prompts`, what it may answer in `answers`.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.answers import JUDGED, SCHEMA, Thought, Unusable, judgement_number, revision_of, thought_of, unended
from agentexecutor.agents.autogpt.prompts import cut, goal_again, planner_prompt
from agentexecutor.agents.autogpt.purse import CHARS_A_TOKEN
from agentexecutor.agents.autogpt.settings import JUDGE, MODEL_PLANNER, NOTE, SEARCH, PlannerSettings
from agentexecutor.agents.autogpt.thinking import Mind
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import Fail
from agentexecutor.coordinator.briefing import Briefing
from agentexecutor.schemas.codec import decode_as, encode
from agentexecutor.schemas.messages import SubtaskSpec
from agentexecutor.schemas.records import Revision

__all__ = ["agent", "make"]

ROOM_FOR_A_CRITIC = {"replans": 2, "subtasks": 4}
"""What must be left for the critic to be asked: its own version and one after it; its step, its call of the model, and the planner's after it."""
CRITIC_TOKENS = 300
"""What a critic's call takes beside the goal and the answer."""
FOR_THE_ANSWER = 1 / 3
SHORTEST_PROMPT = 8000
"""Characters: a plan for which less is shown is none."""
LARGE_CHARS = 60_000
QUERY_CHARS = 500
NOTE_CHARS = 1000
MAX_NOTES = 10


def make(capability: str | None = None, settings: PlannerSettings | None = None) -> Agent:
    """A planner that offers `capability` (None: AGENTEXECUTOR_AUTOGPT_OFFERS, else ``plan.model``)."""
    made = Agent("autogpt", capacity=8)

    @made.capability(capability or os.environ.get("AGENTEXECUTOR_AUTOGPT_OFFERS") or MODEL_PLANNER, estimate_s=15)
    async def plan(ctx: Context, **briefing: Any) -> dict[str, Any]:
        """The next version of the plan, as a difference."""
        told = decode_as(Briefing, encode(briefing))
        if told.goal is None:
            raise Fail("This planner works towards a goal, and the task has none.", hint="Submit it with --goal, or ask another planner.")
        revision = _accepted(told) or await _think(ctx, told, settings or PlannerSettings.from_environment())
        answer: dict[str, Any] = msgspec.json.decode(encode(revision))
        return answer

    return made


async def _think(ctx: Context, told: Briefing, settings: PlannerSettings) -> Revision:
    offered = {offer.name for offer in told.offers}
    mind = Mind(ctx, settings, told.left)
    ctx.progress(text="looks for what is known")
    notes = await mind.remember(_query(told)) if SEARCH in offered else []
    messages = planner_prompt(told, notes, _prompt_chars(told, settings))
    revision, thought = await _answer(ctx, mind, told, messages, settings.corrections)
    learned = [*_failures(told), *(cut(text, NOTE_CHARS) for text in thought.learned if text.strip())][:MAX_NOTES]
    if learned and NOTE in offered:
        await mind.note(learned, cut(told.goal or "", NOTE_CHARS))
    ctx.progress(text=revision.text)
    return _to_be_judged(revision, told, mind) if revision.finish and JUDGE in offered else revision


def _prompt_chars(told: Briefing, settings: PlannerSettings) -> int:
    """How long the prompt may be: what is left of the budget is to pay for an answer too."""
    if "tokens" not in told.left:
        return settings.prompt_chars
    tokens = told.left["tokens"] * (1 - FOR_THE_ANSWER)
    return min(settings.prompt_chars, max(SHORTEST_PROMPT, int(tokens) * CHARS_A_TOKEN))


async def _answer(ctx: Context, mind: Mind, told: Briefing, messages: list[dict[str, str]], corrections: int) -> tuple[Revision, Thought]:
    """Ask, and ask again with the error when the answer cannot be used. Raises Fail after so many corrections."""
    problem = ""
    for _attempt in range(corrections + 1):
        ctx.progress(text="asks the model" if not problem else f"asks the model again: {problem}")
        said = await mind.ask(messages, SCHEMA)
        try:
            thought = thought_of(said.text, said.finish, said.refusal)
            return revision_of(thought, told), thought
        except Unusable as error:
            problem = str(error)
            messages = [
                *messages,
                {"role": "assistant", "content": cut(said.text or said.refusal or "(nothing)", NOTE_CHARS)},
                {"role": "user", "content": f"This answer cannot be used. {problem}\n\n{goal_again(told.goal or '')}"},
            ]
    raise Fail(
        f"The model has given {corrections + 1} answers in a row that cannot be used; the last: {problem}",
        goal=cut(told.goal or "", NOTE_CHARS),
    )


def _query(told: Briefing) -> str:
    """What the memory is asked: the goal, and what has just gone wrong."""
    wrong = [why.text for why in told.why if why.trigger in ("failed", "reject", "revise")]
    return " ".join([cut(told.goal or "", QUERY_CHARS), *(cut(text, QUERY_CHARS) for text in wrong)])


def _failures(told: Briefing) -> list[str]:
    """What this version was asked for because it failed, for the memory."""
    notes = []
    for why in told.why:
        step = told.plan.subtasks.get(why.subtask or "")
        if why.trigger == "failed" and step is not None:
            notes.append(cut(f"{step.capability} {bytes(step.input).decode()} failed: {why.text}", NOTE_CHARS))
    return notes


# the critic


def _to_be_judged(revision: Revision, told: Briefing, mind: Mind) -> Revision:
    """The answer as a step for the critic. Without room for it in the budget the answer is given as it is: better than none."""
    poor = any(told.left.get(name, room) < room for name, room in ROOM_FOR_A_CRITIC.items())
    if poor or not mind.affords(CRITIC_TOKENS + (len(told.goal or "") * 2 + _shown(revision, told)) // CHARS_A_TOKEN):
        return replace(revision, text=f"{revision.text} (the budget has no room for the critic)")
    number = 1 + max([judgement_number(name) for name in told.plan.subtasks], default=0)
    answer: Any = {"$ref": revision.result} if revision.output is UNSET else msgspec.json.decode(revision.output)
    spec = SubtaskSpec(capability=JUDGE, input=Raw(encode({"goal": told.goal, "answer": answer})), on_failure="skip")
    stale = [name for name in unended(told) if judgement_number(name)]
    return Revision(add={f"{JUDGED}-{number}": spec}, remove=stale, text=revision.text)


def _shown(revision: Revision, told: Briefing) -> int:
    """So many characters of the answer a critic would be shown."""
    if isinstance(revision.output, Raw):
        return len(revision.output)
    result = told.plan.subtasks[revision.result or ""].result
    return len(result) if isinstance(result, Raw) else LARGE_CHARS


def _accepted(told: Briefing) -> Revision | None:
    """The answer, when the critic has just accepted it (or cannot be had) and nobody has said anything since."""
    last = max(told.plan.subtasks, key=judgement_number, default="")
    step = told.plan.subtasks.get(last)
    if step is None or not judgement_number(last) or any(why.trigger != "continue" for why in told.why):
        return None
    newest = max(other.plan_version for other in told.plan.subtasks.values())
    if step.state not in ("completed", "skipped") or step.plan_version < newest:
        return None
    verdict = msgspec.json.decode(step.result) if isinstance(step.result, Raw) else None
    if verdict is not None and verdict.get("verdict") != "accept":
        return None
    answer = msgspec.json.decode(step.input)["answer"]
    text = "the critic accepts the answer" if verdict is not None else "the critic could not be asked"
    if isinstance(answer, dict):
        return Revision(finish=True, result=answer["$ref"], text=text)
    return Revision(finish=True, output=Raw(encode(answer)), text=text)


agent = make()
