"""A scripted model: a server on 127.0.0.1 that speaks the OpenAI chat API and says what a test tells it to. Needs no network and no extra.

    async with scripted([say({"finish": True, "answer": "42"}), limited(2), hang()]) as model:
        ...  # AGENTEXECUTOR_LLM_BASE_URL=model.url AGENTEXECUTOR_LLM_MODEL=scripted
        assert "the goal" in model.requests[0].prompt

The script is a list of replies, given in turn (the last one again and again), or a function from the request to a reply. Every request is kept, with
what became of it. `agentexecutor.agents.autogpt.scripted_http` knows how a reply looks on the wire.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentexecutor.agents.autogpt import scripted_http as http

__all__ = ["Reply", "Request", "ScriptedModel", "broken", "failing", "hang", "limited", "lying", "refuse", "say", "scripted", "slow"]

CHARS_A_TOKEN = 4


@dataclass(frozen=True)
class Reply:
    """What the server does with a request.

    `delay_s`: before anything is sent; `pieces`: in so many parts a streamed text comes, `pause_s` apart; `tokens`: prompt and answer (None: a quarter
    of the characters; False: they are not told); `raw`: is sent as the body as it is; `hangs`: after the pieces nothing more comes.
    """

    text: str = ""
    refusal: str | None = None
    finish: str = "stop"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    delay_s: float = 0.0
    pieces: int = 4
    pause_s: float = 0.0
    hangs: bool = False
    tokens: tuple[int, int] | bool | None = None


def say(value: Any, **more: Any) -> Reply:
    """An answer: text as it is, anything else as JSON."""
    return Reply(value if isinstance(value, str) else msgspec.json.encode(value).decode(), **more)


def broken(text: str = '{"thought": "I was about to sa', **more: Any) -> Reply:
    """JSON that ends too early."""
    return Reply(text, **more)


def refuse(words: str = "I cannot help with that.", **more: Any) -> Reply:
    """The model will not."""
    return Reply(refusal=words, **more)


def limited(after_s: float | None = 1.0, **more: Any) -> Reply:
    """429, to be asked again after so many seconds (None: it does not say)."""
    headers = () if after_s is None else (("Retry-After", f"{after_s:g}"),)
    return failing(429, "Rate limit reached", headers=headers, **more)


def failing(status: int = 500, words: str = "something broke", code: str | None = None, **more: Any) -> Reply:
    """An error, as OpenAI tells it."""
    body = {"error": {"message": words, "type": "server_error" if status >= 500 else "invalid_request_error", "param": None, "code": code}}  # noqa: PLR2004
    return Reply(status=status, raw=msgspec.json.encode(body), **more)


def lying(body: Any = None, **more: Any) -> Reply:
    """200, and a body that is no chat completion."""
    return Reply(raw=msgspec.json.encode({"object": "chat.completion", "choices": "none"} if body is None else body), **more)


def slow(value: Any, seconds: float, **more: Any) -> Reply:
    """An answer that takes its time, piece by piece."""
    pieces = more.pop("pieces", 10)
    return say(value, pieces=pieces, pause_s=seconds / pieces, **more)


def hang(text: str = "", **more: Any) -> Reply:
    """Nothing comes (or nothing after `text`), and the connection stays open."""
    return Reply(text, hangs=True, **more)


@dataclass
class Request:
    """What was asked, and what became of it: ``answered``, or ``gone`` when the asker hung up before the end; both are events."""

    body: dict[str, Any]
    headers: dict[str, str]
    number: int
    answered: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    gone: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def messages(self) -> list[dict[str, str]]:
        """As they were sent."""
        messages: list[dict[str, str]] = self.body.get("messages", [])
        return messages

    @property
    def prompt(self) -> str:
        """All messages, one after the other."""
        return "\n\n".join(str(message.get("content")) for message in self.messages)

    @property
    def schema(self) -> str | None:
        """The name of the JSON Schema that the answer must fit."""
        wanted = (self.body.get("response_format") or {}).get("json_schema") or {}
        return wanted.get("name")

    @property
    def streams(self) -> bool:
        """Whether the answer is to come piece by piece."""
        return bool(self.body.get("stream"))


Script = Sequence[Reply] | Callable[[Request], Reply]


class ScriptedModel:
    """The server: where it is, and what it was asked."""

    def __init__(self, script: Script, model: str) -> None:
        self.model = model
        self.url = ""
        self.requests: list[Request] = []
        self._script = script
        self._news = asyncio.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """For a process whose agent is to ask this model."""
        return {"AGENTEXECUTOR_LLM_BASE_URL": self.url, "AGENTEXECUTOR_LLM_MODEL": self.model, "AGENTEXECUTOR_LLM_API_KEY": "scripted"}

    @property
    def prompts(self) -> Counter[str]:
        """How often each prompt was asked, whatever became of it."""
        return Counter(request.prompt for request in self.requests)

    async def asked(self, count: int) -> Request:
        """Wait for request number `count`, from 1."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            got = await http.read_request(reader)
            if got is not None:
                await self._answer(got, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # who asked has gone
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, got: http.Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        problem = http.problem_of(got)
        if problem is not None:
            await http.send(writer, *problem)
            return
        request = Request(msgspec.json.decode(got.body), got.headers, len(self.requests) + 1)
        self.requests.append(request)
        async with self._news:
            self._news.notify_all()
        sending = asyncio.ensure_future(self._send(request, writer))
        listening = asyncio.ensure_future(reader.read(1))  # it says nothing more: when this ends, who asked has gone
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not request.answered.is_set():
                request.gone.set()
        finally:
            for task in (sending, listening):
                task.cancel()
            await asyncio.gather(sending, listening, return_exceptions=True)

    def _reply(self, request: Request) -> Reply:
        if not callable(self._script):
            return self._script[min(request.number, len(self._script)) - 1]
        try:
            return self._script(request)
        except Exception as error:  # noqa: BLE001  # a test's own; whoever asked is told
            return failing(400, f"The script failed at request {request.number}: {type(error).__name__}: {error}")

    async def _send(self, request: Request, writer: asyncio.StreamWriter) -> None:
        reply = self._reply(request)
        await asyncio.sleep(reply.delay_s)
        tokens = (
            (len(request.prompt) // CHARS_A_TOKEN, len(reply.text) // CHARS_A_TOKEN)
            if reply.tokens in (None, True)
            else reply.tokens or None
        )
        if reply.raw is not None:
            await http.send(writer, reply.status, reply.raw, reply.headers)
        elif request.streams:
            counts = bool((request.body.get("stream_options") or {}).get("include_usage"))
            await http.send_stream(writer, self.model, reply, tokens if counts else None)
        else:
            if reply.hangs:
                await asyncio.Event().wait()
            await http.send(writer, reply.status, http.completion(self.model, reply, tokens), reply.headers)
        request.answered.set()


@asynccontextmanager
async def scripted(script: Script, *, model: str = "scripted", port: int = 0) -> AsyncIterator[ScriptedModel]:
    """Serve the script on 127.0.0.1 while the block runs (`port` 0: a free one)."""
    made = ScriptedModel(script, model)
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            serving.add(task)
            task.add_done_callback(serving.discard)
        with suppress(asyncio.CancelledError):  # the block has ended; asyncio would call that an error of the callback
            await made.serve(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
