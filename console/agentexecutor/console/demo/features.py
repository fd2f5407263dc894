"""Texts to numbers: hashed counts of words and pairs of words, and their form in JSON. Knows neither agents nor the bus.

Hashing needs no vocabulary, so shares of the texts are counted by different agents and put together later. The counts of many texts are one
sparse matrix (CSR); it travels as base64 of its three arrays, compressed: 1.1 million counts of 29,794 texts are 3.4 MB.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["COLUMNS", "Features", "count", "count_words", "pack", "pack_array", "stack", "unpack", "unpack_array"]

COLUMNS = 2**20
WORD = r"(?u)\w+|[!?]+|[:;=][-']?[)(DPp/|]"
"""Words, exclamation and question marks, and the commonest faces."""
MOST = 255
"""Counts travel as bytes."""


class Features(msgspec.Struct, frozen=True):
    """The counts of `texts` texts. `lengths`, `columns`, `counts`: see `pack`. `shares`: the texts in each part that was put together."""

    texts: int
    lengths: str
    columns: str
    counts: str
    shares: list[int]


def count_words(texts: Sequence[str]) -> csr_matrix:
    """How often each word occurs in each text."""
    return count(texts, longest=1)


def count(texts: Sequence[str], *, longest: int = 2) -> csr_matrix:
    """How often each word and each pair of words (each run of up to `longest` words) occurs in each text."""
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415 - takes a second, and only handlers need it

    counter = HashingVectorizer(
        n_features=COLUMNS, ngram_range=(1, longest), token_pattern=WORD, alternate_sign=False, norm=None, dtype=np.float32
    )
    return counter.transform(texts).tocsr()


def pack(matrix: csr_matrix, shares: Sequence[int] | None = None) -> Features:
    """A matrix of counts as JSON carries it: for each text the number of its columns, then all columns, then all counts."""
    texts = int(matrix.shape[0])
    return Features(
        texts=texts,
        lengths=pack_array(np.diff(matrix.indptr).astype("<u2")),
        columns=pack_array(matrix.indices.astype("<u4")),
        counts=pack_array(np.minimum(matrix.data, MOST).astype("u1")),
        shares=list(shares) if shares is not None else [texts],
    )


def unpack(features: Features) -> csr_matrix:
    """The matrix that `pack` packed."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415 - as above

    lengths = unpack_array(features.lengths, "<u2")
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = unpack_array(features.columns, "<u4").astype(np.int32)
    counts = unpack_array(features.counts, "u1").astype(np.float32)
    return csr_matrix((counts, columns, starts), shape=(features.texts, COLUMNS))


def stack(parts: Sequence[Features]) -> Features:
    """The features of several shares as those of one, in their order."""
    from scipy.sparse import csr_matrix, vstack  # noqa: PLC0415 - as above

    none = csr_matrix((0, COLUMNS), dtype=np.float32)
    return pack(vstack([none, *(unpack(part) for part in parts)]).tocsr(), [size for part in parts for size in part.shares])


def pack_array(array: np.ndarray[Any, Any]) -> str:
    """An array's bytes, compressed quickly, as base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode("ascii")


def unpack_array(text: str, kind: str) -> np.ndarray[Any, Any]:
    """The array of the NumPy type `kind` (such as ``<u4``) that `pack_array` packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind)
