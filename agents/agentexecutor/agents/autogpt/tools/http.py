"""HTTP GET to hosts that are listed: ``agentexecutor agent agentexecutor.agents.autogpt.tools.http:agent``.

AGENTEXECUTOR_HTTP_ALLOW lists them: ``en.wikipedia.org,*.python.org,127.0.0.1:8080``; none when it is not set. Each redirect is checked like the first
address (`network`), and what comes is limited in size and time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import urljoin, urlsplit

import anyio
import httpcore2
import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.tools.network import Allowed, Guarded, NotAllowed, Unreadable
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import AgentError, Fail, Retry

__all__ = ["Page", "agent", "make"]

MAX_BYTES = 1_000_000
MAX_URL = 4000
REDIRECTS = 5
TIMEOUT_S = 30.0
REDIRECTING = (301, 302, 303, 307, 308)
FOR_A_WHILE = (429, 500, 502, 503, 504)
GOOD = range(200, 300)


class Page(msgspec.Struct):
    """What was found. `url`: after redirects; `cut`: there is more of it."""

    url: str
    status: int
    type: str
    text: str
    cut: bool = False


def make(allow: Iterable[str] | None = None, timeout_s: float = TIMEOUT_S) -> Agent:
    """GET from these hosts (None: as the environment says). Raises AgentError for an entry that is no host."""
    made = Agent("http", capacity=8)
    listed = None if allow is None else list(allow)

    def allowed() -> Allowed:
        try:
            return Allowed.of(os.environ.get("AGENTEXECUTOR_HTTP_ALLOW", "").split(",") if listed is None else listed)
        except Unreadable as error:
            raise AgentError(str(error), hint="Look at AGENTEXECUTOR_HTTP_ALLOW.") from error

    allowed()  # what is wrong is said when the agent is started, not when it is first asked

    @made.capability("http.get", estimate_s=1)
    async def get(ctx: Context, url: str, max_bytes: int = 100_000) -> Page:
        """The text at an http or https address, from a host that is allowed."""
        hosts = allowed()
        try:
            with anyio.fail_after(timeout_s):
                async with httpcore2.AsyncConnectionPool(network_backend=Guarded(hosts)) as pool:
                    return await _follow(ctx, pool, hosts, url, min(max(max_bytes, 1), MAX_BYTES))
        except NotAllowed as error:
            raise Fail(str(error), url=url[:200]) from error
        except TimeoutError as error:
            raise Retry(f"{url[:200]} has not answered within {timeout_s:g} s.") from error
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            raise Retry(f"{url[:200]} cannot be read: {error or type(error).__name__}.") from error

    return made


async def _follow(ctx: Context, pool: httpcore2.AsyncConnectionPool, hosts: Allowed, url: str, limit: int) -> Page:
    for _hop in range(REDIRECTS + 1):
        _check(hosts, url)
        ctx.progress(text=f"reads {url[:200]}")
        headers = [
            ("User-Agent", "agentexecutor"),
            ("Accept", "text/*, application/json;q=0.9, */*;q=0.1"),
            ("Accept-Encoding", "identity"),
        ]
        async with pool.stream("GET", url, headers=headers) as response:
            got = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in REDIRECTING and got.get("location"):
                url = urljoin(url, got["location"])
                continue
            content = b""
            async for part in response.aiter_stream():
                content += part
                if len(content) > limit:
                    break
            return _page(url, response.status, got.get("content-type", ""), content, limit)
    raise Fail(f"More than {REDIRECTS} redirects; the last leads to {url[:200]}.")


def _check(hosts: Allowed, url: str) -> None:
    """Raises NotAllowed, Fail."""
    if len(url) > MAX_URL:
        raise Fail(f"An address of {len(url)} characters is too long.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        url.encode("ascii")
    except ValueError as error:
        raise Fail(f"{url[:200]!r} is no address: {error}.") from error
    if any(character <= " " or character == "\x7f" for character in url) or "\\" in url:
        raise Fail(f"{url[:200]!r} is no address: it holds a blank, a backslash or a control character.")
    if parts.username is not None or parts.password is not None:
        raise NotAllowed("Names and passwords in an address are not sent.")
    hosts.check(parts.scheme, host, port)


def _page(url: str, status: int, type: str, content: bytes, limit: int) -> Page:
    text = content[:limit].decode("utf-8", "replace")
    if status in GOOD:
        return Page(url, status, type, text, cut=len(content) > limit)
    message = f"{url[:200]} answers {status}: {text[:300]}"
    raise Retry(message, status=status) if status in FOR_A_WHILE else Fail(message, status=status)


agent = make()
