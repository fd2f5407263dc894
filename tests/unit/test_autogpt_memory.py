"""The memory: what was noted is found, by words, once, and after the process has ended."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from agentexecutor.agents import Fail, Retry
from agentexecutor.agents.autogpt import memory
from agentexecutor.agents.testing import call

pytestmark = pytest.mark.anyio


async def test_what_was_noted_is_found_by_another_process(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "memory.db"
    kept = await call(
        memory.make(file), "memory.note", {"texts": ["The rates API answers 403", "CSV files use semicolons"], "goal": "a report"}
    )
    assert kept.result == {"kept": 2, "total": 2}
    found = (await call(memory.make(file), "memory.search", {"query": "which API gives the rate?"})).result["notes"]
    assert [(note["text"], note["goal"], note["task"]) for note in found] == [("The rates API answers 403", "a report", "test.task")]


async def test_the_best_comes_first_and_no_more_than_was_asked_for(tmp_path: Path) -> None:
    agent = memory.make(tmp_path / "memory.db")
    store = memory.Memory(tmp_path / "memory.db")
    store.keep("a", "t", "", [f"report number {number}" for number in range(20)])
    store.keep("b", "t", "", ["the report needs prices in euros"])
    found = (await call(agent, "memory.search", {"query": "report prices", "limit": 3})).result["notes"]
    assert len(found) == 3
    assert found[0]["text"] == "the report needs prices in euros"


async def test_a_second_run_of_the_same_work_keeps_nothing_twice(tmp_path: Path) -> None:
    agent = memory.make(tmp_path / "memory.db")
    await call(agent, "memory.note", {"texts": ["one", "two"]})
    assert (await call(agent, "memory.note", {"texts": ["one", "two"]}, attempt=2)).result == {"kept": 0, "total": 2}
    assert (await call(agent, "memory.note", {"texts": ["two", "three"]}, attempt=3)).result == {"kept": 1, "total": 3}


@pytest.mark.parametrize(
    "query", ["", "  ", '"', "AND OR NOT", "a* NEAR(b)", "'; DROP TABLE notes; --", "語 текст", "col:umn", "x" * 100_000, "w " * 5000]
)
async def test_no_query_breaks_it(tmp_path: Path, query: str) -> None:
    agent = memory.make(tmp_path / "memory.db")
    await call(agent, "memory.note", {"texts": ["語 and текст"]})
    found = (await call(agent, "memory.search", {"query": query})).result["notes"]
    assert [note["text"] for note in found] in ([], ["語 and текст"])


async def test_several_threads_write_at_once(tmp_path: Path) -> None:
    store = memory.Memory(tmp_path / "memory.db")
    store.keep("first", "t", "", ["first"])
    threads = [
        threading.Thread(target=store.keep, args=(f"k{number}", "t", "", [f"note {each}" for each in range(5)])) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.keep("last", "t", "", ["last"]).total == 42


async def test_a_file_that_is_no_memory_is_told(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(b"this is no database, but a text of more than sixteen bytes")
    with pytest.raises(Fail, match="AGENTEXECUTOR_MEMORY_FILE"):
        await call(memory.make(tmp_path / "memory.db"), "memory.search", {"query": "x"})
    with pytest.raises(Fail, match="too many"):
        await call(memory.make(tmp_path / "other.db"), "memory.note", {"texts": ["x"] * 101})


async def test_a_file_that_is_locked_for_long_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BUSY_S", 0.05)
    agent = memory.make(tmp_path / "memory.db")
    await call(agent, "memory.note", {"texts": ["one"]})
    other = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Retry, match="busy"):
        await call(agent, "memory.note", {"texts": ["two"]}, attempt=3)
    other.close()
