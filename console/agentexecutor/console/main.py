"""The entry point `agentexecutor`: all commands in one group, and what an error becomes on its way out."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from agentexecutor.bus.errors import only_of
from agentexecutor.console.exits import Exit, UsageError, exit_code, sentence
from agentexecutor.console.output import print_error
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "demo": "demo.command",
    "up": "up",
    "agent": "agent",
    "bridge": "bridge",
    "coordinator": "coordinator",
    "submit": "submit",
    "plan": "plan",
    "tasks": "tasks",
    "show": "tasks",
    "watch": "tasks",
    "cancel": "steer",
    "feedback": "steer",
    "agents": "agents",
    "unserved": "agents",
    "doctor": "doctor",
    "conformance": "conformance.command",
    "bench": "bench.command",
    "schema": "schema",
}
"""Where each command stands, in the order in which one meets them. A module is loaded when its command is run: the others cost nothing."""

STDERR = 2


class _Commands(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"agentexecutor.console.{COMMANDS[name]}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="agentexecutor", prog_name="agentexecutor")
def cli() -> None:
    """Publish tasks and have the right agents do them, on NATS and without a central controller.

    Start with `agentexecutor demo`; every command has --help with examples. Exit codes: 0 done, 1 the task failed or what was asked was
    refused, 2 usage, 3 no bus, 4 deadline, time-out or cancelled, 74 the answer cannot be written, 130 Ctrl-C, 141 nobody reads on.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code. What goes wrong is one sentence on stderr."""
    try:
        _open_what_is_closed()
        _refuse_bytes(sys.argv[1:] if arguments is None else arguments)
        code = cli.main(arguments, prog_name="agentexecutor", standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place that can say what happened
        code = _report(only_of(error))
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _open_what_is_closed() -> None:
    """Streams that the caller has closed go nowhere; what a stream's encoding does not have is written as an escape."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass  # else a socket would get its number
    os.close(free)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  # as long as the program runs
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_bytes(arguments: list[str]) -> None:
    """Raises UsageError for what is no text: it could be sent nowhere."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{argument!r} is no UTF-8.", hint="Write it in UTF-8, or give a file.") from None


def _say_no_more() -> None:
    """Nobody reads on: nothing is left to say, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: BaseException) -> Exit:
    if isinstance(error, BrokenPipeError):
        _say_no_more()
        return Exit.PIPE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT):
        with suppress(OSError):
            print_error(f"The answer cannot be written: {error.strerror}. What was asked for goes on.")
        _say_no_more()
        return Exit.UNWRITTEN
    if not isinstance(error, AgentExecutorError):
        raise error
    with suppress(OSError):
        print_error(sentence(error))
    return exit_code(error)
