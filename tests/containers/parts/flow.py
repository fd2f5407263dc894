"""Tasks of every kind flow through real processes on a bus that somebody else runs; at the end the whole story is checked.

The traffic, the processes and the checker are those of tests/chaos.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
from chaos import CLIENT, Client
from place import Crew, Place, a_place, until
from traffic import Wish
from verdict import Verdict, runs_of

from agentexecutor.bus import BusError, connect

__all__ = ["Flow", "flowing"]

CREW = Crew(coordinators=1, agents=2)
"""One of the agents coordinates too, so any of the three processes may hold a shard."""
AT_ONCE = 6


class Flow:
    """What goes on. `held`: names of the tasks whose handlers run until they are let go."""

    def __init__(self, client: Client, place: Place, group: anyio.abc.TaskGroup) -> None:
        self.client = client
        self.place = place
        self.held: list[str] = []
        self._group = group
        self._gate = place.folder / "gate"

    async def more(self, count: int) -> None:
        """So many more tasks have ended."""
        await self.client.until_ended(self.client.ended + count)

    async def hold(self) -> None:
        """One handler is at work, by record, and ends when it is let go."""
        self._group.start_soon(self.client.see_through, Wish("held", "chaos.held", {"gate": str(self._gate)}, "let go"))
        await until(self._began, "no handler is held")
        name = self.held[-1]
        async for event in self.client.bus.task(name).events():
            if event.kind == "accepted":
                break

    async def _began(self) -> bool:
        wishes = self.client.verdict.wishes
        lines = self.place.effects.read_text().splitlines() if self.place.effects.is_file() else []
        self.held = [run.task for run in runs_of(lines) if wishes[run.task].kind == "held"]
        return bool(self.held)

    async def answers(self) -> bool:
        """Whether JetStream does right now."""
        try:
            await self.client.bus.connection.api("INFO", {}, timeout_s=1.0)
        except BusError:
            return False
        return True

    async def let_go(self) -> None:
        """The handler that is held has ended."""
        self._gate.touch()
        over = self._gate.with_name("gate.over")

        async def is_over() -> bool:
            return over.exists()

        await until(is_over, "the handler goes on")

    def runs(self, task: str) -> list[int]:
        """The epochs in which a task's handler has run."""
        lines = map(json.loads, self.place.effects.read_text().splitlines())
        return [line["epoch"] for line in lines if line["task"] == task]


@asynccontextmanager
async def flowing(folder: Path, url: str, seed: int = 1) -> AsyncIterator[Flow]:
    """Tasks flow until the block ends; then the last ones end, and nothing may be lost, doubled or left."""
    verdict = Verdict()
    async with a_place(folder, 0, sync_always=False, url=url, crew=CREW) as place, connect(url, name=CLIENT) as bus:
        client = Client(bus, verdict, random.Random(seed))
        async with client.recording(), anyio.create_task_group() as keeping:
            keeping.start_soon(place.keep)
            await place.start([*place.coordinators, *place.agents])
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(client.flow)
                yield Flow(client, place, group)
                client.enough = True
            remains = await client.until_clean(place)
            keeping.cancel_scope.cancel()
        verdict.executed(runs_of(place.effects.read_text().splitlines()))
        verdict.over(remains)
    findings = [*map(str, verdict.findings), *place.unexpected]
    assert findings == [], f"the logs are in {folder}"
    assert verdict.states["completed"] > 0
