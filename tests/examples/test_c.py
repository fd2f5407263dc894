"""examples/c: it compiles without a warning, and passes every scenario with the compiler's checks of memory on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreign import built, conformance

if TYPE_CHECKING:
    from pathlib import Path


def test_the_agent_passes_every_scenario(tmp_path: Path) -> None:
    """A leak found at the end makes its exit code another one than 0, and so does what is undefined."""
    agent = built(tmp_path, "-O1", "-g", "-Werror", "-Wshadow", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert conformance(str(agent)) == []
