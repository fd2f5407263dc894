"""The AsyncAPI 3 document of all subjects, made from the table in `channels`, the builders in `subjects` and the structs. Pure.

``python -m agentexecutor.schemas.asyncapi > docs/asyncapi.json`` renews the committed one; `agentexecutor schema DIR` writes it too.

NATS has next to no bindings in AsyncAPI, so what the document cannot say by itself stands in extensions: ``x-ae-durable`` (send it as a
request; the reply is the acknowledgement), ``x-ae-stream`` (who keeps it), ``x-ae-sender`` (roles), ``x-ae-pattern`` (of a token).
An operation is named for the role that a process plays: ``agent.send.from.done``, ``coordinator.receive.from.done``.
"""

from __future__ import annotations

import re
from typing import Any

from agentexecutor.schemas.channels import AGENT, CLIENT, COORDINATOR, VARIANTS, Channel, channels
from agentexecutor.schemas.codec import (
    H_EXPECTED,
    H_ID,
    H_PRIORITY,
    H_RE,
    H_ROLLUP,
    H_STATE,
    H_TRACEPARENT,
    H_TRACESTATE,
    H_TTL,
    H_TYPE,
    TYPES,
)
from agentexecutor.schemas.export import Schema, shared_schemas
from agentexecutor.schemas.names import CAPABILITY_PATTERN, NAME_PATTERN
from agentexecutor.schemas.subjects import CLASSES, DEFAULT_PREFIX

__all__ = ["ACKNOWLEDGEMENT", "HEADERS", "asyncapi"]

VERSION = "1"
"""Of the wire, as in the prefix; the distribution has another."""
ACKNOWLEDGEMENT = "acknowledgement"
ROLES = {
    AGENT: "offers capabilities, bids, is awarded subtasks and executes them",
    CLIENT: "publishes tasks and waits for their results",
    COORDINATOR: "writes what is decided into the tasks' logs",
}
NUMBER = "[0-9]+"
DESCRIPTION = """Agents bid for subtasks on NATS. docs/protocol.md says what the messages mean and what a peer must do; this document says
which there are: it is generated from the code. Every subject begins with the prefix, `ae.v1` unless the installation says otherwise.
Fields and message types that a reader does not know are ignored."""

PARAMETERS: dict[str, tuple[str, str]] = {
    "owner": (NAME_PATTERN, "The peer that submitted the task."),
    "id": (NAME_PATTERN, "The task's id; its full name is `<owner>.<id>`."),
    "sender": (NAME_PATTERN, "The sender's own name."),
    "receiver": (NAME_PATTERN, "The peer that it is for."),
    "class": ("|".join(CLASSES), "high: priority above 0; low: below 0."),
    "shard": (NUMBER, "FNV-1a (32 bits) of owner and id, modulo the number of shards."),
    "capability": (CAPABILITY_PATTERN, "Up to 128 characters; its dots make several tokens."),
    "digest": ("[0-9a-f]{64}", "SHA-256 of the whole body."),
    "n": (NUMBER, "The chunk's number, from 0."),
}
"""Tokens → pattern, and what they are. The token ``{peer}`` is `sender` or `receiver`."""

HEADERS: dict[str, Schema] = {
    H_TYPE: {"type": "string", "description": "The message's type."},
    H_ID: {
        "type": "string",
        "pattern": f"^{NAME_PATTERN}$",
        "description": "Random, new for every message that says something new; a message that is sent again keeps it.",
    },
    H_TRACEPARENT: {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", "description": "W3C trace context."},
    H_TRACESTATE: {"type": "string", "description": "W3C trace context."},
    H_RE: {"type": "string", "pattern": f"^{NAME_PATTERN}$", "description": "The question's Ae-Id."},
    H_STATE: {"type": "string", "description": "The task's state after this record."},
    H_PRIORITY: {"type": "string", "pattern": "^-?[0-9]+$", "description": "The task's priority, when that is not 0."},
    H_EXPECTED: {"type": "string", "pattern": f"^{NUMBER}$", "description": "The fence: the sequence of the last message on this subject."},
    H_ROLLUP: {"const": "sub", "description": "A task's last record: it replaces all others."},
    H_TTL: {"type": "string", "pattern": "^[0-9]+s$", "description": "A task's last record: after so long it goes."},
    "Nats-Sequence": {"type": "string", "pattern": f"^{NUMBER}$", "description": "The record's sequence in the log's stream."},
    "Nats-Last-Sequence": {"type": "string", "pattern": f"^{NUMBER}$", "description": "That of the record of this task before it, or 0."},
    "Nats-Time-Stamp": {"type": "string", "description": "The server's stamp, RFC 3339."},
}

_RECORD = (H_STATE, H_PRIORITY, H_EXPECTED, H_ROLLUP, H_TTL)
_MORE_HEADERS: dict[str, tuple[str, ...]] = {
    "answer": (H_RE,),
    "answered-chunk": (H_RE,),
    "lease": (H_EXPECTED,),
    "record": _RECORD,
    "watched-record": (*_RECORD, "Nats-Sequence", "Nats-Last-Sequence", "Nats-Time-Stamp"),
}
"""Beside type, id and trace context, by message."""
_NOT_ALWAYS = {H_ID, H_TRACEPARENT, H_TRACESTATE, H_PRIORITY, H_ROLLUP, H_TTL}
_ID_FAMILIES = {"submit", "from", "ask", "ask-all"}
"""Submits, claims and questions: without an Ae-Id they are refused."""


def asyncapi(prefix: str = DEFAULT_PREFIX) -> Schema:
    """The document, ready to be written as JSON."""
    table = list(channels(prefix))
    return {
        "asyncapi": "3.0.0",
        "id": "urn:agentexecutor:v1",
        "info": {
            "title": "AgentExecutor",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
            "tags": [{"name": role, "description": f"A process that {what}."} for role, what in ROLES.items()],
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "Where a server listens when nobody says more."}
        },
        "channels": {channel.name: _channel(channel) for channel in table} | {ACKNOWLEDGEMENT: _acknowledgements()},
        "operations": {name: made for channel in table for name, made in _operations(channel).items()},
        "components": {
            "parameters": {name: {"description": about, "x-ae-pattern": pattern} for name, (pattern, about) in PARAMETERS.items()}
            | {"class": {"description": PARAMETERS["class"][1], "enum": list(CLASSES), "x-ae-pattern": PARAMETERS["class"][0]}},
            "messages": _messages(table),
            "schemas": shared_schemas(TYPES.values(), "#/components/schemas/"),
        },
    }


def _channel(channel: Channel) -> Schema:
    words = re.findall(r"\{(\w+)\}", channel.address)
    names = {word: channel.family.peer if word == "peer" else word for word in words}
    made: Schema = {
        "address": channel.address,
        "description": channel.kind.about,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.kind.messages},
        "x-ae-sender": list(channel.kind.by),
        "x-ae-durable": channel.family.durable,
    }
    if names:
        made["parameters"] = {word: {"$ref": f"#/components/parameters/{name}"} for word, name in names.items()}
    if channel.family.stream is not None:
        made["x-ae-stream"] = channel.family.stream
    return made


def _operations(channel: Channel) -> dict[str, Schema]:
    """What each role does on a channel; the server's own doing is no program's operation."""
    made = {}
    for action, roles in (("send", channel.kind.by), ("receive", channel.kind.to)):
        for role in roles:
            if role not in ROLES:
                continue
            operation: Schema = {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel.name}"},
                "summary": channel.kind.about,
                "tags": [{"name": role}],
                "messages": _references(channel.name, channel.kind.messages),
            }
            if action == "send" and channel.family.durable:
                operation["reply"] = _reply(ACKNOWLEDGEMENT, (ACKNOWLEDGEMENT,))
            elif action == "send" and channel.kind.reply:
                answers = ("answer", "answered-chunk") if channel.kind.name == "blob" else ("answer",)
                operation["reply"] = _reply(channel.kind.reply, answers)
            made[f"{role}.{action}.{channel.name}"] = operation
    return made


def _references(channel: str, messages: tuple[str, ...]) -> list[Schema]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages]


def _reply(channel: str, messages: tuple[str, ...]) -> Schema:
    return {"channel": {"$ref": f"#/channels/{channel}"}, "messages": _references(channel, messages)}


def _messages(table: list[Channel]) -> dict[str, Schema]:
    made = {name: _message(name, table) for channel in table for name in channel.kind.messages}
    return dict(sorted(made.items())) | {ACKNOWLEDGEMENT: _acknowledgement()}


def _message(name: str, table: list[Channel]) -> Schema:
    type = VARIANTS.get(name, name)
    known = (H_TYPE, H_ID, H_TRACEPARENT, H_TRACESTATE, *_MORE_HEADERS.get(name, ()))
    needs_id = all(channel.family.name in {*_ID_FAMILIES, "new", "in"} for channel in table if name in channel.kind.messages)
    headers = {
        "type": "object",
        "properties": {header: HEADERS[header] for header in known} | {H_TYPE: {**HEADERS[H_TYPE], "const": type}},
        "required": [header for header in known if header not in _NOT_ALWAYS or (header == H_ID and needs_id)],
    }
    made: Schema = {"name": type, "title": name, "headers": headers}
    if type in TYPES:
        return made | {"payload": {"$ref": f"#/components/schemas/{TYPES[type].__name__}"}}
    return made | {"contentType": "application/octet-stream", "payload": {"type": "string", "format": "binary"}}


def _acknowledgements() -> Schema:
    return {
        "address": None,
        "description": "The NATS reply subject of a request: the server's word that a durable message is stored, or why it is not.",
        "messages": {ACKNOWLEDGEMENT: {"$ref": f"#/components/messages/{ACKNOWLEDGEMENT}"}},
        "x-ae-sender": ["server"],
        "x-ae-durable": False,
    }


def _acknowledgement() -> Schema:
    number: dict[str, Any] = {"type": "integer", "minimum": 0}
    error = {"type": "object", "properties": {"code": number, "err_code": number, "description": {"type": "string"}}, "required": ["code"]}
    stored = {"type": "object", "properties": {"stream": {"type": "string"}, "seq": number, "error": error}}
    return {
        "name": ACKNOWLEDGEMENT,
        "title": ACKNOWLEDGEMENT,
        "summary": "Without an error the message is stored. 10077 and 10023 pass: send it again; 10054, too large, never does.",
        "payload": stored | {"anyOf": [{"required": ["stream", "seq"]}, {"required": ["error"]}]},
    }


if __name__ == "__main__":
    import json

    print(json.dumps(asyncapi(), indent=2, ensure_ascii=False))  # noqa: T201  # its output is the document
