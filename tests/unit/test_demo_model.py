"""The classifier learns, travels as JSON, and is scored by what it really said."""

from __future__ import annotations

import msgspec
import pytest

from agentexecutor.console.demo import features, model
from agentexecutor.console.demo.model import Model

GOOD = ["what a lovely day", "lovely, I love it", "such a lovely thing", "love this lovely song"]
BAD = ["what an awful day", "awful, I hate it", "such an awful thing", "hate this awful song"]
TEXTS = GOOD * 3 + BAD * 3
LABELS = ["positive"] * 12 + ["negative"] * 12


@pytest.fixture(scope="module")
def told() -> list[tuple[float, str]]:
    return []


@pytest.fixture(scope="module")
def trained(told: list[tuple[float, str]]) -> Model:
    rows, weights = model.weigh(features.count(TEXTS))
    fitted = model.fit(rows, LABELS, weights, [8, 16], lambda fraction, text: told.append((fraction, text)))
    return msgspec.json.decode(msgspec.json.encode(fitted), type=Model)


def test_it_learns_and_survives_json(trained: Model) -> None:
    assert trained.labels == ["negative", "positive"]
    assert (trained.texts, trained.shares) == (24, [8, 16])


@pytest.mark.parametrize(("text", "label"), [("a lovely lovely evening", "positive"), ("this is awful, hate", "negative")])
def test_two_labels_are_told_apart(trained: Model, text: str, label: str) -> None:
    assert model.predict(trained, [text]) == [label]


def test_progress_is_told_after_every_epoch(trained: Model, told: list[tuple[float, str]]) -> None:
    assert trained.texts == 24
    assert [fraction for fraction, _ in told] == [epoch / model.EPOCHS for epoch in range(1, model.EPOCHS + 1)]
    assert told[-1] == (1.0, f"epoch {model.EPOCHS} of {model.EPOCHS}")


def test_rows_have_length_one_and_rare_columns_are_left_out() -> None:
    rows, weights = model.weigh(features.count(["a b", "a c", "a d"]))
    assert rows.shape == (3, 1)
    assert len(features.unpack_array(weights.columns, "<u4")) == 1
    assert [float(row.multiply(row).sum()) for row in rows] == pytest.approx([1.0, 1.0, 1.0])


def test_the_score_is_what_was_said_against_what_is(trained: Model) -> None:
    real = ["positive", "positive", "negative", "negative", "negative"]
    said = ["positive", "negative", "negative", "negative", "positive"]
    score = model.score(trained, real, said)
    assert score.accuracy == pytest.approx(3 / 5)
    assert score.baseline == pytest.approx(3 / 5)
    assert score.confusion == {"negative": {"negative": 2, "positive": 1}, "positive": {"negative": 1, "positive": 1}}
    assert score.per_class["negative"].precision == pytest.approx(2 / 3)
    assert score.per_class["positive"].recall == pytest.approx(1 / 2)
    assert score.per_class["positive"].f1 == pytest.approx(1 / 2)
    assert score.per_class["negative"].texts == 3
    assert (score.texts, score.trained_on, score.shares) == (5, 24, [8, 16])


def test_a_label_that_is_never_said_scores_nothing(trained: Model) -> None:
    score = model.score(trained, ["positive", "negative"], ["negative", "negative"])
    assert score.per_class["positive"] == model.ClassScore(precision=0.0, recall=0.0, f1=0.0, texts=1)
