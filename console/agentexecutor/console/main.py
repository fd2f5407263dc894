"""The entry point `agentexecutor`: all commands in one group, and what an error becomes on its way out."""

from __future__ import annotations

import importlib
import os
import sys

import click

from agentexecutor.bus.errors import only_of
from agentexecutor.console.exits import Exit, exit_code, sentence
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

    Start with `agentexecutor demo`; every command has --help with examples. Exit codes: 0 done, 1 the task failed, 2 usage, 3 no bus,
    4 deadline, time-out or cancelled.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code. What goes wrong is one sentence on stderr."""
    try:
        code = cli.main(arguments, prog_name="agentexecutor", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place that can say what happened
        code = _report(only_of(error))
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _report(error: BaseException) -> Exit:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing is left to say, not even at exit
        return Exit.PIPE
    if not isinstance(error, AgentExecutorError):
        raise error
    print_error(sentence(error))
    return exit_code(error)
