"""What goes wrong again and again is told now and then."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentexecutor.bus.complaints import Seldom

if TYPE_CHECKING:
    import pytest


def test_what_happens_again_is_told_seldom(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seldom = Seldom(logging.getLogger("test"), every_s=10.0)
    for number in range(5):
        seldom.tell("lease", "No lease %d.", number)
        seldom.tell("stream", "No stream %d.", number)
    now = 110.0
    seldom.tell("lease", "No lease %d.", 5)
    now = 120.0
    seldom.tell("lease", "No lease %d.", 6)
    assert caplog.messages == ["No lease 0.", "No stream 0.", "No lease 5. (Since the last such line: 4 more.)", "No lease 6."]
