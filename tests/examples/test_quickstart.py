"""examples/quickstart.py does what its comments say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.fixture
def quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", QUICKSTART)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.anyio
async def test_everything_in_it_works(quickstart: ModuleType) -> None:
    seen = await quickstart.main()
    assert seen["labels"] == ["short", "short"]
    kinds = [kind for kind in seen["events"] if kind not in ("progress", "accepted")]
    assert kinds == ["submitted", "planned", "ready", "awarded", "completed", "completed"]
    assert seen["typed"] == seen["again"] == ["short"]
    ((agent, won, reason),) = seen["bids"]
    assert (agent, won) == ("classifier", True)
    assert "s of work" in reason
    assert seen["plan"] == [{"a b": 0, "b c": 1}] * 2
    assert seen["shares"] == [2, 1]
    assert seen["retried"].startswith("https://example.org at attempt 2")
    assert [code for code, _ in seen["errors"]] == ["handler", "input"]
    assert "only https" in seen["errors"][0][1]
    assert "'url'" in seen["errors"][1][1]
    assert seen["waited"] == "cancelled"
    assert seen["blocking"] == ["long"]
    assert seen["handler"] == (["long"], ["vectorise", "predict"])


def test_it_runs_as_it_is() -> None:
    ran = subprocess.run([sys.executable, str(QUICKSTART)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "blocking   ['long']" in ran.stdout
