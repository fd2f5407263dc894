"""How good the answers to held-out questions are, and how good simpler ways would be. What counts as right is said in README.md.

A question is *known* when one of the answers that the corpus accepts for it is among those that were learnt; nothing can be right about the others but to
say so, and ask a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from examples.customer_service import library
from examples.customer_service.corpus import Exchange, Parts, accepted_answers, hold_out, read_exchanges
from examples.customer_service.learning import Recogniser, taught
from examples.customer_service.texts import normal

__all__ = ["Exam", "Marks", "Topics", "topics_of_new_questions"]


class Marks(NamedTuple):
    """The share of right outcomes: of all held-out questions, of the known ones, of the others."""

    all: float
    known: float
    unknown: float


class Topics(NamedTuple):
    """Of questions with wordings that were never learnt: the share of right topics, learnt, by keyword search, and by the commonest topic."""

    questions: int
    learnt: float
    keywords: float
    commonest: float


class Exam:
    """The held-out questions, which answers are right, and the marks of whoever answers them (None: says that it does not know)."""

    def __init__(self, parts: Parts | None = None) -> None:
        self.parts = parts or hold_out(read_exchanges())
        self._accepted = accepted_answers(read_exchanges())
        self._learnt = Counter(exchange.answer for exchange in self.parts.learnt)

    def known(self, question: str) -> bool:
        """Whether an answer that is right for it was learnt."""
        return any(answer in self._learnt for answer in self._accepted[normal(question)])

    def right(self, question: str, answer: str | None) -> bool:
        """Whether the outcome is right."""
        return answer in self._accepted[normal(question)] if self.known(question) else answer is None

    def marks(self, asked: Sequence[Exchange], answers: Sequence[str | None]) -> Marks:
        """Of answers to these questions."""
        outcomes = [(self.known(one.question), self.right(one.question, answer)) for one, answer in zip(asked, answers, strict=True)]
        return Marks(
            _share([right for _, right in outcomes]),
            _share([right for known, right in outcomes if known]),
            _share([right for known, right in outcomes if not known]),
        )

    def most_frequent(self, asked: Sequence[Exchange]) -> Marks:
        """Always the answer that was given most often."""
        return self.marks(asked, [self._learnt.most_common(1)[0][0]] * len(asked))

    def keywords(self, asked: Sequence[Exchange]) -> Marks:
        """Always what plain keyword search (bm25 over the same knowledge) puts first."""
        found = _searched(asked)
        return self.marks(asked, [None if one is None else one[0] for one in found])

    def keywords_in_answers(self, asked: Sequence[Exchange]) -> Marks:
        """The same where nobody has collected questions: the customer's words are looked for in the answers."""
        found = _searched(asked, "by_answers")
        return self.marks(asked, [None if one is None else one[0] for one in found])

    def keywords_at_best(self, asked: Sequence[Exchange]) -> Marks:
        """The same with the least score that would have been best for just these questions: more than anybody could know before."""
        found = _searched(asked)
        scores = sorted({0.0, *(score for _, score in filter(None, found))})
        given = [(0.0, None) if one is None else (one[1], one[0]) for one in found]
        judged = [
            (score, self.right(one.question, answer), self.right(one.question, None))
            for one, (score, answer) in zip(asked, given, strict=True)
        ]
        best = max(scores, key=lambda least: sum(right if score >= least else silent for score, right, silent in judged))
        return self.marks(asked, [answer if score >= best else None for score, answer in given])


def topics_of_new_questions() -> Topics:
    """How well the topic is recognised of questions that nobody has learnt in any wording that is the same but for capitals and points.

    For this the different questions are held out, not the exchanges; the keyword index here is that of the questions that are learnt.
    """
    different = {normal(one.question): one for one in reversed(read_exchanges())}
    parts = hold_out(sorted(different.values()), seed="topics")
    recogniser = Recogniser(*taught(parts.learnt))
    asked = [(one.question, one.topic) for one in parts.held_out]
    guessed = [recogniser.guesses(question)[0].intent == topic for question, topic in asked]
    library.create(parts.learnt, name=OTHER)
    found = [library.keywords(question, name=OTHER) for question, _ in asked]
    topics = {one.answer: one.topic for one in parts.learnt}
    by_words = [one is not None and topics[one[0]] == topic for one, (_, topic) in zip(found, asked, strict=True)]
    commonest = Counter(one.topic for one in parts.learnt).most_common(1)[0][0]
    return Topics(len(asked), _share(guessed), _share(by_words), _share([topic == commonest for _, topic in asked]))


OTHER = "topics"


def _searched(asked: Sequence[Exchange], index: Literal["by_words", "by_answers"] = "by_words") -> list[tuple[str, float] | None]:
    """What keyword search finds for each question; many occur several times."""
    found = {question: library.keywords(question, index=index) for question in dict.fromkeys(one.question for one in asked)}
    return [found[one.question] for one in asked]


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
