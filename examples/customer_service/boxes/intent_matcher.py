"""The intent matcher (意图匹配器): decides for one intent, and with it for the way through the other boxes."""

from __future__ import annotations

from typing import Literal

from examples.customer_service.kit import box
from examples.customer_service.phrases import OPENINGS, ORDER_INTENTS, PHRASES, TALK_INTENTS
from examples.customer_service.shapes import Guess, Intent, Understood

__all__ = ["agent", "match"]

agent = box("intent-matcher")
SURE = 0.5
"""A wish to the shop is taken up from this probability on; else the knowledge base is asked."""
TOPIC = 0.3
ROUTES: dict[str, Literal["knowledge", "talk"]] = {}
ROUTES.update((intent, "knowledge") for intent in OPENINGS)
ROUTES.update((intent, "talk") for intent in TALK_INTENTS)


@agent.capability("intent.match", estimate_s=0.002)
async def match(understood: Understood, guesses: list[Guess]) -> Intent:
    """Numbers of orders weigh more than words; what follows an order may leave its number out."""
    if understood.kind != "question" or not guesses:
        return Intent(name=understood.kind, route="talk", share=1.0)
    best = guesses[0]
    number = understood.orders[0] if understood.orders else None
    wish = next((guess for guess in guesses if guess.intent in ORDER_INTENTS), None)
    if best.intent == "order.cancel" and best.share >= SURE:
        return Intent(best.intent, "person", best.share, order=number or understood.follows)
    if number is not None:
        return Intent(wish.intent if wish else "order.status", "orders", wish.share if wish else 1.0, order=number)
    if best.share >= SURE and best.intent in ORDER_INTENTS:
        return Intent(best.intent, "orders", best.share, order=understood.follows)
    if best.share >= SURE and best.intent in PHRASES:
        return Intent(best.intent, ROUTES.get(best.intent, "person"), best.share)
    topic = best.intent if best.share >= TOPIC and best.intent not in PHRASES else None
    return Intent(topic or "unclear", "knowledge", best.share, topic=topic)
