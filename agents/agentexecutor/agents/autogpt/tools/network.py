"""Which addresses may be reached: names are looked up here, each address is checked, and the connection goes to the address that was checked.

So neither a redirect nor a name that answers differently the second time leads anywhere else. Knows nothing of agents.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import httpcore2

__all__ = ["Allowed", "Guarded", "NotAllowed"]

PORTS = {"http": 80, "https": 443}


class NotAllowed(Exception):
    """The address is not on the list."""


@dataclass(frozen=True)
class Allowed:
    """The hosts that may be asked: names (``example.org``, ``*.example.org``), with a port when it is not the usual one (``127.0.0.1:8080``)."""

    entries: tuple[str, ...]

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """From a list as people write it."""
        return cls(tuple(entry for entry in (given.strip().lower().rstrip(".") for given in entries) if entry))

    def check(self, scheme: str, host: str, port: int | None) -> None:
        """Raises NotAllowed."""
        if scheme not in PORTS:
            raise NotAllowed(f"{scheme or 'that'} is no scheme that is allowed; http and https are.")
        if not self._lists(host.lower().rstrip("."), port or PORTS[scheme], PORTS[scheme]):
            listed = ", ".join(self.entries) or "none"
            raise NotAllowed(
                f"{host}{f':{port}' if port else ''} is not on the list of hosts (AGENTEXECUTOR_HTTP_ALLOW); there are: {listed}."
            )

    def names(self, host: str) -> bool:
        """Whether the very host is listed, and not only by a pattern: then it may be a private address."""
        host = host.lower().rstrip(".")
        return any(entry == host or entry.rsplit(":", 1)[0] == host for entry in self.entries)

    def _lists(self, host: str, port: int, usual: int) -> bool:
        for entry in self.entries:
            pattern, colon, number = entry.rpartition(":")
            if not colon or not number.isdecimal():
                pattern, number = entry, str(usual)
            fits = host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            if fits and port == int(number):
                return True
        return False


class Guarded(httpcore2.AsyncNetworkBackend):
    """Connects to what `allowed` lists. A private, local or otherwise special address only when the host itself is listed."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the library's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Look the name up, check every address, connect to the first that answers."""
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error}") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allowed.names(host):
            for address in addresses:
                if not _is_public(address):
                    raise NotAllowed(f"{host} is the private address {address}, which must be listed itself (AGENTEXECUTOR_HTTP_ALLOW).")
        for address in addresses[:-1]:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._backend.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, path: str, *_more: object, **_options: object) -> httpcore2.AsyncNetworkStream:
        """There are none."""
        raise NotAllowed(f"Unix sockets are not reached: {path[:100]}.")

    async def sleep(self, seconds: float) -> None:
        """As the backend does."""
        await self._backend.sleep(seconds)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    checked = parsed if mapped is None else mapped
    return checked.is_global and not checked.is_multicast
