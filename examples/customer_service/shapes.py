"""What the boxes hand to each other, as it travels in plans and results."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Answer", "Candidate", "Choice", "Facts", "Guess", "Intent", "Kept", "Lesson", "Question", "Said", "Turn", "Understood", "Word"]


class Said(msgspec.Struct, frozen=True):
    """An earlier turn of the conversation: what the customer said, what it was taken for, which order it was about, what was answered."""

    text: str
    intent: str
    order: str | None
    answer: str


class Turn(msgspec.Struct, frozen=True):
    """A turn as the dialogue engine opens it; `earlier`: the last ones, oldest first."""

    conversation: str
    text: str
    earlier: list[Said]


class Understood(msgspec.Struct, frozen=True):
    """What can be read from a text. `orders`: numbers of orders that it names; `shortened`: it was longer than anybody reads."""

    kind: Literal["question", "nothing", "wordless", "foreign"]
    text: str
    orders: list[str]
    follows: str | None
    """The order that the conversation is about."""
    shortened: bool = False


class Guess(msgspec.Struct, frozen=True):
    """What a text may be about, and with which probability."""

    intent: str
    share: float


class Intent(msgspec.Struct, frozen=True):
    """What the text is taken for. `topic`: of the knowledge that it asks for, None when it is not clear."""

    name: str
    route: Literal["orders", "knowledge", "person", "talk"]
    share: float
    topic: str | None = None
    order: str | None = None


class Facts(msgspec.Struct, frozen=True):
    """What the query engine found of an order; `number` None: the customer has named none."""

    number: str | None
    found: bool
    state: str = ""
    due: str = ""
    customer: str = ""
    items: list[str] = []
    total: str = ""
    cached: bool = False


class Candidate(msgspec.Struct, frozen=True):
    """An entry of the knowledge base that may answer: how alike its question is (0 to 1), who says so, how often it was given."""

    entry: int
    question: str
    topic: str
    likeness: float
    source: str
    votes: int


class Choice(msgspec.Struct, frozen=True):
    """What the reasoner decides for; `entry` None: nothing is sure enough."""

    entry: int | None
    likeness: float
    why: str
    another: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What the customer reads. `found`: the words of the knowledge base in it; `offer`: what may be asked next."""

    text: str
    source: Literal["knowledge", "orders", "person", "talk", "nothing"]
    entry: int | None = None
    found: str | None = None
    offer: Literal["help", "person"] | None = None


class Question(msgspec.Struct, frozen=True):
    """What the feedback generator asks the customer. `yes`, `no`: what that word means for the plan."""

    text: str
    yes: Literal["content", "unhappy"]
    no: Literal["content", "unhappy"]


class Word(msgspec.Struct, frozen=True):
    """What a person of the staff answered; empty: it was taken over, without an answer yet."""

    text: str
    sender: str


class Lesson(msgspec.Struct, frozen=True):
    """Something that a person taught: the question, its answer, and the entries that were wrong for it. `id`: of its row."""

    id: int
    question: str
    answer: str
    topic: str
    wrong: list[int]


class Kept(msgspec.Struct, frozen=True):
    """What the customer thought of the answer; None: said nothing."""

    helped: bool | None
    text: str = ""
