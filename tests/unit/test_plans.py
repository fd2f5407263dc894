"""Plans as people write them, and the check that every plan passes before it runs."""

from __future__ import annotations

import pickle
import re
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from agentexecutor.schemas import Approval, Feedback, Plan, Ref, Split, Subtask
from agentexecutor.schemas.codec import decode_as, encode
from agentexecutor.schemas.errors import AgentExecutorError, NameRefused, PlanRefused
from agentexecutor.schemas.messages import PlanSpec, SubtaskSpec
from agentexecutor.schemas.plans import MAX_SUBTASKS, check_plan, dependencies


def spec(**needs: list[str]) -> PlanSpec:
    """A plan from what each subtask waits for."""
    return PlanSpec(subtasks={name: SubtaskSpec(capability="x", after=after) for name, after in needs.items()})


# writing


def test_adding_and_passing_are_the_same() -> None:
    added = Plan(result="model")
    features = added.add("features", Subtask("text.features", {"texts": ["a"]}))
    added.add("model", Subtask("text.train", {"x": features}, after=[], retries=2))
    passed = Plan(
        {"features": Subtask("text.features", {"texts": ["a"]}), "model": Subtask("text.train", {"x": Ref("features")}, retries=2)},
        result="model",
    )
    assert encode(added.spec()) == encode(passed.spec())
    assert decode_as(PlanSpec, encode(added.spec())).subtasks["model"].retries == 2


def test_every_option_of_a_subtask_travels() -> None:
    split = Split(over="rows", by="equal", into=3, merge="text.merge")
    options: dict[str, Any] = {
        "retries": 0,
        "timeout_s": 1.5,
        "deadline_s": 60,
        "priority": -3,
        "labels": {"zone": "eu"},
        "award": "cheapest",
        "auction": "broadcast",
        "tailored": True,
        "on_failure": "skip",
        "on_stall": "release",
        "prefer": "a1",
        "avoid": ["a2"],
        "split": split,
        "approval": Approval(timeout_s=60, otherwise="accept", text="?"),
    }
    made = Subtask("text.features", {"rows": Ref("load")["rows"]}, after=["first", Ref("load/rows")], **options).spec()
    assert {name: getattr(made, name) for name in options} == options
    assert made.after == ["first", "load"]
    assert dependencies(made) == ["first", "load"]
    assert set(SubtaskSpec.__struct_fields__) - {"input_blob"} == {"capability", "input", "after", *options}


def test_after_may_be_one_name() -> None:
    assert Subtask("x", after="features").spec().after == ["features"]
    assert Subtask("x", after=Ref("features/rows")).spec().after == ["features"]  # type: ignore[arg-type]


def test_an_input_that_is_json_already_is_taken_as_it_is() -> None:
    assert bytes(Subtask("x", Raw(b'{ "a": {"$ref": "b"} }')).spec().input) == b'{ "a": {"$ref": "b"} }'


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"retries": -1}, "$.retries"),
        ({"retries": 1.5}, "$.retries"),
        ({"labels": {"zone": 1}}, "$.labels"),
        ({"labels": 3}, "not iterable"),
        ({"after": [3]}, "$.after[0]"),
        ({"after": 3}, "not iterable"),
        ({"auction": "dutch"}, "$.auction"),
        ({"on_failure": "panic"}, "$.on_failure"),
        ({"priority": 10**7}, "$.priority"),
        ({"timeout_s": -1}, "$.timeout_s"),
        ({"split": Split(over="rows", into=0)}, "$.split.into"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], what: str) -> None:
    with pytest.raises(PlanRefused, match=re.escape(what)):
        Subtask("text.features", **options).spec()


@pytest.mark.parametrize("capability", ["", "two words", "a..b", None])
def test_a_capability_is_a_name(capability: str) -> None:
    with pytest.raises(NameRefused):
        Subtask(capability).spec()


def test_making_a_plan_never_raises_submitting_does() -> None:
    plan = Plan({"a b": Subtask("x")})
    plan.add("twice", Subtask("x"))
    plan.add("twice", Subtask("y"))
    with pytest.raises(PlanRefused, match="names 'twice' twice") as caught:
        plan.spec()
    assert caught.value.fields["path"] == ["twice"]
    with pytest.raises(NameRefused, match="'a b' cannot name a subtask"):
        Plan({"a b": Subtask("x")}).spec()
    with pytest.raises(PlanRefused, match="no subtasks"):
        Plan().spec()


def test_feedback_says_nothing_by_default() -> None:
    assert Feedback() == Feedback(verdict=None, text="", subtask=None, data=None)


# checking


def test_a_plan_that_can_run_says_what_waits_for_what() -> None:
    plan = Plan(
        {
            "a": Subtask("x"),
            "b": Subtask("x", {"n": [Ref("a/rows"), Ref("a")]}, after=["a"]),
            "c": Subtask("x", {"b": Ref("b")}, after=["a"]),
        }
    )
    assert check_plan(plan.spec()) == {"a": [], "b": ["a"], "c": ["a", "b"]}


@pytest.mark.parametrize(
    ("needs", "path"),
    [
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"start": ["a"], "a": ["b"], "b": ["c"], "c": ["a"], "end": ["c"]}, ["a", "b", "c", "a"]),
        ({"fine": [], "d": ["fine", "e"], "e": ["fine", "d"]}, ["d", "e", "d"]),
    ],
)
def test_a_cycle_is_refused_with_its_path(needs: dict[str, list[str]], path: list[str]) -> None:
    with pytest.raises(PlanRefused, match=f"cycle: {' -> '.join(path)}") as caught:
        check_plan(spec(**needs))
    assert caught.value.fields["path"] == path
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert isinstance(again, AgentExecutorError)
    assert again.fields == caught.value.fields


def test_the_name_of_a_merging_capability_is_checked() -> None:
    with pytest.raises(NameRefused, match="bad name"):
        Plan({"a": Subtask("c", {"rows": [1]}, split=Split(over="rows", merge="bad name"))}).spec()


def test_a_cycle_through_references_is_refused() -> None:
    with pytest.raises(PlanRefused, match="cycle: a -> b -> a"):
        Plan({"a": Subtask("x", {"y": Ref("b/part")}), "b": Subtask("x", {"y": [Ref("a")]})}).spec()


def test_a_diamond_is_no_cycle() -> None:
    assert check_plan(spec(end=["left", "right"], left=["start"], right=["start"], start=[]))["end"] == ["left", "right"]


def test_an_unknown_name_is_refused_and_a_known_one_is_not() -> None:
    with pytest.raises(PlanRefused, match="'b' needs 'nobody'") as caught:
        check_plan(spec(a=[], b=["a", "nobody"]))
    assert caught.value.fields["path"] == ["b", "nobody"]
    assert check_plan(spec(b=["earlier"]), known=["earlier"]) == {"b": ["earlier"]}
    with pytest.raises(PlanRefused, match="'b' needs ''"):
        Plan({"b": Subtask("x", {"y": Ref("")})}).spec()


def test_the_result_must_be_one_of_them() -> None:
    plan = spec(a=[])
    check_plan(msgspec.structs.replace(plan, result="a"))
    check_plan(msgspec.structs.replace(plan, result="earlier"), known={"earlier": 1})
    with pytest.raises(PlanRefused, match="result names 'b'"):
        check_plan(msgspec.structs.replace(plan, result="b"))


def test_names_and_inputs_that_came_over_the_wire_are_checked() -> None:
    with pytest.raises(NameRefused):
        check_plan(spec(**{"a.b": []}))
    with pytest.raises(NameRefused):
        check_plan(PlanSpec(subtasks={"a": SubtaskSpec(capability="no good")}))
    for text, why in ((b"[" * 191 + b"]" * 191, "190 levels"), (b'"\xff"', "UTF-8"), (b'{"$ref": 5}', "not a reference")):
        with pytest.raises(PlanRefused, match=why):
            check_plan(PlanSpec(subtasks={"a": SubtaskSpec(capability="x", input=Raw(text))}))


def test_long_chains_and_wide_fans_are_fine() -> None:
    chain = Plan({"s0": Subtask("x")} | {f"s{n}": Subtask("x", {"before": Ref(f"s{n - 1}")}) for n in range(1, 10_000)})
    needs = check_plan(chain.spec())
    assert needs["s9999"] == ["s9998"]
    backwards = spec(**{f"s{n}": [f"s{n + 1}"] for n in range(9_999)}, s9999=[])
    assert len(check_plan(backwards)) == 10_000
    fan = spec(end=[f"s{n}" for n in range(9_999)], **{f"s{n}": [] for n in range(9_999)})
    assert len(check_plan(fan)["end"]) == 9_999


def test_a_long_cycle_is_found() -> None:
    with pytest.raises(PlanRefused, match="cycle") as caught:
        check_plan(spec(**{f"s{n}": [f"s{(n + 1) % 10_000}"] for n in range(10_000)}))
    assert len(caught.value.fields["path"]) == 10_001


def test_there_is_a_largest_plan() -> None:
    check_plan(spec(**{f"s{n}": [] for n in range(MAX_SUBTASKS)}))
    with pytest.raises(PlanRefused, match=f"more than {MAX_SUBTASKS}"):
        check_plan(spec(**{f"s{n}": [] for n in range(MAX_SUBTASKS + 1)}))
