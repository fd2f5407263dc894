"""Which addresses may be reached: names are looked up here, each address is checked, and the connection goes to the address that was checked.

So neither a redirect nor a name that answers differently the second time leads anywhere else. Knows nothing of agents.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import anyio
import httpcore2

__all__ = ["Allowed", "Guarded", "NotAllowed", "Unreadable"]

PORTS = {"http": 80, "https": 443}
MAX_PORT = 65535
NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is public is in here (IANA, IPv6 Global Unicast Address Space)."""
SPECIAL6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2002::/16", "3fff::/20")))
"""Protocols and Teredo, 6to4, documentation."""
SPECIAL4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
"""Protocols, 6to4 relays."""


class NotAllowed(Exception):
    """The address is not on the list."""


class Unreadable(ValueError):
    """An entry of the list that can never fit a host."""


class Entry(NamedTuple):
    """A host, or all below one (`below`). `port` None: the usual one of http or https."""

    host: str
    port: int | None
    below: bool = False

    def fits(self, host: str, port: int, usual: Collection[int]) -> bool:
        """`usual`: the ports that need not be named."""
        same = host.endswith(f".{self.host}") if self.below else host == self.host
        return same and (port in usual if self.port is None else port == self.port)


@dataclass(frozen=True)
class Allowed:
    """The hosts that may be asked.

    Names (``example.org``, ``*.example.org``) or addresses (``10.0.0.7``, ``[::1]``), with a port when it is not the usual one (``127.0.0.1:8080``).
    """

    entries: tuple[str, ...]
    read: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """From a list as people write it. Raises Unreadable, which names the entry."""
        given = tuple(entry for entry in (one.strip().lower() for one in entries) if entry)
        return cls(given, tuple(_entry(one) for one in given))

    def check(self, scheme: str, host: str, port: int | None) -> None:
        """Raises NotAllowed."""
        if scheme not in PORTS:
            raise NotAllowed(f"{scheme or 'that'} is no scheme that is allowed; http and https are.")
        if not any(entry.fits(_plain(host), port or PORTS[scheme], (PORTS[scheme],)) for entry in self.read):
            listed = ", ".join(self.entries) or "none"
            raise NotAllowed(
                f"{host}{f':{port}' if port else ''} is not on the list of hosts (AGENTEXECUTOR_HTTP_ALLOW); there are: {listed}."
            )

    def names(self, host: str, port: int) -> bool:
        """Whether the very host is listed with this port, and not only by a pattern: then it may be a private address."""
        return any(not entry.below and entry.fits(_plain(host), port, PORTS.values()) for entry in self.read)


def _plain(host: str) -> str:
    """A host as it is compared: an address in its one shortest form, a name in lower case and without the last dot."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return host.lower().rstrip(".")


def _entry(text: str) -> Entry:
    """Raises Unreadable."""
    host, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal() or (":" in host and not host.endswith("]")):  # `::1` has no port
        host, number = text, ""
    if number and not 0 < int(number) <= MAX_PORT:
        raise Unreadable(f"{text!r:.200} is no host: there is no port {number:.10}.")
    below = host.startswith("*.")
    plain = _plain(host.removeprefix("*."))
    if not below if _is_address(plain) else NAME.fullmatch(plain):
        return Entry(plain, int(number) if number else None, below)
    raise Unreadable(
        f"{text!r:.200} is no host. Write example.org, *.example.org, 10.0.0.7:8080 or [::1]:8080; no scheme, path or network."
    )


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
        if not self._allowed.names(host, port):
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


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_public(address: str) -> bool:
    """IPv4 inside IPv6 is what a translator would reach: behind NAT64 that is how public hosts are found; all other kinds are refused."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or (ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in NAT64 else None)
        if inner is None:
            return parsed in UNICAST and parsed.is_global and not any(parsed in special for special in SPECIAL6)
        parsed = inner
    return parsed.is_global and not parsed.is_multicast and not any(parsed in special for special in SPECIAL4)
