"""The commands as people and scripts run them: programs of their own, their JSON, their exit codes, their errors."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import HELLO, LONG, OWNER, WORKER, Place, place, program, until

from agentexecutor.agents import Agent
from agentexecutor.bus import EmbeddedServer, TaskFailed, connect

__all__ = ["place"]

# submit


SHOWN = {"task", "state", "plan_version", "result", "error", "trace_id", "subtasks"}
SUBTASK_SHOWN = {"capability", "state", "agent", "epoch", "plan_version", "bids", "attempts", "result", "error"}


def test_submit_prints_the_show_object(place: Place) -> None:
    ran = place.run("submit", "greet", '{"name": "Ada"}', "--json")
    assert (ran.code, ran.err) == (0, "")
    shown = ran.object
    assert set(shown) >= SHOWN
    assert (shown["state"], shown["error"], shown["plan_version"]) == ("completed", None, 1)
    assert "Ada" in shown["result"]
    assert shown["task"].startswith(f"{OWNER}.")
    main = shown["subtasks"]["main"]
    assert set(main) >= SUBTASK_SHOWN
    assert (main["capability"], main["state"], main["result"]) == ("greet", "completed", shown["result"])
    assert main["agent"] in place.names
    (won,) = [bid for bid in main["bids"] if bid["won"]]
    assert set(won) == {"agent", "epoch", "source", "score", "won", "reason"}
    assert (won["agent"], won["epoch"]) == (main["agent"], main["epoch"])
    assert won["source"] in ("offer", "call")
    (attempt,) = main["attempts"]
    assert set(attempt) == {"agent", "boot", "epoch", "state", "error"}
    again = place.run("show", shown["task"], "--json")
    assert (again.code, again.object) == (0, shown)


def test_people_see_events_and_then_tables(place: Place) -> None:
    ran = place.run("submit", "greet", '{"name": "Ada"}')
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    for word in ("submitted", "awarded", "accepted", "completed", "Bids", "won", "Result", "Ada"):
        assert word in ran.out


def test_input_comes_from_a_file_or_stdin(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"text": "aus der Datei: Grüße"}', encoding="utf-8")
    assert place.run("submit", "echo", f"@{file}", "--json").object["result"] == "aus der Datei: Grüße"
    assert place.run("submit", "echo", "-", "--json", text='{"text": "stdin"}').object["result"] == "stdin"


def test_a_large_body_comes_back_whole(place: Place) -> None:
    text = "x" * 600_000
    ran = place.run("submit", "echo", "-", "--id", "large", "--json", text=json.dumps({"text": text}))
    assert (ran.code, ran.object["result"]) == (0, text)
    assert "--json` prints it" in place.run("show", "large").out


PLAN = {
    "subtasks": {
        "first": {"capability": "echo", "input": {"text": "one"}},
        "second": {"capability": "echo", "input": {"text": {"$ref": "first"}}},
    },
    "result": "second",
}


@pytest.mark.parametrize(
    ("subtask", "at"),
    [
        ({"capability": "echo", "inputs": {"text": "a"}}, "'inputs' at $.subtasks.a"),
        ({"capability": "echo", "split": {"over": "text", "parts": 3}}, "'parts' at $.subtasks.a.split"),
    ],
)
def test_a_misspelt_field_in_a_plan_is_refused(place: Place, tmp_path: Path, subtask: dict[str, Any], at: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"subtasks": {"a": subtask}}))
    ran = place.run("submit", "--plan", str(file))
    assert (ran.code, ran.out) == (2, "")
    assert at in ran.err


def test_a_plan_comes_from_a_file_or_stdin(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLAN))
    ran = place.run("submit", "--plan", str(file), "--award", "capacity", "--auction", "call", "--priority", "3", "--json")
    assert (ran.code, ran.object["result"], set(ran.object["subtasks"])) == (0, "one", {"first", "second"})
    assert {bid["source"] for bid in ran.object["subtasks"]["first"]["bids"]} == {"call"}
    assert place.run("submit", "--plan", "-", "--json", text=json.dumps(PLAN)).object["result"] == "one"


def test_a_task_says_how_its_subtasks_are_to_be_done(place: Place) -> None:
    how = ("--retries", "1", "--timeout", "50", "--label", "zone=eu", "--on-stall", "release", "--tailored")
    ran = place.run("submit", "echo", '{"text": "a"}', "--id", "how", "--json", *how)
    assert (ran.code, ran.object["subtasks"]["main"]["agent"]) == (0, "w1"), ran.err
    assert [bid["source"] for bid in ran.object["subtasks"]["main"]["bids"]] == ["call"], "tailored"
    said = place.run("watch", "how", "--json").lines[0]["data"]
    wanted = {"retries": 1, "timeout_s": 50, "labels": {"zone": "eu"}, "on_stall": "release", "tailored": True}
    assert {name: said[name] for name in wanted} == wanted
    short = place.run("submit", "never", "{}", "--timeout", "0.2", "--retries", "1", "--json")
    assert (short.code, len(short.object["subtasks"]["main"]["attempts"])) == (4, 2), short.err
    nobody = place.run("plan", "--plan", "-", "--label", "zone=us", "--json", text=json.dumps(PLAN))
    assert nobody.object["unserved"] == ["echo"], nobody.err


def test_a_failed_task_ends_with_1(place: Place) -> None:
    ran = place.run("submit", "fail", "{}", "--json")
    assert (ran.code, ran.object["state"]) == (1, "failed")
    error = ran.object["error"]
    assert set(error) == {"code", "message", "retryable", "details"}
    assert error["code"] == "handler"
    assert ran.err.startswith("Error: Task ")
    assert "this never works" in ran.err
    assert place.run("submit", "fail", "{}").code == 1
    assert place.run("show", ran.object["task"]).code == 0, "showing a failed task succeeds"


def test_an_input_that_does_not_fit_ends_with_1_and_names_the_parameter(place: Place) -> None:
    ran = place.run("submit", "greet", '{"nme": "Ada"}', "--json")
    assert (ran.code, ran.object["error"]["code"]) == (1, "input")
    assert "nme" in ran.object["error"]["message"]


def test_a_missed_deadline_ends_with_4(place: Place) -> None:
    ran = place.run("submit", "never", "{}", "--deadline", "0.5", "--json")
    assert (ran.code, ran.object["state"], ran.object["error"]["code"]) == (4, "failed", "deadline")


def test_the_same_id_is_the_same_task(place: Place) -> None:
    first = place.run("submit", "echo", '{"text": "a"}', "--id", "twice", "--json")
    second = place.run("submit", "echo", '{"text": "a"}', "--id", "twice", "--json")
    assert (first.code, second.code, first.object) == (0, 0, second.object)
    other = place.run("submit", "echo", '{"text": "b"}', "--id", "twice", "--json")
    assert (other.code, other.out) == (1, "")
    assert "other content" in other.err


def test_an_interrupt_leaves_the_task_alone(place: Place) -> None:
    with place.start("submit", "never", "{}", "--id", "interrupted") as process:
        assert process.stdout is not None
        assert any(" accepted " in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 130, err
    assert f"agentexecutor watch {OWNER}.interrupted" in err
    assert "Traceback" not in out + err
    assert place.run("show", "interrupted", "--json").object["state"] == "running"
    assert place.run("cancel", "interrupted").code == 0


# plan


FORECAST = {"plan", "subtasks", "finish_s", "cost", "unserved", "misfits"}
LINE = {"name", "capability", "agent", "start_s", "finish_s", "cost", "reason"}


def test_plan_tells_who_would_do_what(place: Place) -> None:
    ran = place.run("plan", "greet", '{"name": "Ada"}', "--json")
    assert (ran.code, ran.err, set(ran.object)) == (0, "", FORECAST)
    (line,) = ran.object["subtasks"]
    assert set(line) == LINE
    assert line["agent"] in place.names
    assert ran.object["plan"]["subtasks"] == {"main": {"capability": "greet", "input": {"name": "Ada"}}}
    people = place.run("plan", "greet", '{"name": "Ada"}', "--deadline", "0.001")
    assert (people.code, people.err, "\x1b" in people.out) == (0, "", False)
    for word in ("subtask", "greet", "start", "finish", "cost", "later than the deadline of 0.001 s"):
        assert word in people.out
    assert "It may fail: The input of 'main' lacks 'name'." in place.run("plan", "greet", "{}").out


def test_plan_says_what_nobody_would_do(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"subtasks": {"a": {"capability": "sing"}, "b": {"capability": "echo", "input": {"text": {"$ref": "a"}}}}}))
    ran = place.run("plan", "--plan", str(file))
    assert ran.code == 0
    for word in ("no agent offers sing", "waits for a", "It would not be done. Nobody serves sing."):
        assert word in ran.out
    assert place.run("plan", "--plan", str(file), "--json").object["unserved"] == ["sing"]


def test_a_saved_plan_is_changed_and_submitted(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    ran = place.run("plan", "--plan", "-", "--save", str(file), text=json.dumps(PLAN))
    assert ran.code == 0
    assert f"agentexecutor submit --plan {file}" in ran.out
    plan = json.loads(file.read_text())
    assert plan == PLAN
    plan["subtasks"]["first"]["input"]["text"] = "changed"
    file.write_text(json.dumps(plan))
    ran = place.run("submit", "--plan", str(file), "--json")
    assert (ran.code, ran.object["result"]) == (0, "changed")
    plan["subtasks"]["first"]["after"] = ["second"]
    file.write_text(json.dumps(plan))
    for command in ("plan", "submit"):
        ran = place.run(command, "--plan", str(file), "--json")
        assert (ran.code, ran.out) == (2, "")
        assert "cycle: first -> second -> first" in ran.err


def test_a_plan_with_a_large_input_is_saved_whole(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    text = "x" * 300_000
    assert place.run("plan", "echo", "-", "--save", str(file), text=json.dumps({"text": text})).code == 0
    assert place.run("submit", "--plan", str(file), "--json").object["result"] == text


def test_plan_ends_with_2_when_a_coordinator_refuses_or_the_file_cannot_be_written(place: Place, tmp_path: Path) -> None:
    ran = place.run("plan", "greet", "{}", "--award", "nonsense")
    assert (ran.code, ran.out) == (2, "")
    assert "no award policy 'nonsense'" in ran.err
    ran = place.run("plan", "greet", "{}", "--save", str(tmp_path / "no-such-folder" / "plan.json"))
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be written" in ran.err


# watch, cancel, feedback


EVENT = {"time", "task", "subtask", "kind", "agent", "epoch", "seq", "data"}


def test_watch_begins_with_the_first_event_and_ends_with_the_task(place: Place) -> None:
    submitted = place.run("submit", "echo", '{"text": "a"}', "--no-wait", "--json")
    assert (submitted.code, set(submitted.object)) == (0, {"task"})
    watched = place.run("watch", submitted.object["task"], "--json")
    assert watched.code == 0
    assert all(set(event) == EVENT for event in watched.lines)
    kinds = [(event["subtask"], event["kind"]) for event in watched.lines if event["kind"] != "progress"]
    assert kinds == [
        (None, "submitted"),
        (None, "planned"),
        ("main", "ready"),
        ("main", "awarded"),
        ("main", "accepted"),
        ("main", "completed"),
        (None, "completed"),
    ]
    people = place.run("watch", submitted.object["task"])
    assert len(people.out.splitlines()) == len(watched.lines)


def test_cancelling_a_running_task(place: Place) -> None:
    assert place.run("submit", "never", "{}", "--id", "cancelled", "--no-wait").code == 0
    waiting = place.start("submit", "never", "{}", "--id", "cancelled", "--json")
    with waiting as process, place.start("watch", "cancelled", "--json") as watching:
        until(watching, "accepted")
        cancelled = place.run("cancel", "cancelled", "--reason", "not needed", "--json")
        assert (cancelled.code, cancelled.object) == (0, {"task": f"{OWNER}.cancelled", "state": "cancelled"})
        out, err = process.communicate(timeout=LONG)
        until(watching, "cancelled")
        assert watching.wait(timeout=LONG) == 4
    assert (process.returncode, json.loads(out)["state"]) == (4, "cancelled")
    assert "not needed" in err
    again = place.run("cancel", "cancelled")
    assert again.code == 0
    assert "ended before" in again.out


def test_progress_is_seen_while_it_happens(place: Place) -> None:
    assert place.run("submit", "never", "{}", "--id", "seen", "--no-wait").code == 0
    with place.start("watch", "seen", "--json") as watching:
        until(watching, "accepted")
        assert place.run("feedback", "seen", "--verdict", "revise", "--subtask", "main", "--text", "say something").code == 0
        until(watching, "progress")
    assert place.run("cancel", "seen").code == 0


def test_watching_a_failed_task_ends_with_1(place: Place) -> None:
    name = place.run("submit", "fail", "{}", "--no-wait", "--json").object["task"]
    assert place.run("watch", name).code == 1


def test_feedback_reaches_the_running_agent(place: Place) -> None:
    assert place.run("submit", "listen", "{}", "--id", "heard", "--no-wait").code == 0
    said = place.run("feedback", "heard", "--verdict", "revise", "--subtask", "main", "--text", "use bigrams", "--json")
    assert (said.code, said.object["task"], said.object["verdict"]) == (0, f"{OWNER}.heard", "revise")
    ended = place.run("submit", "listen", "{}", "--id", "heard", "--json")
    assert (ended.code, ended.object["result"]) == (0, f"{OWNER}: revise: use bigrams")


def test_feedback_tells_whether_an_agent_has_it_or_a_new_version_runs_the_work_again(place: Place) -> None:
    plan = {"subtasks": {"done": {"capability": "echo", "input": {"text": "a"}}, "runs": {"capability": "never"}}}
    assert place.run("submit", "--plan", "-", "--id", "told", "--no-wait", text=json.dumps(plan)).code == 0
    with place.start("watch", "told", "--json") as watching:
        assert watching.stdout is not None
        wanted = {("accepted", "runs"), ("completed", "done")}
        while wanted and (line := watching.stdout.readline()):
            wanted.discard((json.loads(line)["kind"], json.loads(line)["subtask"]))
        running = place.run("feedback", "told", "--verdict", "revise", "--subtask", "runs", "--text", "faster")
        has_it = f"{OWNER}.told has it: revise for runs.\n"
        assert running.out == f"{has_it}Delivered to w1, which has runs in its hands and decides what to do with it.\n", running.err
        done = place.run("feedback", "told", "--verdict", "revise", "--subtask", "done", "--text", "again")
        assert "Version 2 of the plan answers it: retry done. It runs again" in done.out, done.err
        until(watching, "replanned")
    assert place.run("show", "told", "--json").object["plan_version"] == 2
    assert place.run("cancel", "told").code == 0


def test_feedback_that_cannot_be_used_is_refused(place: Place) -> None:
    assert place.run("submit", "echo", '{"text": "a"}', "--id", "talked-about", "--json").code == 0
    ran = place.run("feedback", "talked-about", "--verdict", "revise")
    assert (ran.code, ran.out) == (1, "")
    assert "ended already (completed)" in ran.err


# plans that change


def test_a_subtask_waits_for_a_person_and_goes_on_with_the_word(place: Place) -> None:
    submitted = ("submit", "echo", '{"text": "paid"}', "--id", "asked", "--approve", "echo")
    assert place.run(*submitted, "--no-wait").code == 0
    with place.start("watch", "asked", "--json") as watching:
        until(watching, "asked")
        assert f"{OWNER}.asked" in [line["task"] for line in place.run("tasks", "--state", "waiting", "--json").lines]
        assert place.run("feedback", "asked", "--subtask", "main", "--verdict", "accept").code == 0
        until(watching, "approved")
        assert watching.wait(timeout=LONG) == 0
    assert place.run(*submitted, "--json").object["result"] == "paid"


def test_versions_of_a_plan_are_shown(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = {"subtasks": {"a": {"capability": "echo", "input": {"text": "x"}}, "b": {"capability": "never", "after": ["a"]}}}
    file.write_text(json.dumps(plan))
    assert place.run("submit", "--plan", str(file), "--id", "changed", "--replan", "revise=retry", "--no-wait").code == 0
    with place.start("watch", "changed", "--json") as watching, place.start("watch", "changed") as people:
        until(watching, "accepted", "b")
        assert "Plan versions" not in place.run("show", "changed").out
        assert place.run("feedback", "changed", "--subtask", "a", "--verdict", "revise", "--text", "once more").code == 0
        until(watching, "replanned")
        shown = place.run("show", "changed").out
        assert "Plan versions" in shown
        assert "revise of a" in shown
        second = place.run("show", "changed", "--plan-version", "2", "--json").object
        assert ((second["version"], second["base"]), second["again"]) == ((2, 1), ["a", "b"])
        assert "once more" in place.run("show", "changed", "--plan-version", "2").out
        missing = place.run("show", "changed", "--plan-version", "3")
        assert (missing.code, "It has 2." in missing.err) == (2, True)
        assert place.run("cancel", "changed").code == 0
        out, _ = people.communicate(timeout=LONG)
    (line,) = [line for line in out.splitlines() if "version 2" in line and "plan" in line]
    assert "once more" in line
    assert "a, b" in line


def test_a_plan_larger_than_its_budget_ends_with_1(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"subtasks": {name: {"capability": "echo", "input": {"text": name}} for name in "abc"}}))
    ran = place.run("submit", "--plan", str(file), "--budget", "subtasks=2")
    assert (ran.code, "3 subtasks, more than its budget of 2" in ran.err) == (1, True)
    assert place.run("submit", "--plan", str(file), "--budget", "subtasks=3").code == 0


# lists


def test_agents(place: Place) -> None:
    ran = place.run("agents", "--json")
    assert ran.code == 0
    agents = {agent["name"]: agent for agent in ran.lines}
    assert set(agents) == {*place.names, "w1", place.planner}
    assert all(set(agent) == {"name", "capabilities", "capacity", "free", "labels", "running", "seen_s"} for agent in ran.lines)
    assert (agents["w1"]["capacity"], agents["w1"]["labels"]) == (8, {"zone": "eu"})
    assert all("greet" in agents[name]["capabilities"] for name in place.names)
    people = place.run("agents")
    assert people.code == 0
    assert "zone=eu" in people.out


def test_tasks(place: Place) -> None:
    assert place.run("submit", "echo", '{"text": "a"}', "--id", "listed", "--json").code == 0
    ran = place.run("tasks", "--json")
    assert ran.code == 0
    assert all(set(line) == {"task", "state", "at", "priority"} for line in ran.lines)
    assert {"task": f"{OWNER}.listed", "state": "completed"} in [{name: line[name] for name in ("task", "state")} for line in ran.lines]
    assert len(place.run("tasks", "--json", "--limit", "1").lines) == 1
    assert {line["state"] for line in place.run("tasks", "--state", "completed", "--json").lines} == {"completed"}
    assert place.run("tasks", "--owner", "nobody", "--json").lines == []
    assert f"{OWNER}.listed" in place.run("tasks").out


def test_demand_that_nobody_serves_is_seen_by_unserved_and_doctor(place: Place) -> None:
    healthy = place.run("doctor", "--json")
    assert healthy.code == 0, healthy.out
    assert all(set(check) == {"check", "ok", "found", "todo"} for check in healthy.lines)
    names = [check["check"] for check in healthy.lines]
    assert names == [
        "Python",
        "nats-server",
        "bus",
        "server version",
        "JetStream",
        "streams",
        "coordinators",
        "agents",
        "demand",
        "storage",
        "clock",
        "traces",
    ]
    assert place.run("unserved", "--json").lines == []
    assert place.run("submit", "nobody.does", "{}", "--id", "parked", "--no-wait").code == 0
    with place.start("watch", "parked", "--json") as watching:
        until(watching, "ready")
    (line,) = place.run("unserved", "--json").lines
    assert set(line) == {"capability", "labels", "subtasks", "oldest_s", "reason", "tasks"}
    assert (line["capability"], line["subtasks"], line["tasks"]) == ("nobody.does", 1, [f"{OWNER}.parked"])
    assert "nobody.does" in place.run("unserved").out
    sick = place.run("doctor")
    assert sick.code == 1
    assert "problem" in sick.out
    assert "nobody.does" in sick.out
    assert place.run("cancel", "parked").code == 0
    assert place.run("doctor").code == 0


# errors


@pytest.mark.parametrize(
    "arguments",
    [("show", "no-such-task"), ("watch", "somebody.else"), ("cancel", "no-such-task"), ("feedback", "no-such-task", "--verdict", "accept")],
    ids=lambda arguments: arguments[0],
)
def test_a_task_that_nobody_knows_ends_with_2_and_a_sentence(place: Place, arguments: tuple[str, ...]) -> None:
    ran = place.run(*arguments)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert "Nobody knows a task" in ran.err
    assert "agentexecutor tasks" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [("submit", "greet", '{"name": "Ada"}'), ("plan", "greet", "{}"), ("doctor",), ("agent", HELLO)],
    ids=lambda arguments: arguments[0],
)
def test_without_a_bus_everything_ends_with_3(place: Place, arguments: tuple[str, ...]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ran = place.run(*arguments, "--json", "--nats", f"nats://127.0.0.1:{unused.getsockname()[1]}")
    assert ran.code == 3
    assert "agentexecutor up" in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_up_does_not_share_its_port_or_its_store(place: Place, tmp_path: Path) -> None:
    port = place.url.rsplit(":", 1)[1]
    ran = place.run("up", "--port", port, "--store", str(tmp_path / "other"))
    assert (ran.code, ran.out) == (2, "")
    assert f"Port {port}" in ran.err
    ran = place.run("up", "--port", "0", "--store", str(place.store))
    assert (ran.code, ran.out) == (2, "")
    assert "Another `agentexecutor up`" in ran.err
    ran = place.run("up", "--port", "0", "--store", str(tmp_path / "other"), "--sync", "sometimes")
    assert (ran.code, ran.out) == (2, "")
    assert "such as 500ms, 10s or 2m" in ran.err


def test_an_agent_stops_when_another_takes_its_name(place: Place) -> None:
    with program("agent", HELLO, "--name", "twin", url=place.url):
        pass
    with place.start("agent", HELLO, "--name", "twin", "--json") as older:
        assert older.stdout is not None
        assert json.loads(older.stdout.readline())["name"] == "twin"
        with program("agent", HELLO, "--name", "twin", url=place.url):
            _, err = older.communicate(timeout=LONG)
    assert older.returncode == 1
    assert "'twin'" in err


# programs that stay


def test_a_reader_that_goes_away_ends_watch_quietly(place: Place) -> None:
    assert place.run("submit", "never", "{}", "--id", "piped", "--no-wait").code == 0
    with place.start("watch", "piped") as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline()
        watching.stdout.close()
        assert place.run("cancel", "piped").code == 0
        assert watching.wait(timeout=LONG) == 141
        assert watching.stderr.read() == ""


def test_what_up_kept_is_there_the_next_time(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with program("up", "--store", str(store), "--port", "0") as (process, started):
        first = Place(started["nats"], store, [])
        assert first.run("submit", "echo", '{"text": "kept"}', "--id", "kept", "--no-wait").code == 0
        process.send_signal(signal.SIGINT)
        process.wait(timeout=LONG)
    (tmp_path / "worker.py").write_text(WORKER)
    with program("up", "--store", str(store), "--port", "0") as (_, started):
        second = Place(started["nats"], store, [])
        with program("agent", "worker.py:agent", "--no-coordinate", url=second.url, cwd=tmp_path) as (_, ready):
            assert ready["name"].startswith("worker-")
            ran = second.run("submit", "echo", '{"text": "kept"}', "--id", "kept", "--json")
            assert (ran.code, ran.object["result"]) == (0, "kept")


def test_up_plans_for_a_goal(place: Place) -> None:
    reached = place.run("submit", "--goal", "echo", '{"text": "a"}', "--json")
    assert (reached.code, reached.object["result"]) == (0, "a"), reached.err
    assert reached.object["subtasks"]["plan-1"]["agent"] == place.planner
    foretold = place.run("plan", "--goal", "echo", '{"text": "a"}', "--json")
    assert [line["capability"] for line in foretold.object["subtasks"]] == ["echo"], foretold.err
    missed = place.run("submit", "--goal", "happiness", '{"text": "a"}', "--json")
    assert missed.code == 1
    assert "Nothing gives 'happiness'. On offer are echo, fail, greet, listen, never." in missed.object["error"]["message"]


def test_up_without_a_planner(tmp_path: Path) -> None:
    with program("up", "--store", str(tmp_path / "store"), "--port", "0", "--no-planner") as (_, started):
        assert started["planner"] is None
        assert Place(started["nats"], tmp_path, []).run("agents", "--json").lines == []


def test_the_planner_is_an_agent_like_any_other(place: Place) -> None:
    with program("agent", "agentexecutor.agents.planner:agent", url=place.url) as (_, ready):
        assert ready["capabilities"] == ["plan"]
        assert ready["name"].startswith("planner-")
        assert ready["name"] != place.planner


def test_a_coordinator_of_its_own_serves_a_bus_whose_agents_do_not_coordinate(place: Place) -> None:
    with program("coordinator", url=place.url) as (_, started):
        assert set(started) == {"coordinator", "nats", "shards"}
        assert started["shards"] == 16
        assert place.run("submit", "echo", '{"text": "a"}', "--json").code == 0


def test_the_module_runs_as_the_script_does(tmp_path: Path) -> None:
    code = "from agentexecutor.console.main import main; main(['schema', 'made', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=LONG)
    files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert len(files) > 30
    assert all((tmp_path / file).is_file() for file in files)


@pytest.mark.anyio
async def test_settings_reach_the_coordinator(server: EmbeddedServer) -> None:
    agent = Agent("flaky")

    @agent.capability("flaky")
    async def flaky() -> None:
        raise RuntimeError("today")

    with program("coordinator", "--set", "retries=0", "--set", "backoff_s=600", url=server.url):
        async with connect(server.url, name="me") as bus, agent.serve(bus, coordinate=False):
            task = await bus.submit("flaky")
            with pytest.raises(TaskFailed, match="today"):
                await task.result(timeout_s=LONG)
            assert len((await task.view()).subtasks["main"].attempts) == 1


def test_settings_are_shown_and_refused(place: Place) -> None:
    shown = place.run("coordinator", "--settings", "--set", "keep_s=60", "--json").object
    assert (shown["keep_s"], shown["losses"]) == (60, 5)
    assert "604800" in place.run("coordinator", "--settings", "--set", "keep_s=60").out
    ran = place.run("coordinator", "--set", "keep=60")
    assert (ran.code, ran.out) == (2, "")
    assert "There are keep_s." in ran.err
