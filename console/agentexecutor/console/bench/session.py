"""One run from the floor to the message counts, in this order: floor, tasks, messages; and what becomes of the tasks afterwards.

Every measurement is handed to the report as soon as it is there, also one that was interrupted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import nats.errors
from msgspec import json, structs

from agentexecutor.bus.errors import BusError
from agentexecutor.console.bench.counting import counting
from agentexecutor.console.bench.driving import Drive
from agentexecutor.console.bench.figures import Floor, Left, Setup, Tasks, messages_of, ratio_of
from agentexecutor.console.bench.floor import appends, requests
from agentexecutor.console.bench.load import Load, forget, settle
from agentexecutor.console.bench.place import Asked, Place, served
from agentexecutor.console.bench.report import Report, number

__all__ = ["Session"]

FLOOR_S = 1.0
FLOOR_TIMES = 20_000
FLOOR_A_TASK, FEWEST = 20, 500
"""With few tasks the floor is a short look, too."""
OFFERS_S = 1.5
"""So long at least it listens: offers come every second."""
FORGET_S = 30.0
COUNTED = 50
COUNTED_IN_FLIGHT = 4

One = Callable[[int], Awaitable[bool]]


class Session:
    """A run at its place. `measure` may be cancelled at any time; `end` comes after it in any case."""

    def __init__(self, asked: Asked, place: Place, report: Report) -> None:
        self._asked = asked
        self._place = place
        self._report = report
        self._load = Load(place.bus, place.capability, asked.input, asked.wait_s)
        self._floors: dict[tuple[str, int], Floor] = {}

    @property
    def failed(self) -> int:
        """So many tasks did not complete."""
        return self._load.all_failed

    async def measure(self) -> None:
        """All of it. Raises TaskError when not even the first task completes, BusError."""
        place, asked = self._place, self._asked
        version = place.bus.connection.nats.connected_server_version
        self._report.line(
            Setup(
                nats=place.bus.connection.url if not asked.embedded else "embedded",
                server=f"{version.major}.{version.minor}.{version.patch}",
                capability=place.capability,
                agents=place.served.agents,
                slots=place.served.slots,
                own_agents=asked.capability is None,
                input_bytes=len(json.encode(asked.input)),
            )
        )
        if max(asked.in_flight) > place.served.slots:
            self._report.warn(
                f"The {number(place.served.agents, 'agent')} for {place.capability} can do {place.served.slots} at once; "
                f"with {max(asked.in_flight)} in flight the rest waits for a free slot, and the latency shows that."
            )
        await self._load.first()
        await self._measure_floor()
        for auction in asked.auctions:
            for in_flight in asked.in_flight:
                await self._measure_tasks(auction, in_flight)
        for auction in asked.counted:
            await self._count(auction)

    # the floor

    async def _measure_floor(self) -> None:
        bus, payload = self._place.bus.connection, json.encode(self._asked.input)
        if len(payload) > bus.max_payload // 2:
            payload = payload[: bus.max_payload // 2]  # a task sends it in chunks
        async with AsyncExitStack() as stack:
            asking = await stack.enter_async_context(requests(bus, self._place.other, payload))
            await self._floor("request", asking.one)
        try:
            async with appends(bus, payload) as appending:
                await self._floor("append", appending.one)
        except BusError as error:
            self._report.warn(f"No append was measured: {error.message}")

    async def _floor(self, what: str, one: One) -> None:
        times = FLOOR_TIMES if self._asked.tasks is None else min(FLOOR_TIMES, max(FEWEST, FLOOR_A_TASK * self._asked.tasks))
        for in_flight in self._asked.in_flight:
            drive = Drive(in_flight, seconds=FLOOR_S, times=times)
            try:
                with self._report.showing(f"floor: {what}, {in_flight} in flight", drive):
                    await drive.run(one)
            except (nats.errors.Error, TimeoutError) as error:
                self._report.warn(f"The floor was not measured ({what}, {in_flight} in flight): {error}")
                return
            self._floors[what, in_flight] = line = Floor(what=what, **structs.asdict(drive.figures))
            self._report.line(line)

    # tasks

    async def _measure_tasks(self, auction: str, in_flight: int) -> None:
        load, asked = self._load, self._asked
        load.again(auction)
        await Drive(in_flight, times=in_flight).run(load.one)  # connections, caches and code get warm
        load.again(auction)
        drive = Drive(in_flight, seconds=asked.seconds, times=asked.tasks)
        interrupted = True
        try:
            with self._report.showing(f"tasks: {auction}, {in_flight} in flight", drive):
                await drive.run(load.one)
            interrupted = False
        finally:
            self._tell_tasks(drive, interrupted=interrupted)
        await self._look_for_agents()

    def _tell_tasks(self, drive: Drive, *, interrupted: bool) -> None:
        load, figures = self._load, drive.figures
        request, append = (self._floors.get((what, drive.in_flight)) for what in ("request", "append"))
        self._report.line(
            Tasks(
                **structs.asdict(figures),
                auction=load.auction,
                failed=dict(load.failed),
                stored_median_ms=load.stored_median_ms,
                ratio=ratio_of(figures, request, append),
                interrupted=interrupted,
            )
        )

    async def _look_for_agents(self) -> None:
        now = await served(self._place.bus, self._place.capability)
        if now.agents < self._place.served.agents:
            self._report.warn(f"Of {self._place.served.agents} agents {self._place.served.agents - now.agents} went away meanwhile.")

    # messages

    async def _count(self, auction: str) -> None:
        place, load = self._place, self._load
        load.again(auction)
        agents = (await served(place.bus, place.capability)).agents
        drive = Drive(min(COUNTED_IN_FLIGHT, *self._asked.in_flight), times=min(COUNTED, self._asked.tasks or COUNTED))
        with self._report.showing(f"messages: {auction}", drive):
            async with counting(place.other, place.bus.name, place.capability) as counts:
                await drive.run(load.one)
                await anyio.sleep(max(0.0, OFFERS_S - counts.seconds))
                seconds = counts.seconds
        tasks = len(drive.latencies) + load.failed.total()
        self._report.line(messages_of(auction, counts.messages, tasks, agents, seconds, counts.offers))

    # the end

    async def end(self) -> None:
        """Let what is under way end, cancel the rest, and remove what ended. Comes also after an interruption that ended `measure`."""
        if self._asked.embedded:
            self._report.line(Left(tasks=0, unfinished=0, text="Nothing stays: the server was for this run only."))
            return
        left = await settle(self._place.bus, self._load.open)
        why = await self._why_kept(left)
        if why is None:
            self._report.line(Left(tasks=0, unfinished=0, text="Nothing stays: all tasks have ended, and are removed from the log."))
            return
        tasks, owner = number(self._load.submitted, "task"), self._place.bus.name
        stays = f"What stays: {tasks} of {owner} in the log ({why}); they go by themselves after the keeping time, 7 days by default."
        self._report.line(Left(tasks=self._load.submitted, unfinished=len(left), text=stays))

    async def _why_kept(self, left: set[str]) -> str | None:
        """None: they were removed."""
        if left:
            return f"{len(left)} did not end, not even when cancelled"
        if self.failed:
            return f"{self.failed} did not complete: `agentexecutor tasks` and `show` tell more"
        if self._asked.keep:
            return "as you asked for"
        try:
            with anyio.fail_after(FORGET_S):
                await forget(self._place.bus)
        except (BusError, TimeoutError) as error:
            return f"they cannot be removed: {error or 'no answer'}"
        return None
