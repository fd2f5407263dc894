"""No more of an HTTP answer than was bargained for: bytes are counted as they come, before anybody collects or unpacks them.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

__all__ = ["Bounded", "TooMuch", "too_much"]

PLAIN = ("", "identity")


class TooMuch(httpx2.RequestError):
    """The answer is longer than it may be, or packed although that was not asked for."""


class Bounded:
    """A hook for responses (``event_hooks={"response": [Bounded(limit)]}``): up to `limit` bytes pass, and nothing that is packed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def __call__(self, response: httpx2.Response) -> None:
        """Raises TooMuch, here or while the answer is read."""
        packed = response.headers.get("content-encoding", "").strip().lower()
        if packed not in PLAIN:
            raise TooMuch(f"the answer is packed ({packed[:50]}), which was not asked for", request=response.request)
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Counted(response.stream, self._limit, response.request)


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, limit: int, request: httpx2.Request) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._left -= len(part)
            if self._left < 0:
                raise TooMuch(f"the answer has more than {self._limit:,} bytes", request=self._request)
            yield part

    async def aclose(self) -> None:
        """Close what is counted."""
        await self._stream.aclose()


def too_much(error: BaseException | None) -> TooMuch | None:
    """What was too much, when that is why a client has failed."""
    while error is not None and not isinstance(error, TooMuch):
        error = error.__cause__ or error.__context__
    return error
