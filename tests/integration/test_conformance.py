"""The conformance kit: a right agent passes every scenario, and for each scenario there is an agent that fails it by one mistake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentexecutor.console.conformance.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RAW = [sys.executable, str(Path(__file__).parent / "programs" / "wrong_agent.py")]

MISTAKES = [
    ("offers", "offers", "expected the same boot"),
    ("capacity-of-one", "offers", "expected a capacity of at least 2"),
    ("has-another-name", "offers", "but it offers as somebody, and not as agent-"),
    ("bids", "bids", "expected the call's id"),
    (
        "refuses",
        "refuses",
        "expected a refusal of a call with {'labels': {'conformance': 'an agent without this label refuses'}}, but it is Bid(",
    ),
    ("bids-for-anything", "refuses", "expected a refusal of a call with {'capability': 'conformance.another'}, but it is Bid("),
    ("accepts", "accepts", "expected a schedule of the steps ['load', 'fit'], but it is []"),
    ("messages", "accepts", "the header Ae-Id is '7'"),
    ("sets-a-msg-id", "accepts", "the header Nats-Msg-Id is set"),
    ("keeps-to-its-capacity", "keeps-to-its-capacity", "expected no more than 4 subtasks with the state `running`"),
    ("bids-without-room", "refuses-without-room", "expected a refusal, but it is Bid("),
    ("accepts-without-end", "refuses-without-room", "expected `decline` of award number 9, with a capacity of 4, but it is `accept`"),
    ("reports", "reports", "but it is [('load', 'started'), ('fit', 'started')]"),
    ("completes", "completes", "expected the result None, but it is 'None'"),
    ("one-id-for-all", "completes", "a message that says something new needs a new one"),
    ("fails", "fails", "expected an error with the message 'no such page' and retryable False"),
    ("obeys-cancel", "obeys-cancel", "expected an offer whose `running` does not name epoch 101 "),
    ("cancels-what-is-newer", "obeys-cancel", "also after a cancel for epoch 100, which is older"),
    ("forgets-cancels", "remembers-what-was-cancelled", "expected no claim about an award that came after its cancel"),
    ("forgets-early-cancels", "remembers-what-was-cancelled", "expected no claim about an award that came after its cancel"),
    ("drops-old-epochs", "drops-old-epochs", "expected no claim about epoch 100, which is older"),
    ("drops-other-boots", "drops-other-boots", "expected no claim about an award for another boot"),
    ("ignores-the-unknown", "ignores-the-unknown", "expected that the process runs until SIGTERM, but it ended with exit code 1"),
    ("dies-of-feedback", "bears-what-it-is-told", "expected that the process runs until SIGTERM, but it ended with exit code 1"),
    ("dies-of-result", "bears-what-it-is-told", "expected that the process runs until SIGTERM, but it ended with exit code 1"),
    ("dies-of-refused", "bears-what-it-is-told", "expected that the process runs until SIGTERM, but it ended with exit code 1"),
    ("runs-once", "runs-once", "expected `accept` again with the same Ae-Id"),
    ("says-it-until-it-is-stored", "says-it-until-it-is-stored", "expected an offer whose `running` names epoch 101"),
    ("survives-a-restart-of-the-server", "survives-a-restart-of-the-server", "expected an offer after the restart"),
    (
        "ends-with-the-server",
        "survives-a-restart-of-the-server",
        "expected that the process runs until SIGTERM, but it ended with exit code 5",
    ),
    ("large-bodies", "large-bodies", "expected `done` of epoch 101"),
    ("believes-any-body", "large-bodies", "expected an input that has not its digest told as `failed`"),
    ("carries-the-trace-on", "carries-the-trace-on", "expected a traceparent of trace 4bf9"),
    ("drops-the-tracestate", "carries-the-trace-on", "expected a tracestate with conformance=1"),
    ("leaves-in-good-order", "leaves-in-good-order", "expected an offer with `accepting` false"),
    ("takes-after-sigterm", "leaves-in-good-order", "expected no `accept` or `done` of an award after SIGTERM"),
    ("bids-after-sigterm", "leaves-in-good-order", "expected no bid after SIGTERM"),
    ("gives-way-to-its-successor", "gives-way-to-its-successor", "expected that the process ends within 5 s"),
]
"""What an agent does wrong (programs/wrong_agent.py), the scenario that finds it, and what that says."""


def run(*arguments: str, wrong: str = "") -> subprocess.CompletedProcess[str]:
    main = "from agentexecutor.console.main import main; main()"
    command = [sys.executable, "-c", main, "conformance", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"WRONG": wrong}, capture_output=True, text=True, timeout=500, check=False)


def conformance(*arguments: str, wrong: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code, and each scenario's verdict."""
    done = run("--json", *arguments, wrong=wrong)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert verdicts, done.stderr
    return done.returncode, {verdict["scenario"]: verdict for verdict in verdicts}


@pytest.mark.parametrize("command", [[sys.executable, "examples/conformance.py"], RAW], ids=["python", "by hand"])
def test_a_right_agent_passes(command: list[str]) -> None:
    code, verdicts = conformance("--patience", "5", "--", *command)
    assert [verdict for verdict in verdicts.values() if not verdict["passed"]] == []
    assert (code, list(verdicts)) == (0, list(SCENARIOS))


@pytest.mark.parametrize(("wrong", "scenario", "words"), MISTAKES, ids=[mistake for mistake, *_ in MISTAKES])
def test_a_wrong_agent_fails(wrong: str, scenario: str, words: str) -> None:
    code, verdicts = conformance("--patience", "2", "--scenario", scenario, "--", *RAW, wrong=wrong)
    verdict = verdicts[scenario]
    assert (code, verdict["passed"]) == (1, False)
    said = [f"expected {verdict['expected']}, but {verdict['seen']}"] if verdict["seen"] else verdict["messages"]
    assert words in said[0]


def test_there_is_a_wrong_agent_for_each_scenario() -> None:
    assert {scenario for _, scenario, _ in MISTAKES} == set(SCENARIOS)


def test_the_commands_of_the_documents_work_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("AGENTEXECUTOR_NAME", raising=False)
    typed = [line for name in ("protocol", "bridge") for line in (ROOT / "docs" / f"{name}.md").read_text().splitlines()]
    commands = [line for line in typed if line.startswith("agentexecutor conformance") and "sh -c" in line]
    assert len(commands) == 2
    for command in commands:
        code, verdicts = conformance("--patience", "5", "--scenario", "bids", *shlex.split(command)[2:])
        assert (code, verdicts["bids"]["passed"]) == (0, True)


def test_who_is_late_is_told_of_patience() -> None:
    done = run("--scenario", "offers", "--", "sleep", "60")
    assert done.returncode == 1
    assert "expected an offer within 2 s,\n        but it said nothing." in done.stdout
    assert "try `--patience 3`" in done.stdout


def test_who_ends_is_told_so_and_not_of_patience() -> None:
    done = run("--", "true")
    assert done.returncode == 1
    assert done.stdout.count("but it ended with exit code 0.") == len(SCENARIOS)
    assert f"0 of {len(SCENARIOS)} passed." in done.stdout
    assert "--patience" not in done.stdout + done.stderr


def test_what_it_printed_before_it_ended_is_shown() -> None:
    done = run("--scenario", "offers", "--", "sh", "-c", "echo boom >&2; exit 3")
    assert done.returncode == 1
    assert "expected that the process runs until SIGTERM,\n        but it ended with exit code 3." in done.stdout
    assert "        | boom\n" in done.stdout


def test_the_signal_that_ended_it_is_named() -> None:
    _, verdicts = conformance("--scenario", "bids", "--", "sh", "-c", "kill -KILL $$")
    assert verdicts["bids"]["seen"] == "it ended with signal SIGKILL"
    assert not verdicts["bids"]["late"]


def test_what_comes_too_late_from_one_that_was_told_to_end_is_no_matter_of_patience() -> None:
    _, verdicts = conformance("--scenario", "leaves-in-good-order", "--", *RAW, wrong="leaves-in-good-order")
    assert verdicts["leaves-in-good-order"]["seen"].endswith(", and it ended with exit code 0")
    assert not verdicts["leaves-in-good-order"]["late"]


def test_what_cannot_be_started_is_told_once(tmp_path: Path) -> None:
    script = tmp_path / "agent"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = run("--", str(script))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("cannot be started: ") == 1
    assert "name what runs it: agentexecutor conformance -- python3 agent.py" in done.stderr


def test_the_server_that_the_kit_restarts_is_not_told_to_be_away() -> None:
    done = run("--patience", "5", "--scenario", "survives-a-restart-of-the-server", "--", *RAW)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_next_scenario_finds_the_server_when_one_was_broken_off_without_it() -> None:
    scenarios = ("--scenario", "survives-a-restart-of-the-server", "--scenario", "bids")
    _, verdicts = conformance("--patience", "5", *scenarios, "--", *RAW, wrong="ends-with-the-server")
    assert [verdict["passed"] for verdict in verdicts.values()] == [False, True]
