"""Names that may stand in a subject (docs/protocol.md section 1). Anything else is refused here, never encoded."""

from __future__ import annotations

import os
import re
import time
from random import Random
from typing import NamedTuple

from agentexecutor.schemas.errors import NameRefused

__all__ = ["CAPABILITY_PATTERN", "NAME_PATTERN", "TaskName", "check_capability", "check_name", "clean_name", "new_boot", "new_id"]

NAME_PATTERN = r"[A-Za-z0-9_-]{1,64}"
CAPABILITY_PATTERN = rf"{NAME_PATTERN}(\.{NAME_PATTERN})*"

_NAME = re.compile(NAME_PATTERN, re.ASCII)
_CAPABILITY = re.compile(CAPABILITY_PATTERN, re.ASCII)
_CAPABILITY_LENGTH = 128
_random = Random()  # noqa: S311  # names must be unique, not secret; not the module's own, which programs seed
os.register_at_fork(after_in_child=_random.seed)


def check_name(what: str, name: str) -> str:
    """Give `name` back when it may name a peer, task or subtask; raise NameRefused otherwise."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise NameRefused(
        f"{name!r} cannot name a {what}.",
        hint="Use 1 to 64 of the characters A-Z a-z 0-9 _ - (other alphabets belong into inputs and labels).",
        what=what,
        name=name,
    )


def check_capability(name: str) -> str:
    """Give `name` back when it may name a capability; raise NameRefused otherwise."""
    if isinstance(name, str) and len(name) <= _CAPABILITY_LENGTH and _CAPABILITY.fullmatch(name):
        return name
    raise NameRefused(
        f"{name!r} cannot name a capability.",
        hint="Use words of A-Z a-z 0-9 _ - joined by dots, such as text.classify, up to 128 characters.",
        what="capability",
        name=name,
    )


def clean_name(text: str) -> str:
    """The nearest allowed name: every other character becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:64].strip("-") or "peer"


def new_id(length: int = 24) -> str:
    """A random word of `length` hexadecimal digits, at most 64 (24 of them hold 96 bits)."""
    return f"{_random.getrandbits(256):064x}"[:length]


def new_boot() -> str:
    """A name for this life of a process: the later started one compares larger."""
    return f"{time.time_ns() // 1_000_000:013d}-{new_id(8)}"


class TaskName(NamedTuple):
    """A task's full name; its text is ``<owner>.<id>``."""

    owner: str
    id: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> TaskName:
        """Read ``<owner>.<id>``; raises NameRefused."""
        owner, dot, task_id = text.partition(".")
        if not dot:
            raise NameRefused(f"{text!r} is not a task's full name.", hint="It is <owner>.<id>.", what="task", name=text)
        return cls(check_name("task owner", owner), check_name("task", task_id))
