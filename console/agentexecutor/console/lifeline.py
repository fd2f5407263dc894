"""How started processes (the demo's, the bench's) end when the one that started them is gone, however it went: a pipe whose one end only the starter holds.

When the starter dies the kernel closes its end, also after ``kill -9``; the others read the end of the pipe and stop. Knows nothing else.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VARIABLE", "held", "hold_on"]

VARIABLE = "AGENTEXECUTOR_LIFELINE"
"""Names the file descriptor of the pipe in the environment of the started processes."""
GRACE_S = 8.0
"""For a stop in good order; then the process ends itself."""


@contextmanager
def held() -> Iterator[int]:
    """The starter's side: gives the descriptor that started processes inherit (``pass_fds``). The line is cut when the block ends."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def hold_on() -> None:
    """The other side: stop this process once its starter is gone. Does nothing when no starter named a pipe."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        threading.Thread(target=_wait, args=(int(named),), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
