"""`demo`: a NATS server of its own, six agents in processes of their own, one real task from start to end, and a coordinator killed on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import click
from rich.console import Console
from rich.text import Text

from agentexecutor.bus import telemetry
from agentexecutor.bus.client import Bus, connect
from agentexecutor.bus.loop import run
from agentexecutor.bus.server import embedded_server
from agentexecutor.bus.task import Task
from agentexecutor.console.demo.crew import CREW, DemoFailed, Worker, crew
from agentexecutor.console.demo.data import check_extra
from agentexecutor.console.demo.plan import make_plan
from agentexecutor.console.demo.rollcall import RollCall, calling
from agentexecutor.console.demo.share import STARTER, Share, coordinating
from agentexecutor.console.demo.story import Chronicle, Scored, demo_object, print_report
from agentexecutor.console.exits import UsageError
from agentexecutor.console.live import LivePlan, follow
from agentexecutor.console.options import command
from agentexecutor.console.output import Output
from agentexecutor.console.plan_state import PlanState
from agentexecutor.console.show import print_view
from agentexecutor.schemas.views import Event

__all__ = ["demo"]

CLIENT = "demo"
START_S = 90.0
"""For slow machines; elsewhere everybody is there after some seconds."""
DEADLINE_S = 300.0
UNDER_WAY = frozenset({"awarded", "running", "completed"})


@command("agentexecutor demo", "agentexecutor demo --json", bus=False)
def demo(nats: str | None, *, as_json: bool) -> None:
    """Classify 37,243 real tweets by agents that bid for the work; takes about a quarter of a minute.

    Starts a NATS server of its own (temporary, on 127.0.0.1) and six agents in processes of their own, which share in coordinating. One
    attempt fails on purpose, and the coordinator that holds the task is killed on the way. With --json: the object that `show` prints,
    and "accuracy", "baseline", "coordinators", "took_s".
    """
    if nats is not None:
        raise UsageError("The demo starts a bus of its own, so --nats has no meaning here.", hint="Leave it out.")
    check_extra()
    telemetry.setup("agentexecutor-demo")
    run(_until_stopped, Output(json=as_json))


async def _until_stopped(out: Output) -> None:
    """The demo; on SIGTERM it stops in good order, as it does on Ctrl-C."""
    stopped = False

    async def wait_for_signal(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                stopped = True
                scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait_for_signal, group.cancel_scope)
        await _demo(out)
        group.cancel_scope.cancel()
    if stopped:
        raise click.exceptions.Exit(128 + signal.SIGTERM)


async def _demo(out: Output) -> None:
    out.say(Text("AgentExecutor demo: learning from 37,243 tweets that people labelled", style="bold"))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(embedded_server())
        workers = await stack.enter_async_context(crew(server.url, server.store))
        bus = await stack.enter_async_context(connect(server.url, name=CLIENT))
        share = await stack.enter_async_context(coordinating(server.url))
        roll = await stack.enter_async_context(calling(bus.connection, _announce(out)))
        out.say(f"NATS is up at {server.url}, for this run only.")
        out.say(f"{len(workers)} agents start, each in a process of its own:")
        await _all_ready(roll, workers)
        out.say(f"All of them, and this process ({STARTER}), take a share of coordinating.")
        await _show(out, bus, share, roll)


def _announce(out: Output) -> Callable[[str], None]:
    does = {member.name: member.does for member in CREW}
    return lambda name: out.say(f"  {name:<10} {does.get(name, '')}")


async def _all_ready(roll: RollCall, workers: list[Worker]) -> None:
    """Wait until everybody is there and has a share. Raises DemoFailed."""
    names = [worker.member.name for worker in workers]
    try:
        with anyio.fail_after(START_S):
            async with anyio.create_task_group() as group:
                for worker in workers:
                    group.start_soon(worker.ended)
                await roll.all_there(names)
                await roll.all_share([*names, STARTER])
                group.cancel_scope.cancel()
    except TimeoutError:
        missing = ", ".join(name for name in names if name not in roll.agents) or "the sharing out of the coordinating"
        raise DemoFailed(f"After {START_S:g} s this is still missing: {missing}.", hint="Is the machine very busy?") from None


async def _show(out: Output, bus: Bus, share: Share, roll: RollCall) -> None:
    """Submit the plan and follow it to its end."""
    chronicle = Chronicle()
    begun = time.monotonic()
    task = await bus.submit(make_plan(), id=roll.task_held_by(STARTER, bus.name), deadline_s=DEADLINE_S)
    with _Show(out, share, chronicle) as view:
        state = await follow(task, view)
    await _report(out, task, state, chronicle, time.monotonic() - begun)


async def _report(out: Output, task: Task, state: PlanState, chronicle: Chronicle, took_s: float) -> None:
    """The result; of a task that did not complete, all that is known. Raises TaskFailed, TaskCancelled."""
    shown = await task.view()
    if shown.state != "completed":
        print_view(out, shown)
    score = await task.result(Scored)
    if out.json:
        out.object(demo_object(shown, score, chronicle, took_s))
    else:
        print_report(out, state, shown, score, chronicle, took_s)


class _Show(LivePlan):
    """The live plan, with what the demo does on the way."""

    def __init__(self, out: Output, share: Share, chronicle: Chronicle) -> None:
        super().__init__(Console(quiet=True) if out.json else out.console, transient=True)
        self._share = share
        self._chronicle = chronicle

    def show(self, event: Event) -> None:
        super().show(event)
        changed_hands = self._chronicle.read(event)
        if changed_hands is not None:
            self._say(changed_hands)
        if not self._share.killed and _in_the_middle(self.state):
            self._share.kill()
            self._say(f"{STARTER}, the coordinator that holds this task, is killed. No goodbye.")

    def _say(self, sentence: str) -> None:
        self.console.print(f">>> {sentence}", style="bold yellow", soft_wrap=True)


def _in_the_middle(state: PlanState) -> bool:
    """Whether all shares of the features are given away and at least one is being worked on."""
    shares = [row for row in state.rows.values() if row.parent == "features" and row.capability == "text.features"]
    return bool(shares) and all(row.state in UNDER_WAY for row in shares) and any(row.state != "awarded" for row in shares)
