"""How good the answers to questions that were held out are, and how good simpler ways would be. What counts as right is said in README.md.

A question is *known* when one of the answers that are accepted for it is among those that were learnt; nothing can be right about the others but to say so,
and ask a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from examples.customer_service import library
from examples.customer_service.corpus import Exchange, Parts, accepted_answers, hold_out, read_exchanges
from examples.customer_service.learning import Recogniser, choose, compared, taught
from examples.customer_service.texts import Likeness, normal

__all__ = ["Exam", "Marks", "Paper", "Topics", "Way", "boxes_alone", "exact", "topics_of_new_questions", "twins"]

PARAPHRASES = Path(__file__).with_name("paraphrases.tsv")
EVERYTHING = "everything"
OTHER = "topics"
Way = Callable[[str], str | None]
"""From a question to the answer; None: says that it does not know."""


class Marks(NamedTuple):
    """The share of right outcomes: of all questions, of the known ones, of the others."""

    all: float
    known: float
    unknown: float


class Topics(NamedTuple):
    """Of questions with wordings that were never learnt: the share of right topics, learnt, by keyword search, and by the commonest topic."""

    questions: int
    learnt: float
    keywords: float
    commonest: float


class Paper(NamedTuple):
    """Questions that are asked, and by their normal forms which of the answers that were learnt are right; none: only silence is right."""

    name: str
    questions: list[str]
    right: dict[str, set[str]]

    def known(self, question: str) -> bool:
        """Whether an answer that is right for it was learnt."""
        return bool(self.right[normal(question)])

    def marks(self, way: Way) -> Marks:
        """Of who answers like this."""
        outcomes = [(self.known(question), self._is_right(question, way(question))) for question in self.questions]
        return Marks(
            _share([right for _, right in outcomes]),
            _share([right for known, right in outcomes if known]),
            _share([right for known, right in outcomes if not known]),
        )

    def _is_right(self, question: str, answer: str | None) -> bool:
        return answer in self.right[normal(question)] if self.known(question) else answer is None

    def keywords_at_best(self) -> Marks:
        """Keyword search with the least score that would have been best for just these questions: more than anybody could know before."""
        found = {question: library.keywords(question) for question in self.questions}
        scores = sorted({0.0, *(one[1] for one in found.values() if one is not None)})

        def from_on(least: float) -> Way:
            return lambda question: one[0] if (one := found[question]) is not None and one[1] >= least else None

        return max((self.marks(from_on(least)) for least in scores), key=lambda marks: marks.all)


class Exam:
    """What is held out, as four papers, and the simple ways to answer it."""

    def __init__(self, parts: Parts | None = None) -> None:
        self.parts = parts or hold_out(read_exchanges())
        self._answers = Counter(exchange.answer for exchange in self.parts.learnt)
        self.accepted = accepted_answers(read_exchanges())

    def papers(self, count: int | None = None) -> list[Paper]:
        """Of the first `count` held-out exchanges (None: all); the last is the rephrased questions, which are not of the corpus."""
        asked = [one.question for one in self.parts.held_out[:count]]
        learnt = {normal(one.question) for one in self.parts.learnt}
        return [
            self._paper("all that is held out", asked, self.accepted),
            self._paper("each question once", {normal(question): question for question in reversed(asked)}.values(), self.accepted),
            self._paper("wording not learnt", [question for question in asked if normal(question) not in learnt], self.accepted),
            self.rephrased(),
        ]

    def rephrased(self) -> Paper:
        """The questions that were rephrased by hand."""
        lines = [line for line in PARAPHRASES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        pairs = [line.split("\t") for line in lines]
        accepted = {normal(text): self.accepted[normal(of)] if of != "-" else set() for of, text in pairs}
        return self._paper("rephrased by hand", [text for _, text in pairs], accepted)

    def _paper(self, name: str, questions: Iterable[str], accepted: dict[str, set[str]]) -> Paper:
        asked = list(questions)
        return Paper(name, asked, {normal(one): {answer for answer in accepted[normal(one)] if answer in self._answers} for one in asked})

    def simple_ways(self, paper: Paper) -> dict[str, Marks]:
        """The marks of what the service is compared with."""
        return {
            "exact lookup, else silence": paper.marks(exact(self.parts.learnt)),
            "keyword search (bm25)": paper.marks(_keywords),
            "keyword search, best least score": paper.keywords_at_best(),
            "keyword search in the answers": paper.marks(lambda question: _answer(library.keywords(question, index="by_answers"))),
            "always the most frequent answer": paper.marks(lambda _question: self.most_frequent),
            "always silent": paper.marks(lambda _question: None),
        }

    @property
    def most_frequent(self) -> str:
        """The answer that was given most often."""
        return self._answers.most_common(1)[0][0]


def exact(learnt: Iterable[Exchange]) -> Way:
    """The most frequent answer to the same words, else none."""
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for exchange in learnt:
        given[normal(exchange.question)][exchange.answer] += 1
    return lambda question: given[normal(question)].most_common(1)[0][0] if normal(question) in given else None


def boxes_alone(*, always: bool = False) -> Way:
    """What knowledge base, matcher and reasoner answer, without a bus. `always`: the nearest entry, however unlike it is."""
    alike = Likeness(library.questions())
    thresholds = dict.fromkeys(library.thresholds(), 0.0) if always else library.thresholds()

    @cache
    def answer(question: str) -> str | None:
        entry = choose(compared(question, map(library.candidate, library.search(question)), alike), [], thresholds, None).entry
        return None if entry is None else library.answer_of(entry)

    return answer


def twins() -> tuple[int, dict[str, float]]:
    """The only questions of the corpus that real people have worded in two ways: those that share an answer with another one.

    Each is asked as if its own wording were not there, and something is always answered. Gives their number and the share of right answers.
    """
    library.create(read_exchanges(), EVERYTHING)
    accepted = accepted_answers(read_exchanges())
    times = Counter(answer for answers in accepted.values() for answer in answers)
    asked = [question for question, answers in accepted.items() if any(times[answer] > 1 for answer in answers)]
    alike = Likeness(accepted)

    def nearest(question: str) -> str | None:
        others = {row["id"]: row for row in library.search(question, EVERYTHING) if row["normal"] != question}
        best = compared(question, map(library.candidate, others.values()), alike)[:1]
        return others[best[0].entry]["answer"] if best else None

    common = Counter(one.answer for one in read_exchanges()).most_common(1)[0][0]
    ways: dict[str, Way] = {
        "customer service": nearest,
        "keyword search (bm25)": lambda question: _answer(library.keywords(question, EVERYTHING, without=question)),
        "always the most frequent answer": lambda _question: common,
    }
    return len(asked), {name: _share([way(question) in accepted[question] for question in asked]) for name, way in ways.items()}


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


def _keywords(question: str) -> str | None:
    """Always what plain keyword search (bm25 over the same knowledge) puts first."""
    return _answer(library.keywords(question))


def _answer(found: tuple[str, float] | None) -> str | None:
    return None if found is None else found[0]


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
