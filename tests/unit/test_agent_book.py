"""What an agent holds, and what a new award is to it."""

from __future__ import annotations

import pytest

from agentexecutor.agents.book import Book, Held, LastClaim, What
from agentexecutor.agents.schedule import expected_wait, schedule
from agentexecutor.schemas import messages as m


def award(epoch: int = 1, subtask: str = "main", boot: str = "b1", **more: object) -> m.Award:
    return m.Award(task="me.t", subtask=subtask, capability="c", epoch=epoch, boot=boot, **more)  # type: ignore[arg-type]  # its fields


def held(book: Book, epoch: int = 1, subtask: str = "main") -> Held:
    taken = Held(award(epoch, subtask), expected_s=2.0)
    book.take(taken)
    return taken


@pytest.fixture
def book() -> Book:
    return Book("b1", capacity=2)


def test_a_new_award_is_to_be_run(book: Book) -> None:
    assert book.judge(award())[0] is What.RUN


def test_an_award_for_another_life_is_dropped(book: Book) -> None:
    assert book.judge(award(boot="b0"))[0] is What.DROP


def test_the_same_award_again_says_the_last_claim_again(book: Book) -> None:
    first = held(book)
    assert book.judge(award())[0::2] == (What.AGAIN, None)
    first.last = LastClaim("accept", b"{}", {})
    assert book.judge(award())[0::2] == (What.AGAIN, first.last)


def test_an_ended_award_is_not_run_twice(book: Book) -> None:
    first = held(book)
    first.last = LastClaim("done", b"{}", {})
    book.end(first)
    assert book.judge(award())[0::2] == (What.AGAIN, first.last)
    assert book.judge(award(epoch=2))[0] is What.RUN
    assert book.cancelled(first.pair, 1) is None
    assert book.judge(award())[0::2] == (What.DROP, None), "not wanted any more"


def test_a_newer_epoch_replaces_the_older_one(book: Book) -> None:
    first = held(book, epoch=1)
    assert book.judge(award(epoch=2)) == (What.RUN, first, None)
    book.take(Held(award(epoch=2)))
    assert book.judge(award(epoch=1))[0] is What.DROP


def test_a_cancelled_epoch_does_not_come_back(book: Book) -> None:
    first = held(book, epoch=3)
    assert book.cancelled(("me.t", "main"), 2) is None
    assert book.cancelled(("me.t", "main"), 3) is first
    first.last = LastClaim("accept", b"{}", {})
    assert book.judge(award(epoch=3))[0::2] == (What.DROP, None), "nothing more is said of it"
    book.end(first)
    assert book.judge(award(epoch=3))[0::2] == (What.DROP, None)
    second = held(book, epoch=4)
    assert book.cancelled(("me.t", "main"), 5) is second
    book.end(second)
    assert book.judge(award(epoch=5))[0] is What.DROP, "its award was late"
    assert book.judge(award(epoch=6))[0] is What.RUN
    assert book.cancelled(("me.t", "other"), 7) is None
    assert book.judge(award(epoch=7, subtask="other"))[0] is What.DROP


def test_too_much_is_declined_but_waiting_ones_do_not_count(book: Book) -> None:
    taken = [held(book, subtask=f"s{number}") for number in range(4)]
    assert book.judge(award(subtask="one-more"))[0] is What.DECLINE
    taken[0].state = "waiting"
    assert book.judge(award(subtask="one-more"))[0] is What.RUN
    book.draining = True
    assert book.judge(award(subtask="another"))[0] is What.DECLINE


def test_the_load_tells_when_one_more_could_start(book: Book) -> None:
    for number in range(3):
        held(book, subtask=f"s{number}")
    for one in list(book.held.values())[:2]:
        one.state, one.started = "running", 100.0
    load = book.load(100.5)
    assert (load.running, load.queued) == (2, 1)
    assert load.queue_s == pytest.approx(1.5)


def test_a_schedule_is_made_from_steps_and_queue() -> None:
    steps = schedule([("read", 1.0), ("fit", 2.5)], queue_s=0.5)
    assert [(step.name, step.start_s, step.duration_s) for step in steps] == [("read", 0.5, 1.0), ("fit", 1.5, 2.5)]


def test_waiting_is_nothing_while_a_slot_is_free() -> None:
    assert expected_wait(3, [5.0, 7.0], []) == 0.0
    assert expected_wait(2, [5.0, 7.0], []) == 5.0
    assert expected_wait(2, [5.0, 7.0], [1.0, 1.0]) == 7.0
