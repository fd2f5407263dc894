"""AutoGPT as people start it: programs of their own, configured by the environment, and `agentexecutor submit --goal`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from agentexecutor.agents.autogpt.scripted import ScriptedModel, say, scripted

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "agentexecutor")
LONG = 120
PACKAGE = "agentexecutor.agents.autogpt"


def environment(folder: Path, model: ScriptedModel | None = None, url: str | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTEXECUTOR_", "OTEL_", "OPENAI_"))}
    own = {
        "AGENTEXECUTOR_NAME": "tester",
        "AGENTEXECUTOR_FILES_ROOT": str(folder / "files"),
        "AGENTEXECUTOR_MEMORY_FILE": str(folder / "m.db"),
    }
    return kept | own | (model.environment if model else {}) | ({"AGENTEXECUTOR_NATS_URL": url} if url else {})


@contextmanager
def program(*arguments: str, env: dict[str, str], cwd: Path) -> Iterator[dict[str, Any]]:
    """A command that stays; gives what it says when it is ready, and must end well when it is asked to."""
    process = subprocess.Popen([PROGRAM, *arguments, "--json"], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"{arguments} ended: {process.communicate(timeout=LONG)}")
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LONG)
        assert process.returncode == 0, said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(*arguments: str, env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run([PROGRAM, *arguments], env=env, capture_output=True, text=True, timeout=LONG, check=False)
    return done.returncode, done.stdout, done.stderr


async def test_a_goal_in_words_goes_to_the_planner_that_asks_a_model_though_the_other_is_there(tmp_path: Path) -> None:
    answers = [
        say({"thought": "to be saved", "add": [{"name": "save", "capability": "files.write", "input": '{"path": "a.txt", "text": "b"}'}]}),
        say({"thought": "done", "finish": True, "answer": "It is saved."}),
        say({"verdict": "accept", "text": "it is"}),
    ]
    async with scripted(answers) as model:
        await anyio.to_thread.run_sync(_submits, tmp_path, model)
    assert "save the letter" in model.requests[0].prompt


def _submits(folder: Path, model: ScriptedModel) -> None:
    with program("up", "--port", "0", "--store", str(folder / "store"), env=environment(folder), cwd=folder) as up:
        env = environment(folder, model, up["nats"])
        assert up["planner"], "the planner that needs no model is there too"
        with program("agent", f"{PACKAGE}.team:agent", env=env, cwd=folder) as team:
            assert {"plan.model", "llm.chat", "critic.judge", "memory.search", "files.write", "http.get"} <= set(team["capabilities"])
            code, out, said = run("submit", "--goal", "save the letter", "--budget", "tokens=50000", "--json", env=env)
            assert code == 0, said
            assert json.loads(out)["result"] == "It is saved."
            assert (folder / "files" / "a.txt").read_text() == "b"
            code, _, said = run("submit", "--goal", "save the letter", "--planner", "plan", "--json", env=env)
            assert code == 1
            assert "On offer are" in said, "the planner that needs no model was asked, as --planner says"
            code, out, said = run("submit", "--goal", "text", '{"path": "a.txt"}', "--planner", "plan", "--json", env=env)
            assert (code, json.loads(out)["result"]["text"]) == (0, "b"), said
        assert len(model.requests) == 3


@pytest.mark.parametrize("module", ["planner", "llm", "critic", "memory", "tools.files", "tools.http", "tools.calculator"])
async def test_each_agent_starts_by_its_name(server: Any, tmp_path: Path, module: str) -> None:
    async with scripted([say("x")]) as model:
        env = environment(tmp_path, model, server.url)

        def starts() -> None:
            with program("agent", f"{PACKAGE}.{module}:agent", env=env, cwd=tmp_path) as said:
                assert said["capabilities"]

        await anyio.to_thread.run_sync(starts)


async def test_without_a_model_it_says_what_to_set(server: Any, tmp_path: Path) -> None:
    env = environment(tmp_path, None, server.url)
    code, _, said = await anyio.to_thread.run_sync(lambda: run("agent", f"{PACKAGE}.llm:agent", env=env))
    assert code == 1
    assert "AGENTEXECUTOR_LLM_MODEL is not set" in said
    assert "Ollama" in said


def test_submit_says_how_a_planner_is_chosen() -> None:
    _, out, _ = run("submit", "--help", env=environment(Path("/")))
    assert "--planner" in out
    assert "plan.model" in out
