"""examples/autogpt: the goal is reached around a tool that fails, after a critic's no, within a budget that is nearly used up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "autogpt"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("AGENTEXECUTOR_LLM_MODEL", "AGENTEXECUTOR_HTTP_ALLOW"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("autogpt_example", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.anyio
async def test_the_goal_is_reached_and_the_readme_shows_how(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    seen = await example.main()
    story = seen["story"]
    assert "8864.2" in seen["result"]
    assert "8864.2" in seen["report"]
    assert story.done == {"files.read": 2, "files.list": 1, "calculator.evaluate": 1, "files.write": 1}
    assert story.failed == ["web"]
    assert [said for said in story.said if said.startswith(("reject", "accept"))] == [
        "reject: the goal asks for report.md, and nothing was written",
        "accept: it is computed, and written",
    ]
    assert 0.85 < story.tokens / story.limit <= 1
    shown = (FOLDER / "README.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        assert "tokens (" in line or line in shown, "the README shows another story"
