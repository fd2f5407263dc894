"""How customers speak to a shop: what the corpus has no examples of. Written for this example; everything else is learnt from the corpus."""

from __future__ import annotations

__all__ = ["OPENINGS", "ORDER_INTENTS", "PHRASES", "TALK_INTENTS"]

ORDER_INTENTS = ("order.status", "order.content")
TALK_INTENTS = ("thanks", "bye")
OPENINGS = ("greeting", "help")
"""The knowledge base goes first: it may have an answer."""

PHRASES: dict[str, tuple[str, ...]] = {
    "order.status": (
        "where is my order", "where is my parcel", "where is my package", "when will my order arrive", "order", "my order", "when will it arrive",
        "has my order been shipped", "is my order on its way", "track my order", "status of my order", "what is the status of my order",
        "my order has not arrived", "my parcel is late", "when do i get my delivery", "when is the delivery", "and when does it come",
        "i am still waiting for my order", "how is my order doing", "was my parcel sent", "delivery date of my order", "check my order",
    ),
    "order.content": (
        "what did i order", "what is in my order", "what is in my parcel", "which items are in my order", "how much was my order",
        "how much did i pay for my order", "what did i pay for it", "how much did it cost", "how much was it","what was the price of my order",
        "what have i bought", "list the items of my order",
        "show me the content of my order", "what does my order cost", "total of my order",
    ),
    "order.cancel": (
        "cancel my order", "i want to cancel my order", "please cancel the order", "i do not want the order any more", "stop my order",
        "i want my money back", "i want a refund", "return my order", "send my order back", "refund my order please",
    ),
    "person": (
        "let me speak to a person", "i want to talk to a human", "can i speak to somebody", "i need a human", "get me a real person",
        "connect me to an agent", "i want to speak to an employee", "transfer me to a colleague", "your manager please", "talk to a person",
    ),
    "greeting": (
        "hi there", "hello there", "hey", "hey there", "good morning", "good evening", "good afternoon", "hello is anybody there", "hi can i ask something",
    ),
    "help": (
        "help", "help me", "can you help me", "i need help", "please help", "what can you do", "what can i ask you", "i have a problem", "i have a question",
    ),
    "thanks": ("thanks", "thank you", "thank you very much", "thanks a lot", "many thanks", "that was helpful thank you", "cheers thanks", "great thanks"),
    "bye": ("bye", "goodbye", "good bye", "see you", "see you later", "that was all", "that is all thanks bye", "have a nice day"),
}  # fmt: skip
