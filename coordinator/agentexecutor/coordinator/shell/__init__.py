"""The coordinator at work: receives, decides, appends, sends, acknowledges. The only asynchronous folder here; what is decided stands in the pure files.

`coordinator` puts the parts together, takes what arrives, keeps time and holds the shards. Its parts: `driving` (tasks are taken through their turns),
`journal` (fenced appends), `outbox` (what is sent), `hearing` (offers and bids), `leasing`, `takeover` (what a shard's new holder does first), `restart`
(of the server), `questions`, `unusable`, `insisting`.

The ten rules of a coordinator's life are marked by their numbers: an append that is refused or unanswered is unknown (1), ignoring is final only
for reasons that stay true (2), the lease is checked before each append (3), submits are pulled while there is room (4), absence is confirmed by the
inbox (5), the clock is the server's (6), questions are answered (7), accepts are soft (8, in `turns`), a log that went back is loaded again (9), the
winner of a lease makes the shard's consumers anew (10).
"""

from __future__ import annotations

from agentexecutor.coordinator.shell.coordinator import Coordinator

__all__ = ["Coordinator"]
