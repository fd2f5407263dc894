"""The AsyncAPI document: it is the committed one, and it says what the code, the streams and docs/protocol.md say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from json_schema import problems
from wire_samples import SAMPLES, document, kind_of

from agentexecutor.bus.streams import stream_settings
from agentexecutor.console.schema import schema
from agentexecutor.schemas import codec
from agentexecutor.schemas.asyncapi import ACKNOWLEDGEMENT, HEADERS, asyncapi
from agentexecutor.schemas.channels import FAMILIES, VARIANTS, Family, channels
from agentexecutor.schemas.codec import TYPES
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import DEFAULT_PREFIX, Subjects

DOCS = Path(__file__).parents[2] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
MADE = asyncapi()
RENEW = "run: .venv/bin/python -m agentexecutor.schemas.asyncapi > docs/asyncapi.json"
SECTION_2 = ("submit", "from", "ask", "ask-all", "offer", "progress", "bid", "blob", "to", "call", "watch")
ANYONE = {"client", "agent"}


def parts(value: Any, at: str = "#") -> Iterator[tuple[str, Any]]:
    """All that stands in a document, with its place."""
    yield at, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from parts(item, f"{at}/{key}")


def shape(family: Family) -> str:
    """``ae.v1.from.<peer>.<kind>.<owner>.<id>``."""
    return re.sub(r"\{(\w+)\}", r"<\1>", family.subject(Subjects(), "<kind>"))


def test_the_committed_document_is_the_generated_one(tmp_path: Path) -> None:
    committed = (DOCS / "asyncapi.json").read_text(encoding="utf-8")
    assert json.loads(committed) == MADE, RENEW
    assert CliRunner().invoke(schema, [str(tmp_path)]).exit_code == 0
    assert (tmp_path / "asyncapi.json").read_text(encoding="utf-8") == committed, RENEW


def test_all_that_is_referred_to_is_there() -> None:
    seen = 0
    for at, part in parts(MADE):
        if isinstance(part, dict) and "$ref" in part:
            assert set(part) == {"$ref"}, f"{at}: in draft 07 nothing stands beside a $ref"
            steps, found = part["$ref"].split("/"), MADE
            assert steps.pop(0) == "#"
            for step in steps:
                found = found[step]
            seen += 1
    assert seen > 100


# the table against the builders, the streams, the types


class Spy(Subjects):
    """Remembers which builders were called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and callable(getattr(Subjects, name, None)):
            self.called.add(name)
        return super().__getattribute__(name)


def test_every_builder_is_in_the_table() -> None:
    spy = Spy()
    for family in FAMILIES:
        family.subject(spy, "kind")
    not_builders = re.compile(r"(all|any|parse)_|.*_transform|last_token|inbox_of")
    methods = {name for name in vars(Subjects) if not name.startswith("_") and not not_builders.match(name)}
    assert spy.called == methods


def test_no_subject_is_said_twice() -> None:
    addresses = [channel["address"] for channel in MADE["channels"].values()]
    assert len(set(addresses)) == len(addresses)
    names = [channel.name for channel in channels(DEFAULT_PREFIX)]
    assert [*names, ACKNOWLEDGEMENT] == list(MADE["channels"])


def fits(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and fits(".".join(wanted[:-1]), ".".join(tokens[: len(wanted) - 1]))
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def test_what_a_stream_keeps_is_what_the_table_says() -> None:
    """(`new` and `in` are what the transforms of their streams make; compared below.)"""
    streams = {stream["name"]: stream["subjects"] for stream in stream_settings(DEFAULT_PREFIX, 16, 1)}
    classes = MADE["components"]["parameters"]["class"]["enum"]
    for channel in channels(DEFAULT_PREFIX):
        for address in [channel.address.replace("{class}", name) for name in classes]:
            keepers = {name for name, subjects in streams.items() if any(fits(subject, address) for subject in subjects)}
            if channel.family.name not in ("new", "in"):
                assert keepers == {channel.family.stream} - {None}, address
    assert {family.stream for family in FAMILIES} - {None} == set(streams)


def test_transforms_make_the_subjects_that_the_table_says() -> None:
    subjects, task = Subjects(), TaskName("ada", "t1")

    def transformed(template: str, subject: str) -> str:
        tokens = subject.split(".")[3:]
        made = re.sub(r"\{\{wildcard\((\d)\)\}\}", lambda match: tokens[int(match[1]) - 1], template)
        return re.sub(r"\{\{partition\([^)]*\)\}\}", "7", made)

    assert transformed(subjects.new_transform(16), subjects.submit(task, "high")) == subjects.new(7, "high", task)
    assert transformed(subjects.inbox_transform(16), subjects.claim("a1", "done", task)) == subjects.inbox(7, "done", task, "a1")
    assert transformed(subjects.watch_transform(), subjects.log(7, task)) == subjects.watch(task)
    assert subjects.parse_new(subjects.new(7, "high", task)) == (7, "high", task)


def test_every_type_of_message_travels_somewhere() -> None:
    messages = {name for channel in channels(DEFAULT_PREFIX) for name in channel.kind.messages}
    assert {VARIANTS.get(name, name) for name in messages} == {*TYPES, "chunk"}
    assert set(MADE["components"]["messages"]) == messages | {ACKNOWLEDGEMENT}
    for name, message in MADE["components"]["messages"].items():
        assert message["name"] == VARIANTS.get(name, name)
        if name != ACKNOWLEDGEMENT:
            assert message["headers"]["properties"]["Ae-Type"]["const"] == message["name"]
            assert "Ae-Type" in message["headers"]["required"]


def test_headers_are_those_of_the_code_and_the_protocol() -> None:
    in_code = {value for name, value in vars(codec).items() if name.startswith("H_")}
    assert in_code < set(HEADERS)
    assert [name for name in HEADERS if f"`{name}" not in PROTOCOL] == []
    needs_id = {
        name for name, message in MADE["components"]["messages"].items() if "Ae-Id" in message.get("headers", {}).get("required", [])
    }
    said = {
        name for channel in channels(DEFAULT_PREFIX) if channel.family.name in ("submit", "from", "ask") for name in channel.kind.messages
    }
    assert needs_id == said, "section 1: submits, claims and questions"


# against docs/protocol.md


def rows(section: str) -> Iterator[list[str]]:
    """The subject table of a section, its cells a row."""
    body = PROTOCOL.partition(f"\n## {section}")[2].partition("\n## ")[0]
    for line in body.splitlines():
        if line.startswith("| `ae.v1."):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def kinds_of(cell: str) -> set[str]:
    """The words of a row's kinds: those in backticks that are lower case and no subject."""
    return {word for group in re.findall(r"`([a-z ]+)`", cell) for word in group.split()}


def same(subject: str, family: Family) -> bool:
    """Whether a row's subject is the family's; `<me>` is oneself, peer or owner."""
    mine = shape(family).replace("<peer>", "<me>").replace(".-.-", ".<owner>.<id>")
    return subject in (mine, mine.replace("<owner>", "<me>"))


@pytest.mark.parametrize("row", list(rows("2. Subjects")), ids=lambda row: row[0])
def test_every_row_of_the_protocol_is_in_the_table(row: list[str]) -> None:
    subject, sender, what, durable = row
    found = [family for family in FAMILIES if same(subject.strip("`"), family)]
    assert found
    assert {family.name for family in found} <= set(SECTION_2)
    assert {family.durable for family in found} == {durable == "yes"}
    kinds = {kind.name for family in found for kind in family.kinds}
    if "<kind>" in subject:
        assert kinds == kinds_of(what)
    said = {word.removeprefix("the ").removesuffix("s") for word in sender.split(", ")}
    by = {role for family in found for kind in family.kinds for role in kind.by}
    assert by >= ANYONE if said == {"anyone"} else by == said


def test_claims_are_those_of_agents_and_of_clients_that_the_protocol_says() -> None:
    (what,) = [row[2] for row in rows("2. Subjects") if row[0].startswith("`ae.v1.from.")]
    agents, clients = what.partition("; clients:")[::2]
    (family,) = [family for family in FAMILIES if family.name == "from"]
    assert {kind.name for kind in family.kinds if "agent" in kind.by} == kinds_of(agents.partition("Agents:")[2])
    assert {kind.name for kind in family.kinds if "client" in kind.by} == kinds_of(clients)


def test_every_subject_of_the_table_is_a_row_of_the_protocol() -> None:
    peers = [row[0].strip("`") for row in rows("2. Subjects")]
    coordinators = [row[0].strip("`") for row in rows("10. Coordinators")]
    for family in FAMILIES:
        if family.name in SECTION_2:
            assert any(same(subject, family) for subject in peers), family.name
        else:
            assert shape(family) in coordinators, family.name
    assert len(coordinators) + len(SECTION_2) == len(FAMILIES)


# parameters


def matcher(channel: dict[str, Any]) -> re.Pattern[str]:
    """What the document says of a channel's subjects, as one pattern."""
    address = re.escape(channel["address"]).replace(r"\{", "{").replace(r"\}", "}")
    for token, reference in channel.get("parameters", {}).items():
        pattern = MADE["components"]["parameters"][reference["$ref"].rpartition("/")[2]]["x-ae-pattern"]
        address = address.replace(f"{{{token}}}", f"(?:{pattern})")
    return re.compile(address, re.ASCII)


def test_every_token_is_described() -> None:
    for name, channel in MADE["channels"].items():
        tokens = re.findall(r"\{(\w+)\}", channel["address"] or "")
        assert tokens == list(channel.get("parameters", {})), name
    used = {
        reference["$ref"].rpartition("/")[2]
        for channel in MADE["channels"].values()
        for reference in channel.get("parameters", {}).values()
    }
    assert used == set(MADE["components"]["parameters"])


def test_patterns_say_which_subjects_there_are() -> None:
    subjects, task = Subjects(), TaskName("ada", "t-1")
    right = [
        ("submit", subjects.submit(task, "high"), "ae.v1.submit.ada.urgent.t-1"),
        ("from.done", subjects.claim("a1", "done", task), subjects.claim("a 1", "done", task)),
        ("ask.task", subjects.ask("a1", "task", task), subjects.ask("a1", "task", TaskName("a.b", "c"))),
        ("ask-all.agents", subjects.ask("a1", "agents"), subjects.ask("a1", "agents", task)),
        ("call", subjects.call("text.classify"), subjects.call("text..classify")),
        ("blob", subjects.blob(task, codec.digest(b""), 12), subjects.blob(task, "abc", 12)),
        ("bid", subjects.bid("a1", 3, task), subjects.bid("a" * 65, 3, task)),
        ("in.extend", subjects.inbox(3, "extend", task, "a1"), "ae.v1.in.x.extend.ada.t-1.a1"),
    ]
    for name, good, bad in right:
        pattern = matcher(MADE["channels"][name])
        assert pattern.fullmatch(good), good
        assert not pattern.fullmatch(bad), bad


def test_another_prefix_is_another_document() -> None:
    made = asyncapi("eu.acme")
    assert made["channels"]["from.done"]["address"] == "eu.acme.from.{peer}.done.{owner}.{id}"
    assert [at for at, part in parts(made["channels"]) if isinstance(part, str) and "ae.v1" in part] == []


# operations


def test_every_channel_has_its_senders_and_receivers() -> None:
    operations = MADE["operations"]
    for channel in channels(DEFAULT_PREFIX):
        mine = {name: made for name, made in operations.items() if made["channel"]["$ref"] == f"#/channels/{channel.name}"}
        assert {(made["action"], made["tags"][0]["name"]) for made in mine.values()} == {
            *(("send", role) for role in channel.kind.by if role != "server"),
            *(("receive", role) for role in channel.kind.to),
        }
        for name, made in mine.items():
            assert name == f"{made['tags'][0]['name']}.{made['action']}.{channel.name}"
    assert len(operations) == sum(len([*channel.kind.to, *channel.kind.by]) for channel in channels(DEFAULT_PREFIX)) - sum(
        "server" in channel.kind.by for channel in channels(DEFAULT_PREFIX)
    )


def test_what_is_durable_is_acknowledged_and_questions_are_answered() -> None:
    operations = MADE["operations"]
    assert operations["agent.send.from.done"]["reply"]["channel"] == {"$ref": "#/channels/acknowledgement"}
    assert operations["client.send.ask.task"]["reply"]["channel"] == {"$ref": "#/channels/to.answer"}
    assert len(operations["client.send.ask.blob"]["reply"]["messages"]) == 2
    assert "reply" not in operations["agent.send.offer"]
    assert "reply" not in operations["coordinator.receive.from.done"]


# schemas


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_golden_samples_fit(sample: Path) -> None:
    payload = MADE["components"]["messages"][kind_of(sample)]["payload"]
    assert problems(payload, document(sample), MADE) == []


def test_what_the_decoder_refuses_does_not_fit() -> None:
    payload = MADE["components"]["messages"]["call"]["payload"]
    call = {"task": "a.b", "subtask": "s", "capability": "c", "call": "x", "shard": 0, "reply_by_s": 1}
    fill = {"at": ["x"], "blob": {"digest": "d", "bytes": 1, "chunks": 1}}
    assert problems(payload, call | {"fill": [fill | {"slice": [0, 1]}]}, MADE) == []
    assert problems(payload, call | {"fill": [fill | {"slice": [0, 1, 2]}]}, MADE) != []
    assert problems(payload, call | {"fill": [fill | {"slice": ["0", 1]}]}, MADE) != []
    assert problems(payload, {"task": "a.b"}, MADE) != []


def test_an_acknowledgement_says_stored_or_why_not() -> None:
    payload = MADE["components"]["messages"][ACKNOWLEDGEMENT]["payload"]
    assert problems(payload, {"stream": "AE_INBOX", "seq": 12}, MADE) == []
    assert problems(payload, {"error": {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}}, MADE) == []
    assert problems(payload, {"stream": "AE_INBOX"}, MADE) != []
