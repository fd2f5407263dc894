"""`make bench-replan`: from the storage of feedback to the storage of the new version of the plan that it leads to.

One server (file storage), one coordinator, agents of one process. A chain of three is done but for its last subtask; the owner says `revise` about the
first. The time runs from just before the feedback is sent to the server's stamp of the record that holds the new version.
Compared, in the same run, with an append to the log and its acknowledgement (what any decision needs at least).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus, connect, embedded_server
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.task import Task
from agentexecutor.schemas import Feedback, Plan, Subtask
from agentexecutor.schemas.codec import from_rfc3339
from agentexecutor.schemas.names import TaskName, new_id

agent = Agent("worker", capacity=10)


@agent.capability("bench.quick", estimate_s=0.01)
async def quick() -> str:
    return "done"


@agent.capability("bench.hold", estimate_s=0.01)
async def hold() -> str:
    await asyncio.sleep(3600)
    return "done"


async def once(bus: Bus) -> float:
    """Seconds from the feedback to the new version."""
    plan = Plan({"a": Subtask("bench.quick"), "b": Subtask("bench.quick", after=["a"]), "c": Subtask("bench.hold", after=["b"])})
    task = await bus.submit(plan)
    stored = 0.0
    async for event in task.events():
        if event.kind == "accepted" and event.subtask == "c":
            stored = time.time()
            await task.feedback(Feedback(verdict="revise", text="again", subtask="a"))
            break
    took = await _version_at(task) - stored
    await task.cancel()
    return took


async def _version_at(task: Task) -> float:
    """The server's stamp of the record that holds version 2."""
    while True:
        for version in await task.plan_versions():
            if version.version > 1:
                return from_rfc3339(version.at)


async def floor(bus: Bus, count: int) -> list[float]:
    """Seconds for one append to a log with its fence, acknowledged."""
    log, found = TaskLog(bus.connection), []
    for _ in range(count):
        began = time.perf_counter()
        await log.append(0, TaskName("bench", new_id()), b"{}", {}, expected=0)
        found.append(time.perf_counter() - began)
    return found


async def main(count: int, *, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as store:
        async with embedded_server(store) as server, connect(server.url, name="me") as bus, agent.serve(bus):
            appends = await floor(bus, count)
            took = [await once(bus) for _ in range(count)]
    result = {
        "versions": count,
        "median_ms": round(statistics.median(took) * 1000, 2),
        "p90_ms": round(sorted(took)[int(0.9 * count)] * 1000, 2),
        "longest_ms": round(max(took) * 1000, 2),
        "append_median_ms": round(statistics.median(appends) * 1000, 2),
        "ratio": round(statistics.median(took) / statistics.median(appends), 1),
    }
    print(json.dumps(result) if as_json else "\n".join(f"{name:<18} {value}" for name, value in result.items()))


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--count", type=int, default=100)
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args()
    asyncio.run(main(given.count, as_json=given.json))
