"""The same work as floor.py, done by AgentExecutor: one coordinator process, one agent process, this client.

The coordinator is the program `agentexecutor coordinator`, the agent takes no share in coordinating, the client uses `bus.submit` and
`task.result`. Nothing is switched off: offers, leases, timers, awards with their bids, and the records that explain them.

    python benchmarks/ours.py              prints one JSON object
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from measure import Load, child, fresh_server, measure, options, quit_on_sigterm, report

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus, connect, exporting
from agentexecutor.bus.loop import run_program

CAPACITY = 512
"""More than are ever in flight, so that no task waits for a free slot."""

agent = Agent("agent", capacity=CAPACITY)


@agent.capability("bench.noop", estimate_s=0.001)
async def noop(n: int) -> int:
    return n


async def work(url: str) -> None:
    """The agent's process."""
    async with connect(url, name="agent") as bus, agent.serve(bus, coordinate=False):
        await quit_on_sigterm()


class Submitter:
    """The client: submits, and waits for the result."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.count = 0

    async def one(self) -> None:
        self.count += 1
        n = self.count
        task = await self.bus.submit("bench.noop", {"n": n})
        if await task.result(int) != n:
            raise RuntimeError("a wrong result")


async def bench(seconds: float, in_flight: list[int], sync: str | None) -> None:
    """Start the others, load them, print the numbers."""
    program = str(Path(sys.executable).with_name("agentexecutor"))
    async with (
        fresh_server(sync) as (url, server),
        child(program, "coordinator", "--nats", url) as coordinator,
        child(sys.executable, __file__, "--role", "agent", "--nats", url) as worker,
        connect(url, name="client") as bus,
    ):
        submitter = Submitter(bus)
        await submitter.one()  # returns once coordinator and agent are up
        pids = {"server": server, "coordinator": coordinator, "agent": worker, "client": os.getpid()}
        report("ours", [await measure(submitter.one, Load(seconds, count), pids) for count in in_flight])


def main() -> None:
    asked = options(__doc__ or "").parse_args()
    exporting.setup(f"bench-{asked.role or 'client'}")  # nothing, unless OTEL_* variables ask for it (tracing.py)
    if asked.role == "agent":
        run_program(work, asked.nats)
    else:
        run_program(bench, asked.seconds, asked.in_flight, asked.sync)


if __name__ == "__main__":
    main()
