"""A folder that paths cannot leave: every part of a path is opened below the one before it, and no link is followed, so nothing can be swapped in between.

Knows nothing of agents.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from agentexecutor.schemas.names import new_id

__all__ = ["Entry", "Outside", "Sandbox"]

MAX_PARTS = 64
MAX_NAME = 255
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not hold us up


class Outside(Exception):
    """The path would leave the folder, or is none."""


class Entry(NamedTuple):
    """Something in a folder; `bytes` of a file, None for a folder."""

    name: str
    bytes: int | None


class Sandbox:
    """The folder `root`; it is made when it is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, limit: int) -> bytes:
        """Up to `limit` + 1 bytes of a file. Raises Outside, OSError."""
        *folders, name = self._parts(path)
        with self._folder(folders) as folder:
            file = os.open(name, _FILE, dir_fd=folder)
            try:
                _check_plain(file, path)
                with os.fdopen(os.dup(file), "rb") as opened:
                    return opened.read(limit + 1)
            finally:
                os.close(file)

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole: who reads it sees the old or the new one. Folders on the way are made. Raises Outside, OSError."""
        *folders, name = self._parts(path)
        with self._folder(folders, make=True) as folder:
            self._refuse_what_is_no_file(name, folder, path)
            new = f".{new_id(12)}.new"
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(new, dir_fd=folder)
                raise

    def entries(self, path: str, limit: int) -> list[Entry]:
        """What is in a folder, by name; links and other strange things are left out. Raises Outside, OSError."""
        parts = [] if path in ("", ".", "./") else self._parts(path)
        entries = []
        with self._folder(parts) as folder, os.scandir(folder) as found:
            for one in found:
                if one.is_dir(follow_symlinks=False):
                    entries.append(Entry(one.name, None))
                elif one.is_file(follow_symlinks=False):
                    entries.append(Entry(one.name, one.stat(follow_symlinks=False).st_size))
        return sorted(entries)[:limit]

    def _parts(self, path: str) -> list[str]:
        """The names in a path. Raises Outside."""
        if "\0" in path:
            raise Outside("A path holds no NUL.")
        if path.startswith("/") or "\\" in path:
            raise Outside(f"{path!r:.200} is absolute or holds a backslash; give a path below the folder, such as notes/plan.md.")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            raise Outside(f"{path!r:.200} names no file.")
        if ".." in parts:
            raise Outside(f"{path!r:.200} would leave the folder; `..` is not allowed.")
        try:
            too_long = len(parts) > MAX_PARTS or any(len(part.encode()) > MAX_NAME for part in parts)
        except UnicodeEncodeError:
            raise Outside(f"{path!r:.200} is no text that could be a name.") from None
        if too_long:
            raise Outside(f"{path[:100]!r}... is too long.")
        return parts

    @contextmanager
    def _folder(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        """A folder below the root, open; gone through part by part, never through a link."""
        self.root.mkdir(parents=True, exist_ok=True)
        here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=here)
                below = os.open(part, _FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    @staticmethod
    def _refuse_what_is_no_file(name: str, folder: int, path: str) -> None:
        """A link would only be replaced by the rename, but who wrote the plan means its target: better said. Raises Outside."""
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise Outside(f"{path!r:.200} is there and no plain file; it is left alone.")


def _check_plain(file: int, path: str) -> None:
    """Raises Outside."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise Outside(f"{path!r:.200} is no plain file.")
    if found.st_nlink > 1:
        raise Outside(
            f"{path!r:.200} has other names (hard links), which may be outside the folder; it is not read. A copy of it could be."
        )
