"""What the demo tells: who coordinated, when it kills its own share, its report and its JSON."""

from __future__ import annotations

import io
from typing import cast

import msgspec
import pytest
from events import a_run, event
from msgspec import Raw
from rich.console import Console

from agentexecutor.console.demo.command import _in_the_middle, _Show
from agentexecutor.console.demo.share import Share
from agentexecutor.console.demo.story import Chronicle, Scored, ScoredClass, demo_object, print_report
from agentexecutor.console.output import Output
from agentexecutor.console.plan_state import PlanState, reduce
from agentexecutor.schemas.views import Event, SubtaskView, TaskView

SCORE = Scored(
    accuracy=0.7584,
    baseline=0.438,
    texts=7449,
    per_class={"negative": ScoredClass(precision=0.77, recall=0.85, f1=0.81, texts=3263)},
    trained_on=29_794,
    shares=[9_931, 19_863],
)
VIEW = TaskView(
    task="demo.tweets-1",
    state="completed",
    result=Raw(b'{"accuracy":0.7584}'),
    subtasks={"load": SubtaskView(capability="data.load", state="completed")},
)


def told() -> tuple[PlanState, Chronicle]:
    state, chronicle = PlanState(), Chronicle()
    for one in a_run():
        reduce(state, one)
        chronicle.read(one)
    return state, chronicle


def test_the_chronicle_counts_records_and_tells_changes_of_hands_once() -> None:
    chronicle = Chronicle()
    said = [
        chronicle.read(one)
        for one in (
            event("submitted", seq=1, coordinator="starter"),
            event("planned", seq=1, coordinator="starter"),
            event("awarded", "load", seq=4, coordinator="starter"),
            event("progress", "load", seq=0, text="half"),
            event("completed", "load", seq=7, coordinator="A2"),
            event("ready", "train", seq=7, coordinator="A2"),
        )
    ]
    assert [text is not None for text in said] == [False, False, False, False, True, False]
    assert said[4] is not None
    assert said[4].startswith("A2 ")
    assert chronicle.counts() == {"starter": 2, "A2": 1}


def test_the_json_is_the_show_object_and_a_little_more() -> None:
    _, chronicle = told()
    shown = demo_object(VIEW, SCORE, chronicle, 4.87654)
    assert {name: shown.pop(name) for name in ("accuracy", "baseline", "took_s")} == {
        "accuracy": 0.7584,
        "baseline": 0.438,
        "took_s": 4.877,
    }
    assert shown.pop("coordinators") == chronicle.counts()
    assert shown == msgspec.json.decode(msgspec.json.encode(VIEW))


@pytest.mark.parametrize("trace_id", [None, "4bf92f3577b34da6a3ce929d0e0e4736"])
def test_the_report_names_what_counts_and_fits_80_columns(trace_id: str | None) -> None:
    out = Output(json=False)
    written = io.StringIO()
    out.console = Console(file=written, width=80, force_terminal=True, color_system=None, highlight=False, markup=False)
    state, chronicle = told()
    print_report(out, state, msgspec.structs.replace(VIEW, trace_id=trace_id), SCORE, chronicle, 4.9)
    text = written.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for fact in ("0.758", "0.438", "9,931 : 19,863", "capacity 10 is the largest", "RuntimeError: out of memory", "agentexecutor up"):
        assert fact in text
    assert (trace_id is not None) == ("OTEL_EXPORTER_OTLP_ENDPOINT" in text)
    (features,) = [line for line in text.splitlines() if line.startswith("features ")]
    assert "2 shares" in features


def shared_out() -> list[Event]:
    """Two shares of `features`, up to the first result."""
    plan = {"features": {"capability": "text.features"}}
    shares = {f"features-{n}": {"capability": "text.features"} for n in (1, 2)} | {"features-merge": {"capability": "text.merge"}}
    return [
        event("planned", subtasks=plan, coordinator="starter"),
        event("ready", "features"),
        event("planned", cause="split", parent="features", subtasks=shares),
        event("ready", "features-1"),
        event("ready", "features-2"),
        event("awarded", "features-1", agent="A1", epoch=1),
        event("accepted", "features-1", agent="A1", epoch=1),
        event("awarded", "features-2", agent="A2", epoch=2),
        event("completed", "features-1", agent="A1", epoch=1, seq=9, coordinator="A2"),
    ]


def test_the_middle_is_when_all_shares_are_given_away_and_one_runs() -> None:
    state = PlanState()
    seen = []
    for one in shared_out():
        reduce(state, one)
        seen.append(_in_the_middle(state))
    assert seen == [False] * 7 + [True, True]


class Killable:
    """Counts how often it is killed."""

    def __init__(self) -> None:
        self.kills = 0

    @property
    def killed(self) -> bool:
        return self.kills > 0

    def kill(self) -> None:
        self.kills += 1


@pytest.mark.parametrize("as_json", [True, False])
def test_the_show_kills_its_share_once_and_says_so(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    share = Killable()
    with _Show(Output(json=as_json), cast("Share", share), Chronicle()) as view:
        for one in shared_out():
            view.show(one)
    assert share.kills == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(">>>")]
    assert [line.split()[1].rstrip(",") for line in said] == ([] if as_json else ["starter", "A2"])
