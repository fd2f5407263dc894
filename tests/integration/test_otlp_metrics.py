"""Real programs send their metrics too, and each says what it should."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync
from otlp import Point, Receiver, receiving
from peers import Place, agent
from programs import LONG, programs
from take_over import TRACED

from agentexecutor.bus import EmbeddedServer, connect
from agentexecutor.bus import telemetry as t
from agentexecutor.bus.client import Bus
from agentexecutor.schemas.views import Event

pytestmark = pytest.mark.anyio


PATIENT = "accept_timeout_s=60,lost_after_s=60"


def latest(receiver: Receiver, name: str, **attributes: Any) -> list[Point]:
    """The last point of each process and set of attributes, of a metric with (at least) these attributes; dots are written as underscores."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    found = {
        (str(point.resource), str(point.attributes)): point
        for point in receiver.points
        if point.name == name and wanted.items() <= point.attributes.items()
    }
    return list(found.values())


def total(receiver: Receiver, name: str, **attributes: Any) -> float:
    return sum(point.value for point in latest(receiver, name, **attributes))


async def until(receiver: Receiver, name: str, value: float, **attributes: Any) -> None:
    """Wait until the metric stands so."""
    try:
        await run_sync(receiver.wait, lambda got: latest(got, name, **attributes) and total(got, name, **attributes) == value)
    except AssertionError as error:
        raise AssertionError(f"{name} {attributes} is {latest(receiver, name)}") from error


async def told(bus: Bus, task: str, *until: str) -> list[Event]:
    """The task's events so far, up to the first of these kinds."""
    events = []
    with anyio.fail_after(LONG):
        async with aclosing(bus.task(task).events()) as coming:
            async for event in coming:
                events.append(event)
                if event.kind in until:
                    break
    return events


async def test_metrics_arrive_with_sensible_values(server: EmbeddedServer, tmp_path: Path) -> None:
    """A task waits for an agent; the first declines, the second does it; a coordinator is killed."""
    wait = {"ae__capability": "wait"}
    with receiving() as receiver:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http,
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(LONG),
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "AGENTEXECUTOR_SETTINGS": PATIENT,
        }
        by_grpc = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        async with programs(server.url, tmp_path, **variables) as place, connect(server.url, name="watcher") as bus:
            doomed = await place.start("coordinator")
            await until(receiver, t.METRIC_TAKEOVERS, 16, ae__reason="nobody")
            await place.run("submit", "wait", "{}", "--id", "t1", "--no-wait")
            await until(receiver, t.METRIC_UNSERVED, 1, **wait)
            async with agent(Place(server.url), "quick", "wait") as quick:
                await told(bus, "tester.t1", "awarded")
                worker = await place.start("agent", f"{TRACED}:second", "--no-coordinate", **by_grpc)
                with anyio.fail_after(LONG):
                    while len(await bus.agents()) < 2:
                        await anyio.sleep(0.05)
                await quick.decline(await quick.award())
                await until(receiver, t.METRIC_DECLINES, 1, ae__reason="declined", **wait)
            await until(receiver, t.METRIC_RUNNING, 1, **wait)
            await place.run("feedback", "t1", "--text", "go")
            await until(receiver, t.METRIC_TRIES, 1, ae__outcome="completed", **wait)
            await until(receiver, t.METRIC_RUNNING, 0, **wait)
            recorded = [event.data for event in await told(bus, "tester.t1") if event.kind == "awarded"]
            second = await place.start("coordinator")
            await until(receiver, t.METRIC_TAKEOVERS, 8, ae__reason="released")
            doomed.kill()
            await until(receiver, t.METRIC_TAKEOVERS, 8, ae__reason="silent")
            assert [await worker.stop(), await second.stop()] == [0, 0]

    assert total(receiver, t.METRIC_AUCTIONS, **wait) == len(recorded) == 2
    assert total(receiver, t.METRIC_BIDS, **wait) == sum(award["considered"] for award in recorded) >= 2
    (waits,) = latest(receiver, t.METRIC_WAIT, **wait)
    assert waits.count == len(recorded)
    assert 0 < waits.value < 2 * LONG, "seconds"
    assert (waits.unit, latest(receiver, t.METRIC_TRIES)[0].unit) == ("s", "{try}")
    assert total(receiver, t.METRIC_TASKS_ENDED, ae__state="completed") == 1
    assert {point.name for point in receiver.points} <= set(t.METRICS)
    assert {point.by for point in receiver.points} == {"http", "grpc"}
    assert "agentexecutor-submit" not in {point.resource["service.name"] for point in receiver.points}, "a brief command is no series"
