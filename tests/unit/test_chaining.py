"""The planner that needs no model: tables of what is on offer, what is wanted, and the plan that is made of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agentexecutor.agents import Fail
from agentexecutor.agents.planner import agent
from agentexecutor.agents.testing import call
from agentexecutor.coordinator.briefing import Briefing
from agentexecutor.coordinator.chaining import next_plan
from agentexecutor.coordinator.errors import Unplannable
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import decode_as, encode

STRING, NUMBER, INTEGER, LIST = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "array"}
TYPES = {"texts": LIST, "labels": LIST, "rows": LIST, "model": {"type": "object"}, "accuracy": NUMBER, "n": INTEGER}


def record(names: str, **more: Any) -> dict[str, Any]:
    """The schema of an object; its properties have the types of `TYPES`, else they are strings. A name that ends with ? may be missing."""
    properties = {name.rstrip("?"): TYPES.get(name.rstrip("?"), STRING) for name in names.split()}
    return {"type": "object", "properties": properties, "required": [name for name in names.split() if not name.endswith("?")], **more}


def offer(
    name: str, takes: str | dict[str, Any] | None, gives: str | dict[str, Any] | None, estimate_s: float | None = 1.0, cost: float = 0.0
) -> dict[str, Any]:
    schemas = {
        "takes": record(takes) if isinstance(takes, str) else takes,
        "gives": record(gives) if isinstance(gives, str) else gives,
    }
    return {"name": name, "agents": 1, "free": 1, "estimate_s": estimate_s, "cost": cost, **schemas}


def there(capability: str, input: Any, state: str = "completed", **more: Any) -> dict[str, Any]:
    return {"capability": capability, "input": input, "state": state, **more}


def told(
    goal: str | None, offers: list[dict[str, Any]], input: Any = None, plan: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "goal": goal,
        "input": input or {},
        "why": [],
        "errors": [],
        "version": 1,
        "plan": {"subtasks": plan or {}, "result": more.pop("result", None)},
        "feedback": [],
        "offers": offers,
        "spent": {},
        "left": {},
        "deadline": None,
        **more,
    }


def answer(*arguments: Any, **more: Any) -> r.Revision:
    return next_plan(msgspec.json.decode(json.dumps(told(*arguments, **more)), type=Briefing))


def added(revision: r.Revision) -> dict[str, tuple[str, Any]]:
    return {name: (spec.capability, json.loads(bytes(spec.input))) for name, spec in revision.add.items()}


def ref(target: str) -> dict[str, str]:
    return {"$ref": target}


FEATURES = offer("text.features", "texts", "rows", 2.0)
TRAIN = offer("text.train", "rows labels", "model", 3.0)
EVALUATE = offer("text.evaluate", "model rows labels", "accuracy", 1.0)
TEXT = [FEATURES, TRAIN, EVALUATE]
DATA = {"texts": ["good"], "labels": ["+"]}

CHAIN: dict[str, Any] = {
    "features": ("text.features", {"texts": ["good"]}),
    "train": ("text.train", {"rows": ref("features/rows"), "labels": ["+"]}),
    "evaluate": ("text.evaluate", {"model": ref("train/model"), "rows": ref("features/rows"), "labels": ["+"]}),
}


@pytest.mark.parametrize("goal", ["accuracy", "  Accuracy ", "text.evaluate"])
def test_capabilities_are_chained_back_from_the_goal_to_the_input(goal: str) -> None:
    revision = answer(goal, TEXT, DATA)
    assert added(revision) == CHAIN
    assert (revision.result, revision.finish, revision.again, revision.remove, revision.whole) == ("evaluate", True, [], [], False)
    assert revision.text == f"For {goal.strip().lower()}: features, train, evaluate; the estimates add up to 6."


def test_a_diamond_has_its_first_and_last_subtask_once() -> None:
    offers = [offer("load", "", "rows"), offer("left", "rows", "a"), offer("right", "rows", "b"), offer("join", "a b", "whole")]
    revision = answer("whole", offers)
    assert added(revision) == {
        "load": ("load", {}),
        "left": ("left", {"rows": ref("load/rows")}),
        "right": ("right", {"rows": ref("load/rows")}),
        "join": ("join", {"a": ref("left/a"), "b": ref("right/b")}),
    }


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        ({"estimate_s": 5.0}, {"estimate_s": 2.0}, ["first", "second"]),
        ({"estimate_s": 3.0}, {"estimate_s": 2.0}, ["short"]),
        ({"estimate_s": 1.0, "cost": 9.0}, {"estimate_s": 2.0}, ["first", "second"]),
        ({"estimate_s": None}, {"estimate_s": 0.4}, ["first", "second"]),
        ({"estimate_s": None}, {"estimate_s": 0.6}, ["short"]),
        ({"estimate_s": 0.0}, {"estimate_s": 0.0}, ["short"]),
    ],
)
def test_the_cheapest_of_two_ways_is_taken(short: dict[str, Any], long: dict[str, Any], expected: list[str]) -> None:
    offers = [offer("first", "", "half", **long), offer("second", "half", "whole", **long), offer("short", "", "whole", **short)]
    assert list(answer("whole", offers).add) == expected


def test_of_two_that_cost_the_same_the_first_by_name_is_taken() -> None:
    offers = [offer("b", "", "x"), offer("a", "", "x")]
    assert list(answer("x", offers).add) == list(answer("x", offers[::-1]).add) == ["a"]


def test_a_capability_that_gives_two_of_what_is_wanted_is_used_once() -> None:
    """Each of `one` and `two` alone is cheaper than `both`, together they are dearer."""
    offers = [offer("one", "", "x", 1.0), offer("two", "", "y", 1.0), offer("both", "", "x y", 1.5)]
    for goal in ("x, y", "X and Y", "y,x"):
        revision = answer(goal, offers)
        assert (list(revision.add), revision.result) == (["both"], "both")
    assert list(answer("x", offers).add) == ["one"]


def test_several_outputs_of_several_subtasks_have_no_single_result() -> None:
    revision = answer("x, y and z", [offer("one", "", "x"), offer("two", "", "y"), offer("three", "x", "z")])
    assert (sorted(revision.add), revision.result, revision.finish) == (["one", "three", "two"], None, True)


def test_a_name_that_holds_an_and_is_one_output() -> None:
    revision = answer("Terms and Conditions", [offer("write", "", {"type": "string", "title": "terms and conditions"})])
    assert (list(revision.add), revision.result) == (["write"], "write")


def test_results_that_are_no_objects_are_found_by_capability_or_title() -> None:
    offers = [
        offer("text.rows", "texts", {"type": "array"}),
        offer("learn", "rows", {"type": "object", "title": "model"}),
        offer("judge", "model rows", {"type": "number", "title": "Accuracy"}),
    ]
    revision = answer("accuracy", offers, {"texts": []})
    assert added(revision) == {
        "rows": ("text.rows", {"texts": []}),
        "learn": ("learn", {"rows": ref("rows")}),
        "judge": ("judge", {"model": ref("learn"), "rows": ref("rows")}),
    }


def test_optional_parameters_come_from_the_input_when_they_are_there_and_fit() -> None:
    offers = [offer("count", "texts n? note?", "total")]
    assert added(answer("total", offers, {"texts": [], "n": 3, "other": 1})) == {"count": ("count", {"texts": [], "n": 3})}
    assert added(answer("total", offers, {"texts": [], "n": "three"})) == {"count": ("count", {"texts": []})}


def test_a_capability_that_does_not_say_what_it_takes_gets_the_whole_input() -> None:
    assert added(answer("guess", [offer("guess", None, None)], {"a": 1, "b": {"$x": 2}})) == {"guess": ("guess", {"a": 1, "b": {"$$x": 2}})}


def test_values_of_the_input_come_as_they_were_written() -> None:
    """On the wire a literal key has one $ more, also in the goal's input."""
    revision = answer(
        "total", [offer("count", {"properties": {"rule": {}}, "required": ["rule"]}, "total")], {"rule": {"$$ref": "no reference"}}
    )
    assert added(revision) == {"count": ("count", {"rule": {"$$ref": "no reference"}})}


def test_names_are_the_capabilities_last_words_and_unique() -> None:
    offers = [offer("a.load", "", "x"), offer("b.load", "x", "y"), offer("c.load", "y", "z")]
    assert list(answer("z", offers).add) == ["load", "load-2", "load-3"]


# what cannot be planned


@pytest.mark.parametrize(
    ("goal", "offers", "input", "text", "missing"),
    [
        ("accuracy", [], {}, "Nothing gives 'accuracy'. Nothing is on offer.", ["accuracy"]),
        ("accuracy", [FEATURES, TRAIN], DATA, "Nothing gives 'accuracy'. On offer are text.features, text.train.", ["accuracy"]),
        ("accuracy", TEXT, {"texts": []}, "Nothing gives 'labels', which text.evaluate needs. On offer are", ["labels"]),
        ("accuracy", TEXT, {}, "Nothing gives 'labels', which text.evaluate needs. Nothing gives 'texts', which text.features", ["labels", "texts"]),
        ("model", TEXT, {"texts": "no list", "labels": []}, "'texts', which text.features needs (the input: another type).", ["texts"]),
        (
            "y",
            [offer("a", "", {"type": "object", "properties": {"n": STRING}}), offer("b", "n", "y")],
            {},
            "Nothing gives 'n', which b needs (a: another type).",
            ["n"],
        ),
        ("x", [offer("a", "y", "x"), offer("b", "x", "y")], {}, "Each of a, b needs what another of them gives.", ["x"]),
        (None, TEXT, DATA, "The task has no goal to plan for: submit it with one", []),
        ("accuracy", TEXT, {"texts": ref("other")}, "The goal's input cannot be used: it refers to 'other'.", []),
    ],
)  # fmt: skip
def test_the_error_says_what_is_missing_and_what_is_on_offer(
    goal: str | None, offers: list[dict[str, Any]], input: Any, text: str, missing: list[str]
) -> None:
    with pytest.raises(Unplannable) as refused:
        answer(goal, offers, input)
    assert text in str(refused.value)
    assert refused.value.fields["missing"] == missing


# types


INT_OR_NULL = {"anyOf": [INTEGER, {"type": "null"}]}
HELD = {"$ref": "#/$defs/Held", "$defs": {"Held": {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}}, "X": INTEGER}}
HELD_TEXT = {**HELD, "$defs": {**HELD["$defs"], "X": STRING}}  # type: ignore[dict-item]  # a schema
TREE = {
    "$ref": "#/$defs/T",
    "$defs": {"T": {"type": "object", "properties": {"sub": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}}}},
}


@pytest.mark.parametrize(
    ("gives", "takes", "fits"),
    [
        ({}, STRING, True),
        (STRING, {}, True),
        (INTEGER, NUMBER, True),
        (NUMBER, INTEGER, False),
        (INTEGER, INT_OR_NULL, True),
        (INT_OR_NULL, INTEGER, False),
        (INT_OR_NULL, {"type": ["integer", "null", "string"]}, True),
        (INT_OR_NULL, {"anyOf": [NUMBER, {"type": "null"}]}, True),
        ({"type": "array", "items": INTEGER}, {"type": "array", "items": NUMBER}, True),
        ({"type": "array", "items": STRING}, {"type": "array", "items": NUMBER}, False),
        ({"type": "array"}, {"type": "array", "items": NUMBER}, True),
        ({"enum": ["a", "b"]}, STRING, True),
        ({"enum": ["a", 1]}, STRING, False),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, True),
        (STRING, {"enum": ["a", "b"]}, False),
        ({"const": 3}, INTEGER, True),
        ({"const": True}, INTEGER, False),
        (record("a b"), record("a"), True),
        (record("a"), record("a b"), False),
        ({"type": "object"}, record("a b"), True),
        (record("n"), {"type": "object", "properties": {"n": STRING}}, False),
        (HELD, HELD, True),
        (HELD, HELD_TEXT, False),
        (TREE, TREE, True),
        (TREE, {"type": "object", "properties": {"sub": STRING}}, False),
        ({"allOf": [INTEGER, {"minimum": 0}]}, NUMBER, True),
        (INTEGER, {"allOf": [NUMBER, STRING]}, False),
        ({"$ref": "#/nowhere"}, STRING, True),
    ],
)
def test_what_is_given_must_fit_what_is_taken(gives: dict[str, Any], takes: dict[str, Any], fits: bool) -> None:
    definitions = {"$defs": {**gives.get("$defs", {})}}
    giver = offer("give", "", {"type": "object", "properties": {"x": gives}, "required": ["x"], **definitions})
    taker = offer("take", {"type": "object", "properties": {"x": takes}, "required": ["x"], "$defs": takes.get("$defs", {})}, "out")
    if fits:
        assert list(answer("out", [giver, taker]).add) == ["give", "take"]
    else:
        with pytest.raises(Unplannable, match="another type"):
            answer("out", [giver, taker])


@pytest.mark.parametrize(
    ("value", "takes", "fits"),
    [
        (3, INTEGER, True),
        (3, NUMBER, True),
        (3.5, INTEGER, False),
        (True, INTEGER, False),
        (None, INT_OR_NULL, True),
        ("a", {"enum": ["a", "b"]}, True),
        ("c", {"enum": ["a", "b"]}, False),
        ([1, "a"], {"type": "array", "prefixItems": [INTEGER, STRING], "items": False}, True),
        ([1, 1], {"type": "array", "prefixItems": [INTEGER, STRING], "items": False}, False),
        ([1, None], {"type": "array", "items": INTEGER}, False),
        ({"n": 1}, record("n", additionalProperties=False), True),
        ({"n": 1, "m": 1}, record("n", additionalProperties=False), False),
        ({}, record("n"), False),
        ({"n": 1, "m": "1"}, record("n", additionalProperties=INTEGER), False),
        ({"sub": {"sub": {"sub": None}}}, TREE, True),
        ({"sub": {"sub": {"sub": 1}}}, TREE, False),
    ],
)
def test_a_value_of_the_input_must_fit(value: Any, takes: dict[str, Any], fits: bool) -> None:
    taker = offer("take", {"properties": {"x": takes}, "required": ["x"], "$defs": takes.get("$defs", {})}, "out")
    if fits:
        assert list(answer("out", [taker], {"x": value}).add) == ["take"]
    else:
        with pytest.raises(Unplannable, match="another type"):
            answer("out", [taker], {"x": value})


# a plan that is there


DONE: dict[str, Any] = {
    "features": there("text.features", {"texts": ["good"]}, result={"rows": [[1]]}),
    "train": there("text.train", {"rows": ref("features/rows"), "labels": ["+"]}, result={"model": {}}),
    "evaluate": there("text.evaluate", CHAIN["evaluate"][1], "blocked"),
}


def why(trigger: str, subtask: str | None = None) -> list[dict[str, Any]]:
    return [{"trigger": trigger, "answer": "plan", "subtask": subtask}]


def failed(name: str, **more: Any) -> dict[str, Any]:
    return {**DONE, name: {**DONE[name], "state": "failed", "error": {"code": "handler", "message": "no luck."}, "result": None, **more}}


def test_completed_work_is_used_by_its_name() -> None:
    plan = {"f1": there("text.features", {"texts": ["good"]}, result={"rows": [[1]]})}
    revision = answer("accuracy", TEXT, DATA, plan)
    assert list(revision.add) == ["train", "evaluate"]
    assert added(revision)["train"][1] == {"rows": ref("f1/rows"), "labels": ["+"]}
    assert "f1 as planned before" in revision.text


def test_completed_work_is_known_by_its_result_also_when_nobody_offers_it_any_more() -> None:
    plan = {"f1": there("gone", {}, result={"rows": [[1]], "labels": "no list"})}
    assert added(answer("accuracy", TEXT, {"labels": ["+"]}, plan))["train"][1] == {"rows": ref("f1/rows"), "labels": ["+"]}
    with pytest.raises(Unplannable, match=r"'labels', which text.evaluate needs \(f1: another type\)"):
        answer("accuracy", TEXT, {}, plan)


def test_work_under_way_is_waited_for() -> None:
    plan = {"features": there("text.features", {"texts": ["good"]}, "running")}
    assert list(answer("accuracy", TEXT, DATA, plan).add) == ["train", "evaluate"]


def test_when_all_is_planned_nothing_changes() -> None:
    revision = answer("accuracy", TEXT, DATA, DONE, result="evaluate")
    assert (revision.add, revision.again, revision.remove, revision.result, revision.finish) == ({}, [], [], "evaluate", True)


OTHER_TRAIN = offer("bayes.learn", "rows labels", "model", 30.0)


@pytest.mark.parametrize("trigger", [why("failed", "train"), [], why("nonsense")])
def test_another_way_is_taken_around_what_has_failed(trigger: list[dict[str, Any]]) -> None:
    revision = answer("accuracy", [*TEXT, OTHER_TRAIN], DATA, failed("train"), why=trigger)
    assert added(revision) == {"train": ("bayes.learn", CHAIN["train"][1]), "evaluate": CHAIN["evaluate"]}
    assert (revision.again, revision.remove) == ([], []), "the new one has its name, so it is superseded; features is kept"


def test_all_that_waited_for_the_failed_one_is_planned_anew() -> None:
    offers = [offer("a", "", "x"), offer("b", "x", "y"), offer("c", "y", "z"), offer("other", "", {"title": "x"}, 9.0)]
    plan = {"a": there("a", {}, "failed"), "b": there("b", {"x": ref("a/x")}, "blocked"), "c": there("c", {"y": ref("b/y")}, "blocked")}
    revision = answer("z", offers, {}, plan)
    assert added(revision) == {"a": ("other", {}), "b": ("b", {"x": ref("a")}), "c": ("c", {"y": ref("b/y")})}
    assert revision.remove == []


def test_what_waited_for_the_failed_one_is_removed_when_the_other_way_does_not_need_it() -> None:
    guess = offer("guess", "texts", "accuracy", 100.0)
    revision = answer("accuracy", [*TEXT, guess], DATA, failed("train"))
    assert (added(revision), revision.remove) == ({"guess": ("guess", {"texts": ["good"]})}, ["train", "evaluate"])
    assert revision.result == "guess"


def test_without_a_single_result_what_is_not_needed_goes_also_when_it_is_done() -> None:
    offers = [offer("one", "half", "x"), offer("other", "", "x", 9.0), offer("two", "", "y")]
    plan = {
        "half": there("half", {}, result={"half": "h"}),
        "one": there("one", {"half": ref("half/half")}, "failed"),
        "two": there("two", {}),
    }
    revision = answer("x, y", offers, {}, plan)
    assert (added(revision), revision.remove) == ({"one": ("other", {})}, ["half"])
    assert answer("x", offers, {}, plan).remove == [], "it may be of use later"


def test_the_only_way_is_not_tried_again_with_the_same_input() -> None:
    with pytest.raises(Unplannable, match=r"The only way is text.train with the input that 'train' has had: no luck") as refused:
        answer("accuracy", TEXT, DATA, failed("train"))
    assert refused.value.fields == {"missing": ["text.train"], "offered": ["text.evaluate", "text.features", "text.train"]}


def test_the_only_way_is_tried_again_with_another_input() -> None:
    """What has failed may do with the rows of somebody else."""
    rows = offer("other.rows", "texts", "rows", 50.0)
    revision = answer("accuracy", [*TEXT, rows], DATA, failed("train"))
    assert added(revision)["train"] == ("text.train", {"rows": ref("rows/rows"), "labels": ["+"]})
    assert "features" not in revision.remove, "evaluate can still have its rows"
    revision = answer("accuracy", TEXT, {**DATA, "labels": ["-"]}, failed("train"))
    assert added(revision)["train"] == ("text.train", {"rows": ref("features/rows"), "labels": ["-"]})


def test_what_has_failed_may_be_tried_again_after_what_it_needs_has_changed() -> None:
    plan = {**failed("train"), "features": {**DONE["features"], "state": "failed"}}
    rows = offer("other.rows", "texts", "rows", 50.0)
    revision = answer("model", [*TEXT, rows], DATA, plan)
    assert added(revision) == {"features": ("other.rows", {"texts": ["good"]}), "train": CHAIN["train"]}


def test_what_the_errors_blame_is_avoided() -> None:
    errors = ["Nobody offers 'text.train', which 'train' asks for."]
    assert added(answer("model", [*TEXT, OTHER_TRAIN], DATA, errors=errors))["learn"][0] == "bayes.learn"
    assert list(answer("rows", TEXT, DATA, errors=["'features' is the name of a planner, a share or a child."]).add) == ["features-2"]


@pytest.mark.parametrize("state", ["completed", "running", "blocked"])
def test_what_was_rejected_is_done_in_another_way(state: str) -> None:
    plan = {**DONE, "train": {**DONE["train"], "state": state}}
    revision = answer("accuracy", [*TEXT, OTHER_TRAIN], DATA, plan, why=why("reject", "train"))
    assert added(revision) == {"train": ("bayes.learn", CHAIN["train"][1]), "evaluate": CHAIN["evaluate"]}
    with pytest.raises(Unplannable, match=r"The only way is text.train"):
        answer("accuracy", TEXT, DATA, plan, why=why("reject", "train"))


@pytest.mark.parametrize("trigger", ["late", "unserved", "lost"])
def test_what_is_late_lost_or_not_served_is_replaced_when_there_is_another_way(trigger: str) -> None:
    plan = {**DONE, "train": there("text.train", CHAIN["train"][1], "ready")}
    revision = answer("accuracy", [*TEXT, OTHER_TRAIN], DATA, plan, why=why(trigger, "train"))
    assert added(revision) == {"train": ("bayes.learn", CHAIN["train"][1]), "evaluate": CHAIN["evaluate"]}
    revision = answer("accuracy", TEXT, DATA, plan, why=why(trigger, "train"))
    assert (revision.add, revision.again, revision.remove, revision.result) == ({}, [], [], "evaluate"), "else it is waited for"


def test_what_was_lost_for_good_runs_again_when_there_is_no_other_way() -> None:
    revision = answer("accuracy", TEXT, DATA, failed("train"), why=why("lost", "train"))
    assert (revision.add, revision.again, revision.remove) == ({}, ["train"], [])


@pytest.mark.parametrize(("trigger", "state"), [("late", "failed"), ("lost", "failed"), ("late", "ready")])
def test_without_a_goal_what_was_taken_from_an_agent_runs_again(trigger: str, state: str) -> None:
    plan = {**DONE, "train": there("text.train", CHAIN["train"][1], state)}
    revision = answer(None, TEXT, DATA, plan, why=why(trigger, "train"))
    assert (revision.add, revision.again, revision.remove, revision.finish) == ({}, ["train"], [], True)
    with pytest.raises(Unplannable, match="no goal to plan for"):
        answer(None, TEXT, DATA, failed("train"), why=why("failed", "train"))


# feedback


def said(verdict: str | None, subtask: str | None = None, **more: Any) -> dict[str, Any]:
    return {"why": why("revise" if verdict == "revise" else "message", subtask), "feedback": [
        {"id": "f", "sender": "me", "subtask": subtask, "verdict": verdict, "text": "use bigrams", **more}
    ]}  # fmt: skip


def test_a_revision_without_data_runs_the_subtask_again() -> None:
    revision = answer("accuracy", TEXT, DATA, DONE, **said("revise", "features"))
    assert (revision.add, revision.again, revision.remove, revision.result) == ({}, ["features"], [], "evaluate")
    revision = answer(None, TEXT, DATA, DONE, **said("revise", "features"))
    assert (revision.add, revision.again, revision.finish) == ({}, ["features"], True), "also without a goal"
    revision = answer("accuracy", TEXT, DATA, DONE, **said("revise"), result="evaluate")
    assert revision.again == ["evaluate"], "of the task as a whole: what gives its result"
    revision = answer("accuracy", TEXT, DATA, failed("train"), **said("revise", "train"))
    assert (revision.add, revision.again, revision.remove) == ({}, ["train"], []), "what failed may run again: it is told what to do better"


@pytest.mark.parametrize("verdict", ["revise", None])
def test_data_takes_the_place_of_the_input_and_what_used_it_is_made_anew(verdict: str | None) -> None:
    revision = answer("accuracy", TEXT, DATA, DONE, **said(verdict, "train" if verdict else None, data={"labels": ["-"]}))
    assert added(revision) == {
        "train": ("text.train", {"rows": ref("features/rows"), "labels": ["-"]}),
        "evaluate": ("text.evaluate", {**CHAIN["evaluate"][1], "labels": ["-"]}),
    }
    assert (revision.again, revision.remove) == ([], [])
    now = dict(DONE)
    now.update({name: {**DONE[name], "input": input} for name, (_, input) in added(revision).items()})
    assert answer("accuracy", TEXT, DATA, now, feedback=said(None, data={"labels": ["-"]})["feedback"]).add == {}, "once it is so, it is so"


def test_data_adds_what_the_input_lacks() -> None:
    offers = [offer("count", "texts n?", "total")]
    plan = {"count": there("count", {"texts": []})}
    assert added(answer("total", offers, {"texts": []}, plan, **said(None, data={"n": 2}))) == {"count": ("count", {"texts": [], "n": 2})}
    assert answer("total", offers, {"texts": []}, plan, **said(None, data={"unknown": 2})).add == {}
    assert answer("total", offers, {"texts": []}, plan, **said(None, data="no object")).add == {}


# the agent


@pytest.mark.anyio
async def test_the_agent_answers_with_a_revision() -> None:
    called = await call(agent, "plan", {**told("accuracy", TEXT, DATA), "more": "fields of later versions"})
    revision = decode_as(r.Revision, encode(called.result))
    assert (list(revision.add), revision.result, revision.finish) == (["features", "train", "evaluate"], "evaluate", True)
    with pytest.raises(Fail, match=r"Nothing gives 'happiness'. On offer are text.evaluate, text.features, text.train.") as refused:
        await call(agent, "plan", told("happiness", TEXT, DATA))
    assert refused.value.fields["missing"] == ["happiness"]
