"""What a model may answer to the planner, as JSON Schema, and what of it can be used: a Revision, or a reason to ask again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from agentexecutor.agents.autogpt.settings import CHAT, JUDGE
from agentexecutor.coordinator.briefing import Briefing, OfferLine, PlannedSubtask, check_offers
from agentexecutor.schemas.codec import encode
from agentexecutor.schemas.errors import AgentExecutorError
from agentexecutor.schemas.messages import PlanSpec, SubtaskSpec
from agentexecutor.schemas.plans import check_plan, dependencies
from agentexecutor.schemas.records import Revision

__all__ = [
    "JUDGED",
    "SCHEMA",
    "Step",
    "Thought",
    "Unusable",
    "json_part",
    "judgement_number",
    "revision_of",
    "thought_of",
    "unended",
    "usable",
]

JUDGED = "judge"
"""Subtasks of this name and a number hold the critic's word about the final answer."""
FILES = "files."
"""Capabilities whose `path` can be written in several ways."""
RESERVED = ("plan-", f"{JUDGED}-")
SHOWN = 300
ENDED = ("completed", "failed", "skipped", "cancelled")
WAITING = ("approval", "blocked", "ready")


class Unusable(Exception):
    """The answer cannot be used; the text goes back to the model."""


class Step(msgspec.Struct, kw_only=True):
    """A subtask that the model wants. `input`: JSON text of an object (an object is taken too)."""

    name: str
    capability: str
    input: str | dict[str, Any] = "{}"
    after: list[str] = []


class Thought(msgspec.Struct, kw_only=True):
    """The model's answer."""

    thought: str = ""
    learned: list[str] = []
    add: list[Step] = []
    remove: list[str] = []
    finish: bool = False
    answer: str | None = None
    result: str | None = None


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False, **more}


_NAMES = {"type": "array", "items": {"type": "string"}}
_STEP = _object(
    {
        "name": {"type": "string", "description": "A new short name: letters, digits, - and _."},
        "capability": {"type": "string", "description": "One of the capabilities on offer."},
        "input": {
            "type": "string",
            "description": 'JSON text of an object that fits what the capability takes. {"$ref": "NAME"} stands for a result.',
        },
        "after": {**_NAMES, "description": "Names of steps that must have ended first, beside those that the input refers to."},
    }
)
SCHEMA: dict[str, Any] = _object(
    {
        "thought": {"type": "string", "description": "In a sentence or two: what is known, what is missing, what is done next and why."},
        "learned": {**_NAMES, "description": "What is worth remembering for later tasks; mostly nothing."},
        "add": {"type": "array", "items": _STEP, "description": "The next steps; empty when finished."},
        "remove": {**_NAMES, "description": "Steps of the plan that are not wanted any more."},
        "finish": {"type": "boolean", "description": "True when the goal is reached, or cannot be reached."},
        "answer": {"type": ["string", "null"], "description": "With finish: the answer to the goal, in words."},
        "result": {"type": ["string", "null"], "description": "With finish, in the place of answer: the step whose result is the answer."},
    },
    title="next_steps",
)
"""In the strict form that OpenAI asks for: every property is required, and there are no others."""

_decoder = msgspec.json.Decoder(Thought)


def thought_of(text: str, finish: str = "stop", refusal: str | None = None) -> Thought:
    """The answer as it was meant. Raises Unusable."""
    if refusal:
        raise Unusable(
            f"You have refused: {refusal[:SHOWN]} Plan what you can do of the goal; or finish, and say in the answer why it cannot be done."
        )
    if finish == "content_filter":
        raise Unusable("The endpoint's content filter has stopped your answer. Say it in other words, or plan something else.")
    if finish == "length":
        raise Unusable("Your answer was cut off because it was too long. Answer again, and shorter.")
    try:
        return _decoder.decode(json_part(text))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unusable(f"That does not fit the JSON Schema: {error}.") from error


def json_part(text: str) -> str:
    """The JSON in an answer, without the thinking aloud before it and the fence around it that some models cannot leave."""
    body = text.strip()
    if body.startswith("<think>"):
        body = body.partition("</think>")[2].strip()
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json").strip()
    return body


def revision_of(thought: Thought, told: Briefing) -> Revision:
    """The next version of the plan. Raises Unusable, with the reason and what to do about it."""
    if thought.finish:
        return _finished(thought, told)
    plan = told.plan.subtasks
    unknown = [name for name in thought.remove if name not in plan]
    if unknown:
        raise Unusable(f"The plan has no step {unknown[0]!r} that could be removed; it has {', '.join(plan) or 'none'}.")
    if not thought.add and not thought.remove:
        raise Unusable("You want nothing done, and do not finish. Add a step, or finish with the answer.")
    add: dict[str, SubtaskSpec] = {}
    for step in thought.add:
        _check_name(step, told, add)
        add[step.name] = SubtaskSpec(capability=step.capability, input=_input(step), after=step.after)
        _refuse_repeats(step.name, add[step.name], told)
    room = told.left.get("subtasks")
    if room is not None and len(add) > room:
        raise Unusable(f"You add {len(add)} steps, and the budget has room for {int(room)}.")
    remove = list(dict.fromkeys([*thought.remove, *_turned_down(told)]))
    revision = Revision(add=add, remove=remove, text=thought.thought[:1000])
    try:
        check_offers(revision.add, [offer for offer in told.offers if usable(offer)])
        _check_whole(revision, told)
    except AgentExecutorError as error:
        raise Unusable(str(error)) from error
    return revision


def _turned_down(told: Briefing) -> list[str]:
    """What a person has said no to before it was done, and what needs it: it would wait for the word for ever."""
    plan = told.plan.subtasks
    asked = {why.subtask for why in told.why if why.trigger == "reject"}
    gone = {name for name, step in plan.items() if name in asked and step.state in (*WAITING, "failed")}
    for _round in plan:
        gone |= {name for name, step in plan.items() if step.state in WAITING and not gone.isdisjoint(_needs(step))}
    return [name for name in plan if name in gone]


def _needs(step: PlannedSubtask) -> list[str]:
    return dependencies(SubtaskSpec(capability=step.capability, input=step.input, after=step.after))


def _check_whole(revision: Revision, told: Briefing) -> None:
    """Whether what is added hangs together, and with what is there. Raises PlanRefused, NameRefused."""
    if revision.add:
        check_plan(PlanSpec(subtasks=revision.add), known=[name for name in told.plan.subtasks if name not in revision.remove])


def _finished(thought: Thought, told: Briefing) -> Revision:
    if thought.add:
        raise Unusable("You finish and add steps. Do one of the two: when the steps are needed, do not finish yet.")
    text = thought.thought[:1000]
    if thought.result is not None:
        step = told.plan.subtasks.get(thought.result)
        if step is None or step.state != "completed":
            done = [name for name, known in told.plan.subtasks.items() if known.state == "completed"]
            raise Unusable(
                f"{thought.result!r} is no step that has completed; there are {', '.join(done) or 'none'}. Name one, or give an answer in words."
            )
        return Revision(finish=True, result=thought.result, remove=unended(told), text=text)
    if not (thought.answer or "").strip():
        raise Unusable("You finish without an answer. Give the answer, or name the step whose result it is.")
    return Revision(finish=True, output=Raw(encode(thought.answer)), text=text)


def unended(told: Briefing) -> list[str]:
    """What is still open: once the answer is there nobody needs it."""
    return [name for name, step in told.plan.subtasks.items() if step.state not in ENDED]


def _check_name(step: Step, told: Briefing, add: Mapping[str, SubtaskSpec]) -> None:
    known = told.plan.subtasks.get(step.name)
    if step.name in add or (known is not None and known.state != "failed"):
        raise Unusable(f"There is a step {step.name!r} already. Choose another name for the new one, or refer to its result.")
    if step.name.startswith(RESERVED):
        raise Unusable(f"{step.name!r} is a name that the planner uses itself. Choose another.")


def _input(step: Step) -> Raw:
    value: Any = step.input
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value or "{}")
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Unusable(f"The input of {step.name!r} is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise Unusable(f"The input of {step.name!r} is no JSON object.")
    return Raw(encode(value))


def _refuse_repeats(name: str, spec: SubtaskSpec, told: Briefing) -> None:
    """The same action again brings the same again."""
    wanted = _same(spec.capability, spec.input)
    for other, known in told.plan.subtasks.items():
        if known.capability == JUDGE or _same(known.capability, known.input) != wanted:
            continue
        if known.state == "failed":
            why = known.error.message if known.error is not None else "no reason was given"
            raise Unusable(f"{name!r} is exactly what {other!r} was, which has failed: {why[:SHOWN]} Do something else.")
        if known.state in ("completed", "running", "awarded", "ready", "blocked"):
            raise Unusable(
                f"{name!r} is exactly what {other!r} is ({known.state}). Do not do it again: use its result, "
                f'by {{"$ref": "{other}"}} in an input or by what is told of it.'
            )


def _same(capability: str, input: Raw) -> bytes:
    given = msgspec.json.decode(input)
    if capability.startswith(FILES) and isinstance(given, dict) and isinstance(given.get("path", ""), str):  # ./a//b is a/b
        given = {**given, "path": "/".join(part for part in given.get("path", "").split("/") if part not in ("", "."))}
    return msgspec.json.encode([capability, given], order="sorted")


def usable(offer: OfferLine) -> bool:
    """Whether a model is to plan with it: not planners, nor the bare call of the model."""
    return offer.name not in ("plan", CHAT) and not offer.name.startswith("plan.")


def judgement_number(name: str) -> int:
    """Of a subtask in which the critic judges the final answer; 0: it is another."""
    head, _, number = name.rpartition("-")
    return int(number) if head == JUDGED and number.isdecimal() else 0
