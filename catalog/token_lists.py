"""Token ids of many documents as two arrays, and what is put around each document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mixlake.catalog.records import IntArray

IdArray: TypeAlias = npt.NDArray[Any]
"""Token ids, of any integer type."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenLists:
    """The ids of N documents, one after the other.

    >>> lists = TokenLists.of([[5, 6], [], [7]])
    >>> len(lists), [ids.tolist() for ids in lists]
    (3, [[5, 6], [], [7]])
    """

    ids: IdArray
    """All ids, shape (bounds[-1],)."""
    bounds: IntArray
    """Shape (N + 1,): document n has ``ids[bounds[n]:bounds[n + 1]]``."""

    @classmethod
    def of(cls, documents: Sequence[Sequence[int] | IdArray]) -> TokenLists:
        """Put documents one after the other, as int32, or as int64 where an id does not fit."""
        bounds = np.zeros(len(documents) + 1, np.int64)
        np.cumsum([len(document) for document in documents], out=bounds[1:])
        arrays = [np.asarray(document) for document in documents if len(document)]
        ids = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(ids=narrowed(ids), bounds=bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> IdArray:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.ids[self.bounds[index] : self.bounds[index + 1]]

    def __iter__(self) -> Iterator[IdArray]:
        return (self.ids[start:stop] for start, stop in pairwise(self.bounds.tolist()))

    @property
    def lengths(self) -> IntArray:
        """Ids of each document."""
        return np.diff(self.bounds)


def narrowed(ids: IdArray) -> IdArray:
    """Return ids as int32, which is what vocabularies need; as int64 where one does not fit.

    >>> narrowed(np.array([1, 2])).dtype, narrowed(np.array([1 << 40])).dtype
    (dtype('int32'), dtype('int64'))
    """
    if ids.dtype == np.uint32 and not (ids.view(np.int32) < 0).any():
        return ids.view(np.int32)
    if ids.dtype.kind in "iu" and ids.dtype.itemsize < np.dtype(np.int32).itemsize:
        return ids.astype(np.int32)
    if ids.dtype == np.int32:
        return ids
    fits = not len(ids) or (int(ids.min()) >= -(1 << 31) and int(ids.max()) < 1 << 31)
    return ids.astype(np.int32 if fits else np.int64)


def framed(lists: TokenLists, first: Sequence[int], last: Sequence[int]) -> TokenLists:
    """Put ``first`` before and ``last`` after every document that does not begin, or end, with them already.

    >>> [ids.tolist() for ids in framed(TokenLists.of([[5], [1, 6], []]), [1], [2])]
    [[1, 5, 2], [1, 6, 2], [1, 2]]
    """
    if not first and not last:
        return lists
    lengths = lists.lengths
    num_before = np.where(_has(lists, lists.bounds[:-1], lengths, first), 0, len(first))
    num_after = np.where(_has(lists, lists.bounds[1:] - len(last), lengths, last), 0, len(last))
    bounds = np.append(0, np.cumsum(lengths + num_before + num_after))
    ids = np.empty(bounds[-1], lists.ids.dtype)
    is_own = np.ones(len(ids), bool)
    for offset, token in enumerate(first):
        here = bounds[:-1][num_before > 0] + offset
        ids[here], is_own[here] = token, False
    for offset, token in enumerate(last):
        here = bounds[1:][num_after > 0] - len(last) + offset
        ids[here], is_own[here] = token, False
    ids[is_own] = lists.ids
    return TokenLists(ids=ids, bounds=bounds)


def _has(lists: TokenLists, places: IntArray, lengths: IntArray, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Say which documents have some tokens at given places."""
    found = lengths >= len(tokens)
    for offset, token in enumerate(tokens):
        found[found] = lists.ids[places[found] + offset] == token
    return found
