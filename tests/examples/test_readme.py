"""The README's Python, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentexecutor.bus import connect

if TYPE_CHECKING:
    from agentexecutor.bus import EmbeddedServer

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def blocks() -> list[str]:
    """The Python blocks of the README, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_block(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(source, "README.md", "exec"), names)  # noqa: S102 - the README is ours
    return names


async def test_the_agent_and_the_client_of_the_readme(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_py, client_py = blocks()
    agent = run_block(agent_py)["agent"]
    monkeypatch.setenv("AGENTEXECUTOR_NATS_URL", server.url)
    async with connect(name="host") as bus, agent.serve(bus):
        await run_block(client_py)["main"]()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Hello, Ada!"
    assert printed[-1] == "Hello, Hello, Ada!!"
    assert "completed second greeter" in printed


@pytest.mark.parametrize("page", sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))))
def test_what_a_page_links_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")}
    assert targets or page != "README.md"
    assert [target for target in sorted(targets) if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_every_test_that_the_page_on_durability_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/durability.md").read_text(encoding="utf-8")))
    defined = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
    }
    assert named
    assert named - defined == set()
