"""The planner and the critic without a bus: what they ask, what of the answers they use, what goes back to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from agentexecutor.agents import Fail
from agentexecutor.agents.autogpt import critic, planner
from agentexecutor.agents.autogpt.answers import SCHEMA, Step, Thought, Unusable, revision_of, thought_of
from agentexecutor.agents.autogpt.brevity import description_of, shape_text
from agentexecutor.agents.autogpt.prompts import cut, judge_prompt, planner_prompt
from agentexecutor.agents.autogpt.settings import PlannerSettings
from agentexecutor.agents.inputs import Signature
from agentexecutor.agents.testing import Called, call
from agentexecutor.coordinator.briefing import Briefing
from agentexecutor.schemas.codec import decode_as, encode

pytestmark = pytest.mark.anyio
GOAL = "Find out how old Ada is."
CALC = {
    "name": "calc",
    "agents": 1,
    "free": 1,
    "takes": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}
OTHERS = [{"name": name, "agents": 1, "free": 1} for name in ("plan", "plan.model", "llm.chat", "files.read")]


def told(**fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "goal": GOAL,
        "input": {},
        "why": [{"trigger": "goal"}],
        "errors": [],
        "version": 1,
        "plan": {"subtasks": {}, "result": None},
        "feedback": [],
        "offers": [CALC, *OTHERS],
        "spent": {"replans": 0},
        "left": {"replans": 10},
        "deadline": None,
    }
    return given | fields


def briefing(**fields: Any) -> Briefing:
    return decode_as(Briefing, encode(told(**fields)))


def steps(**subtasks: dict[str, Any]) -> dict[str, Any]:
    return {
        "subtasks": {name.replace("_", "-"): {"capability": "calc", "state": "completed", **fields} for name, fields in subtasks.items()},
        "result": None,
    }


def thought(**fields: Any) -> dict[str, Any]:
    return {"thought": "t", "learned": [], "add": [], "remove": [], "finish": False, "answer": None, "result": None, **fields}


def step(name: str = "sum", expression: str = "1+1", **fields: Any) -> dict[str, Any]:
    return {"name": name, "capability": "calc", "input": msgspec.json.encode({"expression": expression}).decode(), "after": [], **fields}


Answering = Callable[[str, Any], Any]


def model(*answers: Any, **others: Any) -> tuple[Answering, list[dict[str, Any]]]:
    """Children: the model says these one after the other; other capabilities as given. The inputs of the model's calls are kept."""
    asked: list[dict[str, Any]] = []

    def child(capability: str, input: Any) -> Any:
        if capability != "llm.chat":
            return others[capability.replace(".", "_")]
        asked.append(input)
        answer = answers[len(asked) - 1]
        if isinstance(answer, dict) and "refusal" in answer:
            return answer
        text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
        return {"text": text, "refusal": None, "finish": "stop", "tokens_in": 90, "tokens_out": 10, "money": 0.001}

    return child, asked


async def plan(child: Answering, **fields: Any) -> Called:
    return await call(
        planner.make("plan.model", PlannerSettings()), "plan.model", msgspec.Raw(msgspec.json.encode(told(**fields))), child=child
    )


# the answer


async def test_the_models_steps_become_a_revision() -> None:
    child, asked = model(thought(add=[step(), step("next", "2+2", after=["sum"], input={"expression": {"$ref": "sum/text"}})]))
    made = await plan(child)
    assert made.result == {
        "text": "t",
        "add": {
            "sum": {"capability": "calc", "input": {"expression": "1+1"}},
            "next": {"capability": "calc", "input": {"expression": {"$ref": "sum/text"}}, "after": ["sum"]},
        },
    }
    assert asked[0]["schema"] == SCHEMA
    assert made.progress[-1]["text"] == "t"


WRONG = {
    "no JSON": ("I think we should add", "JSON Schema"),
    "broken JSON": ('{"thought": "I was', "JSON Schema"),
    "wrong schema": ({"steps": 3, "add": "none"}, "JSON Schema"),
    "a list": ([], "JSON Schema"),
    "nothing": (thought(), "nothing done"),
    "unknown capability": (thought(add=[step(capability="web.search")]), "Nobody offers 'web.search'"),
    "the model itself": (thought(add=[step(capability="llm.chat")]), "Nobody offers"),
    "input is no JSON": (thought(add=[step(input="1+1")]), "no JSON"),
    "input is no object": (thought(add=[step(input="[1]")]), "no JSON object"),
    "input does not fit": (thought(add=[step(input='{"expression": 3}')]), "is no string"),
    "input lacks something": (thought(add=[step(input="{}")]), "lacks 'expression'"),
    "unknown reference": (thought(add=[step(input='{"expression": {"$ref": "none"}}')]), "needs 'none'"),
    "cycle": (thought(add=[step("a", after=["b"]), step("b", "2", after=["a"])]), "cycle"),
    "name": (thought(add=[step("my sum!")]), "my sum!"),
    "reserved name": (thought(add=[step("judge-7")]), "uses itself"),
    "twice": (thought(add=[step(), step()]), "already"),
    "removes nothing": (thought(remove=["ghost"]), "no step 'ghost'"),
    "finish and add": (thought(finish=True, answer="x", add=[step()]), "one of the two"),
    "finish without an answer": (thought(finish=True, answer=" "), "without an answer"),
    "unknown result": (thought(finish=True, result="ghost"), "'ghost' is no step"),
    "refusal": ({"text": "", "refusal": "I will not.", "finish": "stop"}, "You have refused: I will not."),
    "cut": ({"text": "{", "refusal": None, "finish": "length"}, "cut off"),
    "filtered": ({"text": "", "refusal": None, "finish": "content_filter"}, "content filter"),
    "deep": ("[" * 100_000, "JSON Schema"),
}


@pytest.mark.parametrize("which", WRONG)
async def test_a_wrong_answer_goes_back_with_the_error(which: str) -> None:
    wrong, why = WRONG[which]
    child, asked = model(wrong, thought(finish=True, answer="36"))
    assert (await plan(child)).result == {"finish": True, "output": "36", "text": "t"}
    assert len(asked) == 2
    assert asked[1]["messages"][:-2] == asked[0]["messages"], (
        "what was asked first stands first again: an endpoint may have it in its cache"
    )
    last = asked[1]["messages"][-1]
    assert last["role"] == "user"
    assert why in last["content"]
    assert last["content"].endswith(GOAL)


async def test_a_model_that_never_learns_is_given_up() -> None:
    child, asked = model(*["no"] * 10)
    with pytest.raises(Fail, match="3 answers in a row that cannot be used; the last"):
        await plan(child)
    assert len(asked) == 3


@pytest.mark.parametrize(
    "text",
    [
        '<think>is it 36?</think>\n{"finish": true, "answer": "36"}',
        '```json\n{"finish": true, "answer": "36"}\n```',
        '\n {"finish": true, "answer": "36", "mood": "good"}',
    ],
)
def test_small_liberties_are_taken(text: str) -> None:
    assert thought_of(text) == Thought(finish=True, answer="36")


# what users of AutoGPT suffered from


@pytest.mark.parametrize(
    ("state", "more", "why"),
    [
        ("completed", {"result": {"value": 2}}, "use its result"),
        ("running", {}, "Do not do it again"),
        ("failed", {"error": {"code": "handler", "message": "it is closed"}}, "which has failed: it is closed"),
    ],
)
def test_the_same_action_again_is_not_planned(state: str, more: dict[str, Any], why: str) -> None:
    given = briefing(plan=steps(first={"input": {"expression": "1+1"}, "state": state, **more}))
    with pytest.raises(Unusable, match=why):
        revision_of(msgspec.convert(thought(add=[step("other", input='{ "expression":"1+1" }')]), Thought), given)
    assert revision_of(msgspec.convert(thought(add=[step("other", "1+2")]), Thought), given).add.keys() == {"other"}


LISTING = {"capability": "files.list", "state": "completed", "input": {"path": "./notes//"}}


@pytest.mark.parametrize("path", ["notes", "notes/", "./notes", "././notes/.", "notes//"])
def test_another_spelling_of_a_path_is_the_same_action(path: str) -> None:
    given = Thought(add=[Step(name="again", capability="files.list", input={"path": path})])
    with pytest.raises(Unusable, match="exactly what 'look' is"):
        revision_of(given, briefing(plan=steps(look=LISTING), offers=[{"name": "files.list", "agents": 1, "free": 1}]))


@pytest.mark.parametrize("input", [{"path": "notes2"}, {"path": "notes/a"}, {"path": "notes", "more": 1}, {}])
def test_another_path_is_another_action(input: dict[str, Any]) -> None:
    given = Thought(add=[Step(name="again", capability="files.list", input=input)])
    told = briefing(plan=steps(look=LISTING), offers=[{"name": "files.list", "agents": 1, "free": 1}])
    assert list(revision_of(given, told).add) == ["again"]


def test_what_has_failed_may_be_replaced_under_its_name_and_nothing_else() -> None:
    given = briefing(plan=steps(first={"input": {"expression": "1"}, "state": "failed"}, second={"input": {"expression": "2"}}))
    assert revision_of(msgspec.convert(thought(add=[step("first", "3")]), Thought), given).add.keys() == {"first"}
    with pytest.raises(Unusable, match="already"):
        revision_of(msgspec.convert(thought(add=[step("second", "3")]), Thought), given)


async def test_what_is_still_open_is_given_up_when_the_answer_is_there() -> None:
    """A critic that has gone would else be waited for for ever."""
    open_judge = {"capability": "critic.judge", "input": {"goal": GOAL, "answer": "1"}, "state": "ready"}
    given = steps(sum={"input": {}, "result": 1}, slow={"input": {"expression": "2"}, "state": "running"}, judge_1=open_judge)
    child, _ = model(thought(finish=True, result="sum"), thought(finish=True, result="sum"))
    assert (await plan(child, plan=given)).result["remove"] == ["slow", "judge-1"]
    child, _ = model(thought(finish=True, answer="2"))
    judged = (await plan(child, plan=given, offers=[CALC, {"name": "critic.judge", "agents": 1, "free": 1}])).result
    assert (list(judged["add"]), judged["remove"]) == (["judge-2"], ["judge-1"])


def test_what_a_person_turned_down_before_it_began_leaves_the_plan_with_what_needs_it() -> None:
    given = briefing(
        plan=steps(
            pay={"input": {"expression": "1"}, "state": "approval"},
            send={"input": {"expression": {"$ref": "pay/text"}}, "state": "blocked"},
            thank={"input": {"expression": "2"}, "after": ["send"], "state": "blocked"},
            other={"input": {"expression": "3"}, "state": "ready"},
        ),
        why=[{"trigger": "reject", "subtask": "pay"}],
    )
    assert revision_of(msgspec.convert(thought(add=[step()]), Thought), given).remove == ["pay", "send", "thank"]


def test_more_steps_than_the_budget_has_are_not_planned() -> None:
    given = briefing(left={"subtasks": 1})
    with pytest.raises(Unusable, match="room for 1"):
        revision_of(msgspec.convert(thought(add=[step("a", "1"), step("b", "2")]), Thought), given)


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "megabyte"])
def test_the_goal_stands_first_and_last_in_every_prompt(size: int) -> None:
    """However much there is between: an input, results, feedback, errors and memories of a megabyte each."""
    much = "x" * size
    given = briefing(
        input={"text": much},
        plan=steps(**{f"s{number}": {"input": {"expression": much}, "result": much} for number in range(20)}),
        feedback=[{"kind": "feedback", "id": "1", "sender": "me", "text": much, "data": much}],
        errors=[much],
        why=[{"trigger": "failed", "subtask": "s1", "text": much}],
    )
    system, user = planner_prompt(given, [much] * 5, 60_000)
    assert system["content"].startswith(f"THE GOAL:\n{GOAL}")
    assert user["content"].endswith(f"THE GOAL IS STILL:\n{GOAL}")
    assert len(system["content"]) + len(user["content"]) <= 60_100
    for judged in judge_prompt(GOAL, much, "", 60_000):
        assert GOAL in judged["content"][:200] or judged["content"].endswith(GOAL)
        assert len(judged["content"]) <= 60_100


def test_a_prompt_says_what_was_done_said_failed_remembered_and_left() -> None:
    given = briefing(
        input={"born": 1815},
        plan=steps(
            old={"input": {"expression": "1"}, "result": {"value": 1}},
            bad={"input": {"expression": "2"}, "state": "failed", "error": {"code": "handler", "message": "no such thing"}},
            big={"input": {"expression": "3"}, "result_bytes": 90_000},
            judge_1={"capability": "critic.judge", "input": {}, "result": {"verdict": "reject", "text": "that is her height"}},
        ),
        feedback=[
            {
                "kind": "feedback",
                "id": "1",
                "sender": "ann",
                "verdict": "revise",
                "text": "mind the month",
                "subtask": "old",
                "data": {"m": 12},
            }
        ],
        why=[{"trigger": "failed", "subtask": "bad", "text": "no such thing"}],
        errors=["'old' is taken"],
        spent={"tokens": 900, "replans": 9},
        left={"tokens": 100, "replans": 1},
        deadline="2026-12-01T00:00:00Z",
    )
    text = planner_prompt(given, ["calc is slow"], 60_000)[1]["content"]
    for part in (
        '{"born":1815}',
        "- calc {expression: string}",
        "- calc is slow",
        '- old: calc {"expression":"1"}: completed, result {"value":1}',
        '- bad: calc {"expression":"2"}: failed: no such thing',
        "90,000 bytes (too long to be shown; refer to it)",
        "reject: that is her height",
        '- ann revise about old: mind the month {"m":12}',
        "- a step has failed for good (bad): no such thing",
        "- 'old' is taken",
        "- tokens: 100 of 1000 (NEARLY USED UP)",
        "THIS IS THE LAST TIME",
        "2026-12-01",
    ):
        assert part in text
    assert "llm.chat" not in text
    assert "plan.model" not in text


# around the model


async def test_what_the_memory_finds_stands_in_the_prompt_and_what_was_learned_is_noted() -> None:
    notes = {"notes": [{"text": "ages are in register.csv", "goal": "", "task": "t", "at": ""}]}
    child, asked = model(thought(learned=["use the register"], add=[step()]), memory_search=notes, memory_note={"kept": 2, "total": 2})
    failed = steps(bad={"input": {"expression": "x"}, "state": "failed"})
    offers = [CALC, {"name": "memory.search", "agents": 1, "free": 1}, {"name": "memory.note", "agents": 1, "free": 1}]
    made = await plan(child, offers=offers, plan=failed, why=[{"trigger": "failed", "subtask": "bad", "text": "no register"}])
    assert "ages are in register.csv" in asked[0]["messages"][1]["content"]
    search, _, note = made.children
    assert msgspec.json.decode(search.input)["query"] == f"{GOAL} no register"
    assert msgspec.json.decode(note.input)["texts"] == ['calc {"expression":"x"} failed: no register', "use the register"]


@pytest.mark.parametrize("had_memory", [True, False])
async def test_a_second_run_reads_answers_of_the_first_though_the_memory_has_come_or_gone(had_memory: bool) -> None:
    """Calls are numbered: the second run's search may find the first run's answer of the model, and the other way round."""
    answer = {"text": msgspec.json.encode(thought(add=[step()])).decode(), "refusal": None, "finish": "stop"}
    calls: list[str] = []

    def first_run(capability: str, _input: Any) -> Any:
        calls.append(capability)
        kinds = [{"notes": []}, answer] if had_memory else [answer]
        return kinds[len(calls) - 1]

    offers = [CALC] if had_memory else [CALC, {"name": "memory.search", "agents": 1, "free": 1}]
    made = await plan(first_run, offers=offers)
    assert made.result["add"].keys() == {"sum"}
    assert calls == (["llm.chat", "llm.chat"] if had_memory else ["memory.search"])


async def test_a_final_answer_goes_to_the_critic_and_is_given_when_it_accepts() -> None:
    offers = [CALC, {"name": "critic.judge", "agents": 1, "free": 1}]
    child, asked = model(thought(finish=True, answer="36 {years}"))
    made = await plan(child, offers=offers)
    assert made.result["add"] == {
        "judge-1": {"capability": "critic.judge", "input": {"goal": GOAL, "answer": "36 {years}"}, "on_failure": "skip"}
    }
    judged = {
        "capability": "critic.judge",
        "input": {"goal": GOAL, "answer": "36 {years}"},
        "plan_version": 2,
        "result": {"verdict": "accept"},
    }
    why = [{"trigger": "continue"}]
    accepted = await plan(child, offers=offers, why=why, plan=steps(judge_1=judged))
    assert accepted.result == {"finish": True, "output": "36 {years}", "text": "the critic accepts the answer"}
    skipped = await plan(child, offers=offers, why=why, plan=steps(judge_1={**judged, "state": "skipped", "result": None}))
    assert skipped.result["output"] == "36 {years}"
    assert len(asked) == 1, "the model was asked for the answer, not again for giving it"


async def test_a_result_goes_to_the_critic_by_reference() -> None:
    offers = [CALC, {"name": "critic.judge", "agents": 1, "free": 1}]
    done = {"sum": {"input": {"expression": "1"}, "result": 1}}
    child, _ = model(thought(finish=True, result="sum"))
    made = await plan(child, offers=offers, plan=steps(**done))
    judged = made.result["add"]["judge-1"]
    assert judged["input"]["answer"] == {"$ref": "sum"}
    plan_then = steps(**done, judge_1={**judged, "plan_version": 2, "result": {"verdict": "accept"}})
    assert (await plan(child, offers=offers, plan=plan_then, why=[{"trigger": "continue"}])).result["result"] == "sum"


@pytest.mark.parametrize(
    "fields",
    [
        {
            "plan": steps(
                judge_1={
                    "capability": "critic.judge",
                    "input": {"goal": GOAL, "answer": "1"},
                    "plan_version": 2,
                    "result": {"verdict": "reject"},
                }
            )
        },
        {"why": [{"trigger": "message", "text": "wait"}]},
        {
            "plan": steps(
                judge_1={
                    "capability": "critic.judge",
                    "input": {"goal": GOAL, "answer": "1"},
                    "plan_version": 2,
                    "result": {"verdict": "accept"},
                },
                later={"input": {}, "plan_version": 3},
            )
        },
    ],
    ids=["rejected", "somebody spoke", "more was done"],
)
async def test_the_model_is_asked_again_when_the_accepted_answer_is_not_the_last_word(fields: dict[str, Any]) -> None:
    accepted = steps(
        judge_1={"capability": "critic.judge", "input": {"goal": GOAL, "answer": "1"}, "plan_version": 2, "result": {"verdict": "accept"}}
    )
    child, asked = model(thought(add=[step()]))
    await plan(child, **{"plan": accepted, "why": [{"trigger": "continue"}], **fields})
    assert len(asked) == 1


@pytest.mark.parametrize("left", [{"replans": 1}, {"subtasks": 3, "replans": 9}, {"tokens": 400}, {"money": 0.004}])
async def test_without_room_for_a_critic_the_answer_is_given_as_it_is(left: dict[str, float]) -> None:
    offers = [CALC, {"name": "critic.judge", "agents": 1, "free": 1}]
    child, _ = model(thought(finish=True, answer="36"))
    made = await plan(child, offers=offers, left=left)
    assert made.result == {"finish": True, "output": "36", "text": "t (the budget has no room for the critic)"}


async def test_an_accepted_answer_is_given_also_by_a_second_planner() -> None:
    """The first was lost, which its briefing tells: the model is not asked again for that."""
    judged = {"capability": "critic.judge", "input": {"goal": GOAL, "answer": "36"}, "plan_version": 2, "result": {"verdict": "accept"}}
    child, asked = model()
    made = await plan(child, why=[{"trigger": "continue"}], errors=["Agent planner was lost."], plan=steps(judge_1=judged))
    assert (made.result["output"], asked) == ("36", [])


async def test_what_is_left_of_tokens_and_money_goes_with_each_call() -> None:
    child, asked = model("no", thought(add=[step()]))
    await plan(child, left={"tokens": 1000, "money": 0.5, "replans": 3})
    assert [input["left"] for input in asked] == [{"tokens": 1000, "money": 0.5}, {"tokens": 900, "money": 0.499}]


async def test_whoever_gives_no_answers_in_the_models_place_is_found_out() -> None:
    calls: list[str] = []

    def strange(capability: str, _input: Any) -> Any:
        calls.append(capability)
        return {"choices": "none"}

    with pytest.raises(Fail, match=r"Whoever does llm\.chat"):
        await plan(strange)
    assert calls == ["llm.chat"] * 3


async def test_a_task_without_a_goal_is_not_for_it() -> None:
    with pytest.raises(Fail, match="has none"):
        await plan(lambda *_: None, goal=None)


# the critic


async def judge(child: Answering, **input: Any) -> Called:
    return await call(critic.make(PlannerSettings()), "critic.judge", {"goal": GOAL, "answer": "36", **input}, child=child)


async def test_the_critic_says_what_it_thinks_and_tells_the_task() -> None:
    child, asked = model({"verdict": "reject", "text": "of whom?"}, {"verdict": "accept", "text": ""})
    rejected = await judge(child, subtask="age", criteria="whose age it is")
    assert rejected.result == {"verdict": "reject", "text": "of whom?"}
    assert [(said.verdict, said.subtask, said.text) for said in rejected.said] == [("reject", "age", "of whom?")]
    assert "whose age it is" in asked[0]["messages"][1]["content"]
    accepted = await judge(child, subtask="age")
    assert (accepted.result["verdict"], accepted.said) == ("accept", [])


async def test_a_critic_that_cannot_be_understood_is_asked_again_and_then_given_up() -> None:
    child, asked = model("fine!", {"text": "", "refusal": "No."}, {"verdict": "accept", "text": "good"})
    assert (await judge(child)).result["verdict"] == "accept"
    assert len(asked) == 3
    assert asked[2]["messages"][-1]["content"].endswith(GOAL)
    child, _ = model(*[{"verdict": "perhaps"}] * 3)
    with pytest.raises(Fail, match="3 judgements in a row"):
        await judge(child)


# texts


class Inner(msgspec.Struct):
    kind: int | None = None


def handler(path: str, inner: Inner, many: list[Inner], mode: Any = None) -> None:
    """Reads things."""


def test_schemas_in_few_words() -> None:
    takes = Signature(handler).takes
    inner = "{kind?: integer | null}"
    assert shape_text(takes) == f"{{path: string, inner: {inner}, many: [{inner}, ...], mode?: any}}"
    assert description_of(takes) == "Reads things."
    odd: dict[str, Any] | None
    for odd in (None, {}, {"$ref": "#/$defs/None"}, {"type": ["string", "null"]}, {"enum": ["a", 1]}, {"$ref": 3}, {"anyOf": []}):
        assert shape_text(odd) in ("any", "string | null", '"a" | 1')
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}}
    assert shape_text(loop).count("a?") == 5


def test_a_text_that_is_cut_says_so() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc ... (cut here: 4 characters in all)"
