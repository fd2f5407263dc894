"""What all commands share: the class that prints examples, --nats and --json, INPUT as JSON, and the way from a command to its coroutine."""

from __future__ import annotations

import json
import logging
import math
import sys
from codecs import BOM_UTF8
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from agentexecutor.bus.client import own_name
from agentexecutor.console.exits import UsageError
from agentexecutor.schemas.codec import decode_as
from agentexecutor.schemas.errors import DecodeFailed, NameRefused
from agentexecutor.schemas.names import TaskName, check_name, clean_name, new_id

__all__ = [
    "Command",
    "Finite",
    "Seconds",
    "command",
    "common",
    "full_name",
    "log_to_stderr",
    "read_given",
    "read_json",
    "read_text",
    "task_argument",
    "unique_name",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
NAME_LIMIT = 64
SUFFIX = 5
EXCERPT = 72


class Finite(click.FloatRange):
    """A number in a range; no NaN, no infinity."""

    unit = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number{self.unit}.", param, ctx)
        return number


class Seconds(Finite):
    """A number of seconds above 0."""

    unit = " of seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)


class Command(click.Command):
    """A command whose help ends with examples, printed as they are."""

    def __init__(self, *arguments: Any, examples: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def format_epilog(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def command(*examples: str, name: str | None = None, bus: bool = True) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command with --nats (told in its help when it needs a `bus`) and --json; `examples` are the lines that --help ends with."""

    def make(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=Command, examples=examples)(common(function, bus=bus))

    return make


def common(function: F, *, bus: bool = True) -> F:
    """--nats URL and --json."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON only, one object a line.")(function)
    help = "The bus. Else AGENTEXECUTOR_NATS_URL, else nats://127.0.0.1:4222."
    return click.option("--nats", metavar="URL", help=help, hidden=not bus)(function)


def task_argument(function: F) -> F:
    """TASK: a task's full name, or the id of one's own."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str) -> TaskName:
        try:
            return full_name(value)
        except NameRefused as error:
            raise click.BadParameter(str(error)) from error

    return click.argument("task", metavar="TASK", callback=read)(function)


def full_name(text: str) -> TaskName:
    """``<owner>.<id>``; an id alone is one's own task. Raises NameRefused."""
    return TaskName.parse(text) if "." in text else TaskName(own_name(), check_name("task", text))


def unique_name(name: str) -> str:
    """``<name>-<random>``, for a peer that shall not meet another of its name."""
    return f"{clean_name(name)[: NAME_LIMIT - SUFFIX - 1]}-{new_id(SUFFIX)}"


def log_to_stderr() -> None:
    """For programs that stay: what happens goes to stderr, with its time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def read_text(source: str, what: str) -> bytes:
    """The text that ``-`` (stdin) or a file's path stands for. Raises UsageError."""
    if source == "-":
        if sys.stdin is None:
            raise UsageError(f"{what} cannot be read: stdin is closed.", hint="Give the path of a file.")
        return sys.stdin.buffer.read().removeprefix(BOM_UTF8)
    try:
        return Path(source).read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{what} {source!r} cannot be read: {reason}.", hint="Give the path of a file, or - for stdin.") from error


def read_json(text: bytes, where: str, cls: type[T] | Any = Any) -> T:
    """Decode what a user wrote as `cls`; UsageError shows where it is wrong."""
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON: {_place(text, error)}", hint="Strings and keys need double quotes.") from error
    _refuse_twice(where, text)
    try:
        decoded: T = decode_as(cls, text)
    except DecodeFailed as error:
        raise UsageError(f"{where} does not fit: {error.fields['reason']}.", hint="Correct it there.") from error
    return decoded


def _refuse_twice(where: str, text: bytes) -> None:
    """Of two values of one name the first would be lost without a word."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{where} has {twice!r} twice in one object.", hint="Remove or rename one of them.")
        return made

    with suppress(RecursionError, ValueError):  # how deep it may be, and how large a number, is looked at by whoever takes it
        json.loads(text, object_pairs_hook=once)


def read_given(given: str, name: str) -> tuple[Any, str]:
    """A value that is JSON itself, @FILE, or - for stdin, and what to call it. Raises UsageError."""
    where, text = name, given.encode()
    if given == "-" or given.startswith("@"):
        text = read_text(given.removeprefix("@"), "The file")
        where = f"{name} from stdin" if given == "-" else f"{name} in {given[1:]}"
    return read_json(text, where), where


def _place(text: bytes, error: Exception) -> str:
    """What is wrong with a JSON text, its line, and a mark below the place."""
    try:
        json.loads(text)
    except json.JSONDecodeError as found:
        line = found.doc.splitlines()[found.lineno - 1] if found.doc.strip() else ""
        column = found.colno - 1
        start = max(0, column - EXCERPT // 2)
        mark = f"\n  {line[start : start + EXCERPT]}\n  {' ' * (column - start)}^\n" if line else ""
        return f"{found.msg} in line {found.lineno}, column {found.colno}.{mark}"
    except (UnicodeDecodeError, RecursionError) as found:
        return f"{found}."
    return f"{error}."
