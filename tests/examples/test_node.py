"""examples/node: an agent that passes every scenario, and a client that loses nothing and does nothing twice when its connection is cut."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from foreign import ROOT, conformance, environment, tool, wired

from agentexecutor.agents import Agent, Context
from agentexecutor.bus import connect

if TYPE_CHECKING:
    from anyio.abc import Process
    from nats.aio.msg import Msg

    from agentexecutor.bus.server import EmbeddedServer

pytestmark = pytest.mark.anyio

PATIENCE_S = 200
SUBMIT = b" ae.v1.submit."


# The agent


def test_the_agent_has_less_than_100_lines() -> None:
    lines = (ROOT / "examples/node/agent.mjs").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 140


def test_what_npm_fetches_is_named_exactly_and_by_no_lock_file() -> None:
    package = json.loads((ROOT / "examples/node/package.json").read_text(encoding="utf-8"))
    versions = {**package["dependencies"], **package["optionalDependencies"]}
    assert [version for version in versions.values() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
    assert not (ROOT / "examples/node/package-lock.json").exists()


def test_the_agent_passes_every_scenario(node: Path) -> None:
    assert conformance("node", str(node / "agent.mjs")) == []


# The client

Serve = Callable[[Context], Any]


class Scene:
    """An agent whose `work` does what the test says, on a bus that counts submits."""

    def __init__(self, node: Path, url: str) -> None:
        self._node = node
        self._url = url
        self.submits = 0
        self.runs = 0
        self.cancelled = 0
        self.started = anyio.Event()
        self.goes_on = anyio.Event()
        self.submitted: list[anyio.Event] = [anyio.Event(), anyio.Event()]

    async def work(self, ctx: Context, value: Any = None, how: str = "at once") -> Any:
        self.runs += 1
        self.started.set()
        if how == "fails":
            raise ValueError("it cannot be done")
        if how == "twice":
            return [value, value]
        if how == "waits":
            try:
                async with ctx.step("wait"):
                    await self.goes_on.wait()
            except BaseException:
                self.cancelled += 1
                raise
        return value

    async def count(self, message: Msg) -> None:
        self.submitted[self.submits].set()
        self.submits += 1

    def command(self, *arguments: str) -> list[str]:
        return ["node", str(self._node / "submit.mjs"), *arguments]

    async def submit(self, *arguments: str, stdin: str = "") -> tuple[int, list[dict[str, Any]]]:
        """The exit code of a submit, and its lines."""
        with anyio.fail_after(PATIENCE_S):
            ran = await anyio.run_process(self.command(*arguments), input=stdin.encode(), env=environment(self._url, "me"), check=False)
        assert ran.stderr == b""
        return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()]

    @asynccontextmanager
    async def submitting(self, url: str, *arguments: str) -> AsyncIterator[Submitting]:
        with anyio.fail_after(PATIENCE_S):
            async with await anyio.open_process(self.command(*arguments), env=environment(url, "me")) as process:
                yield Submitting(process)


class Submitting:
    """A submit that runs. `lines`: what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._rest = b""

    async def read(self) -> bool:
        """More of what it prints; False at its end."""
        assert self.process.stdout is not None
        try:
            self._rest += await self.process.stdout.receive()
        except anyio.EndOfStream:
            return False
        *whole, self._rest = self._rest.split(b"\n")
        self.lines += [json.loads(line) for line in whole]
        return True

    async def until(self, **found: Any) -> None:
        """Until it has printed a line with these fields."""
        while not any(found.items() <= line.items() for line in self.lines):
            assert await self.read(), self.lines

    async def end(self) -> int:
        while await self.read():
            pass
        return await self.process.wait()

    def said(self, name: str) -> list[Any]:
        return [line[name] for line in self.lines if name in line]


@pytest.fixture
async def scene(server: EmbeddedServer, node: Path) -> AsyncIterator[Scene]:
    made = Scene(node, server.url)
    agent = Agent("worker", capacity=2)
    agent.capability("work", estimate_s=0.1)(made.work)
    async with connect(server.url, name="worker") as bus, agent.serve(bus):
        await bus.connection.subscribe("ae.v1.submit.>", made.count)
        yield made


def kinds(lines: list[dict[str, Any]]) -> list[str]:
    """The events that a record told of, and whose: progress, which may be lost, is left out."""
    return [f"{line['kind']} {line['subtask'] or 'task'}" for line in lines if line.get("seq")]


STORY = ["submitted task", "planned task", "ready main", "awarded main", "accepted main", "completed main", "completed task"]


async def test_a_result_and_the_events_from_the_first(scene: Scene) -> None:
    scene.goes_on.set()
    code, lines = await scene.submit("work", '{"value": [1, "ü"], "how": "waits"}', "--id", "t1")
    assert (code, lines[-1]) == (0, {"task": "me.t1", "state": "completed", "result": [1, "ü"]})
    assert kinds(lines) == STORY
    assert {line["agent"] for line in lines if line.get("kind") == "awarded"} == {"worker"}
    again, same = await scene.submit("work", '{"value": [1, "ü"], "how": "waits"}', "--id", "t1")
    assert (again, kinds(same), same[-1]) == (0, STORY, lines[-1])
    assert scene.runs == 1, "the same id with the same content is the same task"
    other, refused = await scene.submit("work", "{}", "--id", "t1")
    assert (other, refused[-1]["state"], refused[-1]["error"]["code"]) == (1, "refused", "refused")


async def test_who_comes_later_gets_the_events_from_the_first_too(scene: Scene, server: EmbeddedServer) -> None:
    command = ["work", '{"how": "waits"}', "--id", "t1"]
    async with scene.submitting(server.url, *command) as first:
        await first.until(kind="progress")
        async with scene.submitting(server.url, *command) as second:
            await scene.submitted[1].wait()
            scene.goes_on.set()
            assert (await first.end(), await second.end()) == (0, 0)
    assert kinds(first.lines) == kinds(second.lines) == STORY
    assert (scene.submits, scene.runs) == (2, 1)


async def test_large_bodies_go_and_come_by_reference(scene: Scene) -> None:
    large = "x" * 600_000
    code, lines = await scene.submit("work", "-", stdin=json.dumps({"value": large, "how": "twice"}))
    assert (code, lines[-1]["state"]) == (0, "completed")
    assert lines[-1]["result"] == [large, large]
    assert [line["data"]["bytes"] for line in lines if line.get("kind") == "completed" and line["subtask"]] == [2 * 600_002 + 3]


async def test_a_failure(scene: Scene) -> None:
    code, lines = await scene.submit("work", '{"how": "fails"}')
    assert (code, lines[-1]["state"], lines[-1]["error"]["code"]) == (1, "failed", "handler")
    assert "it cannot be done" in lines[-1]["error"]["message"]
    assert "failed main" in kinds(lines)


async def test_it_cancels_after_a_while(scene: Scene) -> None:
    code, lines = await scene.submit("work", '{"how": "waits"}', "--cancel-after", "0.5")
    assert (code, lines[-1]["state"]) == (4, "cancelled")


async def test_it_cancels_on_ctrl_c(scene: Scene, server: EmbeddedServer) -> None:
    async with scene.submitting(server.url, "work", '{"how": "waits"}') as submit:
        await submit.until(kind="progress")
        submit.process.send_signal(signal.SIGINT)
        assert await submit.end() == 4
    assert submit.lines[-1]["state"] == "cancelled"
    with anyio.fail_after(PATIENCE_S):
        while not scene.cancelled:
            await anyio.sleep(0.01)


async def test_a_deadline(scene: Scene) -> None:
    code, lines = await scene.submit("work", '{"how": "waits"}', "--deadline", "0.5")
    assert (code, lines[-1]["state"], lines[-1]["error"]["code"]) == (4, "failed", "deadline")


async def test_cut_while_the_task_runs_it_asks(scene: Scene, server: EmbeddedServer) -> None:
    async with wired(server.url) as wire, scene.submitting(wire.url, "work", '{"how": "waits", "value": 1}', "--id", "t1") as submit:
        await submit.until(kind="progress")
        wire.cut()
        wire.mend()
        await submit.until(asked="running")
        scene.goes_on.set()
        assert await submit.end() == 0
    assert submit.lines[-1] == {"task": "me.t1", "state": "completed", "result": 1}
    assert (scene.submits, scene.runs, submit.said("submitted")) == (1, 1, [])
    assert kinds(submit.lines) == STORY


async def test_what_ended_while_it_was_cut_off_it_learns(scene: Scene, server: EmbeddedServer) -> None:
    async with wired(server.url) as wire, scene.submitting(wire.url, "work", '{"how": "waits", "value": 1}', "--id", "t1") as submit:
        await submit.until(kind="progress")
        wire.cut()
        scene.goes_on.set()
        async with connect(server.url, name="me") as bus:
            assert await bus.task("me.t1").result(timeout_s=PATIENCE_S) == 1
        wire.mend()
        assert await submit.end() == 0
    assert submit.lines[-1] == {"task": "me.t1", "state": "completed", "result": 1}
    assert submit.said("asked") == ["completed"]
    assert (scene.submits, scene.runs, submit.said("submitted")) == (1, 1, [])
    assert kinds(submit.lines) == STORY, "also those that it missed, each once"


async def test_a_submit_whose_acknowledgement_was_lost_is_not_sent_twice(scene: Scene, server: EmbeddedServer) -> None:
    async with wired(server.url) as wire:
        wire.deaf_after(SUBMIT)
        async with scene.submitting(wire.url, "work", '{"how": "waits", "value": 1}', "--id", "t1") as submit:
            await scene.started.wait()
            wire.cut()
            wire.mend()
            await submit.until(asked="running")
            scene.goes_on.set()
            assert await submit.end() == 0
    assert (scene.submits, scene.runs, submit.said("submitted")) == (1, 1, [])
    assert kinds(submit.lines) == STORY


async def test_a_submit_that_was_lost_is_sent_again_when_nobody_knows_it(scene: Scene, server: EmbeddedServer) -> None:
    async with wired(server.url) as wire:
        wire.cut_before(SUBMIT)
        async with scene.submitting(wire.url, "work", '{"value": 1}', "--id", "t1") as submit:
            await wire.is_cut.wait()
            assert not scene.submitted[0].is_set(), "the server did not get it"
            wire.mend()
            assert await submit.end() == 0
    assert submit.lines[0] == {"task": "me.t1", "asked": "unknown"}
    assert submit.said("submitted") == ["again"]
    assert submit.lines[-1] == {"task": "me.t1", "state": "completed", "result": 1}
    assert (scene.submits, scene.runs) == (1, 1)


@pytest.mark.parametrize(
    "wrong", [[], ["work", "{"], ["a..b"], ["work", "{}", "--deadline", "soon"], ["work", "--bad"], ["work", "--id", "a.b"]]
)
def test_wrong_usage(node: Path, wrong: list[str]) -> None:
    ran = subprocess.run([tool("node"), str(node / "submit.mjs"), *wrong], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Usage: node submit.mjs CAPABILITY" in ran.stderr


def test_no_server(node: Path) -> None:
    command = ["node", str(node / "submit.mjs"), "work"]
    nowhere = environment("nats://127.0.0.1:1", "me")
    ran = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "No NATS server answers at nats://127.0.0.1:1" in ran.stderr


def test_an_address_that_is_none(node: Path) -> None:
    command = ["node", str(node / "agent.mjs")]
    nowhere = environment("nats://[", "me")
    ran = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", "nats://[ cannot be joined: Invalid URL\n")
