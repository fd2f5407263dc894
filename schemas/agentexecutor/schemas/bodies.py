"""JSON text that every machine can read, whatever its decoder's own limits (docs/protocol.md section 1).

Bodies travel as text that nobody but handler and client decodes, so no decoder looks at their UTF-8, and how deep one can go depends on
the interpreter and on its caller. A claim that one coordinator could read might become a record that the next one cannot: so the limit
is fixed here. Knows bytes only, no messages.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

__all__ = ["MAX_BODY_DEPTH", "MAX_DEPTH", "lost_number", "readable", "why_unreadable"]

MAX_DEPTH = 200
"""Levels of objects and lists in a message."""

MAX_BODY_DEPTH = 190
"""Levels in an input or a result: it stands inside a message, in a plan four levels deep."""


def why_unreadable(payload: bytes | msgspec.Raw, limit: int) -> str | None:
    """What keeps others from reading this JSON text: no UTF-8, a number that is out of range, more than `limit` levels. None: nothing.

    The syntax was checked before, by the decoder that took the text out of its message.
    """
    text = bytes(payload)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason} at byte {error.start}"
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        return f"nested more than {limit} levels deep"
    except msgspec.MsgspecError as error:
        return str(error)
    shallow = text.count(b"[") + text.count(b"{") <= limit
    return None if shallow or _levels(value, limit + 1) <= limit else f"nested more than {limit} levels deep"


def readable(text: bytes | msgspec.Raw) -> Any:
    """What a JSON text says; a number that is out of range as text, half a character as `?`: a log may hold what was let in once, and a large result may."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        value = json.loads(bytes(text), parse_float=_number, parse_int=_number)
        return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _number(digits: str) -> float | int | str:
    number = float(digits)
    if math.isinf(number):
        return digits
    return int(digits) if digits.lstrip("-").isdigit() else number


def lost_number(value: object, encoded: bytes) -> str | None:
    """The first NaN or infinity in a value that was `encoded`: JSON has none, the encoder writes null. None: there is none."""
    if b"null" not in encoded:
        return None
    level = [msgspec.to_builtins(value, enc_hook=lambda _: None, str_keys=True)]
    while level:
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                return str(item)
        holders = [item for item in level if isinstance(item, dict | list | tuple)]
        level = [item for holder in holders for item in (holder.values() if isinstance(holder, dict) else holder)]
    return None


def _levels(value: object, enough: int) -> int:
    """How deep `value` nests, counted no further than `enough`. Level by level, without recursion."""
    level = [value]
    for depth in range(enough):
        holders = [item for item in level if isinstance(item, dict | list)]
        if not holders:
            return depth
        level = [item for holder in holders for item in (holder.values() if isinstance(holder, dict) else holder)]
    return enough
