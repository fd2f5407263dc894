"""The tools: paths that do not leave their folder, hosts that are listed, expressions that end."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentexecutor.agents import AgentError, Fail, Retry
from agentexecutor.agents.autogpt.tools import calculator, files, http
from agentexecutor.agents.autogpt.tools.network import Allowed, Guarded, NotAllowed
from agentexecutor.agents.autogpt.tools.sandbox import Outside, Sandbox
from agentexecutor.agents.testing import call

pytestmark = pytest.mark.anyio
LONG = 60

# files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("not for you")
    return tmp_path / "box"


async def test_what_is_written_can_be_read_and_listed(root: Path) -> None:
    agent = files.make(root)
    assert (await call(agent, "files.list")).result == {"entries": []}
    written = await call(agent, "files.write", {"path": "notes/ä plan.md", "text": "größer"})
    assert written.result == {"path": "notes/ä plan.md", "bytes": 8}
    assert (await call(agent, "files.read", {"path": "./notes//ä plan.md"})).result == {"text": "größer", "bytes": 8, "cut": False}
    assert (await call(agent, "files.read", {"path": "notes/ä plan.md", "max_bytes": 2})).result == {"text": "gr", "bytes": 2, "cut": True}
    assert (await call(agent, "files.list", {"path": "notes"})).result == {"entries": [{"name": "ä plan.md", "bytes": 8}]}
    assert (await call(agent, "files.list")).result == {"entries": [{"name": "notes", "bytes": None}]}
    await call(agent, "files.write", {"path": "notes/ä plan.md", "text": ""})
    assert (await call(agent, "files.read", {"path": "notes/ä plan.md"})).result["text"] == ""


LEAVING = [
    "../secret.txt",
    "notes/../../secret.txt",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "notes/..",
    "..\\secret.txt",
    "C:\\secret.txt",
    "a\0b",
    "",
    ".",
    "x/" * 100 + "y",
    "n" * 300,
    "\ud800",
]


@pytest.mark.parametrize("path", LEAVING)
async def test_no_path_leaves_the_folder(root: Path, path: str) -> None:
    box = Sandbox(root)
    for use in (lambda: box.read(path, 100), lambda: box.write(path, b"mine")):
        with pytest.raises(Outside):
            use()
    if path not in ("", "."):
        with pytest.raises(Outside):
            box.entries(path, 10)
    assert (root.parent / "secret.txt").read_text() == "not for you"


@pytest.mark.parametrize("path", LEAVING[:9])
async def test_what_would_leave_is_told_and_not_tried_again(root: Path, path: str) -> None:
    with pytest.raises(Fail):
        await call(files.make(root), "files.read", {"path": path})


async def test_links_are_not_followed(root: Path) -> None:
    root.mkdir()
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "folder").symlink_to(root.parent)
    (root / "inside").symlink_to(root)
    agent = files.make(root)
    for path in ("link.txt", "folder/secret.txt", "inside/link.txt"):
        with pytest.raises(Fail, match="link"):
            await call(agent, "files.read", {"path": path})
    for path in ("link.txt", "folder/new.txt", "inside/new.txt"):
        with pytest.raises(Fail):
            await call(agent, "files.write", {"path": path, "text": "mine"})
    for path in ("folder", "inside"):
        with pytest.raises(Fail, match="link"):
            await call(agent, "files.list", {"path": path})
    assert (await call(agent, "files.list")).result == {"entries": []}
    assert (root.parent / "secret.txt").read_text() == "not for you"
    assert not (root.parent / "new.txt").exists()


async def test_a_file_with_another_name_elsewhere_is_not_read_and_writing_leaves_the_other_alone(root: Path) -> None:
    root.mkdir()
    os.link(root.parent / "secret.txt", root / "hard.txt")
    agent = files.make(root)
    with pytest.raises(Fail, match="hard links"):
        await call(agent, "files.read", {"path": "hard.txt"})
    await call(agent, "files.write", {"path": "hard.txt", "text": "mine"})
    assert (await call(agent, "files.read", {"path": "hard.txt"})).result["text"] == "mine"
    assert (root.parent / "secret.txt").read_text() == "not for you"


async def test_a_pipe_holds_nobody_up_and_a_folder_is_no_file(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    agent = files.make(root)
    for path in ("pipe", "folder"):
        with pytest.raises(Fail, match="plain file"):
            await call(agent, "files.read", {"path": path})
        with pytest.raises(Fail, match="plain file"):
            await call(agent, "files.write", {"path": path, "text": "mine"})
    with pytest.raises(Fail, match="No such file"):
        await call(agent, "files.read", {"path": "nothing"})


async def test_a_folder_that_turns_into_a_link_meanwhile_leads_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race: after the first look the folder is moved away, and a link to the outside stands in its place."""
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "a.txt").write_text("mine")
    opened = os.open

    def swapped(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        found = opened(path, flags, mode, dir_fd=dir_fd)
        if path == "notes" and not (root / "notes").is_symlink():
            (root / "notes").rename(root / "moved")
            (root / "notes").symlink_to(root.parent)
        return found

    monkeypatch.setattr(os, "open", swapped)
    Sandbox(root).write("notes/secret.txt", b"overwritten")
    assert (root.parent / "secret.txt").read_text() == "not for you"
    assert (root / "moved" / "secret.txt").read_text() == "overwritten"
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        Sandbox(root).read("notes/secret.txt", 100)


async def test_what_is_too_much_is_refused_or_cut(root: Path) -> None:
    agent = files.make(root)
    await call(agent, "files.write", {"path": "large", "text": "x" * 2_000_000})
    read = (await call(agent, "files.read", {"path": "large", "max_bytes": 5_000_000})).result
    assert (read["bytes"], read["cut"]) == (1_000_000, True)
    with pytest.raises(Fail, match="too many"):
        await call(agent, "files.write", {"path": "larger", "text": "x" * 10_000_001})


# calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("6*7", 42),
        ("2^10", 1024),
        ("-(3 - 5) ** 2", -4),
        ("round(10/3, 2)", 3.33),
        ("sqrt(16) + max(1, 2, 3) % 2", 5.0),
        ("7 // 2", 3),
        (" log(e) ", 1.0),
        ("1e3", 1000.0),
    ],
)
async def test_it_calculates(expression: str, value: float) -> None:
    assert (await call(calculator.agent, "calculator.evaluate", {"expression": expression})).result["value"] == value


async def test_whole_numbers_that_json_cannot_tell_are_text() -> None:
    assert (await call(calculator.agent, "calculator.evaluate", {"expression": "2**100"})).result == {"value": None, "text": str(2**100)}


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "10**100000",
        "2.0**100000",
        "(2**4000)*(2**4000)",
        "1e400",
        "round(5, -1000000000)",
        "1/0",
        "sqrt(-1)",
        "(-8)**0.5",
        "log(0)",
        "__import__('os').system('true')",
        "().__class__",
        "x",
        "'a'*10**9",
        "[1]*10",
        "True",
        "lambda: 1",
        "round(1, digits=2)",
        "sqrt()",
        "max(1)",
        "sqrt(*[4])",
        "1 if 2 else 3",
        "1 < 2",
        "",
        "6 *",
        "(" * 500 + ")" * 500,
        "-" * 1500 + "1",
        "+".join(["1"] * 1000),
        "1" * 3000,
        "1" * 1999,
        "a" + ".b" * 900,
        "\0",
    ],
)
async def test_what_is_no_sum_is_refused_at_once(expression: str) -> None:
    with pytest.raises(Fail):
        await call(calculator.agent, "calculator.evaluate", {"expression": expression})


# http

Answering = Callable[[str], bytes]


@asynccontextmanager
async def web(answer: Answering, *, hangs: bool = False) -> AsyncIterator[str]:
    """A web server on 127.0.0.1 that answers paths; gives ``127.0.0.1:port``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split()
        if not hangs:
            writer.write(answer(line[1].decode()))
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def page(text: str, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/plain", f"Content-Length: {len(text)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", text]).encode()


async def test_it_reads_a_page_of_a_host_that_is_listed() -> None:
    async with web(lambda path: page(f"you asked for {path}")) as host:
        got = (await call(http.make([host]), "http.get", {"url": f"http://{host}/a?b=1"})).result
        assert got == {"url": f"http://{host}/a?b=1", "status": 200, "type": "text/plain", "text": "you asked for /a?b=1", "cut": False}
        cut = (await call(http.make([host]), "http.get", {"url": f"http://{host}/", "max_bytes": 3})).result
        assert (cut["text"], cut["cut"]) == ("you", True)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://127.0.0.1/",
        "http://127.0.0.1:1/",
        "http://localhost/",
        "http://[::1]/",
        "http://2130706433/",
        "http://listed.example.evil.org/",
        "http://evil.org#listed.example/",
        "http://listed.example@evil.org/",
        "http://user:word@listed.example/",
        "http://listed.example:81/",
        "ftp://listed.example/",
        "file:///etc/passwd",
        "listed.example",
        "",
        "http://",
        "http://listed.example/ a",
        "http://listed.example\\@evil.org/",
        "http://listed.example:port/",
        "http://listed.example/" + "x" * 5000,
        "http://lîsted.example/",
    ],
)
async def test_nothing_else_is_read(url: str) -> None:
    with pytest.raises(Fail):
        await call(http.make(["listed.example"]), "http.get", {"url": url})
    with pytest.raises(Fail, match=r"not on the list|no scheme|no address|too long|not sent"):
        await call(http.make([]), "http.get", {"url": url})


async def test_a_redirect_is_checked_like_the_first_address() -> None:
    async with web(lambda _path: page("secret")) as private:
        places = {"/in": "/out", "/away": f"http://{private}/", "/round": "/round", "/file": "file:///etc/passwd"}
        answer: Answering = lambda path: page("here") if path == "/out" else page("", "302 Found", f"Location: {places[path]}")  # noqa: E731
        async with web(answer) as host:
            agent = http.make([host])
            assert (await call(agent, "http.get", {"url": f"http://{host}/in"})).result["url"] == f"http://{host}/out"
            for path, why in (("/away", "not on the list"), ("/round", "redirects"), ("/file", "no scheme")):
                with pytest.raises(Fail, match=why):
                    await call(agent, "http.get", {"url": f"http://{host}{path}"})


async def test_a_name_that_leads_to_a_private_address_is_refused_unless_it_is_listed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_host: str, port: int, **_more: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async with web(lambda _path: page("inside")) as host:
        port = host.rpartition(":")[2]
        monkeypatch.setattr("anyio.getaddrinfo", resolve)
        with pytest.raises(Fail, match=r"private address 127\.0\.0\.1"):
            await call(http.make([f"*.example.org:{port}"]), "http.get", {"url": f"http://sly.example.org:{port}/"})
        listed = http.make([f"sly.example.org:{port}"])
        assert (await call(listed, "http.get", {"url": f"http://sly.example.org:{port}/"})).result["text"] == "inside"


async def test_the_next_address_of_a_name_is_tried_and_all_are_checked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["127.0.0.2", "127.0.0.1"]

    async def resolve(_host: str, port: int, **_more: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    async with web(lambda _path: page("inside")) as host:
        port = host.rpartition(":")[2]
        monkeypatch.setattr("anyio.getaddrinfo", resolve)
        got = await call(http.make([f"two.example.org:{port}"]), "http.get", {"url": f"http://two.example.org:{port}/"})
        assert got.result["text"] == "inside"
        found[0] = "93.184.215.14"
        with pytest.raises(Fail, match="private address"):
            await call(http.make([f"*.example.org:{port}"]), "http.get", {"url": f"http://two.example.org:{port}/"})


PRIVATE = [
    "10.0.0.1",
    "169.254.169.254",
    "::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "224.0.0.1",
    "0.0.0.0",  # noqa: S104  # it must be refused
    "192.0.0.8",
    "192.88.99.1",
    "100.64.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "::127.0.0.1",
    "fec0::1",
    "::ffff:0:127.0.0.1",
    "fe80::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_special_addresses_are_private(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    async def resolve(_host: str, port: int, **_more: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("anyio.getaddrinfo", resolve)
    with pytest.raises(NotAllowed):
        await Guarded(Allowed.of(["*.example.org"])).connect_tcp("a.example.org", 80)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700:4700::1111", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"])
async def test_public_addresses_are_reached(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    reached: list[str] = []

    async def resolve(_host: str, port: int, **_more: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def connect(self: object, host: str, *_more: object) -> None:
        reached.append(host)

    monkeypatch.setattr("anyio.getaddrinfo", resolve)
    monkeypatch.setattr("httpcore2.AnyIOBackend.connect_tcp", connect)
    await Guarded(Allowed.of(["*.example.org"])).connect_tcp("a.example.org", 80)
    assert reached == [address]


ENTRIES = [
    "http://foo.org",
    "10.0.0.0/8",
    "foo.org/path",
    "*",
    "*.",
    "a.*.org",
    "*.10.0.0.1",
    "foo.org:0",
    "foo.org:99999",
    "foo.org:http",
    "[::1",
    "fe80::1%eth0",
    "a b",
    "user@foo.org",
    "fü.org",
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_fits_no_host_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    with pytest.raises(AgentError, match=re.escape(repr(entry))):
        http.make(["example.org", entry])
    monkeypatch.setenv("AGENTEXECUTOR_HTTP_ALLOW", f"example.org, {entry}")
    with pytest.raises(AgentError, match="AGENTEXECUTOR_HTTP_ALLOW"):
        http.make()


def test_addresses_of_the_sixth_version_can_be_listed() -> None:
    allowed = Allowed.of(["[::1]:8080", "2001:DB8::7", "[2001:db8::8]"])
    for host, port in [("::1", 8080), ("0:0:0:0:0:0:0:1", 8080), ("2001:db8::7", 80), ("2001:db8:0::8", 443)]:
        allowed.check("https" if port == 443 else "http", host, port)
        assert allowed.names(f"[{host}]", port)
    with pytest.raises(NotAllowed):
        allowed.check("http", "::1", 80)


def test_a_private_address_is_listed_with_its_port() -> None:
    allowed = Allowed.of(["inside.example.org:8080", "*.example.org"])
    assert allowed.names("inside.example.org", 8080)
    assert not allowed.names("inside.example.org", 80), "another server may listen there"


async def test_errors_pass_or_do_not() -> None:
    async with web(lambda path: page("no", path[1:] + " Status")) as host:
        agent = http.make([host])
        with pytest.raises(Fail, match="answers 404"):
            await call(agent, "http.get", {"url": f"http://{host}/404"})
        with pytest.raises(Retry, match="answers 503"):
            await call(agent, "http.get", {"url": f"http://{host}/503"})
    with pytest.raises(Retry, match="cannot be read"):
        await call(agent, "http.get", {"url": f"http://{host}/"})


async def test_a_page_without_end_is_cut_and_a_server_that_hangs_is_given_up() -> None:
    async with web(lambda _path: page("x" * 3_000_000)) as host:
        got = (await call(http.make([host]), "http.get", {"url": f"http://{host}/", "max_bytes": 10_000_000})).result
        assert (len(got["text"]), got["cut"]) == (1_000_000, True)
    async with web(lambda _path: b"", hangs=True) as host:
        with pytest.raises(Retry, match=r"within 0\.2 s"):
            await call(http.make([host], timeout_s=0.2), "http.get", {"url": f"http://{host}/"})


def test_patterns_and_ports() -> None:
    allowed = Allowed.of([" *.Python.org ", "example.org", "127.0.0.1:8080", ""])
    for scheme, host, port in [("https", "docs.python.org", None), ("http", "EXAMPLE.org.", 80), ("http", "127.0.0.1", 8080)]:
        allowed.check(scheme, host, port)
    for scheme, host, port in [
        ("https", "python.org", None),
        ("http", "notpython.org", None),
        ("https", "example.org", 80),
        ("http", "127.0.0.1", None),
    ]:
        with pytest.raises(NotAllowed):
            allowed.check(scheme, host, port)
