"""AutoGPT on the real bus, with a scripted model: goals are reached, and what people suffered from ends well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentexecutor.agents.autogpt import MODEL_PLANNER, critic, llm, memory, planner
from agentexecutor.agents.autogpt.scripted import Reply, Request, ScriptedModel, broken, hang, limited, lying, refuse, say, scripted
from agentexecutor.agents.autogpt.settings import ModelSettings, PlannerSettings
from agentexecutor.agents.autogpt.team import together
from agentexecutor.agents.autogpt.tools import calculator, files, http
from agentexecutor.bus import Bus, EmbeddedServer, Task, TaskCancelled, TaskFailed, connect
from agentexecutor.schemas import ApprovalPolicy, Feedback, Goal, Replan
from agentexecutor.schemas.errors import AgentExecutorError

pytestmark = pytest.mark.anyio

LONG = 60
MODEL = Replan(planner=MODEL_PLANNER)


def step(name: str, capability: str, **input: Any) -> dict[str, Any]:
    return {"name": name, "capability": capability, "input": msgspec.json.encode(input).decode(), "after": []}


def calc(name: str, expression: Any) -> dict[str, Any]:
    return step(name, "calculator.evaluate", expression=expression)


def steps(*add: dict[str, Any], **more: Any) -> Reply:
    return say(
        {
            "thought": "more is to be done",
            "learned": [],
            "add": list(add),
            "remove": [],
            "finish": False,
            "answer": None,
            "result": None,
            **more,
        }
    )


def finish(answer: str | None = None, result: str | None = None) -> Reply:
    return say({"thought": "that is it", "learned": [], "add": [], "remove": [], "finish": True, "answer": answer, "result": result})


class Place:
    """The bus with everybody on it."""

    def __init__(self, bus: Bus, model: ScriptedModel, files: Path) -> None:
        self.bus = bus
        self.model = model
        self.files = files

    async def submit(self, goal: str = "the goal", input: Any = None, **options: Any) -> Task:
        return await self.bus.submit(Goal(goal), input or {}, **{"replan": MODEL, **options})

    async def run(self, goal: str = "the goal", input: Any = None, **options: Any) -> Any:
        return await (await self.submit(goal, input, **options)).result(timeout_s=LONG)

    async def fails(self, goal: str = "the goal", input: Any = None, **options: Any) -> TaskFailed:
        with pytest.raises(TaskFailed) as raised:
            await self.run(goal, input, **options)
        return raised.value


Script = list[Reply] | Callable[[Request], Reply]


@asynccontextmanager
async def place(
    server: EmbeddedServer, folder: Path, script: Script, *, critics: bool = False, retries: int = 1, **model: Any
) -> AsyncIterator[Place]:
    async with scripted(script) as scripted_model, connect(server.url, name="me") as bus:
        settings = PlannerSettings(retries=retries)
        agents = [
            planner.make(MODEL_PLANNER, settings),
            llm.make(ModelSettings("scripted", scripted_model.url, **model)),
            memory.make(folder / "memory.db"),
            calculator.make(),
            files.make(folder / "files"),
            http.make([]),
        ]
        if critics:
            agents.append(critic.make(settings))
        async with together("autogpt", agents).serve(bus):
            yield Place(bus, scripted_model, folder / "files")


async def test_a_goal_is_reached_in_rounds_and_what_it_cost_is_on_record(server: EmbeddedServer, tmp_path: Path) -> None:
    script = [
        steps(calc("a", "6*7"), calc("b", "1+1"), learned=["numbers are easy"]),
        steps(calc("c", {"$ref": "a/text"}), step("save", "files.write", path="sum.txt", text={"$ref": "a/text"})),
        finish("It is 42."),
        finish("It is 42 again."),
    ]
    async with place(server, tmp_path, script, price_in=1.0, price_out=1.0) as at:
        task = await at.submit("multiply")
        assert await task.result(timeout_s=LONG) == "It is 42."
        view = await task.view()
        assert {
            name: subtask.state for name, subtask in view.subtasks.items() if subtask.capability.startswith(("calc", "files"))
        } == dict.fromkeys(["a", "b", "c", "save"], "completed")
        assert (at.files / "sum.txt").read_text() == "42"
        spent = [event.data["usage"] async for event in task.events() if event.kind == "completed" and "usage" in event.data]
        assert len(spent) == len(at.model.requests) == 3
        assert all(usage["tokens"] == usage["tokens_in"] + usage["tokens_out"] > 100 and usage["money"] > 0 for usage in spent)
        assert await at.run("multiply with ease") == "It is 42 again."
        assert "numbers are easy" in at.model.requests[-1].prompt, "a later task finds what an earlier one has learned"


async def test_a_critic_rejects_once_and_the_result_of_a_step_is_the_answer(server: EmbeddedServer, tmp_path: Path) -> None:
    verdicts = iter([{"verdict": "reject", "text": "the tax is missing"}, {"verdict": "accept", "text": "complete"}])
    answers = iter([steps(calc("net", "100")), finish(result="net"), steps(calc("gross", "100*1.19")), finish(result="gross")])
    async with place(
        server, tmp_path, lambda request: say(next(verdicts)) if request.schema == "verdict" else next(answers), critics=True
    ) as at:
        task = await at.submit("the price with tax")
        assert await task.result(timeout_s=LONG) == {"value": 119.0, "text": "119.0"}
        third = [request for request in at.model.requests if request.schema == "next_steps"][2]
        assert "reject: the tax is missing" in third.prompt
        judged = next(request for request in at.model.requests if request.schema == "verdict")
        assert '{"value":100,"text":"100"}' in judged.prompt, "the critic sees the result itself"
        assert len(at.model.requests) == 6


async def test_a_critic_in_the_plan_has_a_result_made_anew(server: EmbeddedServer, tmp_path: Path) -> None:
    verdict = {"verdict": "reject", "text": "in euros, please"}
    judge = step("look", "critic.judge", goal="the price", answer={"$ref": "dollars"}, subtask="dollars")
    answers = iter([steps(calc("dollars", "10"), judge), steps(calc("euros", "10*0.9")), finish("9 euros")])

    def script(request: Request) -> Reply:
        return (
            say(verdict if "10" in request.prompt.partition("THE ANSWER:")[2] else {"verdict": "accept", "text": ""})
            if request.schema == "verdict"
            else next(answers)
        )

    async with place(server, tmp_path, script, critics=True) as at:
        task = await at.submit("the price")
        assert await task.result(timeout_s=LONG) == "9 euros"
        said = [event.data async for event in task.events() if event.kind == "feedback"]
        assert [(one["verdict"], one["text"]) for one in said] == [("reject", "in euros, please")]
        second = [request for request in at.model.requests if request.schema == "next_steps"][1]
        assert "in euros, please" in second.prompt


# what users of AutoGPT suffered from


async def test_a_tool_that_fails_is_planned_around(server: EmbeddedServer, tmp_path: Path) -> None:
    script = [
        steps(step("rates", "http.get", url="http://rates.example/eur"), calc("a", "1")),
        steps(step("file", "files.read", path="../rates.txt")),
        steps(step("list", "files.list", path=".")),
        finish("from the files"),
    ]
    async with place(server, tmp_path, script) as at:
        assert await at.run("find the rates") == "from the files"
        second, third = at.model.requests[1].prompt, at.model.requests[2].prompt
        assert "rates.example is not on the list of hosts" in second
        assert "would leave the folder" in third
        again = await at.bus.run("memory.search", {"query": "rates.example"}, wait_s=LONG)
        assert "http.get" in again["notes"][0]["text"], "what failed is remembered"


async def test_the_same_action_for_ever_ends(server: EmbeddedServer, tmp_path: Path) -> None:
    """The model wants the same again and again, whatever it is told."""
    async with place(server, tmp_path, lambda request: steps(calc(f"again-{request.number}", "1+1"))) as at:
        error = await at.fails()
        assert "exactly what 'again-1' is (completed)" in str(error)
        assert len(at.model.requests) == 4
        assert "use its result" in at.model.requests[2].prompt


async def test_a_plan_without_end_ends(server: EmbeddedServer, tmp_path: Path) -> None:
    """The model always finds something more to do."""
    async with place(server, tmp_path, lambda request: steps(calc(f"more-{request.number}", f"1+{request.number}"))) as at:
        error = await at.fails(budget={"replans": 4})
        assert error.error.code == "budget"
        assert error.error.details["exceeded"] == "replans"
        assert len(at.model.requests) == 4
        assert "THIS IS THE LAST TIME" in at.model.requests[3].prompt
        assert "THIS IS THE LAST TIME" not in at.model.requests[1].prompt
        many = await at.fails(budget={"subtasks": 5})
        assert many.error.details["exceeded"] == "subtasks"


@pytest.mark.parametrize("limit", ["tokens", "money"])
async def test_spending_without_limit_ends_before_the_limit(server: EmbeddedServer, tmp_path: Path, limit: str) -> None:
    async with place(
        server, tmp_path, lambda request: steps(calc(f"more-{request.number}", f"1+{request.number}")), price_in=1.0, price_out=1.0
    ) as at:
        budget = {"tokens": 3500.0, "replans": 100.0} if limit == "tokens" else {"money": 0.0035, "replans": 100.0}
        task = await at.submit(budget=budget)
        with pytest.raises(TaskFailed, match="no room for another call of the model"):
            await task.result(timeout_s=LONG)
        used = sum([event.data["usage"][limit] async for event in task.events() if event.kind == "completed" and "usage" in event.data])
        assert 0 < used <= budget[limit]
        assert len(at.model.requests) < 20


async def test_what_a_server_counts_beyond_the_budget_ends_the_task(server: EmbeddedServer, tmp_path: Path) -> None:
    async with place(server, tmp_path, [Reply(steps(calc("a", "1")).text, tokens=(90_000, 1))]) as at:
        error = await at.fails(budget={"tokens": 50_000})
        assert error.error.code == "budget"
        assert error.error.details["by"]["llm.chat"]["tokens"] == 90_001


async def test_the_goal_is_in_every_prompt_of_a_long_run(server: EmbeddedServer, tmp_path: Path) -> None:
    script = [*(steps(calc(f"s{number}", f"{number}+1")) for number in range(6)), broken(), finish("done")]
    async with place(server, tmp_path, script) as at:
        assert await at.run("count the whales") == "done"
        assert len(at.model.requests) == 8
        for request in at.model.requests:
            assert request.messages[0]["content"].startswith("THE GOAL:\ncount the whales")
            assert request.messages[-1]["content"].endswith("THE GOAL IS STILL:\ncount the whales")


# a person


async def test_a_person_steers_while_it_runs(server: EmbeddedServer, tmp_path: Path) -> None:
    release = asyncio.Event()

    def script(request: Request) -> Reply:
        if "only the blue ones" in request.prompt:
            return finish("12 blue ones")
        return Reply(steps(calc(f"s{request.number}", f"{request.number}")).text, delay_s=0.0 if release.is_set() else 0.3)

    async with place(server, tmp_path, script) as at:
        task = await at.submit("count the whales", budget={"replans": 50})
        await asyncio.wait_for(at.model.asked(1), LONG)
        await task.feedback(Feedback(text="only the blue ones"))
        assert await task.result(timeout_s=LONG) == "12 blue ones"


async def test_what_the_policy_says_waits_for_a_person(server: EmbeddedServer, tmp_path: Path) -> None:
    write = step("save", "files.write", path="a.txt", text="secret")
    script = [
        steps(calc("a", "1"), write, step("then", "files.read", path={"$ref": "save/path"})),
        steps(step("other", "files.write", path="b.txt", text="public")),
        finish("saved"),
    ]
    async with place(server, tmp_path, script) as at:
        task = await at.submit("save it", approval=ApprovalPolicy(capabilities=["files.write"]))
        async for event in task.events():  # ends with the task
            if event.kind == "asked" and event.subtask == "save":
                assert not at.files.exists()
                await task.feedback(Feedback("reject", "not that one", "save"))
            elif event.kind == "asked":
                await task.feedback(Feedback("accept", subtask=event.subtask))
        assert await task.result(timeout_s=LONG) == "saved"
        assert sorted(file.name for file in at.files.iterdir()) == ["b.txt"]
        assert "not that one" in at.model.requests[1].prompt


async def test_a_cancel_aborts_the_call_of_the_model(server: EmbeddedServer, tmp_path: Path) -> None:
    async with place(server, tmp_path, [hang('{"thought": "hm')]) as at:
        task = await at.submit()
        request = await asyncio.wait_for(at.model.asked(1), LONG)
        await task.cancel("changed my mind")
        with pytest.raises(TaskCancelled):
            await task.result(timeout_s=LONG)
        await asyncio.wait_for(request.gone.wait(), LONG)
        assert len(at.model.requests) == 1


# a model that behaves badly


async def test_a_rate_limit_a_refusal_broken_json_and_a_lie_are_gone_through(server: EmbeddedServer, tmp_path: Path) -> None:
    script = [limited(0.1), lying(), broken(), refuse("I would rather not."), finish("at last")]
    async with place(server, tmp_path, script, retries=3) as at:
        task = await at.submit()
        assert await task.result(timeout_s=LONG) == "at last"
        went_back = [event.data["error"]["message"] async for event in task.events() if event.kind == "failed"]
        assert "limits the rate" in went_back[0]
        assert "no chat completion" in went_back[1]
        assert "I would rather not." in at.model.requests[4].prompt


@pytest.mark.parametrize(
    ("reply", "settings", "why"),
    [
        (limited(0.05), {}, "limits the rate"),
        (hang(), {"silence_s": 0.3}, "has said nothing for"),
        (hang("{"), {"stream": False, "timeout_s": 0.3}, "not answered within"),
        (lying({"choices": [{}]}), {}, "no chat completion"),
        (broken(), {}, "3 answers in a row"),
        (refuse("Never."), {}, "You have refused: Never."),
        (say({"steps": []}), {}, "nothing done"),
    ],
    ids=["429 for ever", "hangs", "hangs without a stream", "lies", "broken JSON", "refuses", "another schema"],
)
async def test_a_model_that_is_of_no_use_ends_the_task_with_the_reason(
    server: EmbeddedServer, tmp_path: Path, reply: Reply, settings: dict[str, Any], why: str
) -> None:
    async with place(server, tmp_path, [reply], **settings) as at:
        assert why in str(await at.fails())
        assert len(at.model.requests) <= 3


# large things


async def test_large_inputs_leave_the_prompt_short_and_a_megabyte_reaches_the_model(server: EmbeddedServer, tmp_path: Path) -> None:
    read = step("read", "files.read", path="large.txt", max_bytes=1_000_000)
    async with place(server, tmp_path, [steps(read), finish("long"), finish("read")]) as at:
        at.files.mkdir()
        (at.files / "large.txt").write_text("x" * 1_000_000)
        assert await at.run("how long is it?", {"text": "ä" * 100_000}) == "long"
        assert all(len(request.prompt) < 61_000 for request in at.model.requests)
        assert "100,011 characters in all" in at.model.requests[0].prompt
        assert "too long to be shown" in at.model.requests[1].prompt
        asked = {"messages": [{"role": "user", "content": "ä" * 1_000_000}]}
        answer = await at.bus.run("llm.chat", asked, wait_s=LONG)
        assert answer["tokens_in"] == 250_000
        assert len(at.model.requests[2].prompt) == 1_000_000
        for goal, input in (("g" * 1_000_000, {}), ("g", {"text": "ä" * 1_000_000})):
            with pytest.raises(AgentExecutorError, match=r"large|more than"):
                await at.submit(goal, input)
