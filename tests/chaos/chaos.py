"""`make chaos KILLS=1000`: real processes die and stand still while tasks flow; a checker compares what was recorded from the start.

Three coordinators, five agents (three of them coordinate too), one server or a cluster of three. Each fault is a kill -9, after which the process is
started again, or a SIGSTOP and later a SIGCONT. The seed repeats who is hit, how and for how long; what it meets is up to the machine.

    python tests/chaos/chaos.py [--kills 1000] [--cluster] [--seed N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
from nats.aio.msg import Msg
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from place import Place, Planned, a_place, schedule
from traffic import Wish, draw_wish
from verdict import Remains, Verdict, runs_of

from agentexecutor.bus import AgentExecutorError, Bus, BusError, Task, TaskCancelled, TaskFailed, connect
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import INBOX
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import H_TYPE, decode_as, decode_record, to_rfc3339
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import shard_of

__all__ = ["Report", "chaos"]

CLIENT = "client"
AT_ONCE = 24
PATIENCE_S = 180.0
"""A task that has not ended by then is lost."""
CLEAN_S = 60.0
"""After the last task's end: by then nothing is left on the bus."""
ENOUGH_FINDINGS = 20
"""After so many there are no more faults."""
TOLD_EVERY_S = 10.0


class Times(NamedTuple):
    """Seconds from kills to the records that go on without the victims; other faults come meanwhile."""

    times: int
    median_s: float
    longest_s: float


@dataclass
class Report:
    """What a run found."""

    seed: int
    nodes: int
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    tasks: int = 0
    states: dict[str, int] = field(default_factory=dict)
    records: int = 0
    unseen: int = 0
    lost: int = 0
    double: int = 0
    findings: list[str] = field(default_factory=list)
    runs: int = 0
    again: dict[str, int] = field(default_factory=dict)
    takeovers: dict[str, Times] = field(default_factory=dict)
    longest: list[str] = field(default_factory=list)
    no_bus: int = 0

    @property
    def kills(self) -> int:
        return sum(number for name, number in self.faults.items() if name.endswith("SIGKILL"))


class Client:
    """Submits, waits and records; it is no victim."""

    def __init__(self, bus: Bus, verdict: Verdict, drawn: random.Random) -> None:
        self.bus = bus
        self.verdict = verdict
        self.log = TaskLog(bus.connection)
        self.ended = 0
        self.enough = False
        self._drawn = drawn
        self._more = asyncio.Event()

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """`watch` from the start, and every result that is told."""
        subjects = self.bus.connection.subjects
        subscription = await self.bus.connection.subscribe(subjects.watch(TaskName(CLIENT, "*")), self._watched)
        self.bus.on_message("result", self._told)
        yield
        await subscription.unsubscribe()

    async def _watched(self, message: Msg) -> None:
        got = message.headers or {}
        if H_TYPE in got:
            self.verdict.watched(".".join(message.subject.split(".")[-2:]), int(got["Nats-Sequence"]), message.data)

    async def _told(self, _task: TaskName, message: m.Message, _headers: dict[str, str]) -> None:
        if isinstance(message, m.Result):
            self.verdict.answered(message)

    async def flow(self) -> None:
        """One task after another, until it is enough."""
        while not self.enough:
            await self.see_through(draw_wish(self._drawn))
            self.ended += 1
            self._more.set()
            self._more = asyncio.Event()

    async def until_ended(self, count: int) -> None:
        """So many tasks have ended."""
        while self.ended < count:
            await self._more.wait()

    async def see_through(self, wish: Wish) -> None:
        """Submit it, wait for its end, and tell the checker."""
        task = self.bus.task(f"{CLIENT}.{len(self.verdict.wishes):06d}")
        self.verdict.submitted(task.name, wish)
        async with anyio.create_task_group() as group:
            try:
                task = await self.bus.submit(wish.what, wish.input, id=task.task_name.id, store_timeout_s=PATIENCE_S, **wish.options)
                if wish.cancel_after_s is not None:
                    group.start_soon(self._cancel, task, wish.cancel_after_s)
                state, result = await self._outcome(task)
                log = await self._read(task.task_name)
            except (AgentExecutorError, TimeoutError) as error:
                self.verdict.find("submitted is ended", task.name, f"{wish.kind}: {type(error).__name__}: {error}")
                return
        self.verdict.finished(task.name, state, result, log)

    async def _outcome(self, task: Task) -> tuple[str, Any]:
        try:
            return "completed", await task.result(timeout_s=PATIENCE_S)
        except TaskFailed as error:
            return "failed", str(error)
        except TaskCancelled as error:
            return "cancelled", str(error)

    async def _cancel(self, task: Task, after_s: float) -> None:
        await anyio.sleep(after_s)
        try:
            await task.cancel("not wanted any more")
        except AgentExecutorError as error:
            self.verdict.find("a cancel is taken", task.name, str(error))

    async def _read(self, task: TaskName) -> list[r.LogEntry]:
        """The whole log, from the stream itself: asked again while the server is away."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await self._read_once(task)
                except BusError:
                    await anyio.sleep(0.2)

    async def _read_once(self, task: TaskName) -> list[r.LogEntry]:
        entries: list[r.LogEntry] = []
        for stored in await self.log.read(shard_of(task, self.bus.connection.shards), task):
            record = decode_record(stored.payload or b"{}")
            entries += record.history
            if record.history_blob is not None:
                entries += decode_as(list[r.LogEntry], await self.bus.fetch(task, record.history_blob))
            entries.append(
                r.LogEntry(seq=stored.seq, time=stored.time, record=msgspec.structs.replace(record, history=[], history_blob=None))
            )
        return entries

    async def remains(self, place: Place) -> Remains:
        """What is left on the bus."""
        found = Remains({str(task): (head.seq, head.state) async for task, _, head in self.log.heads()})
        found.submits = await self.log.waiting()
        found.claims = int((await self.bus.connection.api(f"STREAM.INFO.{INBOX}", {}))["state"]["messages"])
        heard = await self.bus.agents()
        found.running = [f"{one.task}/{one.subtask} by {agent.name}" for agent in heard for one in agent.running]
        found.silent = sorted({agent.name for agent in place.agents} - {agent.name for agent in heard})
        return found

    async def until_clean(self, place: Place) -> Remains:
        """What is left once nothing waits any more, or after a while."""
        found = Remains({})
        with anyio.move_on_after(CLEAN_S):
            while True:
                try:
                    found = await self.remains(place)
                    if not (found.submits or found.claims or found.running or found.silent):
                        break
                except BusError as error:
                    print(f"asked again what is left: {error}", file=sys.stderr)
                await anyio.sleep(0.5)
        return found


async def chaos(folder: Path, seed: int, kills: int, *, nodes: int = 1, at_once: int = AT_ONCE, sync_always: bool = True) -> Report:
    """One run; the report's `findings` are what is wrong."""
    report = Report(seed, nodes)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(a_place(folder, nodes, sync_always=sync_always))
        bus = await stack.enter_async_context(connect(place.url, name=CLIENT, replicas=nodes))
        verdict = Verdict()
        client = Client(bus, verdict, random.Random(seed))
        await stack.enter_async_context(client.recording())
        await place.start([*place.coordinators, *place.agents])
        async with anyio.create_task_group() as group:
            group.start_soon(place.keep)
            group.start_soon(tell, client, place, began)
            await faults_and_flow(client, place, schedule(seed, kills, nodes), at_once)
            remains = await client.until_clean(place)
            group.cancel_scope.cancel()
        verdict.executed(runs_of(place.effects.read_text().splitlines()))
        verdict.over(remains)
        fill(report, verdict, place)
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def faults_and_flow(client: Client, place: Place, faults: list[Planned], at_once: int) -> None:
    """Tasks flow while one fault follows the other; then all are brought back, and the last tasks end."""
    async with anyio.create_task_group() as flowing:
        for _ in range(at_once):
            flowing.start_soon(client.flow)
        async with anyio.create_task_group() as back:
            for planned in faults:
                await client.until_ended(client.ended + planned.after_tasks)
                if len(client.verdict.findings) + len(place.unexpected) >= ENOUGH_FINDINGS:
                    break
                client.verdict.fault(await place.inflict(planned, back))
        await place.until_all_serve()
        client.enough = True


async def tell(client: Client, place: Place, began: float) -> None:
    """How far it is, now and then."""
    while True:
        await anyio.sleep(TOLD_EVERY_S)
        verdict = client.verdict
        kills = sum(fault.signal == "SIGKILL" for fault in verdict.faults)
        print(
            f"{time.monotonic() - began:6.0f} s: {kills} kills, {len(verdict.faults) - kills} stops, {client.ended} tasks ended,"
            f" {len(verdict.findings) + len(place.unexpected)} findings",
            file=sys.stderr,
            flush=True,
        )


def fill(report: Report, verdict: Verdict, place: Place) -> None:
    report.faults = dict(sorted(Counter(f"{fault.victim} {fault.signal}" for fault in verdict.faults).items()))
    report.tasks = len(verdict.wishes)
    report.states = dict(verdict.states)
    report.records, report.unseen = verdict.records, verdict.unseen
    report.lost = verdict.count("submitted is ended")
    report.double = verdict.count("one result")
    report.findings = [*map(str, verdict.findings), *place.unexpected]
    report.runs, report.again = verdict.runs, dict(verdict.again)
    for victim, takeovers in verdict.all_takeovers().items():
        if takeovers:
            longest = max(takeovers, key=lambda takeover: takeover.seconds)
            median = statistics.median(takeover.seconds for takeover in takeovers)
            report.takeovers[victim] = Times(len(takeovers), round(median, 2), round(longest.seconds, 2))
            report.longest.append(
                f"{longest.task} waited {longest.seconds:.2f} s after the kill of {longest.fault.name} at {to_rfc3339(longest.fault.at)}"
            )
    report.no_bus = place.no_bus.total()


def show(report: Report) -> None:
    """For people."""
    table = Table(
        "what", "number", title=f"chaos, seed {report.seed}, {report.nodes} server(s), {report.seconds:g} s", title_justify="left"
    )
    for name, number in report.faults.items():
        table.add_row(name, str(number))
    table.add_row("tasks", f"{report.tasks} {report.states}")
    table.add_row("lost", str(report.lost))
    table.add_row("double", str(report.double))
    table.add_row("findings", str(len(report.findings)))
    table.add_row("handlers run", str(report.runs))
    table.add_row("run again, by how the run before ended", str(report.again))
    table.add_row("programs started while no server was there", str(report.no_bus))
    table.add_row("records; not seen by watch", f"{report.records}; {report.unseen}")
    for name, took in report.takeovers.items():
        table.add_row(f"{name} killed, to the next record", f"{took.times} times, median {took.median_s} s, longest {took.longest_s} s")
    Console().print(table)
    for line in (*report.longest, *report.findings):
        print(line)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kills", type=int, default=100, help="how many kill -9; stops come besides")
    asked.add_argument("--cluster", action="store_true", help="three servers, and every stream three times")
    asked.add_argument("--seed", type=int, help="repeats the choice of faults")
    asked.add_argument("--at-once", type=int, default=AT_ONCE, help="how many tasks")
    asked.add_argument("--sync", choices=("always", "2m"), default="always", help="how often the servers write through to the disk")
    asked.add_argument("--keep", action="store_true", help="keep the logs although nothing is wrong")
    asked.add_argument("--json", action="store_true", help="one JSON object")
    options = asked.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="agentexecutor-chaos-"))
    print(f"seed {seed}; logs in {folder}", file=sys.stderr)
    nodes = 3 if options.cluster else 1
    run = chaos(folder, seed, options.kills, nodes=nodes, at_once=options.at_once, sync_always=options.sync == "always")
    report = asyncio.run(run)
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        show(report)
    if report.findings:
        sys.exit(f"{len(report.findings)} findings; the logs are kept in {folder}")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
