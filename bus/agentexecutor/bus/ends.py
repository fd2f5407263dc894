"""How a process ended, in words."""

from __future__ import annotations

import signal

__all__ = ["how_it_ended", "signal_name"]


def signal_name(number: int) -> str:
    """As the manual pages name it; most real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def how_it_ended(code: int) -> str:
    """By Python's code of its end: negative is the signal that ended it."""
    return f"exit code {code}" if code >= 0 else f"signal {signal_name(-code)}"
