"""Real processes are killed and stopped while tasks flow; nothing is lost, nothing counts twice, nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import chaos
from place import SIGNALS, VICTIMS, schedule

pytestmark = pytest.mark.anyio

EVERY_KIND = {f"{victim} {name}" for victim in VICTIMS for name in SIGNALS}


@pytest.mark.parametrize(("nodes", "kills"), [(1, 12), (3, 8)], ids=["single", "cluster"])
async def test_nothing_is_lost_doubled_or_left(tmp_path: Path, nodes: int, kills: int) -> None:
    report = await chaos(tmp_path, seed=nodes, kills=kills, nodes=nodes)
    assert report.findings == [], f"the processes' logs are in {tmp_path}"
    assert report.kills == kills
    assert set(report.faults) == EVERY_KIND
    assert report.states["completed"] > report.kills
    assert report.tasks == sum(report.states.values())
    assert report.runs > report.tasks
    assert report.unseen < report.records, "watch has seen something"


def test_a_seed_repeats_the_choice_of_faults() -> None:
    assert schedule(7, 50, 3) == schedule(7, 50, 3) != schedule(8, 50, 3)
    assert {f"{one.victim} {one.signal}" for one in schedule(7, 0, 3)} == EVERY_KIND
    assert sum(one.signal == "SIGKILL" for one in schedule(7, 50, 3)) == 50
