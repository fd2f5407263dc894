"""`agent`: load an Agent from a file or module and serve it until stopped."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from functools import partial
from pathlib import Path
from types import ModuleType

import click

from agentexecutor.agents import Agent
from agentexecutor.agents.program import run_serving, serve_until_stopped
from agentexecutor.bus import telemetry
from agentexecutor.bus.client import Bus
from agentexecutor.console.exits import UsageError
from agentexecutor.console.options import command, log_to_stderr, unique_name
from agentexecutor.console.output import Output
from agentexecutor.schemas.names import check_name

__all__ = ["agent", "load_agent", "serve_agent"]

EXTRAS = {"llm": ("openai", "httpx2", "httpcore2"), "demo": ("sklearn", "scipy", "joblib")}
"""Which of our extras brings a module that an agent of ours needs."""


@command(
    "agentexecutor agent examples/hello/agent.py:agent",
    "agentexecutor agent mypackage.workers:classifier --capacity 4",
    "agentexecutor agent examples/hello/agent.py:agent --name hello-1 --no-coordinate",
)
@click.argument("where", metavar="FILE.py:NAME|MODULE:NAME")
@click.option("--name", metavar="N", help="The peer name. Else the agent's own with a random ending, so that several can run.")
@click.option("--capacity", type=click.IntRange(1, 1_000_000), metavar="N", help="How many subtasks at once; else what the agent says.")
@click.option("--no-coordinate", is_flag=True, help="Take no share of coordinating.")
def agent(where: str, name: str | None, capacity: int | None, nats: str | None, *, no_coordinate: bool, as_json: bool) -> None:
    """Serve an agent from a file or module, until stopped.

    NAME is the Agent object in it. When it is stopped, what runs is finished or given back. It takes a share of coordinating besides.
    """
    loaded = load_agent(where)
    if capacity is not None:
        loaded.capacity = capacity
    serve_agent(loaded, name, nats, coordinate=not no_coordinate, as_json=as_json)


def serve_agent(agent: Agent, name: str | None, nats: str | None, *, coordinate: bool, as_json: bool) -> None:
    """Serve until stopped, and say so. `name` None: the agent's own with a random ending."""
    peer = unique_name(agent.name) if name is None else check_name("peer", name)
    log_to_stderr()
    telemetry.setup(agent.name)
    out = Output(json=as_json)

    def began(bus: Bus) -> None:
        _announce(out, agent, peer, bus.connection.url)

    def stops() -> None:
        out.say(f"{peer} stops: what runs is finished or given back.")

    run_serving(partial(serve_until_stopped, agent, peer, url=nats, coordinate=coordinate, began=began, stops=stops))


def _announce(out: Output, agent: Agent, peer: str, url: str) -> None:
    if out.json:
        out.object({"name": peer, "capabilities": list(agent.handlers), "capacity": agent.capacity, "nats": url})
    out.say(f"{peer} offers {', '.join(agent.handlers)}; capacity {agent.capacity}; on {url}. Stop with Ctrl-C.")


def load_agent(where: str) -> Agent:
    """The Agent that ``FILE.py:NAME`` or ``MODULE:NAME`` names. Raises UsageError."""
    source, colon, name = where.rpartition(":")
    if not colon or not source or not name:
        raise UsageError(f"{where!r} names no agent.", hint="Write FILE.py:NAME or MODULE:NAME, as in examples/hello/agent.py:agent.")
    module = _load(source)
    found = getattr(module, name, None)
    if isinstance(found, Agent):
        if not found.handlers:
            raise UsageError(f"The agent {name!r} in {source} has no capability.", hint="Add one with @agent.capability(...).")
        return found
    agents = [known for known, value in vars(module).items() if isinstance(value, Agent)]
    there = f"There {'are' if len(agents) > 1 else 'is'}: {', '.join(agents)}." if agents else "It has no Agent at all."
    what = f"{source} has no {name!r}." if not hasattr(module, name) else f"{name!r} in {source} is a {type(found).__name__}, no Agent."
    raise UsageError(what, hint=there)


def _load(source: str) -> ModuleType:
    try:
        if source.endswith(".py") or "/" in source:
            return _load_file(Path(source))
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(source)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and source.split(".", maxsplit=1)[0] == error.name.split(".")[0]:
            raise UsageError(f"There is no module {source!r}.", hint="Is it installed, or below the current folder?") from error
        raise UsageError(f"{source} needs a module that is not installed: {error.name}.", hint=_how_to_install(error.name)) from error
    except Exception as error:
        traceback.print_exc()
        text = str(error).rstrip(".")
        raise UsageError(f"{source} cannot be loaded: {type(error).__name__}: {text}.", hint="The traceback above says where.") from error


def _how_to_install(module: str | None) -> str:
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return "Install it." if extra is None else f"Install it with: pip install 'agentexecutor[{extra}]'."


def _load_file(path: Path) -> ModuleType:
    """A file as a module of its own name, its folder importable as when Python runs it."""
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.", hint="Give the path of a Python file, or MODULE:NAME.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file.", hint="Its name must end with .py.")
    sys.path.insert(0, str(path.parent.absolute()))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
