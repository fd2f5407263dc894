"""What is learnt from the corpus: which intent a text has, how alike questions must be, and which entry is the best. Knows neither agents nor the bus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from examples.customer_service.corpus import Exchange, hold_out
from examples.customer_service.phrases import PHRASES
from examples.customer_service.shapes import Candidate, Choice, Guess
from examples.customer_service.texts import normal

__all__ = ["Recogniser", "choose", "learn_threshold", "ranked", "taught"]

SURE = 0.95
"""Of the answers that are given so many shall be right, on questions that were not learnt."""
LEAST = 0.5
STEP = 0.01
GUESSES = 3
ANOTHER = 0.3
"""A second try, for a customer whom the first has not helped, may be less alike, when it is of the same topic."""


class Recogniser:
    """From a text to intents: topics of the corpus and what customers want from a shop. Tf-idf of words and letters, logistic regression."""

    def __init__(self, texts: Sequence[str], intents: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  # takes a second, and one box needs it
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # the same
        from sklearn.pipeline import make_pipeline, make_union  # noqa: PLC0415  # the same

        single, letters = {"ngram_range": (1, 2), "token_pattern": r"\w+"}, {"analyzer": "char_wb", "ngram_range": (2, 4)}
        counted = make_union(*(TfidfVectorizer(sublinear_tf=True, **how) for how in (single, letters)))
        self._model: Any = make_pipeline(counted, LogisticRegression(C=10, tol=1e-2, max_iter=300, class_weight="balanced"))
        self._model.fit([normal(text) for text in texts], list(intents))

    def guesses(self, text: str) -> list[Guess]:
        """The likeliest intents, best first; equal ones in the order of the alphabet."""
        shares = self._model.predict_proba([normal(text)])[0]
        ranked = sorted(zip(self._model.classes_, shares, strict=True), key=lambda pair: (-pair[1], pair[0]))
        return [Guess(intent=str(intent), share=round(float(share), 4)) for intent, share in ranked[:GUESSES]]


def taught(exchanges: Iterable[Exchange]) -> tuple[list[str], list[str]]:
    """Texts and their intents: every different question of the corpus with its topic, and the phrases of a shop."""
    topics: dict[str, str] = {}
    for exchange in exchanges:
        topics.setdefault(normal(exchange.question), exchange.topic)
    phrases = [(phrase, intent) for intent, said in PHRASES.items() for phrase in said]
    pairs = [*topics.items(), *phrases]
    return [text for text, _ in pairs], [intent for _, intent in pairs]


# the best entry


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first: the most alike; then what a person has taught, what was given most often, and the oldest."""
    return sorted(candidates, key=lambda one: (-round(one.likeness, 2), one.source != "person", -one.votes, one.entry))


def choose(candidates: Sequence[Candidate], tried: Sequence[int], threshold: float, topic: str | None) -> Choice:
    """The entry whose answer is given, or none. With `tried` (entries that have not helped) it is a second try."""
    fresh = [one for one in ranked(candidates) if one.entry not in tried]
    if not fresh:
        return Choice(None, 0.0, "the knowledge base has nothing that is like it", another=bool(tried))
    best = fresh[0]
    tried_topics = {one.topic for one in candidates if one.entry in tried}
    related = bool(tried) and best.likeness >= ANOTHER and best.topic in tried_topics | {topic}
    if best.likeness >= threshold or related:
        return Choice(best.entry, best.likeness, f"{best.likeness:.2f} like {best.question!r}", another=bool(tried))
    return Choice(None, best.likeness, f"the nearest, {best.question!r}, is only {best.likeness:.2f} like it", another=bool(tried))


def learn_threshold(exchanges: Sequence[Exchange], nearest: Callable[[str, dict[str, list[Exchange]]], tuple[float, str]]) -> float:
    """How alike a question must be: as little as keeps `SURE` of the given answers right on a part of what is learnt that is held out again.

    `nearest` gives the most alike of the questions and how alike it is.
    """
    inner = hold_out(list(exchanges), seed="threshold")
    known: dict[str, list[Exchange]] = defaultdict(list)
    accepted: dict[str, set[str]] = defaultdict(set)
    for exchange in inner.learnt:
        known[normal(exchange.question)].append(exchange)
    for exchange in exchanges:
        accepted[normal(exchange.question)].add(exchange.answer)
    judged: list[tuple[float, bool]] = []
    for asked in (normal(exchange.question) for exchange in inner.held_out):
        likeness, found = nearest(asked, known)
        judged.append((likeness, any(exchange.answer in accepted[asked] for exchange in known.get(found, ()))))
    lowest = LEAST
    while lowest < 1.0:
        given = [right for likeness, right in judged if likeness >= lowest]
        if given and sum(given) >= SURE * len(given):
            return round(lowest, 2)
        lowest += STEP
    return 1.0
