"""Documents of token ids that lie in mapped files: where each of them is, until many are copied at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from mixlake.catalog.records import IntArray
from mixlake.catalog.spans import ranges
from mixlake.catalog.token_lists import IdArray, TokenLists, narrowed

_PAGE_BYTES = 4096
_SHORT = 128
"""Ids; of shorter documents, to find each id by its index is faster than to cut every document out."""


class TokenRanges(Sequence[IdArray]):
    """N documents, each a range of an array; a sequence of copies to whoever takes them one by one.

    >>> documents = TokenRanges.of(np.array([5, 6, 7, 8]), np.array([2, 0]), np.array([4, 1]))
    >>> len(documents), documents[0].tolist(), documents.joined().ids.tolist()
    (2, [7, 8], [7, 8, 5])
    """

    def __init__(self, sources: list[IdArray], source: IntArray, starts: IntArray, stops: IntArray) -> None:
        """Take over arrays.

        Args:
            sources: the arrays of ids.
            source: which of them each document is in, shape (N,); -1 where there is no document.
            starts: first id of each, shape (N,).
            stops: the one behind its last, shape (N,).
        """
        self._sources = sources
        self._source = source
        self._starts = starts
        self._stops = stops

    @classmethod
    def of(cls, ids: IdArray, starts: IntArray, stops: IntArray) -> TokenRanges:
        """Return documents that are all in one array."""
        return cls([ids], np.zeros(len(starts), np.int64), starts, stops)

    @classmethod
    def none(cls, num: int) -> TokenRanges:
        """Return places for documents, which `put` puts there."""
        return cls([], np.full(num, -1), np.zeros(num, np.int64), np.zeros(num, np.int64))

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> IdArray: ...

    @overload
    def __getitem__(self, index: slice) -> TokenRanges: ...

    def __getitem__(self, index: int | slice) -> IdArray | TokenRanges:
        if isinstance(index, slice):
            return TokenRanges(self._sources, self._source[index], self._starts[index], self._stops[index])
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        ids = self._sources[self._source[index]][self._starts[index] : self._stops[index]]
        copied: IdArray = ids.astype(ids.dtype.newbyteorder("="))
        return copied

    @property
    def lengths(self) -> IntArray:
        """Ids of each document."""
        return self._stops - self._starts

    def are_there(self, where: IntArray) -> npt.NDArray[np.bool_]:
        """Say which of some places have a document."""
        found: npt.NDArray[np.bool_] = self._source[where] >= 0
        return found

    def put(self, where: IntArray, others: TokenRanges) -> None:
        """Set the documents at some places."""
        self._source[where] = others._source + len(self._sources)
        self._starts[where], self._stops[where] = others._starts, others._stops
        self._sources += others._sources

    def take(self, where: IntArray) -> TokenRanges:
        """Return the documents at some places, in that order."""
        return TokenRanges(self._sources, self._source[where], self._starts[where], self._stops[where])

    def fetch(self) -> None:
        """Have the pages read that they lie in, so that who copies them need not wait for the disk."""
        for number, ids in enumerate(self._sources):
            here = self._source == number
            per_page = max(1, _PAGE_BYTES // ids.dtype.itemsize)
            firsts, lasts = self._starts[here] // per_page, (self._stops[here] - 1) // per_page
            if len(ids):
                ids.take(ranges(firsts, lasts - firsts + 1) * per_page, mode="clip")

    def joined(self) -> TokenLists:
        """Return copies, one after the other; ids that are narrower than int32 stay so."""
        bounds = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.lengths, out=bounds[1:])
        kind = np.result_type(*self._sources, np.uint8).newbyteorder("=")
        in_one = bounds[-1] and bool((self._source == self._source[0]).all())
        if in_one and bounds[-1] < _SHORT * len(self):
            ids = self._sources[self._source[0]][ranges(self._starts, self.lengths)].astype(kind, copy=False)
        else:
            places = zip(self._source.tolist(), self._starts.tolist(), self._stops.tolist(), strict=True)
            parts = [self._sources[number][start:stop] for number, start, stop in places]
            ids = np.concatenate([np.empty(0, kind), *parts], dtype=kind)
        return TokenLists(ids=ids if kind.itemsize < np.dtype(np.int32).itemsize else narrowed(ids), bounds=bounds)
