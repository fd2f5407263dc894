"""examples/customer_service on a real server, all boxes in this process: conversations, the staff, what is learnt, bad input, many at once, the trace."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from io import StringIO
from itertools import groupby
from typing import Any, cast

import anyio
import msgspec
import pytest
from examples.customer_service import desk, diary, library, shop
from examples.customer_service.assess import Exam
from examples.customer_service.chat import HELP, chat
from examples.customer_service.files import VARIABLE
from examples.customer_service.report import ask_all, times, way
from examples.customer_service.roles import ROLES, in_this_process
from examples.customer_service.setting_up import set_up
from examples.customer_service.shapes import Guess, Turn, Understood
from examples.customer_service.talk import SENT, Conversation, NoAnswerYet, Reply
from rich.console import Console
from traces import recorded

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus, EmbeddedServer, TaskRefused, connect, embedded_server
from agentexecutor.schemas import Feedback

pytestmark = pytest.mark.anyio

LONG = 120
BLACK = "Try adjusting brightness or connecting an external monitor."


@pytest.fixture(scope="module")
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bus]:
    """A server with all boxes, for all tests here: learning what they need takes them a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("service")))
        set_up(all_of_it=True)
        async with embedded_server() as server, connect(server.url, name="customers") as bus, in_this_process(bus):
            yield bus


async def say(conversation: Conversation, *texts: str) -> list[Reply]:
    with anyio.fail_after(LONG):
        return [await conversation.say(text) for text in texts]


async def facts(bus: Bus, reply: Reply) -> dict[str, Any]:
    """What the query engine found for a turn."""
    found: dict[str, Any] = msgspec.json.decode((await bus.task(reply.task).view()).subtasks["query"].result)
    return found


async def test_an_unhappy_customer_gets_another_answer_then_a_person_and_the_next_one_gets_it_right(bus: Bus) -> None:
    async with Conversation(bus) as ada:
        first, second, third = await say(ada, "My laptop's screen is totally black", "no", "no")
        assert first.text == BLACK
        assert second.source == "knowledge"
        assert second.found not in (None, BLACK)
        assert third.waits
        (request,) = await desk.waiting(bus)
        told = await desk.told(bus, request)
        assert "My laptop's screen is totally black" in told
        assert f"agentexecutor feedback {third.task} --subtask {request.subtask} --verdict revise" in told
        await desk.answer(bus, request, "Hold the power button for 20 seconds.")
        with anyio.fail_after(LONG):
            fourth = await ada.wait()
        assert (fourth.text, fourth.task) == ("A colleague says: Hold the power button for 20 seconds.", first.task)
        await say(ada, "yes")
        assert (await bus.task(first.task).result(dict[str, Any], timeout_s=LONG))["helped"] is True
        versions = await bus.task(first.task).plan_versions()
        triggers = [version.why[0].trigger for version in versions if version.why]
        assert [trigger for trigger, _ in groupby(triggers)] == ["goal", "continue", "revise", "continue", "revise"]
    assert await desk.waiting(bus) == []
    async with Conversation(bus) as alan:
        for again in ("My laptop's screen is totally black", "my laptop screen stays totally black!", "laptop screen totally black"):
            (reply,) = await say(alan, again)
            assert reply.found == "Hold the power button for 20 seconds.", again
        (other,) = await say(alan, "My printer is not printing.")
        assert other.found == "Ensure it's powered on and has paper, then restart it."
    assert diary.opinions() == (1, 2)


async def test_who_wants_a_person_gets_one_and_a_person_may_decline(bus: Bus) -> None:
    async with Conversation(bus) as customer:
        (reply,) = await say(customer, "I want to talk to a human")
        assert reply.waits
        (request,) = await desk.waiting(bus)
        await bus.task(request.task).feedback(Feedback("reject", "no time", request.subtask))
        with anyio.fail_after(LONG):
            assert "Nobody of the staff could take it over" in (await customer.wait()).text


async def test_the_command_that_the_staff_is_told_answers(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_NATS_URL", bus.connection.url)
    async with Conversation(bus) as customer:
        (asked,) = await say(customer, "cancel my order #1042")
        assert asked.waits
        told = await desk.told(bus, (await desk.waiting(bus))[0])
        _, *arguments = shlex.split(told.partition("Answer with: ")[2].replace("...", "It is cancelled."))
        await anyio.run_process([sys.executable, "-c", "from agentexecutor.console.main import main; main()", *arguments])
        with anyio.fail_after(LONG):
            assert (await customer.wait()).text == "A colleague says: It is cancelled."
    assert "cancel my order 1042" not in library.questions()  # what concerns one customer's order is no knowledge


class Crew:
    """Who can be killed, for the chat."""

    running = dict.fromkeys(["service"])

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.kill = self.killed.append


async def test_the_chat_on_a_terminal(bus: Bus) -> None:
    printed: list[str] = []
    crew = Crew()

    async def typed() -> AsyncIterator[str]:
        for line in (
            "no",
            "My mouse is not responding.",
            "/agents",
            "/kill nobody",
            "/kill service",
            "/staff",
            "person",
            "/staff",
            "/staff I come over.",
        ):
            yield line
        while not any("I come over." in line for line in printed):
            await anyio.sleep(0.01)  # whatever the colleague says comes by itself
        yield "thanks"
        yield "/quit"
        yield "never read"

    with anyio.fail_after(LONG):
        await chat(bus, cast("Any", crew), typed(), printed.append)
    whole = "\n".join(printed)
    for expected in (
        "Try plugging it into another USB port",
        "There is no 'nobody'",
        "service is killed",
        "Nobody waits for the staff",
        "A customer asks: 'My mouse",
    ):
        assert expected in whole
    assert "You are welcome" in printed[-1]
    assert crew.killed == ["service"]


async def printed_by_chat(bus: Bus, typed: Callable[[StringIO], AsyncIterator[str]]) -> list[str]:
    """The lines that a chat prints; what is typed may depend on them."""
    printed = StringIO()
    with anyio.fail_after(LONG):
        await chat(bus, cast("Any", Crew()), typed(printed), Console(file=printed, highlight=False, soft_wrap=True).print)
    return printed.getvalue().splitlines()


async def shown(printed: StringIO, text: str) -> None:
    while text not in printed.getvalue():
        await anyio.sleep(0.01)  # what comes by itself is told to nobody but the terminal


async def test_what_is_no_command_is_answered_with_the_commands(bus: Bus) -> None:
    mistyped = ("/help", " /stff text", "/kill", "/")

    async def typed(_printed: StringIO) -> AsyncIterator[str]:
        for line in (*mistyped, "/kill [/x]"):
            yield line

    _, *answers, unknown = await printed_by_chat(bus, typed)
    assert answers == [HELP] * len(mistyped)
    assert "There is no '[/x]'" in unknown


async def test_an_answer_that_is_too_large_is_not_the_end_of_the_chat(bus: Bus) -> None:
    async def typed(printed: StringIO) -> AsyncIterator[str]:
        for line in ("I want to talk to a human", "/staff " + "x" * 400_000, "/staff"):
            yield line
        yield "/staff It is in [/docs]."
        await shown(printed, "It is in [/docs].")
        yield "thanks"

    printed = await printed_by_chat(bus, typed)
    assert any("more than 262144" in line for line in printed)
    assert any("A customer asks: 'I want to talk to a human'" in line for line in printed)
    assert "A colleague says: It is in [/docs]." in printed
    assert "You are welcome" in printed[-1]


async def test_a_question_to_the_staff_that_is_cancelled_is_not_the_end_of_the_chat(bus: Bus) -> None:
    async def typed(printed: StringIO) -> AsyncIterator[str]:
        yield "I want to talk to a human"
        (request,) = await desk.waiting(bus)
        await bus.task(request.task).cancel("closed for [/today]")
        await shown(printed, "closed for [/today]")
        yield "thanks"

    printed = await printed_by_chat(bus, typed)
    assert sum("closed for [/today]" in line for line in printed) == 1
    assert "You are welcome" in printed[-1]


async def test_a_customer_goes_on_while_a_person_is_asked(bus: Bus) -> None:
    async with Conversation(bus) as customer:
        (unknown,) = await say(customer, "how do I pair my brand new headset?")
        assert (unknown.source, unknown.found) == ("nothing", None)
        assert unknown.question == "Shall I ask a colleague? (yes, no)"
        (asked,) = await say(customer, "yes")
        assert asked.waits
        waiting = customer.part()
        (order,) = await say(customer, "where is my order #1010")
        assert "Order 1010" in order.text
        later = asyncio.create_task(waiting.wait())
        await desk.answer(bus, (await desk.waiting(bus))[0], "Hold its button until it blinks.")
        with anyio.fail_after(LONG):
            assert (await later).text == "A colleague says: Hold its button until it blinks."
        await waiting.done()
    async with Conversation(bus) as other:
        assert (await say(other, "How can I pair a new headset"))[0].found == "Hold its button until it blinks."


async def test_orders_are_read_once_and_remembered_by_the_conversation(bus: Bus) -> None:
    row = shop.order("1042")
    assert row is not None
    async with Conversation(bus) as customer:
        nameless, first, second, follows, other = await say(
            customer, "Where is my order?", "where is my order #1042", "what did I pay for it", "when will my order arrive", "and 1043?"
        )
    assert "What is the number" in nameless.text
    assert row["state"] in first.text
    assert row["due"] in first.text
    assert row["total"] in second.text
    assert follows.text == first.text
    assert "Order 1043" in other.text
    assert [(await facts(bus, reply)).get("cached", False) for reply in (first, second, other)] == [False, True, False]


async def test_a_number_that_no_order_has_is_not_taken_for_the_order_before(bus: Bus) -> None:
    numbers = ("1234567890123", "#1043b", "104")
    async with Conversation(bus) as customer:
        first, *others = await say(customer, "where is my order 1042", *(f"where is my order {number}" for number in numbers))
    assert "Order 1042 " in first.text
    for number, reply in zip(numbers, others, strict=True):
        assert f"There is no order {number.lstrip('#')}." in reply.text


async def test_who_names_several_orders_is_told_which_to_ask_for_again(bus: Bus) -> None:
    async with Conversation(bus) as customer:
        (reply,) = await say(customer, "where are my orders 1042, 1043 and 1044?")
    assert reply.text.startswith("Order 1042 ")
    assert reply.text.endswith("please ask again for 1043 and 1044.")


async def test_another_program_goes_on_with_a_conversation(bus: Bus) -> None:
    customer = Conversation(bus, "terminal-1")
    (first,) = await say(customer, "My internet is not working.")
    task = customer.task
    del customer  # no goodbye
    async with connect(bus.connection.url, name="customers") as other:
        resumed = Conversation(other, "terminal-1", task)
        with anyio.fail_after(LONG):
            assert (await resumed.wait()).text == first.text
        (second,) = await say(resumed, "no")
        assert second.task == first.task
        assert second.text != first.text
        await resumed.done()


async def test_who_only_says_hello_or_asks_for_help_is_answered(bus: Bus) -> None:
    async with Conversation(bus) as customer:
        hello, helped, bye = await say(customer, "hi there", "can you help me", "goodbye")
    assert hello.text == "Hello. What can I do for you?"
    assert "about an order" in helped.text
    assert bye.text.startswith("Goodbye")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "I am listening"),
        (" \t\n ", "I am listening"),
        ("Привет, где мой заказ?", "I only understand English so far"),
        ("私の注文はどこですか", "I only understand English so far"),
        ("\U0001f389" * 10_000, "I can only read words"),
        ("'; DROP TABLE orders; --", "I would rather not guess"),
        ('" OR 1=1; DELETE FROM entries WHERE "" = "', "I would rather not guess"),
        ("x" * 1_000_000, "(That was a long message; I have read its beginning.) I am sorry, I do not know that"),
        ("order #9999999", "There is no order 9999999"),
        ("where is order #1042'; DROP TABLE orders; --", "Order 1042"),
        ("\ud800 \x00 \u202e", "I can only read words"),
    ],
    ids=[
        "empty",
        "blank",
        "Russian",
        "Japanese",
        "emoji",
        "SQL",
        "SQL in FTS",
        "1 MB",
        "unknown order",
        "SQL in an order",
        "no text",
    ],
)
async def test_bad_input_gets_a_civil_answer(bus: Bus, text: str, answer: str) -> None:
    async with Conversation(bus) as customer:
        (reply,) = await say(customer, text)
    assert answer in reply.text
    assert reply.source != "knowledge"
    assert shop.order("1042") is not None
    assert len(library.questions()) > 600


async def test_a_prompt_of_1_mb_does_not_get_past_the_dialogue_engine(bus: Bus) -> None:
    turn = await bus.run("dialogue.open", {"conversation": "huge", "text": "ä" * 1_000_000}, Turn, wait_s=LONG)
    assert len(turn.text) == 2 * SENT


async def test_feedback_before_any_answer_says_so(bus: Bus) -> None:
    async with Conversation(bus) as customer:
        for early in (customer.unhappy, customer.content, customer.wait):
            with pytest.raises(NoAnswerYet, match="Ask something first"):
                await early()
        (reply,) = await say(customer, "no")
        assert reply.text
    gone = reply.task
    with pytest.raises(TaskRefused):
        await bus.task(gone).feedback(Feedback("revise", "no", "respond_9"))


async def test_twenty_conversations_at_once_are_kept_apart(bus: Bus) -> None:
    numbers = [str(number) for number in range(shop.FIRST_ORDER, shop.FIRST_ORDER + 20)]
    heard: dict[str, list[Reply]] = {}

    async def customer(number: str) -> None:
        async with Conversation(bus) as conversation:
            heard[number] = await say(conversation, f"where is my order #{number}", "My printer is not printing.", "what did I pay for it")

    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(customer, number)
    for number in numbers:
        where, printer, paid = heard[number]
        row = shop.order(number)
        assert row is not None
        assert f"Order {number} " in where.text
        assert printer.found == "Ensure it's powered on and has paper, then restart it."
        assert f"Order {number} " in paid.text
        assert row["total"] in paid.text


async def test_the_trace_of_a_conversation_shows_its_boxes(bus: Bus) -> None:
    with recorded() as spans:
        async with Conversation(bus) as customer:
            replies = await say(customer, "My screen is flickering.", "no", "where is my order #1199")
            trace = customer.trace_id
        for reply in replies:
            await bus.task(reply.task).result(timeout_s=LONG)
        with anyio.fail_after(LONG):
            while not any(span.name == "conversation" for span in spans.get_finished_spans()):
                await anyio.sleep(0.01)  # spans tell nobody when they end
    ours = [span for span in spans.get_finished_spans() if format(span.context.trace_id, "032x") == trace]
    names = {span.name for span in ours}
    boxes = [
        "dialogue.open",
        "dialogue.understand",
        "intent.recognise",
        "intent.match",
        "knowledge.match",
        "knowledge.search",
        "knowledge.reason",
    ]
    boxes += [
        "knowledge.read",
        "response.write",
        "feedback.ask",
        "orders.query",
        "cache.get",
        "database.order",
        "cache.put",
        "service.plan",
    ]
    assert {f"execute {box}" for box in boxes} <= names
    assert {f"auction {box}" for box in boxes} <= names
    assert {"conversation", "submit goal", "replan"} <= names
    hops = await way(bus, replies[0].task)
    assert {hop.agent for hop in hops} <= {role.name for role in ROLES}
    assert [hop.subtask for hop in hops if hop.capability == "response.write"] == ["respond", "respond_2"]
    assert all(0 <= hop.awarded_ms <= hop.done_ms for hop in hops)


async def test_the_report_asks_and_measures(bus: Bus) -> None:
    paper = Exam().papers(12)[0]
    replies = await ask_all(bus, paper.questions, 4)
    took = times(replies)
    assert took.answers == 12
    assert 0 < took.median <= took.p99
    found = {question: reply.found for question, reply in zip(paper.questions, replies, strict=True)}
    assert paper.marks(found.get).known > 0.9


async def test_a_box_that_comes_late_is_waited_for(server: EmbeddedServer, bus: Bus) -> None:
    """`bus`: for its files. On a server of its own the knowledge matcher is missing until the plan has noticed."""
    recogniser = Agent("recogniser")

    @recogniser.capability("intent.recognise")
    async def recognise(understood: Understood) -> list[Guess]:
        return [Guess(understood.text, 0.1)]

    roles = {role.name: role.agent for role in ROLES} | {"recogniser": recogniser}
    late = roles.pop("knowledge-matcher")
    with anyio.fail_after(LONG):
        async with connect(server.url, name="customers") as own, AsyncExitStack() as stack:
            for name, agent in roles.items():
                await stack.enter_async_context(agent.serve(own, coordinate=name == "service"))
            conversation = Conversation(own)
            asked = asyncio.create_task(conversation.ask("My screen is flickering."))
            while conversation.task is None:
                await anyio.sleep(0.01)
            async with aclosing(own.task(conversation.task).events()) as events:
                async for event in events:
                    if event.kind == "awarded" and event.subtask == "wait":
                        break
            await stack.enter_async_context(late.serve(own, coordinate=False))
            assert (await asked).found == "Update the graphics driver or check the monitor cable."
            await conversation.done()
