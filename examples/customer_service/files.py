"""Where the SQLite files lie, and how they are opened. Every box that shares a file is on the same machine; elsewhere take a database server."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["VARIABLE", "folder", "opened"]

VARIABLE = "CUSTOMER_SERVICE_STORE"
DEFAULT = ".customer_service"
PATIENCE_S = 30.0


def folder() -> Path:
    """The folder of the files: from the environment, else below the current one."""
    return Path(os.environ.get(VARIABLE, DEFAULT))


@contextmanager
def opened(name: str) -> Iterator[sqlite3.Connection]:
    """A file's connection: one transaction, which is committed when the block ends without an error, and is waited for when another writes."""
    connection = sqlite3.connect(folder() / f"{name}.sqlite", timeout=PATIENCE_S)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            yield connection
    finally:
        connection.close()
