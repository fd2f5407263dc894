"""One call of a model against the scripted server: what comes back, what passes and what does not, what it cost, and what is told of it."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from time import time
from typing import Any

import anyio
import pytest
from traces import recorded

from agentexecutor.agents import AgentError, Fail, Retry
from agentexecutor.agents.autogpt import llm
from agentexecutor.agents.autogpt.models import Answer, Call, Model, Refusing, open_model
from agentexecutor.agents.autogpt.scripted import (
    Reply,
    Script,
    ScriptedModel,
    broken,
    failing,
    hang,
    limited,
    lying,
    refuse,
    say,
    scripted,
    slow,
)
from agentexecutor.agents.autogpt.settings import ModelSettings, PlannerSettings
from agentexecutor.agents.testing import call
from agentexecutor.bus import telemetry as t

pytestmark = pytest.mark.anyio
LONG = 60
ASKED = [{"role": "user", "content": "What is the goal?"}]
SCHEMA = {"title": "thing", "type": "object"}
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@asynccontextmanager
async def a_model(script: Script, **settings: Any) -> AsyncIterator[tuple[Model, ScriptedModel]]:
    async with scripted(script) as server, open_model(ModelSettings("scripted", server.url, **settings)) as model:
        yield model, server


@BOTH
async def test_an_answer_with_its_cost(stream: bool) -> None:
    async with a_model([say({"a": "ü"}, tokens=(1000, 200))], stream=stream, price_in=2.0, price_out=10.0) as (model, server):
        got = await model.chat(ASKED, schema=SCHEMA, max_tokens=50)
    assert got == Answer(text='{"a":"ü"}', model="scripted", tokens_in=1000, tokens_out=200, money=0.004)
    request = server.requests[0]
    assert (request.messages, request.schema, request.streams) == (ASKED, "thing", stream)
    assert request.body["max_completion_tokens"] == 50
    assert request.headers["authorization"] == "Bearer none"
    assert request.answered.is_set()


@BOTH
async def test_a_server_that_does_not_count_is_counted_for(stream: bool) -> None:
    async with a_model([say("x" * 400, tokens=False)], stream=stream) as (model, _):
        got = await model.chat([{"role": "user", "content": "y" * 800}])
    assert (got.tokens_in, got.tokens_out, got.counted) == (200, 100, False)


@BOTH
async def test_refusals_and_cut_answers_are_answers(stream: bool) -> None:
    async with a_model([refuse("No."), say("half", finish="length"), broken('{"a":')], stream=stream) as (model, _):
        assert (await model.chat(ASKED)).refusal == "No."
        assert (await model.chat(ASKED)).finish == "length"
        assert (await model.chat(ASKED)).text == '{"a":'


COUNTS = {
    "nothing": (0, 0),
    "far too little": (1000, 3),
    "true": (True, True),
    "less than nothing": (-1, 5),
}


@BOTH
@pytest.mark.parametrize("which", COUNTS)
async def test_a_count_that_cannot_be_is_not_believed(which: str, stream: bool) -> None:
    """Else a server that says 0 would spend without limit; and what is no number must not stand in the log as one."""
    async with a_model([say("x" * 4000, tokens=COUNTS[which])], stream=stream) as (model, _):
        got = await model.chat([{"role": "user", "content": "y" * 4000}])
    assert (got.tokens_in, got.tokens_out, got.counted) == (1000, 1000, False)
    assert not isinstance(got.tokens_in, bool)


@BOTH
async def test_a_short_answer_with_a_low_count_is_believed(stream: bool) -> None:
    async with a_model([say("x" * 40, tokens=(1, 1))], stream=stream) as (model, _):
        got = await model.chat(ASKED)
    assert (got.tokens_in, got.tokens_out, got.counted) == (1, 1, True)


HEAD = '{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"'
ENDLESS = {
    "a stream of many parts": (True, say("x" * 5_000_000, pieces=1000)),
    "one line of a stream": (True, Reply(raw=f"data: {HEAD}{'x' * 20_000_000}".encode(), headers=(("Content-Type", "text/event-stream"),))),
    "parts that say nothing": (True, Reply(raw=b": ping\n\n" * 2_000_000)),
    "in one piece": (False, say("x" * 5_000_000)),
    "in one piece, of a size that may come": (False, say("x" * 50_000)),
    "an error": (True, Reply(status=500, raw=b"x" * 20_000_000)),
    "packed": (True, Reply(raw=zlib.compress(b"x" * 50_000_000), headers=(("Content-Encoding", "deflate"),))),
    "packed, in one piece": (False, Reply(raw=zlib.compress(b"x" * 50_000_000), headers=(("Content-Encoding", "deflate"),))),
}


@pytest.mark.parametrize("which", ENDLESS)
async def test_an_answer_without_end_is_broken_off_and_not_asked_for_again(which: str) -> None:
    stream, reply = ENDLESS[which]
    asked = Call(ModelSettings("scripted"), ASKED)
    async with a_model([reply], stream=stream) as (model, server):
        with pytest.raises(Refusing, match="does not keep to the length"):
            await model.chat(ASKED, max_tokens=100, call=asked)
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert asked.chars < (10_000 if stream else 6_000_000)


async def test_a_server_that_never_stops_costs_little_memory() -> None:
    """Chunk after chunk for as long as anybody listens."""
    pieces = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pieces
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()
                pieces += 1

    endless = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with endless:
        url = f"http://127.0.0.1:{endless.sockets[0].getsockname()[1]}/v1"
        async with open_model(ModelSettings("m", url)) as model:
            tracemalloc.start()
            try:
                with pytest.raises(Refusing, match="more than"):
                    await model.chat(ASKED)
                most = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert most < 60_000_000
    assert pieces < 1000


PASSES = {
    "rate limit": (limited(7), 7.0),
    "rate limit in milliseconds": (failing(429, headers=(("retry-after-ms", "1500"),)), 1.5),
    "rate limit without a time": (limited(None), None),
    "rate limit with nonsense": (failing(429, headers=(("Retry-After", "soon"),)), None),
    "rate limit for ever": (limited(10**9), 3600.0),
    "rate limit that is not a number": (failing(429, headers=(("Retry-After", "nan"),)), None),
    "server": (failing(503, headers=(("Retry-After", "2"),)), 2.0),
    "no completion": (lying(), None),
    "a list": (lying([]), None),
    "text that is a number": (lying({"choices": [{"index": 0, "message": {"content": 7}, "delta": {"content": 7}}]}), None),
    "no choices": (lying({"object": "chat.completion", "choices": None}), None),
    "no JSON": (Reply(raw=b"<html>proxy</html>"), None),
    "empty": (Reply(raw=b""), None),
}


@BOTH
@pytest.mark.parametrize("which", PASSES)
async def test_what_may_pass_is_given_back_with_its_time(which: str, stream: bool) -> None:
    reply, after_s = PASSES[which]
    async with a_model([reply], stream=stream) as (model, server):
        with pytest.raises(Retry) as raised:
            await model.chat(ASKED)
    assert raised.value.after_s == after_s
    assert len(server.requests) == 1, "the library must not try again by itself: the bus does, on record"


async def test_a_date_in_retry_after() -> None:
    reply = failing(429, headers=(("Retry-After", formatdate(time() + 300, usegmt=True)),))
    async with a_model([reply]) as (model, _):
        with pytest.raises(Retry) as raised:
            await model.chat(ASKED)
    assert raised.value.after_s is not None
    assert 100 < raised.value.after_s <= 300


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (failing(400, "unknown parameter"), "AGENTEXECUTOR_LLM_SCHEMA"),
        (failing(401, "bad key"), "AGENTEXECUTOR_LLM_API_KEY"),
        (failing(404, "no model"), "AGENTEXECUTOR_LLM_MODEL=scripted"),
        (failing(422, "no"), "endpoint's log"),
        (failing(429, "pay first", code="insufficient_quota"), "billing"),
    ],
)
async def test_what_will_not_pass_says_what_to_do(reply: Reply, hint: str) -> None:
    async with a_model([reply]) as (model, _):
        with pytest.raises(Refusing, match=hint):
            await model.chat(ASKED)


@BOTH
async def test_a_server_that_hangs_is_given_up_and_what_it_cost_is_known(stream: bool) -> None:
    asked = Call(ModelSettings("scripted"), ASKED)
    async with a_model([hang("some words")], stream=stream, silence_s=0.3) as (model, server):
        with pytest.raises(Retry, match="said nothing for"):
            await model.chat(ASKED, call=asked)
        await asyncio.wait_for(server.requests[0].gone.wait(), LONG)
    assert asked.answer().tokens_in > 0
    assert asked.answer().text == ("some words" if stream else "")


async def test_a_server_that_trickles_for_ever_is_given_up() -> None:
    async with a_model([slow("x" * 10_000, 600, pieces=10_000)], timeout_s=0.4) as (model, server):
        with pytest.raises(Retry, match=r"not answered within 0\.4 s"):
            await model.chat(ASKED)
        await asyncio.wait_for(server.requests[0].gone.wait(), LONG)


async def test_a_stream_that_ends_too_early_is_no_answer() -> None:
    raw = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hal"}}]}\n\n'
    async with a_model([Reply(raw=raw)]) as (model, _):
        with pytest.raises(Retry, match="ended before the answer did"):
            await model.chat(ASKED)


async def test_nobody_there() -> None:
    async with scripted([say("x")]) as server:
        url = server.url
    async with open_model(ModelSettings("scripted", url)) as model:
        with pytest.raises(Retry, match="cannot be reached"):
            await model.chat(ASKED)


@BOTH
async def test_a_cancel_hangs_up_at_once(stream: bool) -> None:
    async with a_model([hang("some")], stream=stream) as (model, server):
        async with anyio.create_task_group() as group:
            group.start_soon(model.chat, ASKED)
            request = await asyncio.wait_for(server.asked(1), LONG)
            group.cancel_scope.cancel()
        await asyncio.wait_for(request.gone.wait(), LONG)


async def test_progress_is_told_while_it_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentexecutor.agents.autogpt.models.TELL_EVERY_S", 0.0)
    told: list[str] = []
    async with a_model([say("x" * 40, pieces=4)]) as (model, _):
        await model.chat(ASKED, tell=told.append)
    assert told[:4] == ["10 characters so far", "20 characters so far", "30 characters so far", "40 characters so far"]


async def test_endpoints_that_know_less_are_asked_for_less() -> None:
    async with a_model([say("{}")], schema="json_object", limit_field="max_tokens", stream=False) as (model, server):
        await model.chat(ASKED, schema=SCHEMA)
    body = server.requests[0].body
    assert body["response_format"] == {"type": "json_object"}
    assert "JSON Schema" in body["messages"][0]["content"]
    assert body["max_tokens"] == 4000
    async with a_model([say("{}")], schema="none") as (model, server):
        await model.chat(ASKED, schema=SCHEMA)
    assert "response_format" not in server.requests[0].body


async def test_a_prompt_of_a_megabyte_arrives() -> None:
    async with a_model([say("read")]) as (model, server):
        got = await model.chat([{"role": "user", "content": "ж" * 500_000}])
    assert len(server.requests[0].prompt) == 500_000
    assert got.text == "read"


async def test_the_call_is_a_span_by_the_genai_conventions() -> None:
    async with a_model([say("x", tokens=(12, 3))]) as (model, _):
        with recorded() as exporter:
            await model.chat(ASKED, max_tokens=99)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("chat scripted", t.SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.max_tokens": 99,
        "gen_ai.output.type": "text",
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "127.0.0.1",
    }


async def test_a_call_that_fails_says_so_in_its_span() -> None:
    async with a_model([failing(503), hang()], timeout_s=0.3) as (model, _):
        with recorded() as exporter:
            for _number in range(2):
                with pytest.raises(Retry):
                    await model.chat(ASKED)
    assert [(span.attributes or {})["error.type"] for span in exporter.get_finished_spans()] == ["503", "timeout"]


# the agent


async def test_a_text_can_be_worked_on_by_the_model() -> None:
    async with a_model([say("42 whales"), refuse("No."), say(" ")]) as (model, server):
        agent = llm.make(model.settings)
        done = await call(agent, "llm.ask", {"instruction": "count the whales", "data": {"log": "x" * 1_000_000}}, state=model)
        assert done.result == {"text": "42 whales"}
        assert done.usage["calls"] == 1
        asked = server.requests[0].messages
        assert len(server.requests[0].prompt) < 60_000
        assert (asked[0]["content"].split("\n")[1], asked[1]["content"].split("\n")[-1]) == ("count the whales", "count the whales")
        for _number in range(2):
            with pytest.raises(Fail, match="will not"):
                await call(agent, "llm.ask", {"instruction": "go on"}, state=model)


async def test_what_a_call_used_is_spent_also_when_it_breaks_off() -> None:
    async with a_model([say("x", tokens=(100, 20)), hang("x" * 80)], price_in=1.0, price_out=1.0, silence_s=0.3) as (model, _):
        agent = llm.make(model.settings)
        done = await call(agent, "llm.chat", {"messages": ASKED}, state=model)
        assert done.usage == {"tokens": 120, "tokens_in": 100, "tokens_out": 20, "money": pytest.approx(0.00012), "calls": 1}
        assert done.progress[0]["text"] == "asks scripted"
        with pytest.raises(Retry):
            await call(agent, "llm.chat", {"messages": ASKED}, state=model)


async def test_an_answer_is_no_longer_than_the_budget_allows() -> None:
    settings = ModelSettings("m", price_in=1.0, price_out=2.0, max_tokens=4000)
    assert llm.affordable(settings, 400, 2000, {}) == 2000
    assert llm.affordable(settings, 400, 2000, {"tokens": 700}) == 600
    assert llm.affordable(settings, 400, 2000, {"money": 0.001}) == 450
    assert llm.affordable(settings, 400, 2000, {"tokens": 700, "money": 0.001}) == 450
    poor: list[dict[str, float]] = [{"tokens": 150}, {"money": 0.0002}, {"tokens": -5}]
    assert llm.affordable(ModelSettings("m"), 400, 2000, {"money": 0.0}) == 2000, "a model of one's own costs nothing"
    with pytest.raises(Fail):
        llm.affordable(ModelSettings("m", price_in=1.0), 400, 2000, {"money": 0.00001})
    for left in poor:
        with pytest.raises(Fail, match="no room for another call"):
            llm.affordable(settings, 400, 2000, left)
    async with a_model([say("x")]) as (model, server):
        with pytest.raises(Fail, match="larger --budget"):
            await call(llm.make(model.settings), "llm.chat", {"messages": ASKED, "left": {"tokens": 10}}, state=model)
        assert server.requests == []


# settings


def test_the_environment_names_the_model() -> None:
    openai = {"OPENAI_API_KEY": "k", "OPENAI_MODEL": "a", "OPENAI_BASE_URL": "http://x/v1"}
    assert ModelSettings.from_environment(openai) == ModelSettings("a", "http://x/v1", "k")
    ours = {"AGENTEXECUTOR_LLM_MODEL": "b", "AGENTEXECUTOR_LLM_BASE_URL": "http://y/v1", "AGENTEXECUTOR_LLM_TIMEOUT_S": "5"}
    assert ModelSettings.from_environment(openai | ours) == ModelSettings("b", "http://y/v1", "k", timeout_s=5.0)
    assert "k" not in repr(ModelSettings.from_environment(openai)).split("'"), "the key is shown to nobody"


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "AGENTEXECUTOR_LLM_MODEL is not set"),
        ({"AGENTEXECUTOR_LLM_MODEL": "m"}, "AGENTEXECUTOR_LLM_BASE_URL or"),
        ({"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m", "AGENTEXECUTOR_LLM_PRICE_IN": "cheap"}, "no number"),
        ({"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m", "AGENTEXECUTOR_LLM_SCHEMA": "xml"}, "json_schema, json_object, none"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said(environ: dict[str, str], why: str) -> None:
    with pytest.raises(AgentError, match=why):
        ModelSettings.from_environment(environ)
    with pytest.raises(AgentError, match="no number"):
        PlannerSettings.from_environment({"AGENTEXECUTOR_AUTOGPT_RETRIES": "-1"})
