"""The entry point `agentexecutor`: all commands in one group, and what an error becomes on its way out."""

from __future__ import annotations

import importlib.metadata
import os
import sys

import click

from agentexecutor.console.agent import agent
from agentexecutor.console.agents import agents, unserved
from agentexecutor.console.coordinator import coordinator
from agentexecutor.console.demo.command import demo
from agentexecutor.console.doctor import doctor
from agentexecutor.console.exits import Exit, exit_code, root_of, sentence
from agentexecutor.console.output import print_error
from agentexecutor.console.schema import schema
from agentexecutor.console.steer import cancel, feedback
from agentexecutor.console.submit import submit
from agentexecutor.console.tasks import show, tasks, watch
from agentexecutor.console.up import up
from agentexecutor.schemas.errors import AgentExecutorError

__all__ = ["cli", "main"]

COMMANDS = (demo, up, agent, coordinator, submit, tasks, show, watch, cancel, feedback, agents, unserved, doctor, schema)


class _Commands(click.Group):
    """Lists the commands in the order in which one meets them."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return [str(command.name) for command in COMMANDS]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("agentexecutor"), prog_name="agentexecutor")
def cli() -> None:
    """Publish tasks and have the right agents do them, on NATS and without a central controller.

    Start with `agentexecutor demo`; every command has --help with examples. Exit codes: 0 done, 1 the task failed, 2 usage, 3 no bus,
    4 deadline, time-out or cancelled.
    """


for command in COMMANDS:
    cli.add_command(command)


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
        code = _report(root_of(error))
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _report(error: BaseException) -> Exit:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing is left to say, not even at exit
        return Exit.PIPE
    if not isinstance(error, AgentExecutorError):
        raise error
    print_error(sentence(error))
    return exit_code(error)
