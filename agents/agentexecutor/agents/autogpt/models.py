"""One language model behind any OpenAI-compatible endpoint: one call, streamed, counted, and told as a GenAI span.

Nothing is tried again here: what may pass (a rate limit, a time-out, a fault of the server) is `Retry`, which gives the subtask back to the
market, on record and with the server's Retry-After; what will not pass is `Fail`, with what to do. Knows nothing of plans.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec
import openai

from agentexecutor.agents.autogpt.bounded import Bounded, too_much
from agentexecutor.agents.autogpt.purse import CHARS_A_TOKEN, PRICES_ARE_FOR
from agentexecutor.agents.autogpt.settings import ModelSettings
from agentexecutor.agents.errors import Fail, Retry
from agentexecutor.agents.failures import text_of
from agentexecutor.bus import telemetry

__all__ = ["Answer", "Call", "Model", "Refusing", "open_model"]

TELL_EVERY_S = 0.5
LONGEST_WAIT_S = 3600.0
"""A server that wants us to wait longer is taken at its word for so long only."""
NOT_FOR_LONG = (408, 409, 429)
QUOTA = "insufficient_quota"
MOST_TOKENS = 1_000_000_000
LEAST_OF_ESTIMATE = 0.1
"""A server that counts less of this than the lengths suggest (a token of 40 characters) is not believed."""
SLACK_TOKENS = 20
"""In short texts the estimate itself may be off by so much."""
CHARS_FOR_A_TOKEN = 8
"""So many characters may come for a token of the limit, on the average, before an answer is broken off."""
ROOM_CHARS = 1000
BYTES_FOR_A_CHAR = 6
"""As JSON writes one at the worst, \\u0000."""
ENVELOPE_BYTES = 1000
"""Around a token in a stream."""
HEAD_BYTES = 65_536

Message = Mapping[str, str]


class Refusing(Fail):
    """The endpoint will not do this however often it is asked."""


class Answer(msgspec.Struct, kw_only=True):
    """What the model said. `finish`: ``stop``, ``length`` (cut), ``content_filter``; `refusal`: its words when it refuses."""

    text: str
    refusal: str | None = None
    finish: str = "stop"
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    counted: bool = True
    """By the server; else estimated from the lengths: it does not count, or far too little."""
    money: float = 0.0


class Call:
    """One call as it goes: what has come so far, and what that has cost, also when it breaks off."""

    def __init__(self, settings: ModelSettings, messages: Sequence[Message]) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.chars = 0
        """Of both."""
        self.finish: str | None = None
        self.model = settings.model
        self._settings = settings
        self._prompt_chars = sum(len(message["content"]) for message in messages)
        self._counted: tuple[int, int] | None = None
        self.sent = False

    def add(self, kept: list[str], text: str) -> None:
        """More of its text or its refusal."""
        kept.append(text)
        self.chars += len(text)

    def count(self, usage: Any) -> None:
        """The server's own count, when it is one."""
        got = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        if all(type(number) is int and 0 <= number < MOST_TOKENS for number in got):  # true is an int too
            self._counted = got  # type: ignore[assignment]  # both are whole numbers

    def answer(self) -> Answer:
        """As far as it has come."""
        said = "".join(self.text)
        estimate = (-(-self._prompt_chars // CHARS_A_TOKEN), -(-self.chars // CHARS_A_TOKEN))
        counted = self._counted if self._counted is not None and _believable(self._counted, estimate) else None
        tokens_in, tokens_out = counted or (estimate if self.sent else (0, 0))
        price = tokens_in * self._settings.price_in + tokens_out * self._settings.price_out
        return Answer(
            text=said,
            refusal="".join(self.refusal) or None,
            finish=self.finish or "stop",
            model=self.model,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            counted=counted is not None,
            money=price / PRICES_ARE_FOR,
        )


class Model:
    """A model that can be called, as its settings say."""

    def __init__(self, settings: ModelSettings, client: openai.AsyncOpenAI) -> None:
        self.settings = settings
        self._client = client

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        tell: Callable[[str], None] = lambda _text: None,
        call: Call | None = None,
    ) -> Answer:
        """Ask once. `schema`: what the answer must be; `tell`: hears how far it is; `call`: holds what a call that broke off has cost.

        Raises Retry for what may pass, Refusing for what will not.
        """
        settings = self.settings
        call = call or Call(settings, messages)
        limit = min(max_tokens or settings.max_tokens, settings.max_tokens)
        began = time.monotonic()
        with telemetry.span(telemetry.SPAN_CHAT, settings.model, parent=telemetry.current(), attributes=self._asked(limit, schema)) as span:
            try:
                with anyio.fail_after(settings.timeout_s):
                    await self._ask(call, self._request(messages, schema, limit), tell)
            except TimeoutError as error:
                span.set_attribute(telemetry.ATTR_ERROR, "timeout")
                raise Retry(f"{settings.model} has not answered within {settings.timeout_s:g} s.", timeout_s=settings.timeout_s) from error
            except BaseException as error:
                span.set_attribute(telemetry.ATTR_ERROR, str(getattr(error, "status", type(error).__name__)))
                raise
            finally:
                answer = call.answer()
                if span.is_recording():
                    span.set_attributes(_answered(answer))
                self._measure(answer, time.monotonic() - began)
            return answer

    def _request(self, messages: Sequence[Message], schema: Mapping[str, Any] | None, limit: int) -> dict[str, Any]:
        settings = self.settings
        request: dict[str, Any] = {"model": settings.model, "messages": list(messages), settings.limit_field: limit}
        if schema is not None and settings.schema == "json_schema":
            named = {"name": str(schema.get("title") or "answer"), "schema": dict(schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema is not None:
            wanted = f"Answer with one JSON object, nothing before or after it, that fits this JSON Schema: {msgspec.json.encode(schema).decode()}"
            request["messages"] = [{"role": "system", "content": wanted}, *messages]
            if settings.schema == "json_object":
                request["response_format"] = {"type": "json_object"}
        if settings.stream:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        return request

    async def _ask(self, call: Call, request: dict[str, Any], tell: Callable[[str], None]) -> None:
        call.sent = True
        try:
            if self.settings.stream:
                await self._listen(call, request, tell)
            else:
                _take(call, await self._client.chat.completions.create(**request), "message")
                self._check_length(call, request)
        except openai.APIStatusError as error:
            call.sent = False  # it was turned away, not worked on
            raise _status(error, self.settings) from error
        except openai.APITimeoutError as error:
            raise Retry(f"{self.settings.model} has said nothing for {self.settings.silence_s:g} s.") from error
        except (openai.APIError, httpx2.HTTPError) as error:
            over = too_much(error)
            if over is not None:
                raise self._overrun(over) from error
            raise Retry(f"The model's endpoint cannot be reached, or broke off: {text_of(error, 500)}") from error
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            IndexError,
            RecursionError,
        ) as error:  # whatever a library makes of nonsense
            raise Retry(f"The model's endpoint sent what is no chat completion: {text_of(error, 500)}") from error

    def _check_length(self, call: Call, request: Mapping[str, Any]) -> None:
        """Raises Refusing when far more is written than was asked for."""
        limit: int = request[self.settings.limit_field]
        if call.chars > limit * CHARS_FOR_A_TOKEN + ROOM_CHARS:
            raise self._overrun(f"it has written {call.chars:,} characters already, and was asked for {limit:,} tokens")

    def _overrun(self, what: object) -> Refusing:
        hint = f"Does it know {self.settings.limit_field}? AGENTEXECUTOR_LLM_LIMIT_FIELD=max_tokens is what older endpoints know."
        return Refusing(f"The model's endpoint does not keep to the length of an answer: {what}.", hint=hint)

    async def _listen(self, call: Call, request: dict[str, Any], tell: Callable[[str], None]) -> None:
        told = time.monotonic()
        stream = await self._client.chat.completions.create(**request)
        try:
            async for part in stream:
                _take(call, part, "delta")
                self._check_length(call, request)
                if time.monotonic() - told > TELL_EVERY_S:
                    told = time.monotonic()
                    tell(f"{call.chars:,} characters so far")
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await stream.close()
        if call.finish is None:
            raise ValueError("the stream ended before the answer did")

    def _asked(self, limit: int, schema: Mapping[str, Any] | None) -> telemetry.Attributes:
        return {
            telemetry.ATTR_GENAI_OPERATION: "chat",
            telemetry.ATTR_GENAI_PROVIDER: self.settings.provider,
            telemetry.ATTR_GENAI_MODEL: self.settings.model,
            telemetry.ATTR_GENAI_LIMIT: limit,
            telemetry.ATTR_GENAI_OUTPUT_TYPE: "text" if schema is None else "json",
            telemetry.ATTR_SERVER_ADDRESS: urlsplit(str(self._client.base_url)).hostname or "",
        }

    def _measure(self, answer: Answer, took_s: float) -> None:
        if not telemetry.measuring():
            return
        same = {
            telemetry.ATTR_GENAI_OPERATION: "chat",
            telemetry.ATTR_GENAI_PROVIDER: self.settings.provider,
            telemetry.ATTR_GENAI_MODEL: self.settings.model,
        }
        telemetry.measure(telemetry.METRIC_GENAI_DURATION, took_s, same)
        for kind, number in (("input", answer.tokens_in), ("output", answer.tokens_out)):
            telemetry.measure(telemetry.METRIC_GENAI_TOKENS, number, {**same, telemetry.ATTR_GENAI_TOKEN_TYPE: kind})


def _most_bytes(settings: ModelSettings) -> int:
    """Of the longest answer: what is written, and in a stream what is around each token."""
    text = (settings.max_tokens * CHARS_FOR_A_TOKEN + ROOM_CHARS) * BYTES_FOR_A_CHAR
    return HEAD_BYTES + text + (settings.max_tokens * ENVELOPE_BYTES if settings.stream else 0)


@asynccontextmanager
async def open_model(settings: ModelSettings) -> AsyncIterator[Model]:
    """A model with connections of its own, as long as the block runs."""
    timeout = httpx2.Timeout(settings.silence_s, connect=min(settings.silence_s, 30.0))
    client = openai.AsyncOpenAI(
        api_key=settings.api_key,
        base_url=settings.base_url,
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [Bounded(_most_bytes(settings))]}),
    )
    try:
        yield Model(settings, client)
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


def _believable(counted: tuple[int, int], estimate: tuple[int, int]) -> bool:
    return all(count >= LEAST_OF_ESTIMATE * guess - SLACK_TOKENS for count, guess in zip(counted, estimate, strict=True))


def _take(call: Call, part: Any, where: str) -> None:
    """What a completion (its `message`) or a part of a stream (its `delta`) adds. Raises ValueError when it is neither."""
    call.count(getattr(part, "usage", None))
    if isinstance(getattr(part, "model", None), str) and part.model:
        call.model = part.model
    choices: Any = getattr(part, "choices", None)
    if where == "delta" and choices == []:
        return  # the last part of a stream holds the count alone
    said = getattr(choices[0], where, None) if choices else None
    if said is None:
        raise ValueError("there is no choice in it")
    for kept, text in ((call.text, getattr(said, "content", None)), (call.refusal, getattr(said, "refusal", None))):
        if isinstance(text, str):
            call.add(kept, text)
        elif text is not None:
            raise ValueError(f"its text is a {type(text).__name__}")
    finish = choices[0].finish_reason
    if isinstance(finish, str):
        call.finish = finish


def _answered(answer: Answer) -> telemetry.Attributes:
    return {
        telemetry.ATTR_GENAI_ANSWERED_BY: answer.model,
        telemetry.ATTR_GENAI_FINISH: [answer.finish],
        telemetry.ATTR_GENAI_INPUT: answer.tokens_in,
        telemetry.ATTR_GENAI_OUTPUT: answer.tokens_out,
    }


def _status(error: openai.APIStatusError, settings: ModelSettings) -> Exception:
    """What a status that is no success means."""
    code, words = error.status_code, text_of(error.message, 500)
    if code == 429 and error.code == QUOTA:  # noqa: PLR2004  # HTTP's own number
        return Refusing(f"The quota of {settings.model}'s account is used up: {words}", hint="Look at the provider's billing page.")
    if code in NOT_FOR_LONG or code >= 500:  # noqa: PLR2004
        what = "limits the rate" if code == 429 else f"answered {code}"  # noqa: PLR2004
        return Retry(f"The model's endpoint {what}: {words}", after_s=_retry_after(error.response.headers), status=code)
    hints = {
        400: "Does it know the model and JSON Schemas? AGENTEXECUTOR_LLM_SCHEMA=json_object or none asks for less, and "
        "AGENTEXECUTOR_LLM_LIMIT_FIELD=max_tokens is what older endpoints know.",
        401: "Set AGENTEXECUTOR_LLM_API_KEY.",
        403: "May this key use this model?",
        404: f"Is AGENTEXECUTOR_LLM_MODEL={settings.model} right, and does AGENTEXECUTOR_LLM_BASE_URL end with /v1?",
    }
    return Refusing(
        f"The model's endpoint refused the call ({code}): {words}", hint=hints.get(code, "Look at the endpoint's log."), status=code
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, by either form of Retry-After (RFC 9110 section 10.2.3), or by OpenAI's own in milliseconds."""
    seconds: float | None = None
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            if seconds is None and headers.get(name):
                seconds = float(headers[name]) * scale
    if seconds is None and headers.get("retry-after"):
        with suppress(ValueError, TypeError):
            seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S)
