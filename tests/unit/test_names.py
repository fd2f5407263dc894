"""Names that may stand in a subject, and those that may not."""

from __future__ import annotations

import pickle
import re

import pytest

from agentexecutor.schemas.errors import NameRefused
from agentexecutor.schemas.names import TaskName, check_capability, check_name, clean_name, new_boot, new_id

BAD_WORDS = ["", " ", "a b", "a.b", "ä", "名前", "a\n", "\na", "a*", ">", "*", "a/b", "a" * 65, "a\x00b", "٣"]


@pytest.mark.parametrize("name", ["a", "A-9_z", "-", "_", "0", "a" * 64])
def test_a_name_that_may_stand_in_a_subject_comes_back(name: str) -> None:
    assert check_name("peer", name) == name


@pytest.mark.parametrize("name", [*BAD_WORDS, None, 7, b"a"], ids=repr)
def test_any_other_name_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(NameRefused, match="cannot name a subtask") as caught:
        check_name("subtask", name)
    assert caught.value.fields == {"what": "subtask", "name": name}
    assert "A-Z a-z 0-9 _ -" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (str(again), again.fields) == (str(caught.value), caught.value.fields)


@pytest.mark.parametrize("name", ["greet", "text.classify", "a.b.c-d.E_9", "a" * 64 + "." + "b" * 63])
def test_capabilities_are_words_joined_by_dots(name: str) -> None:
    assert check_capability(name) == name


@pytest.mark.parametrize(
    "name", [".", "a.", ".a", "a..b", "a.*", "a.>", "text classify", "a" * 65, "a." * 64 + "b", "a" * 64 + "." + "b" * 64, None]
)
def test_other_capabilities_are_refused(name: str) -> None:
    with pytest.raises(NameRefused, match="cannot name a capability"):
        check_capability(name)


def test_a_task_name_reads_what_it_writes() -> None:
    task = TaskName("ada-laptop", "r3Kd93bQ")
    assert str(task) == "ada-laptop.r3Kd93bQ"
    assert TaskName.parse(str(task)) == task
    assert f"{task}" == "ada-laptop.r3Kd93bQ"


@pytest.mark.parametrize("text", ["", "alone", ".", "a.", ".b", "a.b.c", "a b.c", "ä.b", "a.b\n"])
def test_other_texts_are_no_task_names(text: str) -> None:
    with pytest.raises(NameRefused):
        TaskName.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ada@laptop.local", "ada-laptop-local"),
        ("Jürgen", "J-rgen"),
        ("  spaces  ", "spaces"),
        ("名前", "peer"),
        ("", "peer"),
        ("---", "peer"),
        ("x" * 100, "x" * 64),
        ("y" * 63 + "-.z", "y" * 63),
    ],
)
def test_cleaning_gives_the_nearest_allowed_name(text: str, name: str) -> None:
    assert clean_name(text) == name
    assert check_name("peer", clean_name(text)) == name


def test_ids_are_new_and_may_stand_in_subjects() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert all(len(id) >= 16 and check_name("task", id) for id in ids)
    assert [len(new_id(length)) for length in (1, 8, 64)] == [1, 8, 64]


def test_a_boot_is_a_time_and_something_random() -> None:
    boots = [new_boot() for _ in range(100)]
    assert all(re.fullmatch(r"[0-9]{13}-[A-Za-z0-9]{8}", boot) for boot in boots)
    assert [boot[:13] for boot in boots] == sorted(boot[:13] for boot in boots)
    assert len(set(boots)) == len(boots)
