"""What waits for a person's word, as people see it and say it on the command line; and what else they may say there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import OWNER, Place, place, until

__all__ = ["place"]


def first_event(place: Place, name: str) -> Any:
    """What `watch` tells of the submit."""
    with place.start("watch", name, "--json") as watching:
        assert watching.stdout is not None
        return json.loads(watching.stdout.readline())["data"]


def test_a_proposed_plan_is_shown_rejected_and_accepted(place: Place) -> None:
    goal = ("submit", "--goal", "echo", '{"text": "hi"}', "--approve-plan", "--id", "planned")
    assert place.run(*goal, "--no-wait").code == 0
    with place.start("watch", "planned", "--json") as watching:
        until(watching, "proposed")
        shown = place.run("show", "planned").out
        assert "Version 2 of the plan waits for your word" in shown
        assert f"agentexecutor feedback {OWNER}.planned --plan-version 2 --verdict accept" in shown
        assert place.run("show", "planned", "--json").object["proposed"]["add"] == ["echo"]
        second = place.run("show", "planned", "--plan-version", "2", "--json").object
        assert (second["proposed"], list(second["plan"]["subtasks"])) == (True, ["echo"])
        assert "proposed" in place.run("show", "planned", "--plan-version", "2").out
        other = place.run("feedback", "planned", "--verdict", "accept", "--plan-version", "3")
        assert (other.code, "Version 2 is." in other.err) == (2, True)
        rejected = place.run("feedback", "planned", "--verdict", "reject", "--text", "try harder")
        assert f"agentexecutor cancel {OWNER}.planned" in rejected.out
        until(watching, "proposed")
        accepted = place.run("feedback", "planned", "--verdict", "accept")
        assert (accepted.code, accepted.out) == (0, f"{OWNER}.planned has it: accept for version 2 of the plan.\n")
        until(watching, "approved")
        watching.communicate(timeout=60)
        assert watching.returncode == 0


def test_of_several_things_that_wait_one_is_named(place: Place, tmp_path: Path) -> None:
    plan = {"subtasks": {name: {"capability": "echo", "input": {"text": name}} for name in ("a", "b")}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    submitted = place.run("submit", "--plan", str(tmp_path / "plan.json"), "--id", "two", "--approve", "echo", "--no-wait")
    assert submitted.code == 0
    with place.start("watch", "two", "--json") as watching:
        until(watching, "asked", "b")
        refused = place.run("feedback", "two", "--verdict", "accept")
        assert (refused.code, refused.out) == (2, "")
        assert "--subtask a, or --subtask b" in refused.err
        assert place.run("feedback", "two", "--verdict", "accept", "--subtask", "b").code == 0
        accepted = place.run("feedback", "two", "--verdict", "accept")
        assert (accepted.code, accepted.out) == (0, f"{OWNER}.two has it: accept for a.\n")
        watching.communicate(timeout=60)
        assert watching.returncode == 0


def test_data_reach_the_agent_and_what_it_did_is_told_later(place: Place, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"limit": 5000}')
    assert place.run("submit", "never", "{}", "--id", "data", "--no-wait").code == 0
    with place.start("watch", "data", "--json") as watching:
        until(watching, "accepted")
        said = place.run("feedback", "data", "--subtask", "main", "--text", "more", "--data", f"@{tmp_path / 'data.json'}")
        assert said.code == 0
        until(watching, "progress")
    assert place.run("cancel", "data").code == 0
    events = place.run("watch", "data", "--json").lines
    (given,) = [event for event in events if event["kind"] == "feedback"]
    assert given["data"]["data"] == {"limit": 5000}
    answers = [event["data"] for event in events if event["kind"] == "progress"]
    assert [(answer["text"], answer["fraction"]) for answer in answers if "feedback" in answer] == [("more", 0.25)]


def test_nobody_says_a_word_in_time(place: Place) -> None:
    how = ("--approve", "echo", "--approve-timeout", "0.2", "--approve-text", "really?")
    ran = place.run("submit", "echo", '{"text": "x"}', "--id", "untold", *how, "--approve-otherwise", "accept", "--json")
    assert (ran.code, ran.object["result"]) == (0, "x")
    assert first_event(place, "untold")["approval"]["text"] == "really?"
    ran = place.run("submit", "echo", '{"text": "x"}', *how, "--json")
    assert (ran.code, ran.object["error"]["code"]) == (1, "refused")


@pytest.mark.parametrize(("split", "wanted"), [("rows", {"over": "rows"}), ("rows=4", {"over": "rows", "into": 4})])
def test_critics_and_how_to_split_go_with_the_task(place: Place, split: str, wanted: dict[str, Any]) -> None:
    name = f"critic-{split.replace('=', '-')}"
    how = ("--critic", "eve", "--critic", "bob", "--replan", "late=split", "--split", split)
    assert place.run("submit", "echo", '{"text": "x"}', "--id", name, *how, "--json").code == 0
    told = first_event(place, name)
    assert told["critics"] == ["bob", "eve"]
    assert told["replan"] == {"late": "split", "split": wanted}


def test_what_is_asked_is_shown_and_a_word_that_comes_too_early_is_none(place: Place, tmp_path: Path) -> None:
    plan = {"subtasks": {"a": {"capability": "never", "input": {}}, "b": {"capability": "echo", "input": {"text": "b"}, "after": ["a"]}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    how = ("--approve", "echo", "--approve-text", "May I?", "--critic", "eve")
    assert place.run("submit", "--plan", str(tmp_path / "plan.json"), "--id", "early", *how, "--no-wait").code == 0
    early = place.run("feedback", "early", "--subtask", "b", "--verdict", "accept")
    assert (early.code, "b does not wait for a word now" in early.out) == (0, True)
    assert place.run("feedback", "early", "--as", "eve", "--text", "take your time").code == 0
    stranger = place.run("feedback", "early", "--as", "mallory", "--verdict", "reject")
    assert (stranger.code, "mallory" in stranger.err) == (1, True)
    assert place.run("cancel", "early").code == 0
    given = [event["data"]["sender"] for event in place.run("watch", "early", "--json").lines if event["kind"] == "feedback"]
    assert given == [OWNER, "eve"]
    assert place.run("submit", "echo", '{"text": "x"}', "--id", "shown", *how, "--no-wait").code == 0
    with place.start("watch", "shown", "--json") as watching:
        until(watching, "asked")
        shown = place.run("show", "shown").out
        assert "main waits for your word" in shown
        assert "May I?" in shown
        assert 'its input: {"text":"x"}' in shown
        assert place.run("feedback", "shown", "--as", "eve", "--verdict", "accept").code == 0
        watching.communicate(timeout=60)
