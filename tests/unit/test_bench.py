"""The bench's arithmetic, its driving, and what it says: no bus."""

from __future__ import annotations

import re

import anyio
import anyio.lowlevel
import pytest
from msgspec import json

from agentexecutor.console.bench.counting import subjects_of
from agentexecutor.console.bench.driving import Drive
from agentexecutor.console.bench.figures import Figures, Floor, Left, Messages, Ratio, Setup, Tasks, figures_of, messages_of, ratio_of
from agentexecutor.console.bench.helper import agent_names
from agentexecutor.console.bench.report import Report, row_of
from agentexecutor.console.output import Output
from agentexecutor.schemas.channels import channels
from agentexecutor.schemas.names import check_name

NOTHING = Ratio(request=None, append=None, appends_per_task=None)


def figures(median: float | None, per_s: float = 10.0) -> Figures:
    return Figures(in_flight=1, done=1, seconds=1.0, per_s=per_s, median_ms=median, p90_ms=None, p99_ms=None, max_ms=None)


# figures


def test_percentiles_are_those_of_a_known_row() -> None:
    """0, 1, ..., 100 ms: each percentile is its own number."""
    found = figures_of([n / 1000 for n in range(101)], in_flight=4, seconds=2.0)
    assert (found.median_ms, found.p90_ms, found.p99_ms, found.max_ms) == (50.0, 90.0, 99.0, 100.0)
    assert (found.in_flight, found.done, found.seconds, found.per_s) == (4, 101, 2.0, 50.5)


def test_the_order_does_not_matter_and_one_slow_one_is_seen_only_where_it_counts() -> None:
    found = figures_of([0.001] * 99 + [1.0], in_flight=1, seconds=1.0)
    assert (found.median_ms, found.p90_ms, found.max_ms) == (1.0, 1.0, 1000.0)
    assert found.p99_ms is not None
    assert 1.0 < found.p99_ms < 1000.0
    assert found == figures_of([1.0] + [0.001] * 99, in_flight=1, seconds=1.0)


@pytest.mark.parametrize(("latencies", "mark"), [([], None), ([0.25], 250.0)])
def test_few_are_told_as_they_are(latencies: list[float], mark: float | None) -> None:
    found = figures_of(latencies, in_flight=1, seconds=0.0)
    assert (found.median_ms, found.p90_ms, found.p99_ms, found.max_ms) == (mark,) * 4
    assert found.per_s == 0.0


def test_ratios_are_null_where_something_was_not_measured() -> None:
    ratio = ratio_of(figures(20.0, per_s=50.0), figures(0.5), figures(2.0, per_s=5000.0))
    assert ratio == Ratio(request=40.0, append=10.0, appends_per_task=100.0)
    assert ratio_of(figures(20.0), None, None) == NOTHING
    assert ratio_of(figures(None, per_s=0.0), figures(0.5), figures(2.0)) == NOTHING


def test_messages_are_averages_and_a_call_to_all_is_delivered_to_each() -> None:
    counted = {"submit": 10, "task": 25, "call": 10, "bid": 70, "from.done": 10}
    found = messages_of("broadcast", counted, tasks=10, agents=7, seconds=2.0, offers=14)
    assert found.per_task == {"submit": 1.0, "task": 2.5, "call": 1.0, "bid": 7.0, "from.done": 1.0}
    assert (found.published, found.delivered, found.offers_per_s) == (12.5, 18.5, 7.0)
    alone = messages_of("standing", {"submit": 3}, tasks=3, agents=1, seconds=0.0, offers=0)
    assert (alone.published, alone.delivered, alone.offers_per_s) == (1.0, 1.0, 0.0)


# what is counted


def test_every_subject_that_can_name_a_task_is_listened_to() -> None:
    found = subjects_of("ae.v1", "bench-1", "text.classify")
    assert found["submit"] == "ae.v1.submit.bench-1.*.*"
    assert found["from.done"] == "ae.v1.from.*.done.bench-1.*"
    assert found["task"] == "ae.v1.task.*.bench-1.*"
    assert found["blob"] == "ae.v1.blob.bench-1.*.*.*"
    assert found["call"] == "ae.v1.call.text.classify"
    by_peers = {channel.name for channel in channels("ae.v1") if "server" not in channel.kind.by}
    not_of_a_task = {"offer", "lease", "start", "member", "ask-all.tasks", "ask-all.agents", "ask-all.unserved", "ask-all.forecast"}
    assert by_peers - set(found) == not_of_a_task
    assert not any("{" in subject for subject in found.values())


def test_the_bench_s_own_names_are_names() -> None:
    names = agent_names(f"bench-{'f' * 8}", 500)
    assert len({check_name("peer", name) for name in names}) == 500


# driving


@pytest.mark.anyio
@pytest.mark.parametrize(("times", "in_flight"), [(10, 1), (10, 3), (3, 10)])
async def test_so_often_and_never_more_at_a_time(times: int, in_flight: int) -> None:
    places: set[int] = set()
    most = 0

    async def one(place: int) -> bool:
        nonlocal most
        assert place not in places
        places.add(place)
        most = max(most, len(places))
        await anyio.lowlevel.checkpoint()
        places.remove(place)
        return True

    drive = Drive(in_flight, times=times)
    await drive.run(one)
    assert len(drive.latencies) == times
    assert most == min(times, in_flight)
    assert drive.figures.done == times


@pytest.mark.anyio
async def test_what_does_not_count_has_no_latency() -> None:
    answers = iter([True, False, True, False])

    async def one(_place: int) -> bool:
        return next(answers)

    drive = Drive(1, times=4)
    await drive.run(one)
    assert len(drive.latencies) == 2


@pytest.mark.anyio
async def test_it_ends_by_time_and_tells_now_and_then() -> None:
    told: list[float] = []

    async def one(_place: int) -> bool:
        await anyio.sleep(0.001)
        return True

    drive = Drive(2, seconds=0.3, tell=lambda drive: told.append(drive.took_s))
    await drive.run(one)
    assert drive.took_s >= 0.3
    assert 1 <= len(told) < len(drive.latencies)
    assert told == sorted(told)


@pytest.mark.anyio
async def test_an_interruption_leaves_what_was_measured() -> None:
    drive = Drive(2, times=1000)
    with anyio.CancelScope() as scope:

        async def one(_place: int) -> bool:
            if len(drive.latencies) == 5:
                scope.cancel()
            await anyio.lowlevel.checkpoint()
            return True

        await drive.run(one)
    assert scope.cancelled_caught
    assert 5 <= drive.figures.done < 10
    took = drive.took_s
    await anyio.sleep(0.01)
    assert drive.took_s == took


@pytest.mark.anyio
async def test_an_error_comes_out_as_it_is() -> None:
    async def one(place: int) -> bool:
        raise ValueError(f"place {place}")

    with pytest.raises(ValueError, match="place 0"):
        await Drive(3, times=9).run(one)


# what is said


def tasks(**changes: object) -> Tasks:
    fields: dict[str, object] = {
        "in_flight": 8,
        "done": 300,
        "seconds": 1.0,
        "per_s": 300.4,
        "median_ms": 9.876,
        "p90_ms": 98.76,
        "p99_ms": 987.6,
        "max_ms": 1000.0,
        "auction": "standing",
        "failed": {},
        "stored_median_ms": 1.0,
        "ratio": Ratio(request=12.34, append=None, appends_per_task=None),
        "interrupted": False,
    }
    return Tasks(**(fields | changes))  # type: ignore[arg-type]


def test_a_row_has_three_digits_and_the_ratios() -> None:
    assert row_of(tasks()) == ["task (standing)", 8, 300, "300", "9.88", "98.8", "988", "12.3", ""]
    floor = Floor(what="append", in_flight=1, done=0, seconds=1.0, per_s=0.0, median_ms=None, p90_ms=None, p99_ms=None, max_ms=None)
    assert row_of(floor) == ["append", 1, 0, "0", None, None, None, "", ""]


def messages(auction: str, per_task: dict[str, float]) -> Messages:
    return Messages(auction=auction, agents=3, tasks=5, per_task=per_task, published=2.0, delivered=4.0, offers_per_s=3.0)


def test_people_get_tables_and_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Output(json=False))
    report.line(Setup(nats="embedded", server="2.15.1", capability="c", agents=1, slots=4, own_agents=False, input_bytes=2))
    report.line(tasks(failed={"handler": 2, "unfinished": 1}, interrupted=True))
    report.line(messages("standing", {"submit": 1.0, "from.done": 1.0}))
    report.line(messages("broadcast", {"submit": 1.0, "call": 1.0, "bid": 2.5, "to.surprise": 1.0}))
    report.line(Left(tasks=0, unfinished=0, text="Nothing stays."))
    report.warn("too few slots")
    report.close()
    out, err = capsys.readouterr()
    assert out.startswith("1 agent for c, on an embedded NATS 2.15.1; an input has 2 bytes.\n")
    assert "task (standing), 8 at once: not completed: 2 handler, 1 unfinished; interrupted." in out
    assert re.search(r"^message +standing +broadcast", out, re.MULTILINE)
    assert re.search(r"^claim: done +1 *$", out, re.MULTILINE)
    assert re.search(r"^bid or refusal +2.5", out, re.MULTILINE)
    assert re.search(r"^to.surprise +1", out, re.MULTILINE), "a channel that has no word of its own is told too"
    assert re.search(r"^delivered in all +4 +4", out, re.MULTILINE)
    assert "3 offers/s" in out
    assert out.endswith("Nothing stays.\n")
    assert err == "Warning: too few slots\n"


def test_scripts_get_an_object_a_line_as_soon_as_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Output(json=True))
    with report.showing("tasks", Drive(1, times=1)):
        report.line(tasks())
    line = json.decode(capsys.readouterr().out)
    assert (line["measure"], line["auction"], line["ratio"]["request"]) == ("tasks", "standing", 12.34)
    report.close()
    assert capsys.readouterr().out == ""


def test_nothing_measured_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Output(json=False))
    report.close()
    assert capsys.readouterr().out == ""
