"""What a user submits as the message that travels: what goes inline, what by reference, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentexecutor.bus.errors import TaskRefused
from agentexecutor.bus.request import encode_submit, fill_submit
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT, decode, digest
from agentexecutor.schemas.errors import NameRefused, PlanRefused
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import MAX_PLAN, Plan, Subtask
from agentexecutor.schemas.references import Ref

pytestmark = pytest.mark.anyio

TASK = TaskName("me", "t1")
NOTHING = m.Submit()
EDGE = INLINE_LIMIT - len('{"x":""}')


class Shelf:
    """Keeps bodies by digest."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    async def put(self, body: bytes) -> m.BlobRef:
        self.bodies[digest(body)] = body
        return m.BlobRef(digest=digest(body), bytes=len(body), chunks=-(-len(body) // INLINE_LIMIT))


async def test_a_capability_with_and_without_input() -> None:
    shelf = Shelf()
    assert await fill_submit(NOTHING, "a.b", None, shelf.put) == m.Submit(capability="a.b")
    filled = await fill_submit(m.Submit(priority=3), "a.b", {"y": 1, "$ref": "literal"}, shelf.put)
    assert filled == m.Submit(capability="a.b", priority=3, input=msgspec.Raw(b'{"$$ref":"literal","y":1}'))
    assert shelf.bodies == {}


@pytest.mark.parametrize(("extra", "inline"), [(0, True), (1, False)])
async def test_the_edge_between_inline_and_by_reference(extra: int, inline: bool) -> None:
    shelf = Shelf()
    submit = await fill_submit(NOTHING, "a", {"x": "y" * (EDGE + extra)}, shelf.put)
    assert (submit.input_blob is None) == inline
    assert [len(body) for body in shelf.bodies.values()] == ([] if inline else [INLINE_LIMIT + 1])
    assert len(encode_submit(TASK, submit)) < 300_000


async def test_a_plan_whose_parts_are_small_and_whose_sum_is_not() -> None:
    shelf = Shelf()
    plan = Plan({f"s{number}": Subtask("a", {"x": "y" * 200_000}) for number in range(2)})
    submit = await fill_submit(NOTHING, plan, None, shelf.put)
    assert submit.plan is None
    assert submit.plan_blob is not None
    assert msgspec.json.decode(shelf.bodies[submit.plan_blob.digest], type=m.PlanSpec) == plan.spec()


async def test_inputs_leave_a_plan_that_would_be_too_large() -> None:
    shelf = Shelf()
    plan = Plan({f"s{number}": Subtask("a", {"x": str(number) + "y" * 40_000}) for number in range(220)})
    plan.add("small", Subtask("a", {"x": 1}))
    submit = await fill_submit(NOTHING, plan, None, shelf.put)
    assert submit.plan is not None
    assert len(shelf.bodies) == 220
    assert [name for name, spec in submit.plan.subtasks.items() if spec.input_blob is None] == ["small"]


async def test_a_plan_that_stays_too_large_is_refused() -> None:
    plan = Plan({f"s{number}": Subtask("a", {"x": str(number) + "y" * 4_000}) for number in range(2_200)})
    with pytest.raises(PlanRefused, match=f"more than {MAX_PLAN}.*name the place"):
        await fill_submit(NOTHING, plan, None, Shelf().put)


async def test_large_inputs_leave_the_plan_and_what_they_refer_to_stays_named() -> None:
    shelf = Shelf()
    plan = Plan({"w": Subtask("a"), "x": Subtask("a")}, result="z")
    plan.add("y", Subtask("b", {"rows": Ref("x")["rows"], "text": "z" * 300_000}, after=["w", "x"], labels={"zone": "eu"}))
    plan.add("z", Subtask("c", {"y": Ref("y")}))
    submit = await fill_submit(NOTHING, plan, None, shelf.put)
    assert submit.plan is not None
    assert list(submit.plan.subtasks) == ["w", "x", "y", "z"], "the plan's own order"
    assert submit.plan.result == "z"
    large = submit.plan.subtasks["y"]
    assert (large.after, large.input, large.labels) == (["w", "x"], m.EMPTY, {"zone": "eu"})
    assert large.input_blob is not None
    assert msgspec.json.decode(shelf.bodies[large.input_blob.digest])["rows"] == {"$ref": "x/rows"}


async def test_a_plan_that_was_read_from_a_file_is_checked_too() -> None:
    spec = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="x", after=["b"])})
    with pytest.raises(PlanRefused, match="'b'"):
        await fill_submit(NOTHING, spec, None, Shelf().put)
    fine = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="x", input=msgspec.Raw(b' {"x": 1}'))})
    assert (await fill_submit(NOTHING, fine, None, Shelf().put)).plan == fine


@pytest.mark.parametrize(
    ("what", "input", "error", "words"),
    [
        ("no capability", None, NameRefused, "'no capability'"),
        ("a", "text", PlanRefused, "no JSON object"),
        ("a", [1], PlanRefused, "no JSON object"),
        ("a", {"x": Ref("b")}, PlanRefused, "'b'"),
        (Plan({"a": Subtask("x", 7)}), None, PlanRefused, "'a' is no JSON object"),
        (Plan({"a": Subtask("x")}), {}, PlanRefused, "no input of its own"),
        (Plan({"a b": Subtask("x")}), None, NameRefused, "'a b'"),
        (Plan(), None, PlanRefused, "no subtasks"),
        (Plan({"a": Subtask("x", {"y": Ref("a")})}), None, PlanRefused, "a -> a"),
    ],
)
async def test_what_cannot_run_is_refused(what: Any, input: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await fill_submit(NOTHING, what, input, Shelf().put)


@pytest.mark.parametrize(
    ("submit", "option"),
    [
        (m.Submit(capability="a", priority=10**7), "priority"),
        (m.Submit(capability="a", retries=-1), "retries"),
        (m.Submit(capability="a", deadline_s=-1.0), "deadline_s"),
        (m.Submit(capability="a", auction="english"), "auction"),  # type: ignore[arg-type]  # wrong on purpose
        (m.Submit(capability="a", labels={"zone": 7}), "labels"),  # type: ignore[dict-item]  # wrong on purpose
    ],
)
async def test_an_option_that_no_coordinator_would_take_is_named(submit: m.Submit, option: str) -> None:
    with pytest.raises(TaskRefused, match=option) as raised:
        encode_submit(TASK, submit)
    assert raised.value.fields["error"].code == "input"
    assert raised.value.fields["task"] == "me.t1"


async def test_what_is_sent_reads_back() -> None:
    submit = await fill_submit(m.Submit(labels={"zone": "eu"}), Plan({"a": Subtask("x", {"n": 1})}), None, Shelf().put)
    assert decode("submit", encode_submit(TASK, submit)) == submit
