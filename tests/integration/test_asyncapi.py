"""The AsyncAPI document before strangers: a public parser takes it, and what is heard on a real server is what it says."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
from json_schema import problems
from nats.aio.msg import Msg
from wire_samples import SAMPLES, document, kind_of

from agentexecutor.agents import Agent, Context, Fail
from agentexecutor.bus import Bus, EmbeddedServer, TaskCancelled, TaskFailed, connect
from agentexecutor.schemas import Feedback, Plan, Subtask
from agentexecutor.schemas.asyncapi import asyncapi

PARSER = "@asyncapi/parser@3.6.6"
PROGRAM = Path(__file__).parent / "programs" / "asyncapi.mjs"
PATIENCE = 300
"""Seconds for npm and node on a busy machine."""
MADE = asyncapi()


# a public parser


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parser in its node_modules."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt install nodejs npm)")
    folder = tmp_path_factory.mktemp("asyncapi")
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error", PARSER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        pytest.skip(f"npm could not install {PARSER}: {done.stderr.strip()[-500:]}")
    return folder


def judge(tools: Path, documents: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What the parser says of documents, and Ajv of samples: nothing when they are right."""
    asked = json.dumps({"documents": {name: json.dumps(made) for name, made in documents.items()}, "samples": samples})
    command = ["node", str(PROGRAM), str(tools)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_public_parser_takes_the_committed_document_and_the_golden_samples_fit_it(tools: Path) -> None:
    committed = json.loads((Path(__file__).parents[2] / "docs" / "asyncapi.json").read_text(encoding="utf-8"))
    samples = [{"document": "ours", "message": kind_of(sample), "payload": document(sample)} for sample in SAMPLES]
    said = judge(tools, {"ours": committed}, samples)
    assert said["documents"] == {"ours": []}
    assert {sample.stem: found for sample, found in zip(SAMPLES, said["samples"], strict=True) if found} == {}


def without_version(made: dict[str, Any]) -> None:
    del made["info"]["version"]


def with_a_message_of_another_channel(made: dict[str, Any]) -> None:
    made["operations"]["agent.send.offer"]["messages"] = [{"$ref": "#/channels/bid/messages/bid"}]


def with_a_reference_to_nothing(made: dict[str, Any]) -> None:
    made["channels"]["offer"]["messages"]["offer"]["$ref"] = "#/components/messages/nothing"


def with_a_type_that_there_is_not(made: dict[str, Any]) -> None:
    made["components"]["schemas"]["Offer"]["properties"]["capacity"]["type"] = "whole number"


def with_a_token_that_is_not_described(made: dict[str, Any]) -> None:
    del made["channels"]["progress"]["parameters"]["peer"]


BREAKS: list[Callable[[dict[str, Any]], None]] = [
    without_version,
    with_a_message_of_another_channel,
    with_a_reference_to_nothing,
    with_a_type_that_there_is_not,
    with_a_token_that_is_not_described,
]


def test_the_parser_refuses_a_broken_document_and_the_schemas_a_broken_message(tools: Path) -> None:
    documents = {change.__name__: copy.deepcopy(MADE) for change in BREAKS}
    for change in BREAKS:
        change(documents[change.__name__])
    ill = {"boot": "b", "capabilities": [{"name": 1}]}
    said = judge(tools, {**documents, "whole": MADE}, [{"document": "whole", "message": "offer", "payload": ill}])
    assert {name: bool(found) for name, found in said["documents"].items()} == dict.fromkeys(documents, True) | {"whole": False}
    assert said["samples"] == [["/capabilities/0/name: must be string"]]


# a real server


@dataclass
class Heard:
    subject: str
    headers: dict[str, str]
    payload: bytes


def pattern_of(channel: dict[str, Any]) -> re.Pattern[str]:
    address = re.escape(channel["address"]).replace(r"\{", "{").replace(r"\}", "}")
    for token, reference in channel.get("parameters", {}).items():
        pattern = MADE["components"]["parameters"][reference["$ref"].rpartition("/")[2]]["x-ae-pattern"]
        address = address.replace(f"{{{token}}}", f"(?:{pattern})")
    return re.compile(address, re.ASCII)


PATTERNS = {name: pattern_of(channel) for name, channel in MADE["channels"].items() if channel["address"]}


def faults(heard: Heard) -> tuple[str, list[str]]:
    """The channel of a message, and why it is not as the document says."""
    found = [name for name, pattern in PATTERNS.items() if pattern.fullmatch(heard.subject)]
    if len(found) != 1:
        return heard.subject, [f"{heard.subject} is of {len(found)} channels"]
    names = MADE["channels"][found[0]]["messages"]
    messages = {MADE["components"]["messages"][name]["name"]: MADE["components"]["messages"][name] for name in names}
    message = messages.get(heard.headers.get("Ae-Type"))
    if message is None:
        return found[0], [f"type {heard.headers.get('Ae-Type')} on {heard.subject}"]
    unsaid = set(heard.headers) - set(message["headers"]["properties"]) - {"Nats-Stream", "Nats-Subject"}
    said = [f"{found[0]}: header {name} is not in the document" for name in unsaid]
    said += problems(message["headers"], heard.headers, MADE, found[0])
    if message.get("contentType") != "application/octet-stream":
        said += problems(message["payload"], json.loads(heard.payload), MADE, found[0])
    return found[0], said


worker = Agent("worker", capacity=8)


@worker.capability("echo")
async def echo(x: Any = None) -> Any:
    return x


@worker.capability("steps")
async def steps(ctx: Context) -> None:
    await ctx.schedule(("load", 0.01))
    async with ctx.step("load"):
        ctx.progress(0.5, "half")


@worker.capability("fails")
async def fails() -> None:
    raise Fail("on purpose")


@worker.capability("parent")
async def parent(ctx: Context) -> Any:
    return await (await ctx.submit("echo", {"x": 1})).result()


@worker.capability("talks")
async def talks(ctx: Context) -> str:
    await ctx.say(Feedback(text="I have begun"))
    async for said in ctx.feedback():  # its own comes back too
        if said.text == "go on":
            return said.text
    raise Fail("nothing was said")


@worker.capability("waits")
async def waits() -> None:
    await anyio.sleep_forever()


async def everything(bus: Bus) -> None:
    """Whatever a client can ask for."""
    assert await bus.run("echo", {"x": 1}) == 1
    assert await bus.run("echo", {"x": 1}, auction="call") == 1
    assert await bus.run("echo", {"x": 1}, auction="broadcast", priority=3) == 1
    assert await bus.run("parent") == 1
    await bus.run("steps")
    plan = Plan()
    one = plan.add("one", Subtask("echo", {"x": "x" * 300_000}))
    plan.add("two", Subtask("echo", {"x": one}))
    await bus.run(plan)
    with pytest.raises(TaskFailed):
        await bus.run("fails", priority=-1)
    talking = await bus.submit("talks")
    async for event in talking.events():
        if event.kind == "accepted":
            await talking.feedback(Feedback(text="go on", subtask="main"))
    assert await talking.result() == "go on"
    waiting = await bus.submit("waits")
    async for event in waiting.events():
        if event.kind == "accepted":
            await waiting.cancel("enough")
    with pytest.raises(TaskCancelled):
        await waiting.result()
    await bus.agents()
    await bus.tasks()
    await bus.unserved()
    await bus.plan("echo", {"x": 1})
    assert (await bus.task("me.nobody-knows-it").state()).state == "unknown"


NOT_HEARD = {
    **dict.fromkeys(
        [name for name in PATTERNS if name.startswith(("in.", "new"))], "a plain subscriber does not hear what a stream makes of a subject"
    ),
    "from.decline": "nobody has reason to",
    "from.release": "nobody has reason to",
    "to.refused": "nobody has reason to",
}


@pytest.mark.anyio
async def test_what_is_heard_is_what_the_document_says(server: EmbeddedServer) -> None:
    heard: list[Heard] = []

    async def hear(message: Msg) -> None:
        heard.append(Heard(message.subject, dict(message.headers or {}), message.data))

    listener = await nats.connect(server.url)
    await listener.subscribe("ae.v1.>", cb=hear)
    await listener.flush()
    with anyio.fail_after(PATIENCE):
        async with connect(server.url, name="me") as bus, worker.serve(bus):
            await everything(bus)
        await listener.drain()
    judged = [faults(one) for one in heard]
    assert Counter(line for _, said in judged for line in said) == Counter()
    assert set(PATTERNS) - {name for name, _ in judged} <= set(NOT_HEARD)


def test_a_message_that_is_not_as_the_document_says_is_found() -> None:
    right = Heard("ae.v1.offer.a1", {"Ae-Type": "offer"}, b'{"boot": "b", "capabilities": []}')
    assert faults(right) == ("offer", [])
    wrong = [
        Heard("ae.v1.offers.a1", right.headers, right.payload),
        Heard("ae.v1.offer.a1", {"Ae-Type": "bid"}, right.payload),
        Heard("ae.v1.offer.a1", {}, right.payload),
        Heard("ae.v1.offer.a1", right.headers | {"Ae-Mood": "good"}, right.payload),
        Heard("ae.v1.offer.a1", right.headers, b'{"capabilities": []}'),
        Heard("ae.v1.from.a1.done.me.t1", {"Ae-Type": "done"}, b'{"subtask": "main", "epoch": 1, "boot": "b"}'),
    ]
    assert [bool(faults(one)[1]) for one in wrong] == [True] * len(wrong)
