"""What a customer typed as words, and how alike two texts are. Pure; no library has what is needed here: a measure that also counts words it has never seen."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["LONGEST", "Likeness", "cut", "latin_share", "normal", "plain", "words"]

LONGEST = 2000
"""Characters of a customer's text that anybody reads; the rest is cut off."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
SPELLED_OUT = (
    *(("won't", "will not"), ("can't", "can not"), ("cannot", "can not"), ("n't", " not"), ("'re ", " are "), ("'ve ", " have ")),
    *((f"{asked}'s ", f"{asked} is ") for asked in ("what", "who", "where", "how", "it", "that", "there")),
    *(("i'm ", "i am "), ("i'd ", "i would "), ("'s ", " ")),
)
GRAM = 3
STEM = 3
SAME = {"pc": "computer", "desktop": "computer", "notebook": "laptop", "display": "screen", "monitor": "screen", "wifi": "internet"} | {
    "wlan": "internet",
    "audio": "sound",
    "camera": "webcam",
}
"""What customers call the things of the shop, in the words of the knowledge base. Written for this example, as a shop would; the rest is learnt."""
LIGHT = 0.1
FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a an the is are am was were be been do does did have has had will would can could should may might shall must not no i you he she it we they"
        " me him her us them my your his its our their this that these those there here what who whom which where when why how of in on at to for from"
        " with by about as and or but if so than too very just any some all get please"
    )
)
"""They hold a sentence together and weigh a tenth: `my` and `is not` make two problems of a customer no more alike."""
POWER = 2
"""Of the rareness: what a question is about counts far more than how it is asked."""
WORDS_COUNT = 0.6
"""Of the likeness; the rest is that of the letters, which forgives spelling."""


def cut(text: str) -> str:
    """The part of a text that is read: no control characters or lone surrogates, one space where there were several, not too long."""
    shown = (" " if unicodedata.category(char)[0] in "CZ" else char for char in text[: 4 * LONGEST])
    return " ".join("".join(shown).split())[:LONGEST]


def words(text: str) -> list[str]:
    """Its words in lower case, `won't` as `will not`."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    for short, long in SPELLED_OUT:
        folded = folded.replace(short, long)
    return [word.replace("'", "") for word in WORD.findall(folded)]


@lru_cache(maxsize=4096)
def normal(text: str) -> str:
    """The form in which two texts are the same question."""
    return " ".join(words(text))


def plain(text: str) -> list[str]:
    """Its words, things of the shop by the name that the knowledge base has for them."""
    return [SAME.get(word, word) for word in words(text)]


def latin_share(text: str) -> float:
    """Which part of its letters belongs to the Latin alphabet; 1 when it has no letters."""
    letters = [char for char in text if char.isalpha()]
    return sum("LATIN" in unicodedata.name(char, "") for char in letters) / len(letters) if letters else 1.0


class Likeness:
    """How alike two questions are, 0 to 1. Learnt from questions: how rare each word is; one that was never seen is the rarest."""

    def __init__(self, questions: Iterable[str]) -> None:
        seen: Counter[str] = Counter()
        count = 0
        for question in questions:
            seen.update({_stem(word) for word in plain(question)})
            count += 1
        self._rarest = (math.log(1 + count) + 1) ** POWER
        self._weights = dict.fromkeys(map(_stem, FUNCTION_WORDS), LIGHT * self._rarest)
        for word, times in seen.items():
            weight = (math.log((1 + count) / (1 + times)) + 1) ** POWER
            self._weights[word] = LIGHT * weight if word in self._weights else weight

    def __call__(self, one: str, other: str) -> float:
        """1 for the same words in any order."""
        mine, yours = _stems(one), _stems(other)
        return WORDS_COUNT * self._shared(mine, yours) + (1 - WORDS_COUNT) * _dice(_grams(one), _grams(other))

    def _shared(self, mine: Counter[str], yours: Counter[str]) -> float:
        both = self._weight(mine) + self._weight(yours)
        return 2 * self._weight(mine & yours) / both if both else 0.0

    def _weight(self, bag: Counter[str]) -> float:
        return sum(times * self._weights.get(word, self._rarest) for word, times in bag.items())


def _dice(mine: Counter[str], yours: Counter[str]) -> float:
    both = mine.total() + yours.total()
    return 2 * (mine & yours).total() / both if both else 0.0


@lru_cache(maxsize=4096)
def _stems(text: str) -> Counter[str]:
    return Counter(map(_stem, plain(text)))


@lru_cache(maxsize=4096)
def _grams(text: str) -> Counter[str]:
    padded = f" {' '.join(plain(text))} "
    return Counter(padded[start : start + GRAM] for start in range(len(padded) - GRAM + 1))


def _stem(word: str) -> str:
    """Without the commonest endings of English."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= STEM:
            return word[: -len(ending)]
    return word
