"""What is learnt from the corpus: which intent a text has, how alike questions must be, and which entry is the best. Knows neither agents nor the bus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from examples.customer_service.corpus import Exchange
from examples.customer_service.phrases import PHRASES
from examples.customer_service.shapes import Candidate, Choice, Guess
from examples.customer_service.texts import Likeness, normal
from msgspec.structs import replace

__all__ = ["OTHERS", "SUPPORT", "Recogniser", "Thresholds", "choose", "compared", "learn_thresholds", "ranked", "taught"]

Thresholds = dict[str, float]
"""By topic, how alike a question in other words must be for an answer to be given; `OTHERS`: for topics that are not in it."""
OTHERS = ""
SUPPORT = "tech_support"
LEAST = 0.3
STEP = 0.01
ENOUGH = 5
NEARLY = 0.99
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


def compared(text: str, candidates: Iterable[Candidate], alike: Likeness) -> list[Candidate]:
    """How alike each is, best first. The same question word for word is 1, and before everything else; nothing else is more than `NEARLY`."""
    asked = normal(text)

    def likeness(question: str) -> float:
        return 1.0 if question == asked else min(round(alike(text, question), 4), NEARLY)

    return ranked(replace(one, likeness=likeness(one.question)) for one in candidates)


def choose(candidates: Sequence[Candidate], tried: Sequence[int], thresholds: Thresholds, topic: str | None) -> Choice:
    """The entry whose answer is given, or none. With `tried` (entries that have not helped) it is a second try."""
    fresh = [one for one in ranked(candidates) if one.entry not in tried]
    if not fresh:
        return Choice(None, 0.0, "the knowledge base has nothing that is like it", another=bool(tried))
    best = fresh[0]
    tried_topics = {one.topic for one in candidates if one.entry in tried}
    related = bool(tried) and best.likeness >= ANOTHER and best.topic in tried_topics | {topic}
    if best.likeness >= least(best, thresholds) or related:
        return Choice(best.entry, best.likeness, f"{best.likeness:.2f} like {best.question!r}", another=bool(tried))
    return Choice(None, best.likeness, f"the nearest, {best.question!r}, is only {best.likeness:.2f} like it", another=bool(tried))


# how alike is alike enough


def least(candidate: Candidate, thresholds: Thresholds) -> float:
    """How alike its question must be. What the staff has taught is support, whatever topic was guessed."""
    topic = SUPPORT if candidate.source == "person" else candidate.topic
    return thresholds.get(topic, thresholds[OTHERS])


def learn_thresholds(nearest: Iterable[tuple[str, float, bool]]) -> Thresholds:
    """By topic, the likeness from which on answering other words is right more often than silence; equally good ones: the lowest.

    `nearest` has for each learnt question, asked as if nobody had ever asked it in these words, the entry that is nearest then: its topic,
    how alike it is, and whether its answer would be right. Topics with fewer than `ENOUGH` of them share what is learnt from all.
    """
    by_topic: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for topic, likeness, right in nearest:
        by_topic[topic].append((likeness, right))
    learnt = {topic: _best(judged) for topic, judged in by_topic.items() if len(judged) >= ENOUGH}
    return learnt | {OTHERS: _best([one for judged in by_topic.values() for one in judged])}


def _best(judged: Sequence[tuple[float, bool]]) -> float:
    lowest = sorted({LEAST, *(round(likeness + STEP, 2) for likeness, _ in judged if likeness + STEP > LEAST)})
    return max(lowest, key=lambda least: sum(1 if right else -1 for likeness, right in judged if likeness >= least))
