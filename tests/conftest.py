"""Fixtures that every folder of tests shares, and the rule that continuous integration skips nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from agentexecutor.bus.server import EmbeddedServer

NOTHING_IS_SKIPPED = os.environ.get("AE_CI") == "1"
"""A skipped test proves nothing: with AE_CI=1 it fails."""
MEASURED = "measured"


FIRST = ("simulation", "chaos", "test_conformance", "examples", "fuzz", "integration")
"""What takes long begins first, so that the workers of `make test` end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of `FIRST`; within a file as they stand there."""
    places = {item: min((at for at, name in enumerate(FIRST) if name in item.nodeid), default=len(FIRST)) for item in items}
    items.sort(key=places.__getitem__)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tells people at the end of the run what a test has counted or measured, also when another process ran it."""
    return lambda text: record_property(MEASURED, text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What `measured` was told."""
    reports = [report for status in ("passed", "failed") for report in terminalreporter.stats.get(status, [])]
    lines = [str(text) for report in reports for name, text in getattr(report, "user_properties", []) if name == MEASURED]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The bus client needs asyncio."""
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server of one's own, with an empty store."""
    from agentexecutor.bus.server import embedded_server  # noqa: PLC0415 - the pure tests run without the bus

    async with embedded_server() as running:
        yield running


def refuse_skip(report: Any) -> None:
    """Turn a skip into a failure that says why; an expected failure stays one."""
    if NOTHING_IS_SKIPPED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which AE_CI=1 forbids: {report.longrepr}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    # What a test logged may hold half a character, and a worker of pytest-xdist cannot send that.
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report
