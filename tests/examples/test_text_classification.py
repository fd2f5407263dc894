"""examples/text_classification: a critic leads to version 2, which keeps what was loaded and does better."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUN = Path(__file__).parents[2] / "examples" / "text_classification" / "run.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_classification", RUN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its annotations are looked up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.anyio
async def test_version_2_is_better_and_keeps_what_was_loaded(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    seen = await example.main()
    assert seen["versions"] == [1, 2]
    assert seen["baseline"] < seen["accuracies"][1] < example.TARGET < seen["accuracies"][2]
    assert seen["awards"] == {"load": 1, "features": 2, "train": 2, "critic": 2}
    printed = capsys.readouterr().out
    assert "critic says: accuracy" in printed
    assert f"2        {seen['accuracies'][2]:.3f}" in printed
