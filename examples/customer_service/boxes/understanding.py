"""Dialogue understanding (对话理解器): what can be read from a text, and which order the conversation is about."""

from __future__ import annotations

import re
from typing import Literal

from examples.customer_service.kit import box
from examples.customer_service.shapes import Said, Turn, Understood
from examples.customer_service.texts import LONGEST, cut, latin_share, words

__all__ = ["agent", "understand"]

agent = box("understanding")
MARKED = re.compile(r"#\s?(\w*[0-9]\w*)")
PLAIN = re.compile(r"(?<![#\w])([0-9]{4,}\w*|(?<=order )[0-9]{3}\b)", re.IGNORECASE)
"""Both find numbers that no order can have, too: who mistypes one does not mean the order before."""
ABOUT_ORDERS = frozenset({"order", "orders", "ordered", "parcel", "package", "delivery", "shipment", "shipped", "arrive"})
LATIN = 0.5


@agent.capability("dialogue.understand", estimate_s=0.002)
async def understand(turn: Turn) -> Understood:
    """Plain words, numbers of orders (`#1042`, or `1042` where orders are spoken of), and what the text follows."""
    text = cut(turn.text)
    follows = next((said.order for said in reversed(turn.earlier) if said.order), None)
    kind: Literal["question", "nothing", "wordless", "foreign"] = "question"
    if not text:
        kind = "nothing"
    elif latin_share(text) < LATIN:
        kind = "foreign"
    elif not words(text):
        kind = "wordless"
    shortened = len(" ".join(turn.text.split())) > LONGEST
    return Understood(kind=kind, text=text, orders=_orders(text, turn.earlier), follows=follows, shortened=shortened)


def _orders(text: str, earlier: list[Said]) -> list[str]:
    """A bare number is that of an order only where orders are spoken of: in this text, or in the turn before."""
    found = MARKED.findall(text)
    if PLAIN.fullmatch(text) or ABOUT_ORDERS & set(words(text)) or (earlier and earlier[-1].intent.startswith("order.")):
        found += PLAIN.findall(text)
    return list(dict.fromkeys(found))
