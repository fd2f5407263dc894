"""Who coordinates which shard, without comparing clocks. Pure; times are monotonic seconds of this process, passed in.

A lease is the last message on a shard's subject. Its holder appends a renewal every `lease_renew_s` with the sequence before as its fence, and regards
itself as out `lease_valid_s` after it *sent* the last one that was acknowledged. Others count the silence since they *received* the last sequence (or
reconnected); after `lease_silence_s` they read the subject from the leader, and when it still has the same sequence they append with it as the fence:
one wins. Nobody takes a live lease. Members divide the shards evenly: each may hold the floor or the ceiling of shards / members, by rank of name.
"""

from __future__ import annotations

from msgspec import Struct

from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m

__all__ = ["Beat", "Confirm", "GiveUp", "LeaseAction", "Leases", "Renew", "Take"]

PAUSE_S = 0.1
"""Up to so long a free shard is left to others, by chance."""
SOON_S = 0.02
"""Nothing is looked at more often."""
FORGET = 10
"""Times `lease_silence_s`: members that are silent for longer are forgotten when another comes."""


class Beat(Struct, frozen=True):
    """Publish the member message."""


class Renew(Struct, frozen=True):
    """Append a renewal; then `won` or `lost`."""

    shard: int
    expected: int


class Take(Struct, frozen=True):
    """Append one's own lease; then `won` or `lost`."""

    shard: int
    expected: int


class Confirm(Struct, frozen=True):
    """Read the subject from the leader; then `confirmed`."""

    shard: int


class GiveUp(Struct, frozen=True):
    """Finish what is in flight, append an empty lease, then `released`."""

    shard: int
    expected: int


LeaseAction = Beat | Renew | Take | Confirm | GiveUp


class _Shard(Struct):
    """What is known of one shard's lease. `seq` None: nothing heard yet."""

    seq: int | None = None
    holder: str = ""
    ours: bool = False
    """Won by this process and not lost since."""
    on_record: bool = False
    """The last lease on the subject names this process."""
    heard: float = 0.0
    sent_at: float = 0.0
    tried_at: float = 0.0
    lost_at: float = float("-inf")
    """An acknowledgement of something that was sent before counts no more."""
    asked: bool = False
    giving_up: bool = False
    not_before: float = 0.0
    orphaned: str = ""
    """Its last holder did not give it up: it fell silent, or nobody is known to have held it."""


class Leases:
    """The leases as this process sees them. `due` says what to do; the caller reports what came of it."""

    def __init__(self, peer: str, boot: str, shards: int, settings: Settings) -> None:
        self._peer = peer
        self._boot = boot
        self._settings = settings
        self._shards = [_Shard() for _ in range(shards)]
        self._members: dict[str, float] = {}
        self._leaving = False
        self._heard_itself = False
        """Its own beat came back: it knows the server's time (6), and may hold shards."""
        self._next_beat = 0.0
        self._started: float | None = None

    # what is heard

    def lease_seen(self, now: float, shard: int, lease: m.Lease | None, seq: int) -> bool:
        """The last message of a shard's subject; `lease` None: something else stands there (it only moves the sequence).

        True when there may be something to do: it is more than another renewal.
        """
        known = self._shards[shard]
        if known.seq is not None and seq < known.seq:
            return False
        before = known.seq is None, known.holder, known.on_record, known.ours, known.giving_up
        if seq != known.seq:
            known.heard = now
        known.seq = seq
        known.holder = "" if lease is None else lease.holder
        known.on_record = lease is not None and (lease.holder, lease.boot) == (self._peer, self._boot)
        known.asked = False
        if not known.on_record:
            known.ours = False
            known.giving_up = False
            known.orphaned = ""
        return before != (False, known.holder, known.on_record, known.ours, known.giving_up)

    def member_seen(self, now: float, peer: str, member: m.Member) -> bool:
        """A process that could coordinate, or one that is leaving. True when it was not known, or is not any more."""
        before = peer in self._members, self._heard_itself
        if member.leaving:
            self._members.pop(peer, None)
        else:
            if peer not in self._members:
                self._forget_members(now)
            self._members[peer] = now
            self._heard_itself |= (peer, member.boot) == (self._peer, self._boot)
        return before != (peer in self._members, self._heard_itself)

    def _forget_members(self, now: float) -> None:
        """Those who have long been silent: processes come under ever new names."""
        since = now - FORGET * self._settings.lease_silence_s
        self._members = {peer: heard for peer, heard in self._members.items() if heard >= since}

    def reconnected(self, now: float) -> None:
        """Silence counts from now on."""
        for known in self._shards:
            known.heard = now
            known.asked = False
        for peer in self._members:
            self._members[peer] = now

    # what came of actions

    def confirmed(self, now: float, shard: int, seq: int | None, lease: m.Lease | None) -> None:
        """The leader's word about a silent shard (seq None: its subject is empty)."""
        known = self._shards[shard]
        known.asked = False
        if seq is None:
            known.seq, known.holder, known.on_record = 0, "", False
            known.orphaned = "nobody"
        elif seq != known.seq:
            self.lease_seen(now, shard, lease, seq)
        elif not known.on_record and now - known.heard > self._settings.lease_silence_s:
            known.holder = ""
            known.orphaned = "silent"

    def won(self, sent_at: float, shard: int, seq: int) -> None:
        """A renewal or a take that was sent at `sent_at` was acknowledged."""
        known = self._shards[shard]
        if sent_at < known.lost_at or (known.seq is not None and seq < known.seq):
            return
        known.seq, known.holder, known.sent_at, known.heard = seq, self._peer, sent_at, sent_at
        known.ours = known.on_record = True

    def lost(self, now: float, shard: int, expected: int | None = None) -> None:
        """An append was refused or not answered: the lease may be another's.

        `expected`: its fence. When a renewal that was sent before has moved the sequence meanwhile, the refusal says nothing else.
        """
        known = self._shards[shard]
        if expected is not None and known.ours and known.seq is not None and known.seq > expected and self.holds(now, shard):
            return
        known.ours = known.giving_up = known.asked = False
        known.seq = None
        known.lost_at = now
        known.heard = now
        known.not_before = now + self._settings.lease_renew_s

    def released(self, now: float, shard: int) -> None:
        """Given up in good order."""
        self.lost(now, shard)

    # what holds

    def holds(self, now: float, shard: int) -> bool:
        """Whether this process may still act for a shard: its lease has not run out."""
        known = self._shards[shard]
        return known.ours and now < known.sent_at + self._settings.lease_valid_s

    def orphaned(self, shard: int) -> str:
        """Why who held the shard before has not given it up: ``silent``, or ``nobody`` is known; else empty.

        What that one had not yet told anybody, it never will.
        """
        return self._shards[shard].orphaned

    def held(self, now: float) -> list[int]:
        """All shards that this process holds."""
        return [shard for shard in range(len(self._shards)) if self.holds(now, shard)]

    def draining(self) -> list[int]:
        """Shards that are being given up: nothing new is begun there."""
        return [shard for shard, known in enumerate(self._shards) if known.giving_up]

    def members(self, now: float) -> int:
        """How many processes share the coordinating, this one included."""
        return len(self._living(now))

    def _living(self, now: float) -> list[str]:
        silent = now - self._settings.lease_silence_s
        names = {peer for peer, heard in self._members.items() if heard >= silent}
        return sorted(names - {self._peer} if self._leaving else names | {self._peer})

    def quota(self, now: float) -> int:
        """How many shards this process may hold."""
        living = self._living(now)
        if self._leaving or not living:
            return 0
        floor, more = divmod(len(self._shards), len(living))
        return floor + (1 if living.index(self._peer) < more else 0)

    def leave(self, now: float) -> None:
        """Stop in good order: all shards are to be given up."""
        self._leaving = True
        self._next_beat = now

    # what is to be done

    def due(self, now: float, seed: int) -> list[LeaseAction]:
        """What is to be done now. Each action is told once until its outcome is reported (or its time has come again)."""
        if self._started is None:
            self._started = now
            for shard, known in enumerate(self._shards):
                known.heard = now
                known.not_before = now + PAUSE_S * ((seed + shard * 31) % 100) / 100
        actions: list[LeaseAction] = []
        if now >= self._next_beat:
            self._next_beat = now + self._settings.lease_renew_s
            actions.append(Beat())
        actions += self._renewals(now)
        actions += self._give_ups(now)
        actions += self._takes(now, seed)
        return actions

    def _renewals(self, now: float) -> list[LeaseAction]:
        actions: list[LeaseAction] = []
        for shard, known in enumerate(self._shards):
            if known.ours and not self.holds(now, shard):
                self.lost(now, shard)
            elif known.ours and known.seq is not None and now >= max(known.sent_at, known.tried_at) + self._settings.lease_renew_s:
                known.tried_at = now
                actions.append(Renew(shard, known.seq))
        return actions

    def _give_ups(self, now: float) -> list[LeaseAction]:
        mine = [shard for shard, known in enumerate(self._shards) if known.ours]
        excess = len(mine) - self.quota(now)
        for shard in reversed(mine):
            if excess <= 0:
                break
            self._shards[shard].giving_up = True
            excess -= 1
        return [
            GiveUp(shard, known.seq) for shard, known in enumerate(self._shards) if known.giving_up and known.ours and known.seq is not None
        ]

    def _takes(self, now: float, seed: int) -> list[LeaseAction]:
        room = self._room(now)
        actions: list[LeaseAction] = []
        count = len(self._shards)
        for step in range(count):
            shard = (seed + step) % count
            known = self._shards[shard]
            if room <= 0:
                break
            if known.ours or now < known.not_before:
                continue
            action = self._toward(now, shard, known)
            if action is not None:
                actions.append(action)
                room -= 1
        return actions

    def _room(self, now: float) -> int:
        """How many shards more it may hold."""
        return self.quota(now) - sum(known.ours for known in self._shards) if self._heard_itself else 0

    def _toward(self, now: float, shard: int, known: _Shard) -> LeaseAction | None:
        free = known.seq is not None and (known.holder == "" or known.on_record)
        if free and known.seq is not None:
            known.not_before = now + self._settings.lease_renew_s
            return Take(shard, known.seq)
        silent = now - known.heard > self._settings.lease_silence_s
        if (known.seq is None or silent) and not known.asked:
            known.asked = True
            return Confirm(shard)
        return None

    def next_due(self, now: float) -> float:
        """When `due` has something to do next."""
        times = [self._next_beat]
        times += [max(known.sent_at, known.tried_at) + self._settings.lease_renew_s for known in self._shards if known.ours]
        if self._room(now) > 0:
            times += [max(self._looks_at(known), now + SOON_S) for known in self._shards if not known.ours and not known.asked]
        return max(now, min(times))

    def _looks_at(self, known: _Shard) -> float:
        """When there may be something to do about a shard that is not ours."""
        if known.seq is None or known.holder == "" or known.on_record:
            return known.not_before
        return max(known.not_before, known.heard + self._settings.lease_silence_s)
