"""The parts of the command line that need no bus: exit codes, what a user writes, how things are printed, loading an agent."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM
from json_schema import problems
from msgspec import Raw
from wire_samples import SAMPLES, document, kind_of

from agentexecutor.bus import exporting
from agentexecutor.bus.errors import (
    ApiError,
    BusClosed,
    BusError,
    NoBus,
    ReplicasRefused,
    ServerTooOld,
    StoreTimeout,
    StreamMismatch,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    TaskRefused,
    TaskTimeout,
    only_of,
)
from agentexecutor.console import checks
from agentexecutor.console.agent import load_agent
from agentexecutor.console.choice import with_best_planner, with_planner
from agentexecutor.console.exits import UsageError, exit_code, of_task, sentence
from agentexecutor.console.options import full_name, read_json, read_text, unique_name
from agentexecutor.console.output import PIPE_WIDTH, Output, amount, make_console, seconds
from agentexecutor.console.show import print_view
from agentexecutor.schemas import NameRefused, PlanRefused
from agentexecutor.schemas.messages import ErrorInfo, PlanSpec, Replan
from agentexecutor.schemas.names import TaskName, check_name
from agentexecutor.schemas.views import AgentsView, AgentView, AskedView, AttemptView, BidView, SubtaskView, TaskView

# exits


def failed(code: str) -> TaskFailed:
    return TaskFailed("Task a.b failed.", task="a.b", error=ErrorInfo(code=code, message="m"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (failed("handler"), 1),
        (failed("deadline"), 4),
        (TaskCancelled("x", task="a.b", reason=""), 4),
        (TaskTimeout("x", task="a.b"), 4),
        (StoreTimeout("x", subject="s"), 4),
        (TaskRefused("x", task="a.b", error=ErrorInfo(code="refused", message="m")), 1),
        (TaskLost("x", task="a.b"), 1),
        (UsageError("x"), 2),
        (NameRefused("x"), 2),
        (PlanRefused("x"), 2),
        (ReplicasRefused("x"), 2),
        (NoBus("x", url="u"), 3),
        (ServerTooOld("x"), 3),
        (StreamMismatch("x"), 3),
        (ApiError("x"), 3),
        (BusClosed("x"), 3),
        (BusError("No coordinator answered."), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_an_error_becomes_for_a_script(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_what_a_tasks_end_becomes_for_a_script() -> None:
    assert [of_task(state) for state in ("completed", "failed", "cancelled")] == [0, 1, 4]
    assert of_task("failed", ErrorInfo(code="deadline", message="m")) == 4
    assert of_task("failed", ErrorInfo(code="lost", message="m")) == 1


def test_groups_of_one_are_opened() -> None:
    inner = UsageError("inner")
    assert only_of(ExceptionGroup("a", [ExceptionGroup("b", [inner])])) is inner
    two = ExceptionGroup("a", [inner, inner])
    assert only_of(two) is two
    assert only_of(inner) is inner


def test_an_error_is_a_sentence() -> None:
    assert sentence(UsageError("It is wrong.", hint="Do this.")) == "It is wrong. Do this."
    assert sentence(ValueError("x")) == "ValueError: x"
    assert sentence(KeyError()) == "KeyError: KeyError"


# what a user writes


def test_json_comes_back_decoded() -> None:
    assert read_json(b'{"a": [1, "\xc3\xa4"]}', "INPUT") == {"a": [1, "ä"]}
    spec: PlanSpec = read_json(b'{"subtasks": {"a": {"capability": "x"}}}', "The plan", PlanSpec)
    assert spec.subtasks["a"].capability == "x"


@pytest.mark.parametrize(
    ("text", "where", "mark"),
    [
        (b"{name: Ada}", "line 1, column 2", "  {name: Ada}\n   ^"),
        (b'{"a": 1,\n "b": tru}', "line 2, column 7", '   "b": tru}\n        ^'),
        (b'{"a": 1} x', "line 1, column 10", '  {"a": 1} x\n           ^'),
        (b'{"x": "' + b"y" * 500 + b'", z}', "line 1, column 511", "y" * 20),
        (b"", "line 1, column 1", ""),
        (b"   ", "line 1, column 4", ""),
    ],
    ids=["key", "second line", "rest", "long", "empty", "blank"],
)
def test_bad_json_is_shown_with_its_place(text: bytes, where: str, mark: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_json(text, "INPUT")
    assert str(caught.value).startswith("INPUT is no JSON: ")
    assert where in str(caught.value)
    assert mark in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 140


@pytest.mark.parametrize("text", [b'{"a": NaN}', b'"\xff"', b"[" * 5000, b'{"a": 1e999}', b'"\\ud800"'], ids=repr)
def test_other_bad_json_is_refused_too(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"INPUT is no JSON: ."):
        read_json(text, "INPUT")


def test_json_of_another_shape_names_the_place() -> None:
    with pytest.raises(UsageError, match=r"The plan does not fit: .*\$\.subtasks\[\.\.\.\]"):
        read_json(b'{"subtasks": {"a": {}}}', "The plan", PlanSpec)


def test_text_comes_from_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.json").write_bytes(b"{}")
    assert read_text(str(tmp_path / "in.json"), "The file") == b"{}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))
    assert read_text("-", "The file") == b"[1]"
    with pytest.raises(UsageError, match=r"The file '.*none' cannot be read: No such file"):
        read_text(str(tmp_path / "none"), "The file")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_text(str(tmp_path), "The file")


def test_an_id_alone_is_ones_own_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_NAME", "ada")
    assert full_name("t1") == TaskName("ada", "t1")
    assert full_name("bob.t1") == TaskName("bob", "t1")
    for bad in ("", "a b", "a.b.c", "bob."):
        with pytest.raises(NameRefused):
            full_name(bad)


def test_unique_names_are_names() -> None:
    names = {unique_name(text) for text in ("hello", "x" * 64, "ä ö") for _ in range(10)}
    assert len(names) == 30
    assert all(check_name("peer", name) for name in names)


# printing


def test_durations_and_sizes_as_people_read_them() -> None:
    assert [seconds(s) for s in (None, 0, 0.2345, 89, 90, 5400, 86_400, 604_800)] == [
        "-",
        "0 s",
        "0.234 s",
        "89 s",
        "1.5 min",
        "1.5 h",
        "24 h",
        "7 d",
    ]
    assert [amount(n) for n in (0, 9999, 262_144, 10_485_760, 5 * 10**10)] == ["0 B", "9999 B", "262.1 kB", "10.49 MB", "50 GB"]


def view() -> TaskView:
    error = ErrorInfo(code="handler", message="it [red]broke[/red]")
    bids = [BidView(agent="a1", epoch=2, source="offer", score=0.25, won=True, reason="first " + "and foremost " * 30)]
    attempts = [
        AttemptView(agent="a2", boot="b", epoch=1, state="failed", error=error),
        AttemptView(agent="a1", boot="b", epoch=2, state="completed"),
    ]
    main = SubtaskView(capability="greet", state="completed", agent="a1", epoch=2, bids=bids, attempts=attempts)
    return TaskView(task="ada.t1", state="completed", trace_id="4bf92f3577b34da6a3ce929d0e0e4736", subtasks={"main": main})


def test_a_pipe_gets_whole_lines_without_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    print_view(Output(json=False), view())
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "ada.t1  completed  plan version 1  trace 4bf92f3577b34da6a3ce929d0e0e4736" in text
    assert "it [red]broke[/red]" in text, "what others write is not markup"
    assert ("and foremost " * 30).strip() in text, "nothing is cut"
    rows = [line.split() for line in text.splitlines()]
    assert ["main", "greet", "completed", "a1", "2", "2"] in rows
    assert ["main", "1", "a2", "failed", "handler:", "it", "[red]broke[/red]"] in rows


def test_what_a_person_is_asked_and_how_it_is_answered_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked = AskedView(since="2026-01-01T00:00:00.000000Z", text="5 EUR?", input=Raw(b'{"to":"Ada"}'), timeout_s=90.0, otherwise="reject")
    waits = SubtaskView(capability="pay", state="approval", asked=asked)
    again = SubtaskView(capability="llm", state="ready", not_before="2026-01-01T00:01:00.000000Z", attempts=[
        AttemptView(agent="a1", boot="b", epoch=1, state="failed", error=ErrorInfo(code="handler", message="429")),
    ])  # fmt: skip
    print_view(Output(json=False), TaskView(task="ada.t1", state="waiting", subtasks={"pay": waits, "ask": again}))
    text = capsys.readouterr().out
    assert "pay waits for your word since 2026-01-01T00:00:00Z: 5 EUR?" in text
    assert 'its input: {"to":"Ada"}' in text
    assert "without a word until 2026-01-01T00:01:30Z it is rejected" in text
    assert "agentexecutor feedback ada.t1 --subtask pay --verdict accept" in text
    assert "it failed, and is tried again at 2026-01-01T00:01:00Z" in text
    assert "handler: 429" in text


def test_where_a_budget_went_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    details: dict[str, Any] = {
        "exceeded": "tokens", "budget": {"tokens": 15, "replans": 3}, "spent": {"tokens": 20}, "by": {"a": {"tokens": 12}, "b": {"tokens": 8}, "c": {}}
    }  # fmt: skip
    print_view(
        Output(json=False), TaskView(task="ada.t1", state="failed", error=ErrorInfo(code="budget", message="spent", details=details))
    )
    text = capsys.readouterr().out
    assert "spent: tokens 20 of 15, replans 0 of 3" in text
    assert "tokens by capability: a 12, b 8\n" in text
    assert "--budget tokens=..." in text
    story = {"story": ["task ada.t1 is running", "  a (x) is failed"], "spent": {}}
    print_view(Output(json=False), TaskView(task="ada.t1", state="failed", error=ErrorInfo(code="budget", message="round", details=story)))
    assert "  a (x) is failed" in capsys.readouterr().out
    odd = {"story": 5, "spent": "much"}
    print_view(Output(json=False), TaskView(task="ada.t1", state="failed", error=ErrorInfo(code="budget", message="odd", details=odd)))
    assert "budget: odd" in capsys.readouterr().out


def test_json_is_one_object_a_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.say("for people")
    out.table(["a"], [["b"]], title="for people")
    out.value(b"{}")
    print_view(out, view())
    out.object({"text": "ä\n"})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines][1:] == [{"text": "ä\n"}]
    shown = json.loads(lines[0])
    assert set(shown) >= {"task", "state", "plan_version", "result", "error", "trace_id", "subtasks"}
    main = shown["subtasks"]["main"]
    assert set(main) >= {"capability", "state", "agent", "epoch", "plan_version", "bids", "attempts", "result", "error"}
    assert set(main["bids"][0]) == {"agent", "epoch", "source", "score", "won", "reason"}
    assert main["attempts"][0] == {
        "agent": "a2",
        "boot": "b",
        "epoch": 1,
        "state": "failed",
        "error": {"code": "handler", "message": "it [red]broke[/red]", "retryable": False, "details": {}},
    }


def test_a_pipe_has_no_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_console().width == PIPE_WIDTH
    Output(json=False).say("x" * 5000)
    assert len(capsys.readouterr().out.splitlines()) == 1


# loading an agent


AGENT = """
from __future__ import annotations
from agentexecutor.agents import Agent
from beside import GREETING

agent = Agent("hello")
other = Agent("other")
empty = Agent("empty")
number = 7

@agent.capability("greet")
def greet(name: str) -> str:
    return f"{GREETING}, {name}"

@other.capability("shout")
def shout(name: str) -> str:
    return name.upper()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello_agent.py").write_text(AGENT)
    (tmp_path / "beside.py").write_text("GREETING = 'Hello'\n")
    (tmp_path / "broken.py").write_text("agent = 1 / 0\n")
    (tmp_path / "typo.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import surely_not_installed\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_agent_comes_from_a_file_or_a_module(folder: Path) -> None:
    for where in (str(folder / "hello_agent.py"), "hello_agent.py", "./hello_agent.py", "hello_agent"):
        assert load_agent(f"{where}:agent").name == "hello"
    assert load_agent("hello_agent:other").handlers.keys() == {"shout"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hello_agent.py", "names no agent. Write FILE.py:NAME"),
        (":agent", "names no agent"),
        ("hello_agent.py:", "names no agent"),
        ("none.py:agent", "There is no file 'none.py'"),
        ("none:agent", "There is no module 'none'"),
        ("none.deeper:agent", "There is no module 'none.deeper'"),
        ("hello_agent.py:nobody", "has no 'nobody'. There are: agent, other, empty."),
        ("hello_agent:number", "'number' in hello_agent is a int, no Agent. There are: agent"),
        ("hello_agent:Agent", "'Agent' in hello_agent is a type, no Agent"),
        ("beside.py:GREETING", "no Agent. It has no Agent at all."),
        ("hello_agent.py:empty", "has no capability"),
        ("broken.py:agent", "cannot be loaded: ZeroDivisionError"),
        ("typo.py:agent", "cannot be loaded: SyntaxError"),
        ("needs.py:agent", "needs a module that is not installed: surely_not_installed"),
    ],
)
def test_what_is_no_agent_is_explained(folder: Path, where: str, message: str) -> None:
    assert folder.is_dir()
    with pytest.raises(UsageError) as caught:
        load_agent(where)
    assert message in str(caught.value)
    assert caught.value.hint


# doctor, without a bus


def only(name: str, found: list[checks.Check]) -> checks.Check:
    (check,) = [check for check in found if check.check == name]
    return check


async def checked(url: str) -> list[checks.Check]:
    return [check async for check in checks.all_checks(url)]


@pytest.mark.anyio
async def test_without_a_bus_the_rest_is_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    found = await checked("nats://127.0.0.1:1")
    assert [check.check for check in found] == ["Python", "nats-server", "bus", "traces"]
    bus = only("bus", found)
    assert not bus.ok
    assert "agentexecutor up" in bus.todo
    assert checks.no_bus(found)
    assert only("nats-server", found).ok
    assert only("Python", found).ok


def test_a_nats_server_that_is_missing_or_too_old_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTEXECUTOR_NATS_SERVER", str(tmp_path / "none"))
    missing = checks._server_binary()
    assert not missing.ok
    assert missing.todo
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    monkeypatch.setenv("AGENTEXECUTOR_NATS_SERVER", str(old))
    too_old = checks._server_binary()
    assert not too_old.ok
    assert "2.9.10" in too_old.found
    assert "2.12" in too_old.todo


@pytest.mark.parametrize(("version", "numbers"), [("2.15.1", (2, 15)), ("2.12.0-beta.1", (2, 12)), ("3.0", (3, 0)), ("", ())])
def test_versions_compare_as_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert checks._numbers(version) == numbers


def test_traces_are_off_on_or_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*exporting.ASKED_BY["traces"], "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert checks._telemetry().found.startswith("off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert checks._telemetry().ok
    monkeypatch.setattr(exporting, "entry_points", lambda **_: [])
    assert not checks._telemetry().ok
    assert checks._telemetry().todo == "pip install 'agentexecutor[otlp]'."
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert checks._telemetry().ok


# the samples and schemas that this file's helpers lean on


@pytest.mark.parametrize("sample", SAMPLES[:3], ids=lambda sample: sample.stem)
def test_the_written_schemas_are_the_exported_ones(sample: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner  # noqa: PLC0415 - only here

    from agentexecutor.console.schema import schema  # noqa: PLC0415

    result = CliRunner().invoke(schema, [str(tmp_path / "made"), "--json"])
    assert result.exit_code == 0
    files: dict[str, Any] = {line["name"]: line["file"] for line in map(json.loads, result.stdout.splitlines())}
    written = json.loads(Path(files[kind_of(sample)]).read_text(encoding="utf-8"))
    assert problems(written, document(sample)) == []


def test_a_module_that_one_of_our_extras_brings_is_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openai", "httpx2", "httpcore2", "agentexecutor.agents.autogpt.models", "agentexecutor.agents.autogpt.llm"):
        monkeypatch.setitem(sys.modules, name, None) if "." not in name else monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UsageError, match=r"pip install 'agentexecutor\[llm\]'"):
        load_agent("agentexecutor.agents.autogpt.llm:agent")


def test_a_planner_that_asks_a_model_gets_the_time_for_it() -> None:
    assert with_planner(None, "plan") == Replan()
    assert with_planner(None, "plan.model") == Replan(planner="plan.model", planner_timeout_s=600.0)
    said = Replan(failed="retry", planner_timeout_s=5.0)
    assert with_planner(said, "plan.model") == Replan(failed="retry", planner="plan.model", planner_timeout_s=5.0)


@pytest.mark.anyio
async def test_the_planner_that_asks_a_model_is_taken_when_it_is_there() -> None:
    class Offering:
        def __init__(self, *capabilities: str) -> None:
            self.capabilities = capabilities

        async def ask_body(self, _kind: Any, *_question: Any, **_options: Any) -> AgentsView:
            if not self.capabilities:
                raise BusError("No coordinator answers.")
            agent = AgentView(name="a", capabilities=list(self.capabilities), capacity=1, free=1, labels={}, running=[], seen_s=0.0)
            return AgentsView(agents=[agent])

    own = Replan(planner="plan.own")
    for offered, policy, taken in [
        (("plan", "plan.model"), None, "plan.model"),
        (("plan", "plan.model"), Replan(failed="skip"), "plan.model"),
        (("plan", "plan.model"), own, "plan.own"),
    ]:
        got = await with_best_planner(Offering(*offered), policy)  # type: ignore[arg-type]  # as much of a bus as is asked
        assert got is not None
        assert (got.planner, got.failed) == (taken, None if policy is None else policy.failed)
    for capabilities in (("plan",), ()):
        assert await with_best_planner(Offering(*capabilities), None) is None  # type: ignore[arg-type]  # the same


def in_window(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int) -> str:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    Output(json=False).table(
        ["!task", ">epoch", "error"], [["ada-laptop.r3Kd93bQz0LmXw71TyUe2p", 12, "it took too long"], ["ada.t2", 1, ""]]
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_in_a_narrow_window_a_table_is_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = in_window(monkeypatch, capsys, 40)
    assert narrow.split("\n")[1:] == [
        *["task: ada-laptop.r3Kd93bQz0LmXw71TyUe2p", "epoch: 12", "error: it took too long", ""],
        *["task: ada.t2", "epoch: 1", "", ""],
    ]
    assert "ada-laptop.r3Kd93bQz0LmXw71TyUe2p  " in in_window(monkeypatch, capsys, 80)


LIST = [PROGRAM, "conformance", "--list"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_cannot_be_written_is_one_sentence(more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*LIST, *more], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 74
    assert ran.stderr == "Error: The answer cannot be written: No space left on device. What was asked for goes on.\n"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_when_nobody_reads_it_ends_quietly(more: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([*LIST, *more], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_streams_that_are_closed() -> None:
    for closed in ("1>&-", "2>&-", "0<&-"):
        ran = subprocess.run(["/bin/sh", "-c", f'"$@" {closed}', "sh", *LIST], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
    ran = subprocess.run(["/bin/sh", "-c", '"$@" 0<&-', "sh", PROGRAM, "submit", "greet", "-"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (2, "Error: The file cannot be read: stdin is closed. Give the path of a file.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", "--owner", b"\xff"], "is no UTF-8"),
        (["submit", "greet", b'{"name":"\xff"}'], "is no UTF-8"),
        (["bench", "--wait", "nan"], "'nan' is no number"),
        (["bench", "--seconds", "nan"], "'nan' is no number"),
        (["conformance", "--patience", "nan", "--", "true"], "'nan' is no number"),
        (["bridge", "--capability", "x", "--estimate", "nan", "--", "true"], "'nan' is no number"),
        (["bridge", "--capability", "x", "--cost", "inf", "--", "true"], "'inf' is no number"),
        (["up", "--nats", "nats://127.0.0.1:4733", "--port", "4734"], "--nats and --port exclude each other"),
        (["submit", "pay", "{}", "--approve", "PAY"], "--approve PAY: this task has no such subtask, it has pay."),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str | bytes], said: str) -> None:
    ran = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("streams", ["<&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_the_number_of_a_stream_that_is_closed_is_given_to_no_socket(streams: str) -> None:
    command = ["/bin/sh", "-c", f'"$@" {streams}', "sh", PROGRAM, "tasks", "--nats", "nats://127.0.0.1:1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
