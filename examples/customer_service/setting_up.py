"""Everything that is made before the first customer comes: the files, and what is learnt from the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.customer_service import diary, library, shop
from examples.customer_service.corpus import Exchange, hold_out, read_exchanges
from examples.customer_service.files import folder
from examples.customer_service.learning import learn_threshold
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
    parts = hold_out(read_exchanges())
    library.create(read_exchanges() if all_of_it else parts.learnt)
    library.set_threshold(learn_threshold(parts.learnt, _nearest(parts.learnt)))
    shop.create()
    diary.create()
    done.touch()
    return there


def _nearest(exchanges: Sequence[Exchange]) -> Any:
    alike = Likeness(dict.fromkeys(exchange.question for exchange in exchanges))

    def nearest(asked: str, known: dict[str, list[Exchange]]) -> tuple[float, str]:
        if asked in known:
            return 1.0, asked
        return max(((alike(asked, question), question) for question in known), default=(0.0, ""))

    return nearest
