"""How the scripted model looks on the wire: as much of HTTP/1.1 and of the OpenAI chat API as its clients use. Knows no script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import msgspec

__all__ = ["Got", "Said", "completion", "problem_of", "read_request", "send", "send_stream"]

MAX_BODY = 64 * 1024 * 1024
MAX_HEADERS = 200
WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


class Said(Protocol):
    """What of a reply goes into a completion."""

    @property
    def text(self) -> str:
        """Of the answer."""
        ...

    @property
    def refusal(self) -> str | None:
        """In its place."""
        ...

    @property
    def finish(self) -> str:
        """Why it ended."""
        ...

    @property
    def pieces(self) -> int:
        """Of a stream."""
        ...

    @property
    def pause_s(self) -> float:
        """Between them."""
        ...

    @property
    def hangs(self) -> bool:
        """Whether it ends at all."""
        ...


class Got(NamedTuple):
    """A request; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Got | None:
    """The request, or None when what comes is none."""
    first = (await reader.readline()).decode("latin-1").split()
    headers: dict[str, str] = {}
    for _number in range(MAX_HEADERS):
        line = (await reader.readline()).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if len(first) != 3 or not length.isdecimal() or int(length) > MAX_BODY:  # noqa: PLR2004  # method, path, version
        return None
    return Got(first[0], first[1], headers, await reader.readexactly(int(length)))


def problem_of(got: Got) -> tuple[int, bytes] | None:
    """Status and body for what is no question to a chat model."""
    if got.method != "POST" or not got.path.partition("?")[0].endswith("/chat/completions"):
        return 404, _error(f"There is no {got.method} {got.path} here; POST /v1/chat/completions is.")
    try:
        body = msgspec.json.decode(got.body)
    except msgspec.MsgspecError as error:
        return 400, _error(f"The body is no JSON: {error}")
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body.get("model"):
        return 400, _error("The body lacks `model` or `messages`.")
    return None


def _error(words: str) -> bytes:
    return msgspec.json.encode({"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}})


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} {WORDS.get(status, 'Status')}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
    await writer.drain()


def completion(model: str, reply: Said, tokens: Any) -> bytes:
    """A chat completion in one piece."""
    message = {"role": "assistant", "content": None if reply.refusal else reply.text, "refusal": reply.refusal}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}
    return msgspec.json.encode({**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(tokens)})


async def send_stream(writer: asyncio.StreamWriter, model: str, reply: Said, tokens: Any) -> None:
    """A chat completion as server-sent events."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n")
    await writer.drain()
    head = _head(model, "chat.completion.chunk")
    kind = "refusal" if reply.refusal else "content"
    for piece in _pieces(reply.refusal or reply.text, reply.pieces):
        await _event(writer, {**head, "choices": [{"index": 0, "delta": {"role": "assistant", kind: piece}, "finish_reason": None}]})
        await asyncio.sleep(reply.pause_s)
    if reply.hangs:
        await asyncio.Event().wait()
    await _event(writer, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish}]})
    if tokens is not None:
        await _event(writer, {**head, "choices": [], "usage": _usage(tokens)})
    writer.write(b"data: [DONE]\n\n")
    await writer.drain()


async def _event(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
    writer.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
    await writer.drain()


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": int(time.time()), "model": model}


def _usage(tokens: Any) -> dict[str, int] | None:
    if not tokens:
        return None
    return {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}


def _pieces(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return [text[start : start + size] for start in range(0, len(text), size)]
