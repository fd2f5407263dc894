"""The command line as it is typed: what exists, what --help shows, and what a command that cannot be meant like this says. No bus."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agentexecutor.console.main import COMMANDS, cli, main
from agentexecutor.console.options import Command
from agentexecutor.console.schema import schema

HELLO = "examples/hello/agent.py:agent"
NAMES = [
    "demo",
    "up",
    "agent",
    "bridge",
    "coordinator",
    "submit",
    "plan",
    "tasks",
    "show",
    "watch",
    "cancel",
    "feedback",
    "agents",
    "unserved",
    "doctor",
    "conformance",
    "bench",
    "schema",
]
WITHOUT_BUS = ("demo", "conformance", "schema")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the project's folder, with nothing on stdin and no bus to be found."""
    before = set(sys.modules)
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    monkeypatch.setenv("AGENTEXECUTOR_NATS_URL", "nats://127.0.0.1:1")
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_all_commands_are_there_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(COMMANDS) == NAMES
    assert run("--help") == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == NAMES


@pytest.mark.parametrize("name", ["replay", "auth", "nonsense"])
def test_what_is_not_built_does_not_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 2
    assert f"No such command '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself_with_examples_and_takes_nats_and_json(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Command)
    assert command.name == name
    assert all(f"agentexecutor {name}" in example for example in command.examples)
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert ("--nats URL" in shown.output) == (name not in WITHOUT_BUS), "they need no bus, or bring one"
    assert "--json" in shown.output
    assert "Examples:" in shown.output
    for example in command.examples:
        assert f"  {example}\n" in shown.output
    assert command.help is not None
    assert (command.help or "").splitlines()[0].endswith(".")
    assert [o.name for o in command.params if isinstance(o, click.Option) and o.name != "as_json" and not o.help] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "greet", "{name: 1}"), "line 1, column 2"),
        (("submit", "greet", '["Ada"]'), "no JSON object"),
        (("submit", "greet"), "INPUT"),
        (("submit",), "CAPABILITY and INPUT are missing"),
        (("submit", "greet", "@no-such-file"), "cannot be read"),
        (("submit", "two words", "{}"), "cannot name a capability"),
        (("submit", "greet", "{}", "--plan", "p.json"), "exclude each other"),
        (("submit", "greet", "{}", "--auction", "dutch"), "dutch"),
        (("submit", "greet", "{}", "--deadline", "0"), "--deadline"),
        (("submit", "greet", "{}", "--priority", "high"), "--priority"),
        (("submit", "greet", "{}", "--retries", "1001"), "--retries"),
        (("submit", "greet", "{}", "--timeout", "0"), "--timeout"),
        (("submit", "greet", "{}", "--deadline", "nan"), "'nan' is no number of seconds"),
        (("submit", "greet", "{}", "--timeout", "inf"), "'inf' is no number of seconds"),
        (("submit", "greet", '{"name": 1, "name": 2}'), "has 'name' twice"),
        (("feedback", "me.t1", "--deadline", "nan"), "'nan' is no number of seconds"),
        (("feedback", "me.t1", "--as", "a b", "--text", "x"), "cannot name a peer"),
        (("submit", "greet", "{}", "--label", "eu"), "--label zone=eu"),
        (("submit", "greet", "{}", "--on-stall", "pray"), "pray"),
        (("submit", "--goal", "be happy", "--plan", "p.json"), "--goal"),
        (("submit", "greet", "{}", "--budget", "tokens=many"), "tokens=many"),
        (("submit", "greet", "{}", "--budget", "tokens"), "NAME=VALUE"),
        (("submit", "greet", "{}", "--replan", "failed=pray"), "failed=pray"),
        (("submit", "greet", "{}", "--replan", "failed=split"), "--split rows"),
        (("submit", "greet", "{}", "--split", "rows"), "which nothing has"),
        (("submit", "greet", "{}", "--replan", "failed=split", "--split", "rows=none"), "rows=none"),
        (("submit", "greet", "{}", "--critic", "a b"), "cannot name a critic"),
        (("submit", "greet", "{}", "--approve-timeout", "60"), "nothing does"),
        (("submit", "greet", "{}", "--approve", "*", "--approve-timeout", "0"), "--approve-timeout"),
        (("submit", "greet", "{}", "--approve", "*", "--approve-otherwise", "perhaps"), "perhaps"),
        (("feedback", "me.t1"), "Nothing is said"),
        (("feedback", "me.t1", "--data", "{x: 1}"), "--data is no JSON"),
        (("feedback", "me.t1", "--data", "@no-such-file"), "cannot be read"),
        (("feedback", "me.t1", "--verdict", "accept", "--subtask", "a", "--plan-version", "2"), "exclude each other"),
        (("submit", "--plan", "-"), "The plan in stdin is no JSON"),
        (("submit", "--plan", "no-such-file"), "cannot be read"),
        (("plan",), "For example: agentexecutor plan greet"),
        (("plan", "greet", "{name: 1}"), "line 1, column 2"),
        (("plan", "greet", "{}", "--plan", "p.json"), "exclude each other"),
        (("plan", "greet", "{}", "--id", "t1"), "--id"),
        (("plan", "greet", "{}", "--save", "tests"), "--save"),
        (("show",), "TASK"),
        (("show", "a b"), "cannot name"),
        (("show", "a.b.c"), "cannot name"),
        (("watch", "--json"), "TASK"),
        (("feedback", "t1"), "--verdict"),
        (("feedback", "t1", "--verdict", "maybe"), "maybe"),
        (("tasks", "--limit", "0"), "--limit"),
        (("agent",), "FILE.py:NAME"),
        (("agent", "no-such-file.py:agent"), "no file"),
        (("agent", "examples/hello/agent.py"), "names no agent"),
        (("agent", "examples/hello/agent.py:nobody"), "There is: agent"),
        (("agent", HELLO, "--name", "a b"), "cannot name a peer"),
        (("agent", HELLO, "--capacity", "0"), "--capacity"),
        (("up", "--port", "70000"), "--port"),
        (("up", "--nats", "nats://10.0.0.1:4222"), "127.0.0.1 only"),
        (("up", "--nats", "nats://127.0.0.1:x"), "cannot serve"),
        (("schema",), "DIR"),
        (("schema", "pyproject.toml"), "pyproject.toml"),
        (("doctor", "--nonsense"), "--nonsense"),
        (("bench", "--input", "{}"), "--payload"),
        (("bench", "--capability", "two words"), "cannot name a capability"),
        (("bench", "--capability", "greet", "--input", "[]"), "no JSON object"),
        (("bench", "--capability", "greet", "--agents", "3"), "--agents is for the bench's own"),
        (("bench", "--capability", "greet", "--payload", "3"), "--payload is for the bench's own"),
        (("bench", "--capability", "greet", "--embedded"), "--embedded is for the bench's own"),
        (("bench", "--embedded", "--nats", "nats://10.0.0.5:4222"), "--nats has no meaning"),
        (("bench", "--in-flight", "1,0"), "1,0"),
        (("bench", "--in-flight", "many"), "such as 1,32"),
        (("bench", "--auction", "dutch"), "dutch"),
        (("bench", "--tasks", "0"), "--tasks"),
        (("bench", "--seconds", "0"), "--seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_ends_with_2_and_a_sentence(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Error: " in err
    assert "Traceback" not in err


PLANS = [
    ('{"subtasks": {}}', "no subtasks"),
    ('{"subtasks": {"a": {"capability": "x", "after": ["b"]}, "b": {"capability": "x", "after": ["a"]}}}', "cycle: a -> b -> a"),
    ('{"subtasks": {"a": {"capability": "x", "input": {"y": {"$ref": "b"}}}}}', "needs 'b', which the plan does not have"),
    ('{"subtasks": {"a b": {"capability": "x"}}}', "'a b' cannot name a subtask"),
    ('{"subtasks": {"a": {"capability": "two words"}}}', "cannot name a capability"),
    ('{"subtasks": {"a": {}}}', "missing required field `capability`"),
    ('{"subtasks": {"a": {"capability": "x", "retries": "many"}}}', "retries"),
    ('{"subtasks": {"a": {"capability": "x"}}, "result": "b"}', "result names 'b'"),
    ('{"subtasks": {"a": {"capability": "x"}},}', "line 1"),
    ("[]", "does not fit"),
    ('{"subtasks": {"a": {"capability": "x", "retries": "many"}}}', "subtask 'a', does not fit"),
    ('{"subtasks": {"a": {"capability": "x"}, "a": {"capability": "y"}}}', "has 'a' twice"),
    ('\ufeff{"subtasks": {"a": {"capability": "x", "after": ["b"]}}}', "needs 'b', which the plan does not have"),
]


@pytest.mark.parametrize("name", ["submit", "plan"])
@pytest.mark.parametrize(("plan", "said"), PLANS, ids=[said for _, said in PLANS])
def test_a_plan_that_cannot_run_is_refused_before_it_is_sent(
    name: str, plan: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plan.encode())))
    assert run(name, "--plan", "-") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("agentexecutor, version ")


def test_an_unforeseen_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(schema, "callback", lambda **_: breaks())
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        main(["schema", "x"])
