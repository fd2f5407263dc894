"""The classifier: tf-idf and logistic regression over hashed counts, its form in JSON, and how well it does. Knows neither agents nor the bus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agentexecutor.console.demo.features import COLUMNS, count, pack_array, unpack_array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["EPOCHS", "ClassScore", "Model", "Score", "Weights", "fit", "predict", "score", "weigh"]

EPOCHS = 20
TWICE = 2
"""What occurs in fewer texts than this is left out: it says nothing about others."""
ALPHA = 1e-5
SEED = 7


class Weights(msgspec.Struct, frozen=True):
    """What tf-idf has learnt: the columns that count, and the weight of each."""

    columns: str
    idf: str


class Model(msgspec.Struct, frozen=True):
    """A linear classifier. `coefficients`: one row a label; `texts`: how many it was trained on; `shares`: who counted how many of them."""

    labels: list[str]
    weights: Weights
    coefficients: str
    intercepts: list[float]
    texts: int
    shares: list[int]


class ClassScore(msgspec.Struct, frozen=True):
    """How well one label is found."""

    precision: float
    recall: float
    f1: float
    texts: int


class Score(msgspec.Struct, frozen=True):
    """How well the classifier does on texts that it has not seen.

    `baseline`: what always saying the most frequent label would reach. `confusion`: real label, then said label, then how often.
    """

    accuracy: float
    baseline: float
    texts: int
    per_class: dict[str, ClassScore]
    confusion: dict[str, dict[str, int]]
    trained_on: int
    shares: list[int]


def weigh(counts: csr_matrix) -> tuple[csr_matrix, Weights]:
    """Tf-idf of counts: 1 + log of the count, times how rare the column is, every text scaled to length one."""
    texts = counts.shape[0]
    seen = np.bincount(counts.indices, minlength=COLUMNS)
    columns = np.flatnonzero(seen >= TWICE)
    idf = (np.log((1 + texts) / (1 + seen[columns])) + 1).astype(np.float32)
    return _weighted(counts, columns, idf), Weights(columns=pack_array(columns.astype("<u4")), idf=pack_array(idf.astype("<f4")))


def _weighted(counts: csr_matrix, columns: np.ndarray[Any, Any], idf: np.ndarray[Any, Any]) -> csr_matrix:
    from sklearn.preprocessing import normalize  # noqa: PLC0415 - takes a second, and only handlers need it

    kept = counts[:, columns]
    kept.data = (1 + np.log(kept.data)) * idf[kept.indices]
    return normalize(kept, copy=False)


def fit(
    rows: csr_matrix, labels: Sequence[str], weights: Weights, shares: Sequence[int], told: Callable[[float, str], None] | None = None
) -> Model:
    """Train on weighted rows; `told` hears after each epoch how far it is (0 to 1), and in words."""
    from sklearn.linear_model import SGDClassifier  # noqa: PLC0415 - as above

    names = sorted(set(labels))
    learner = SGDClassifier(loss="log_loss", alpha=ALPHA, average=True, random_state=np.random.RandomState(SEED))
    for epoch in range(1, EPOCHS + 1):
        learner.partial_fit(rows, labels, classes=names)
        if told is not None:
            told(epoch / EPOCHS, f"epoch {epoch} of {EPOCHS}")
    coefficients, intercepts = learner.coef_, learner.intercept_
    if len(coefficients) < len(names):  # of two labels scikit-learn keeps the second one's row
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    return Model(
        labels=names,
        weights=weights,
        coefficients=pack_array(coefficients.astype("<f4")),
        intercepts=[float(value) for value in intercepts],
        texts=len(labels),
        shares=list(shares),
    )


def predict(model: Model, texts: Sequence[str]) -> list[str]:
    """The most likely label of each text."""
    columns = unpack_array(model.weights.columns, "<u4")
    rows = _weighted(count(texts), columns, unpack_array(model.weights.idf, "<f4"))
    coefficients = unpack_array(model.coefficients, "<f4").reshape(len(model.labels), len(columns))
    best = np.argmax(rows @ coefficients.T + np.array(model.intercepts), axis=1)
    return [model.labels[index] for index in best]


def score(model: Model, labels: Sequence[str], said: Sequence[str]) -> Score:
    """Compare what the model said with what people said."""
    pairs = Counter(zip(labels, said, strict=True))
    names = sorted(set(labels) | set(model.labels))
    confusion = {real: {name: pairs[real, name] for name in names} for real in names}
    return Score(
        accuracy=sum(pairs[name, name] for name in names) / len(labels),
        baseline=max(Counter(labels).values()) / len(labels),
        texts=len(labels),
        per_class={name: _class_score(confusion, name) for name in names},
        confusion=confusion,
        trained_on=model.texts,
        shares=model.shares,
    )


def _class_score(confusion: dict[str, dict[str, int]], name: str) -> ClassScore:
    hits = confusion[name][name]
    said = sum(row[name] for row in confusion.values())
    real = sum(confusion[name].values())
    return ClassScore(
        precision=hits / said if said else 0.0,
        recall=hits / real if real else 0.0,
        f1=2 * hits / (said + real) if said + real else 0.0,
        texts=real,
    )
