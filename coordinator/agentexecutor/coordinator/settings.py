"""All settings of a coordinator and their defaults (docs/protocol.md uses the same words). Seconds unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


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
