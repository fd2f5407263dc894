"""`agents` and `unserved`: who offers what, and what nobody offers."""

from __future__ import annotations

from msgspec.structs import replace

from agentexecutor.bus.client import connect
from agentexecutor.bus.loop import run
from agentexecutor.console.options import command
from agentexecutor.console.output import Output, seconds
from agentexecutor.schemas.messages import Running
from agentexecutor.schemas.views import AgentView, StalledLine

__all__ = ["agents", "unserved"]


@command(
    "agentexecutor agents",
    "agentexecutor agents --json | jq -r 'select(.free > 0) | .name'",
)
def agents(nats: str | None, *, as_json: bool) -> None:
    """List the living agents, what they run, and what of it stands still."""
    run(_agents, Output(json=as_json), nats)


async def _agents(out: Output, nats: str | None) -> None:
    async with connect(nats) as bus:
        found, stalled = await bus.agents(), await bus.stalled()
    found = [_marked(agent, [line for line in stalled if line.agent == agent.name]) for agent in found]
    if out.json:
        for agent in found:
            out.object(agent)
    elif found:
        out.table(["agent", "capabilities", ">free", ">capacity", "labels", "runs", ">seen"], (_cells(agent) for agent in found))
    else:
        out.say("No agents. Start one with: agentexecutor agent FILE.py:NAME")


def _marked(agent: AgentView, stalled: list[StalledLine]) -> AgentView:
    """What it runs, with `stalled` as the state of what stands still (the agent itself does not know)."""
    running = {(held.task, held.subtask): held for held in agent.running}
    for line in stalled:
        running[line.task, line.subtask] = Running(task=line.task, subtask=line.subtask, epoch=line.epoch, state="stalled")
    return replace(agent, running=list(running.values()))


def _cells(agent: AgentView) -> list[object]:
    labels = " ".join(f"{name}={value}" for name, value in agent.labels.items())
    runs = "\n".join(f"{held.task}/{held.subtask}" + (f" ({held.state})" if held.state != "running" else "") for held in agent.running)
    return [agent.name, " ".join(agent.capabilities), agent.free, agent.capacity, labels, runs, seconds(agent.seen_s)]


@command(
    "agentexecutor unserved",
    "agentexecutor unserved --json | jq -r .capability",
)
def unserved(nats: str | None, *, as_json: bool) -> None:
    """List demand that no living agent fits."""
    run(_unserved, Output(json=as_json), nats)


async def _unserved(out: Output, nats: str | None) -> None:
    async with connect(nats) as bus:
        found = await bus.unserved()
    if out.json:
        for line in found:
            out.object(line)
    elif found:
        rows = (
            [
                line.capability,
                line.subtasks,
                seconds(line.oldest_s),
                line.reason,
                " ".join(f"{name}={value}" for name, value in line.labels.items()),
                "\n".join(line.tasks),
            ]
            for line in found
        )
        out.table(["capability", ">subtasks", ">oldest", "reason", "labels", "!tasks"], rows)
    else:
        out.say("All demand is served.")
