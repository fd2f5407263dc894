"""Whatever a model makes of paths and expressions: nothing outside the folder is read or written, and every expression ends in a number or a reason."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentexecutor.agents.autogpt.tools.calculator import Unreadable, calculate
from agentexecutor.agents.autogpt.tools.sandbox import Outside, Sandbox

PARTS = st.sampled_from(["..", ".", "", "a", "b", "out", "loop", "file", "\\", "a\0", "~", "...", "secret", "%2e%2e", "ä"])
PATHS = st.one_of(st.lists(PARTS, max_size=6).map("/".join), st.text(max_size=20))
NUMBERS = st.sampled_from(
    ["0", "1", "2", "9", "10", "1e300", "0.5", "2**64", "pi", "x", "(3)", "sqrt(2)", "-7", "max(1,2)", "round(9, 999999999)"]
)
SIGNS = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "^", ",", "(", ")", " ", "**-"])
EXPRESSIONS = st.lists(st.one_of(NUMBERS, SIGNS), max_size=30).map("".join)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ways out: links to a file, to the folder above, and in a circle."""
    above = tmp_path_factory.mktemp("above")
    (above / "secret").write_text("not for you")
    box = above / "box"
    (box / "a").mkdir(parents=True)
    (box / "out").symlink_to(above)
    (box / "file").symlink_to(above / "secret")
    (box / "loop").symlink_to(box / "loop")
    return box


@given(path=PATHS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out(box: Path, path: str) -> None:
    sandbox = Sandbox(box)
    with suppress(Outside, OSError):
        sandbox.write(path, b"mine")
        assert sandbox.read(path, 100) == b"mine"
    with suppress(Outside, OSError):
        assert b"not for you" not in sandbox.read(path, 100)
    assert sorted(one.name for one in box.parent.iterdir()) == ["box", "secret"]
    assert (box.parent / "secret").read_text() == "not for you"


@given(expression=EXPRESSIONS)
@settings(max_examples=500, deadline=None)
def test_every_expression_ends(expression: str) -> None:
    try:
        value = calculate(expression)
    except Unreadable:
        return
    assert isinstance(value, int | float)
    assert isinstance(value, int) or math.isfinite(value)
