"""`schema`: write the JSON Schema of every message, and the AsyncAPI document of all subjects, into a folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import command
from agentexecutor.console.output import Output
from agentexecutor.schemas.asyncapi import asyncapi
from agentexecutor.schemas.export import export_schemas

__all__ = ["schema"]


@command("agentexecutor schema schemas/", "agentexecutor schema schemas/ --json | jq -r .file", bus=False)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def schema(folder: Path, nats: str | None, *, as_json: bool) -> None:  # noqa: ARG001 - every command takes --nats
    """Write JSON Schema files for all messages, and an AsyncAPI document.

    Schemas (draft 2020-12) into DIR: one for each message type, for plans, and for the views that `show`, `tasks`, `agents`, `unserved` and `watch` print
    with --json. asyncapi.json (AsyncAPI 3) tells of all subjects: what goes there with which headers, who sends it, what is stored.
    """
    out = Output(json=as_json)
    made = {**export_schemas(), "asyncapi": asyncapi()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            file = folder / f"{name}.json"
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if out.json:
                out.object({"name": name, "file": str(file)})
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.", hint="Name a folder that can be.") from error
    out.say(f"Wrote {len(made) - 1} schemas and asyncapi.json into {folder}.")
