"""Files inside one folder: ``agentexecutor agent agentexecutor.agents.autogpt.tools.files:agent``.

The folder is AGENTEXECUTOR_FILES_ROOT, else ``autogpt-files`` in the working folder. No path leaves it (`sandbox`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.autogpt.tools.sandbox import Outside, Sandbox
from agentexecutor.agents.errors import Fail

__all__ = ["Listed", "Listing", "Text", "Written", "agent", "make"]

FOLDER = "autogpt-files"
MAX_READ = 1_000_000
MAX_WRITE = 10_000_000
MAX_LISTED = 1000
NO_LINKS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)


class Text(msgspec.Struct):
    """A file's text. `cut`: there is more of it."""

    text: str
    bytes: int
    cut: bool = False


class Written(msgspec.Struct):
    """A file that was written."""

    path: str
    bytes: int


class Listed(msgspec.Struct):
    """Something in a folder; `bytes` null: it is a folder."""

    name: str
    bytes: int | None


class Listing(msgspec.Struct):
    """What is in a folder."""

    entries: list[Listed]


def make(root: Path | None = None) -> Agent:
    """Files below `root` (None: as the environment says)."""
    made = Agent("files", capacity=4)

    def sandbox() -> Sandbox:
        return Sandbox(root or Path(os.environ.get("AGENTEXECUTOR_FILES_ROOT") or FOLDER))

    @made.capability("files.read", estimate_s=0.05)
    def read(path: str, max_bytes: int = 100_000) -> Text:
        """The text of a file. `path` is relative to the folder of files."""
        limit = min(max(max_bytes, 1), MAX_READ)
        with _told(path):
            content = sandbox().read(path, limit)
        return Text(content[:limit].decode("utf-8", "replace"), min(len(content), limit), cut=len(content) > limit)

    @made.capability("files.write", estimate_s=0.05)
    def write(path: str, text: str) -> Written:
        """Write a text file, in the place of what was there. `path` is relative to the folder of files."""
        content = text.encode("utf-8", "replace")
        if len(content) > MAX_WRITE:
            raise Fail(f"{len(content)} bytes are too many for a file.", hint=f"At most {MAX_WRITE}.")
        with _told(path):
            sandbox().write(path, content)
        return Written(path, len(content))

    @made.capability("files.list", estimate_s=0.05)
    def list_(path: str = ".") -> Listing:
        """What is in a folder: names, and the sizes of files."""
        with _told(path):
            return Listing([Listed(entry.name, entry.bytes) for entry in sandbox().entries(path, MAX_LISTED)])

    return made


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What goes wrong is told to whoever planned it; another try would end the same."""
    try:
        yield
    except Outside as error:
        raise Fail(str(error), path=path[:200]) from error
    except OSError as error:
        if error.errno in NO_LINKS:
            raise Fail(f"{path!r:.200} leads through a link or a file; links are not followed.", path=path[:200]) from error
        raise Fail(f"{path!r:.200}: {error.strerror or error}.", path=path[:200]) from error


agent = make()
