"""All settings of a coordinator and their defaults (docs/protocol.md uses the same words). Seconds unless the name says otherwise."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

import msgspec

from agentexecutor.coordinator.errors import SettingRefused

__all__ = ["NAMES", "Settings", "read_settings", "settings_of"]


@dataclass(frozen=True)
class Settings:
    """How long is waited for what, and how much is held."""

    heartbeat_s: float = 1.0
    lost_after_s: float = 4.0
    accept_timeout_s: float = 2.0
    soft_accept_s: float = 1.0
    bidding_s: float = 0.2
    bidders: int = 8
    bids_kept: int = 8
    candidates: int = 32
    """An award looks at no more than so many of the agents that fit and are free."""
    call_factor: float = 100.0
    """Auction `auto` calls when the expected work is over this many bidding rounds."""
    retries: int = 2
    backoff_s: float = 0.2
    backoff_max_s: float = 30.0
    losses: int = 5
    """So many agents lost over one subtask fail it."""
    suspend_s: float = 1.0
    suspend_max_s: float = 60.0
    grace_s: float = 5.0
    stall_factor: float = 2.0
    """So many times what an agent promised, it may be silent about its work before it counts as stalled."""
    stall_min_s: float = 5.0
    """And never less; a stalled one is looked at again after so long."""
    first_epoch: int = 1
    """Awards are numbered from here on at least. Not for users: the shell sets it after a restart of the server (docs/adr/0011)."""
    keep_s: int = 7 * 24 * 3600
    policies: frozenset[str] = frozenset()
    """Names of the installed award policies: a submit that asks for another is refused. Empty: not checked."""
    open_tasks: int = 20_000
    lease_renew_s: float = 0.5
    lease_valid_s: float = 1.5
    lease_silence_s: float = 2.0
    lag_s: float = 0.5


NAMES = tuple(field.name for field in fields(Settings) if field.name not in ("first_epoch", "policies"))
"""Those that a user may set."""
ORDERED = (("lease_renew_s", "lease_valid_s"), ("lease_valid_s", "lease_silence_s"), ("heartbeat_s", "lost_after_s"))
"""Of each pair the first must be smaller: else nobody keeps a lease, two hold the same, or every agent is lost."""
_TYPES = {name: int if Settings.__annotations__[name] == "int" else float for name in NAMES}
AT_LEAST_ONE = ("bidders", "candidates", "losses", "keep_s", "open_tasks")


def read_settings(pairs: Iterable[str]) -> Settings:
    """``name=value`` each; of two of the same name the later counts. Raises SettingRefused."""
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise SettingRefused(f"{pair!r} is no setting.", hint="Write NAME=VALUE, such as lost_after_s=10.", setting=pair)
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=3) or NAMES
            raise SettingRefused(f"There is no setting {name!r}.", hint=f"There are {', '.join(near)}.", setting=name)
        given[name] = value
    return _checked({name: _number(name, value) for name, value in given.items()})


def settings_of(environment: Mapping[str, str], pairs: Iterable[str] = ()) -> Settings:
    """The defaults, then what AGENTEXECUTOR_SETTINGS says (pairs with commas between), then `pairs`. Raises SettingRefused."""
    inherited = (pair for pair in environment.get("AGENTEXECUTOR_SETTINGS", "").split(",") if pair.strip())
    return read_settings([*inherited, *pairs])


def _number(name: str, text: str) -> float:
    try:
        number: float = msgspec.convert(text, _TYPES[name], strict=False)
    except msgspec.ValidationError:
        number = math.nan
    if not 0 <= number < math.inf:
        what = "a whole number" if _TYPES[name] is int else "a number"
        raise SettingRefused(f"{name} cannot be {text!r}.", hint=f"Give {what}, not below 0.", setting=name)
    return number


def _checked(given: dict[str, float]) -> Settings:
    settings = msgspec.convert(given, Settings)
    values = asdict(settings)
    for name in AT_LEAST_ONE:
        if values[name] < 1:
            raise SettingRefused(f"{name} cannot be {values[name]:g}.", hint="Give 1 at least.", setting=name)
    for smaller, larger in ORDERED:
        if values[smaller] >= values[larger]:
            raise SettingRefused(
                f"{smaller} ({values[smaller]:g}) must be smaller than {larger} ({values[larger]:g}).",
                hint="Set both; docs/settings.md says what they trade.",
                setting=smaller,
            )
    return settings
