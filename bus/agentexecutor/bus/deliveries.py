"""What the server says of a message that it delivers, in the subject that acknowledges it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Delivery", "delivery_of"]

SECOND = 1_000_000_000


class Delivery(NamedTuple):
    """What a JetStream reply subject tells. `seq`: in the stream; `stamp`: the server's, seconds since 1970; `more` wait for the consumer."""

    deliveries: int
    seq: int
    stamp: float
    more: int


def delivery_of(reply: str) -> Delivery:
    """Read a JetStream reply subject.

    ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>``, in the longer form two tokens and a
    random one more.
    """
    tokens = reply.split(".")
    first = 7 if len(tokens) > 9 else 5  # noqa: PLR2004  # the short form has 9 tokens
    return Delivery(int(tokens[first - 1]), int(tokens[first]), int(tokens[first + 2]) / SECOND, int(tokens[first + 3]))
