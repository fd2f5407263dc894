"""A coordinator's settings, as a user gives them."""

from __future__ import annotations

import pytest

from agentexecutor.coordinator.errors import SettingRefused
from agentexecutor.coordinator.settings import NAMES, Settings, read_settings, settings_of


def test_the_later_counts_and_the_rest_is_as_ever() -> None:
    assert settings_of({}) == Settings()
    assert settings_of({"AGENTEXECUTOR_SETTINGS": "lost_after_s=10, losses = 3,"}, ["losses=4"]) == Settings(lost_after_s=10.0, losses=4)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_set_to_its_default(name: str) -> None:
    assert read_settings([f"{name}={getattr(Settings(), name)}"]) == Settings()


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("lost_after=1", "There are lost_after_s."),
        ("first_epoch=5", "There is no setting 'first_epoch'."),
        ("losses", "Write NAME=VALUE"),
        ("lost_after_s=soon", "cannot be 'soon'. Give a number"),
        ("lost_after_s=inf", "cannot be 'inf'"),
        ("keep_s=-1", "not below 0"),
        ("losses=1.5", "Give a whole number"),
        ("losses=0", "Give 1 at least."),
        ("lease_valid_s=2", "lease_valid_s (2) must be smaller than lease_silence_s (2)"),
        ("lost_after_s=1", "heartbeat_s (1) must be smaller than lost_after_s (1)"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(pair: str, said: str) -> None:
    with pytest.raises(SettingRefused) as refused:
        read_settings([pair])
    assert said in str(refused.value)
