"""How a process ended, in words."""

from __future__ import annotations

import signal

import pytest

from agentexecutor.bus.ends import how_it_ended, signal_name


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGKILL, "signal SIGKILL"),
        (-(signal.SIGRTMIN + 1), f"signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_an_end_is_put_into_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert signal_name(signal.SIGTERM) == "SIGTERM"
    assert signal_name(200) == "200"
