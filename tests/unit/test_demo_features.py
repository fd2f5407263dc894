"""Counts of words: shares counted apart are the same as all counted at once, also after a trip through JSON."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from agentexecutor.console.demo import features
from agentexecutor.console.demo.features import COLUMNS, MOST, Features

TEXTS = ["good good morning !", "", "a bad, bad day :-(", "Good morning", "é ü 中文", "x"]


def through_json(packed: Features) -> Features:
    return msgspec.json.decode(msgspec.json.encode(packed), type=Features)


def test_counts_survive_packing() -> None:
    counted = features.count(TEXTS)
    packed = through_json(features.pack(counted))
    assert packed.texts == len(TEXTS)
    assert packed.shares == [len(TEXTS)]
    assert (features.unpack(packed) != counted).nnz == 0


def test_words_pairs_and_faces_count_and_case_does_not() -> None:
    counted = features.count(["good good morning", "Good MORNING", "good", ":-("])
    assert counted.shape == (4, COLUMNS)
    assert [row.nnz for row in counted] == [4, 3, 1, 1]
    assert counted[0].max() == 2
    assert counted[1].multiply(counted[0]).nnz == 3


@pytest.mark.parametrize("cuts", [(2,), (0, 3), (1, 2, 5), (6,)])
def test_shares_put_together_are_the_whole(cuts: tuple[int, ...]) -> None:
    bounds = [0, *cuts, len(TEXTS)]
    shares = [TEXTS[start:end] for start, end in pairwise(bounds) if start < end]
    stacked = features.stack([through_json(features.pack(features.count(share))) for share in shares])
    assert stacked.shares == [len(share) for share in shares]
    assert (features.unpack(stacked) != features.count(TEXTS)).nnz == 0


def test_a_count_beyond_a_byte_is_the_largest_byte() -> None:
    packed = features.pack(features.count(["ha " * (MOST + 50)]))
    assert features.unpack(packed).max() == MOST


def test_packing_is_compact() -> None:
    texts = ["the quick brown fox jumps over the lazy dog"] * 1000
    packed = features.pack(features.count(texts))
    assert len(msgspec.json.encode(packed)) < 1000 * 16
