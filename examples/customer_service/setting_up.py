"""Everything that is made before the first customer comes: the files, and what is learnt from the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from examples.customer_service import diary, library, shop
from examples.customer_service.corpus import Exchange, accepted_answers, hold_out, read_exchanges
from examples.customer_service.files import folder
from examples.customer_service.learning import compared, learn_thresholds
from examples.customer_service.texts import Likeness

__all__ = ["set_up"]


def set_up(*, all_of_it: bool) -> Path:
    """Make the folder with its files, unless it is there; `all_of_it`: also what the report asks, which it must not know. Gives the folder."""
    there = folder()
    done = there / ("everything" if all_of_it else "without-held-out")
    if done.exists():
        return there
    there.mkdir(parents=True, exist_ok=True)
    for left in there.glob("*.sqlite*"):
        left.unlink()
    learnt = hold_out(read_exchanges()).learnt
    library.create(learnt)
    library.set_thresholds(_thresholds())
    if all_of_it:
        library.add(read_exchanges())
    shop.create()
    diary.create()
    done.touch()
    return there


@cache
def _thresholds() -> dict[str, float]:
    """What the knowledge base, with nothing but the learnt part in it, tells about thresholds; the same for every folder."""
    return learn_thresholds(_nearest(hold_out(read_exchanges()).learnt))


def _nearest(exchanges: list[Exchange]) -> Iterator[tuple[str, float, bool]]:
    """For each question, asked as if its wording were not there: the topic of the nearest other, how alike it is, whether it would be right."""
    accepted = accepted_answers(exchanges)
    alike = Likeness(accepted)
    for asked, answers in accepted.items():
        found = {row["id"]: row for row in library.search(asked) if row["normal"] != asked}
        best = compared(asked, map(library.candidate, found.values()), alike)[:1]
        yield from ((one.topic, one.likeness, found[one.entry]["answer"] in answers) for one in best)
