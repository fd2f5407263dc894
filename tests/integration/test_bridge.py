"""Any program as an agent: what goes in, what comes out, and what becomes of programs that die, hang, or talk nonsense."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentexecutor.agents.bridge import bridge
from agentexecutor.bus import Bus, EmbeddedServer, TaskFailed, connect, telemetry

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(Path(__file__).parent / "programs" / "bridged.py")]


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    """A bus with an agent that is a program."""
    agent = bridge("bridged", "work", PROGRAM, takes={"type": "object", "required": ["do"]}, labels={"made": "anywhere"})
    async with connect(server.url, name="me") as connected, agent.serve(connected):
        yield connected


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(provider)
    yield exporter
    telemetry.use()


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


async def test_a_line_in_and_lines_out(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task = await bus.submit("work", {"do": "echo", "n": [1, "é"], "takes_s": 1}, id="t1", labels={"made": "anywhere"})
    told = [event.data async for event in task.events() if event.kind == "progress"]
    seen = await task.result()
    assert seen["input"] == {"do": "echo", "n": [1, "é"], "takes_s": 1}
    assert (seen["task"], seen["subtask"], seen["capability"], seen["attempt"]) == ("me.t1", "main", "work", 1)
    assert {"step": "echoing", "state": "started", "fraction": 0.5, "text": "half"}.items() <= told[0].items()
    assert "at work on main" in caplog.text
    (agent,) = await bus.agents()
    assert agent.capabilities == ["work"]
    assert (await bus.run("work", {"do": "echo"}))["pid"] == seen["pid"], "one process for many subtasks"


async def test_a_large_result(bus: Bus) -> None:
    assert await bus.run("work", {"do": "large", "bytes": 3_000_000}) == "x" * 3_000_000


async def test_errors_as_the_program_says_them(bus: Bus) -> None:
    pid = (await bus.run("work", {"do": "echo"}))["pid"]
    with pytest.raises(TaskFailed) as failed:
        await bus.run("work", {"do": "fail"})
    assert failed.value.error.message.endswith("no such page")
    assert failed.value.error.details["status"] == 404
    assert failed.value.error.details["message"] == "gone"
    with pytest.raises(TaskFailed) as gave_up:
        await bus.run("work", {"do": "busy"}, retries=1)
    assert gave_up.value.error.message.endswith("come again")
    assert gave_up.value.error.details["attempt"] == 2
    assert (await bus.run("work", {"do": "echo"}))["pid"] == pid, "who says that it failed goes on"


async def test_what_the_program_has_used_counts(bus: Bus) -> None:
    task = await bus.submit("work", {"do": "spend"}, retries=1)
    events = [event async for event in task.events()]
    used = {event.kind: event.data["usage"] for event in events if event.subtask is not None and event.data.get("usage")}
    assert used == {"failed": {"tokens": 20.0, "money": 0.5}, "completed": {"tokens": 15.0, "money": 0.75}}
    told = [event.data for event in events if event.kind == "progress"]
    assert all(said.get("fraction") == 0.5 for said in told), "usage alone is no progress"
    with pytest.raises(TaskFailed) as failed:
        await bus.run("work", {"do": "spend"}, retries=1, budget={"tokens": 10})
    assert failed.value.error.code == "budget"


async def test_twenty_twentieths_are_a_little_more_than_one(bus: Bus) -> None:
    task = await bus.submit("work", {"do": "add up"}, id="t1")
    assert await task.result(float) > 1.0


@pytest.mark.parametrize(
    ("do", "words", "details"),
    [
        ("steal", ["tokens=-12"], {}),
        ("die", ["exit code 3", "out of luck"], {"exit_code": 3, "stderr": ["at work on main", "out of luck"]}),
        ("leave something behind", ["exit code 4", "left "], {"exit_code": 4}),
        ("killed", ["SIGKILL"], {"signal": "SIGKILL", "stderr": ["at work on main"]}),
        ("nonsense", ["Loading the model", "one a line"], {}),
        ("both", ["It has a result and an error", '{"result": 1, "error": "x"}'], {}),
        ("too far", ["<= 1.0", '{"progress": 7}'], {}),
    ],
)
async def test_who_dies_or_is_not_understood_is_started_again(bus: Bus, do: str, words: list[str], details: dict[str, object]) -> None:
    pid = (await bus.run("work", {"do": "echo"}))["pid"]
    with pytest.raises(TaskFailed) as failed:
        await bus.run("work", {"do": do}, retries=0)
    error = failed.value.error
    assert all(word in error.message for word in words), error.message
    assert details.items() <= error.details.items()
    assert "traceback" not in error.details, "how the bridge is made is nobody's business"
    assert not re.search(r"Error:|_Broken|bridge\.py", error.message)
    assert (await bus.run("work", {"do": "echo"}))["pid"] != pid
    assert not lives(pid)
    left = re.search(r"left (\d+)", failed.value.error.message)
    with anyio.fail_after(60):
        while left is not None and lives(int(left[1])):
            await anyio.sleep(0.02)


async def test_two_results_in_one_write_are_one_result(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    first = await bus.run("work", {"do": "echo"}, retries=0)
    assert await bus.run("work", {"do": "twice"}, retries=0) == "first"
    second = await bus.run("work", {"do": "echo", "n": 2}, retries=0)
    assert (second["input"], second["pid"] == first["pid"]) == ({"do": "echo", "n": 2}, False)
    assert "has printed more after it had answered" in caplog.text
    with anyio.fail_after(60):
        while lives(first["pid"]):
            await anyio.sleep(0.02)


async def test_a_late_second_result_is_nobodys(bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go = tmp_path / "go"
    pid = (await bus.run("work", {"do": "echo"}, retries=0))["pid"]
    assert await bus.run("work", {"do": "late", "go": str(go)}, retries=0) == "first"
    go.touch()
    with anyio.fail_after(60):
        while lives(pid):
            await anyio.sleep(0.02)
    assert '\'{"result": "second"}\'' in caplog.text
    assert (await bus.run("work", {"do": "echo", "n": 2}, retries=0))["input"] == {"do": "echo", "n": 2}


async def test_an_answer_may_say_what_it_is_about(bus: Bus) -> None:
    pid = await bus.run("work", {"do": "echoes", "more": 0}, retries=0)
    assert (await bus.run("work", {"do": "echo"}))["pid"] == pid
    with pytest.raises(TaskFailed, match="about other work"):
        await bus.run("work", {"do": "echoes", "more": 1}, retries=0)
    assert (await bus.run("work", {"do": "echo"}))["pid"] != pid


async def test_who_says_nothing_may_be_waiting_in_a_buffer(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentexecutor.agents.bridge.SILENCE_S", 0.5)
    agent = bridge("reader", "work", [sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"])
    async with connect(server.url, name="me") as bus, agent.serve(bus):
        task = await bus.submit("work", {})
        with anyio.fail_after(60):
            while "buffer, see docs/bridge.md" not in caplog.text:
                await anyio.sleep(0.02)
        await anyio.sleep(1)
        await task.cancel()
    assert caplog.text.count("buffer, see docs/bridge.md") == 1


async def test_who_has_said_something_waits_in_no_buffer(
    bus: Bus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.run("work", {"do": "echo"})
    monkeypatch.setattr("agentexecutor.agents.bridge.SILENCE_S", 2)
    await bus.run("work", {"do": "echo", "takes_s": 3})
    assert "buffer" not in caplog.text


async def test_a_program_may_end_after_each_subtask(bus: Bus) -> None:
    first = await bus.run("work", {"do": "last"})
    second = await bus.run("work", {"do": "last"}, retries=0)
    assert first != second


async def test_a_cancelled_one_is_ended(bus: Bus) -> None:
    task = await bus.submit("work", {"do": "hang"})
    pid = 0
    async for event in task.events():
        if event.kind == "progress":
            pid = int(event.data["text"])
            break
    assert lives(pid)
    await task.cancel()
    with anyio.fail_after(60):
        while lives(pid):
            await anyio.sleep(0.02)
    assert (await bus.run("work", {"do": "echo"}))["pid"] != pid


async def test_its_words_are_in_the_trace(bus: Bus, spans: InMemorySpanExporter) -> None:
    with pytest.raises(TaskFailed):
        await bus.run("work", {"do": "die"}, retries=0)
    (span,) = [span for span in spans.get_finished_spans() if span.name == "execute work"]
    assert [(event.attributes or {})["text"] for event in span.events if event.name == "stderr"] == ["at work on main", "out of luck"]
    task = await bus.submit("work", {"do": "echo"})
    assert (await task.result())["traceparent"].split("-")[1] == task.trace_id


async def test_what_cannot_be_started(server: EmbeddedServer, tmp_path: Path) -> None:
    agent = bridge("nobody", "work", [str(tmp_path / "missing")])
    async with connect(server.url, name="me") as bus, agent.serve(bus):
        with pytest.raises(TaskFailed, match="cannot be started") as failed:
            await bus.run("work", {})
        assert "traceback" not in failed.value.error.details


def test_the_agent_of_shell_says_that_it_needs_jq(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    command = [shell, str(ROOT / "examples/shell/agent.sh")]
    ran = subprocess.run(command, env={"PATH": str(tmp_path)}, input="{}\n", capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (127, "")
    assert "agent.sh needs jq, which is not installed" in ran.stderr


async def test_the_command_with_an_agent_of_shell(server: EmbeddedServer) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    agentexecutor = shutil.which("agentexecutor", path=Path(sys.executable).parent) or "agentexecutor"
    arguments = [agentexecutor, "bridge", "--capability", "shell.count", "--name", "counter", "--nats", server.url, "--json"]
    with subprocess.Popen(
        [*arguments, "--capacity", "2", "--label", "in=shell", "--", "examples/shell/agent.sh"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(await to_thread.run_sync(process.stdout.readline))
        assert (ready["name"], ready["capabilities"], ready["capacity"]) == ("counter", ["shell.count"], 2)
        async with connect(server.url, name="me") as bus:
            assert await bus.run("shell.count", {"text": "to be or not to be"}, labels={"in": "shell"}) == {"words": 6}
            with pytest.raises(TaskFailed, match="text is missing"):
                await bus.run("shell.count", {})
        process.terminate()
        assert await to_thread.run_sync(process.wait) == 0
        assert b"counting 18 characters" in await to_thread.run_sync(process.stderr.read)
