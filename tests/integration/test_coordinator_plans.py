"""A coordinator on a real server: plans, splits, children, and large bodies in every place where a body can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from peers import QUICK, Place, ScriptedAgent, agent, client, coordinating

from agentexecutor.bus import errands
from agentexecutor.bus.blobs import store_body
from agentexecutor.bus.errors import ApiError
from agentexecutor.coordinator.shell import coordinator as shell
from agentexecutor.coordinator.shell import outbox
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import INLINE_LIMIT, encode
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.references import Ref, encode_input, take

pytestmark = pytest.mark.anyio


PATIENT = dataclasses.replace(QUICK, accept_timeout_s=30.0)
LARGE = 300_000
HUGE = 10_000_000


def spec(capability: str, input: Any = None, **more: Any) -> m.SubtaskSpec:
    return m.SubtaskSpec(capability=capability, input=encode_input(input or {}), **more)


def plan(subtasks: dict[str, m.SubtaskSpec], result: str | None = None) -> m.PlanSpec:
    return m.PlanSpec(subtasks=subtasks, result=result)


async def full_input(peer: ScriptedAgent, award: m.Award) -> Any:
    """The award's input, complete, as an agent puts it together."""
    task = TaskName.parse(award.task)
    value = await peer.value(task, award, "input")
    for fill in award.fill:
        held: Any = value
        for step in fill.at[:-1]:
            held = held[step]
        held[fill.at[-1]] = take(await peer.fetch(task, fill.blob), fill.path, fill.slice)
    return value


async def test_a_plan_runs_in_order(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "make", "add", capacity=4) as a1, client(place) as me:
        task = await me.submit(
            "t1",
            plan=plan(
                {
                    "a": spec("make", {"n": 1}),
                    "b": spec("make", {"n": 2}),
                    "sum": spec("add", {"x": [Ref("a/v"), Ref("b/v")], "$literal": 1}),
                    "last": spec("add", {"x": Ref("sum")}, after=["a"]),
                }
            ),
        )
        first, second = await a1.award(), await a1.award()
        assert {first.subtask, second.subtask} == {"a", "b"}
        for award in (first, second):
            await a1.done(award, {"v": msgspec.json.decode(award.input)["n"] * 10})
        added = await a1.award()
        assert msgspec.json.decode(added.input) == {"x": [10, 20], "$literal": 1}
        await a1.done(added, 30)
        last = await a1.award()
        assert msgspec.json.decode(last.input) == {"x": 30}
        await a1.done(last, "end")
        assert bytes((await me.result(task)).result) == b'"end"'
        view = await me.view(task)
        assert {name: subtask.state for name, subtask in view.subtasks.items()} == dict.fromkeys(("a", "b", "sum", "last"), "completed")


async def test_all_final_results_by_name(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "make", capacity=4) as a1, client(place) as me:
        task = await me.submit("t1", plan=plan({"a": spec("make"), "b": spec("make", on_failure="skip")}))
        awards = {award.subtask: award for award in [await a1.award(), await a1.award()]}
        await a1.done(awards["a"], [1])
        await a1.failed(awards["b"], retryable=False)
        assert msgspec.json.decode((await me.result(task)).result) == {"a": [1], "b": None}


async def test_a_reference_to_nothing_fails_the_task(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "make") as a1, client(place) as me:
        task = await me.submit("t1", plan=plan({"a": spec("make"), "b": spec("make", {"x": Ref("a/missing")})}))
        await a1.done(await a1.award(), {"there": 1})
        result = await me.result(task)
        assert result.state == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.details["subtask"]) == ("input", "b")


@pytest.mark.parametrize(("by", "shares"), [("capacity", [2, 4]), ("equal", [3, 3])])
async def test_split_and_join(place: Place, by: Any, shares: list[int]) -> None:
    async with (
        coordinating(place),
        agent(place, "a1", "up", capacity=5) as a1,
        agent(place, "a2", "up", capacity=10) as a2,
        client(place) as me,
    ):
        await me.until_agents(2)
        words = ["a", "b", "c", "d", "e", "f"]
        task = await me.submit("t1", plan=plan({"all": spec("up", {"words": words}, split=m.Split(over="words", by=by))}))
        parts = []
        for peer in (a1, a2):
            award = await peer.award()
            given = msgspec.json.decode(award.input)["words"]
            parts.append(len(given))
            await peer.done(award, [word.upper() for word in given])
        assert parts == shares
        assert msgspec.json.decode((await me.result(task)).result) == ["A", "B", "C", "D", "E", "F"]


async def test_split_with_merge_over_a_reference(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "make", "up", "merge", capacity=9) as a1, client(place) as me:
        split = m.Split(over="words", into=2, by="equal", merge="merge")
        task = await me.submit(
            "t1", plan=plan({"make": spec("make"), "all": spec("up", {"words": Ref("make/w"), "k": 1}, split=split)}, result="all")
        )
        await a1.done(await a1.award("make"), {"w": [1, 2, 3]})
        for name, part in (("all-1", [1, 2]), ("all-2", [3])):
            award = await a1.award(name)
            assert msgspec.json.decode(award.input) == {"words": part, "k": 1}
            await a1.done(award, sum(part))
        merge = await a1.award("all-merge")
        assert msgspec.json.decode(merge.input) == {"parts": [3, 3]}
        await a1.done(merge, 6)
        assert bytes((await me.result(task)).result) == b"6"


async def test_split_waits_for_the_first_agent(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        task = await me.submit("t1", plan=plan({"all": spec("up", {"words": [1, 2]}, split=m.Split(over="words"))}))
        view = await me.until(task, lambda view: view.subtasks["all"].state == "parked")
        assert view.state == "running"
        lines = msgspec.json.decode((await me.ask("unserved")).body)["unserved"]
        assert [(line["capability"], line["tasks"]) for line in lines] == [("up", ["me.t1"])]
        async with agent(place, "a1", "up") as a1:
            await a1.done(await a1.award("all-1"), [3, 4])
            assert bytes((await me.result(task)).result) == b"[3,4]"


async def test_split_of_what_is_no_list(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        task = await me.submit("t1", plan=plan({"all": spec("up", {"words": 5}, split=m.Split(over="words"))}))
        result = await me.result(task)
        assert result.error is not None
        assert result.error.code == "input"


async def test_extend(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "parent", "child", capacity=3) as a1, client(place) as me:
        task = await me.submit("t1", capability="parent")
        award = await a1.award("main")
        await a1.accept(award)
        child = m.Extend(subtask="main", epoch=award.epoch, boot=a1.boot, call=1, child=spec("child", {"n": 1}))
        await a1.claim("extend", task, child)
        given = await a1.award("main-1")
        await a1.done(given, {"c": 1})
        result = await a1.expect("result")
        assert (result.subtask, result.call, result.state, bytes(result.result)) == ("main", 1, "completed", b'{"c":1}')
        await a1.claim("extend", task, child)
        assert (await a1.expect("result")).call == 1, "the same call is the same child"
        bad = await a1.claim("extend", task, msgspec.structs.replace(child, call=2, child=spec("child", after=["nobody"])))
        assert (await a1.expect("refused", lambda refused: refused.id == bad)).error.code == "input"
        await a1.done(award, "end")
        assert bytes((await me.result(task)).result) == b'"end"'


async def test_a_plan_of_10000_subtasks(place: Place) -> None:
    """It comes by reference, and its records are cut to size."""
    async with coordinating(place) as coordinator, client(place) as me:
        task = TaskName("me", "t1")
        many = plan({f"s{n:05}": spec("nobody.does", {"n": n}) for n in range(10_000)})
        ref = await me.put(task, many)
        await me.submit("t1", plan_blob=ref)
        await me.until_state(task, "running")
        answer = await me.ask("task", task, what="view")
        assert len((await me.value(task, answer, "body"))["subtasks"]) == 10_000
        unserved = msgspec.json.decode((await me.ask("unserved")).body)["unserved"]
        assert [line["subtasks"] for line in unserved] == [10_000]
        await me.claim("cancel", task, m.CancelTask())
        assert (await me.result(task)).state == "cancelled"
        assert coordinator.counters["faults"] == 0


async def test_a_plan_that_cannot_be_read_is_refused(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        ref = await me.put(TaskName("me", "t1"), ["no plan"])
        await me.submit("t1", plan_blob=ref)
        assert (await me.expect("refused")).error.code == "input"
        await me.submit("t2", plan_blob=m.BlobRef(digest="0" * 64, bytes=5, chunks=1))
        assert (await me.expect("refused")).error.code == "input"
        await me.submit("t3", plan_blob=m.BlobRef(digest="0" * 64, bytes=5, chunks=2**40))
        assert (await me.expect("refused")).error.code == "input"


async def test_a_plan_that_is_too_large_is_refused_and_holds_up_nobody(place: Place) -> None:
    """Eighty megabytes are not read; a quarter of a million subtasks are counted and not decoded. Small tasks go on meanwhile."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        many = b",".join(b'"%d":{"capability":"x"}' % number for number in range(250_000))
        for id, entries, why in (("big", b'"a":{"capability":"x"},' * 3_500_000, "more than 8388608"), ("many", many, "more than 20000")):
            body = b'{"subtasks":{' + entries + b"}}"
            ref = await store_body(me.connection, TaskName("me", id), body)
            assert (ref.bytes > 80_000_000) == (id == "big")
            await me.submit(id, plan_blob=ref)
            for number in range(5):
                task = await me.submit(f"{id}-{number}", capability="echo")
                award = await a1.award()
                assert award.task == str(task)
                await a1.accept(award)
                await a1.done(award, number)
                assert bytes((await me.result(task)).result) == b"%d" % number
            refused = await me.expect("refused")
            assert (refused.task, refused.error.code) == (f"me.{id}", "input")
            assert why in refused.error.message
        assert coordinator.counters["faults"] == 0


async def test_a_plan_that_can_never_be_read_is_refused_in_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def load_body(*_: Any) -> bytes:
        raise ApiError("JetStream did not answer.", code=408, err_code=0, description="time-out")

    monkeypatch.setattr(errands, "load_body", load_body)
    monkeypatch.setattr(shell, "READS", 3)
    monkeypatch.setattr(outbox, "NAK_S", 0.1)
    async with coordinating(place) as coordinator, client(place) as me:
        await me.submit("t1", plan_blob=await me.put(TaskName("me", "t1"), {"subtasks": {"a": {"capability": "echo"}}}))
        refused = await me.expect("refused")
        assert "could not be read in 3 tries" in refused.error.message
        assert coordinator.counters["bodies not to be had"] == 3


@pytest.mark.parametrize("size", [LARGE, HUGE])
async def test_large_bodies_everywhere(place: Place, size: int) -> None:
    """Input, result, references to both, shares, joined results, the task's own result: by reference when they are large."""
    async with (
        coordinating(place, settings=PATIENT) as coordinator,
        agent(place, "a1", "make", "use", capacity=9) as a1,
        client(place) as me,
    ):
        task = TaskName("me", "t1")
        rows = ["x" * 1000] * (size // 1000)
        held = await me.put(task, {"rows": rows})
        ready = plan(
            {
                "in": m.SubtaskSpec(capability="make", input_blob=held),
                "part": spec("use", {"one": Ref("in/rows/0"), "all": Ref("in"), "deep": [{"some": Ref("in/rows")}]}),
                "cut": spec("make", {"rows": Ref("in/rows")}, split=m.Split(over="rows", into=3, by="equal")),
                "again": m.SubtaskSpec(capability="make", input_blob=held, split=m.Split(over="rows", into=2, by="equal")),
                "end": spec("use", {"cut": Ref("cut"), "again": Ref("again")}),
            },
            result="cut",
        )
        await me.submit("t1", plan=ready)
        awards = {award.subtask: award for award in [await a1.award(), await a1.award(), await a1.award()]}
        assert (await full_input(a1, awards["in"])) == {"rows": rows}
        halves = [(await full_input(a1, awards[name]))["rows"] for name in ("again-1", "again-2")]
        assert halves[0] + halves[1] == rows
        for name, half in zip(("again-1", "again-2"), halves, strict=True):
            await a1.done(awards[name], result=Raw(b"null"), result_blob=await a1.put(task, half))
        await a1.done(awards["in"], result=Raw(b"null"), result_blob=held)

        part = await a1.award("part")
        assert (await full_input(a1, part)) == {"one": rows[0], "all": {"rows": rows}, "deep": [{"some": rows}]}
        await a1.done(part)
        thirds = []
        for number in (1, 2, 3):
            award = await a1.award(f"cut-{number}")
            third = (await full_input(a1, award))["rows"]
            thirds += third
            await a1.done(award, result=Raw(b"null"), result_blob=await a1.put(task, third))
        assert thirds == rows
        end = await a1.award("end")
        assert (await full_input(a1, end)) == {"cut": rows, "again": rows}
        await a1.done(end)
        result = await me.result(task)
        assert result.result_blob is not None
        assert await me.value(task, result) == rows
        state = await me.state(task)
        assert await me.value(task, state) == rows
        assert coordinator.counters["faults"] == 0


async def test_large_bodies_inline(place: Place) -> None:
    """Peers that send up to the stream's limit inline, in every message that has a body."""
    async with (
        coordinating(place, settings=PATIENT) as coordinator,
        agent(place, "a1", "make", capacity=9) as a1,
        client(place) as me,
    ):
        text = "é" * 140_000
        task = await me.submit("t1", capability="make", input=Raw(encode({"text": text})))
        award = await a1.award("main")
        assert await full_input(a1, award) == {"text": text}
        await a1.accept(award)
        for _ in range(2):
            await me.claim("feedback", task, m.FeedbackClaim(subtask="main", data=Raw(encode(text))))
            given = await a1.expect("feedback")
            assert msgspec.json.decode(given.data) == text
        child = m.SubtaskSpec(capability="make", input=Raw(encode({"text": text})))
        await a1.claim("extend", task, m.Extend(subtask="main", epoch=award.epoch, boot=a1.boot, call=1, child=child))
        given = await a1.award("main-1")
        assert await full_input(a1, given) == {"text": text}
        await a1.done(given, text)
        told = await a1.expect("result")
        assert await a1.value(task, told) == text
        await a1.failed(award)
        again = await a1.award("main")
        assert len(again.feedback) == 0 or sum(len(kept.data) for kept in again.feedback) <= INLINE_LIMIT
        await a1.done(again, text)
        assert await me.value(task, await me.result(task)) == text
        answer = await me.ask("task", task, what="log")
        seen = (await me.value(task, answer, "body"))["records"]
        while answer.next is not None:
            answer = await me.ask("task", task, what="log", after=answer.next)
            seen += (await me.value(task, answer, "body"))["records"]
        kinds = [change["kind"] for entry in seen for change in entry["record"]["changes"]]
        assert kinds[0] == "submitted"
        assert kinds[-1] == "completed"
        assert kinds.count("feedback") == 2
        assert [entry["seq"] for entry in seen] == sorted({entry["seq"] for entry in seen})
        assert coordinator.counters["faults"] == 0
