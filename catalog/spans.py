"""Many spans of one file, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from mixlake.catalog.records import IntArray, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans(Sequence[Span]):
    """Spans by column; a sequence of them to whoever takes them one by one. One entry per span."""

    row_start: IntArray
    row_stop: IntArray
    byte_start: IntArray
    """-1 where the format addresses by row alone."""
    byte_stop: IntArray

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Spans:
        """Return spans as arrays.

        >>> Spans.of([Span(row_start=3, row_stop=5)]).rows
        array([3, 4])
        """
        if isinstance(spans, Spans):
            return spans
        names = ("row_start", "row_stop", "byte_start", "byte_stop")
        return cls(**{name: np.array([getattr(span, name) for span in spans], np.int64) for name in names})

    def __len__(self) -> int:
        return len(self.row_start)

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> Spans: ...

    def __getitem__(self, index: int | slice) -> Span | Spans:
        if isinstance(index, slice):
            return Spans(
                row_start=self.row_start[index],
                row_stop=self.row_stop[index],
                byte_start=self.byte_start[index],
                byte_stop=self.byte_stop[index],
            )
        return Span(
            row_start=int(self.row_start[index]),
            row_stop=int(self.row_stop[index]),
            byte_start=int(self.byte_start[index]),
            byte_stop=int(self.byte_stop[index]),
        )

    @property
    def num_rows(self) -> IntArray:
        """Rows of each span."""
        return self.row_stop - self.row_start

    @property
    def rows(self) -> IntArray:
        """Every row, in the spans' order."""
        return ranges(self.row_start, self.num_rows)


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return ranges of consecutive numbers, one after the other.

    >>> ranges(np.array([3, 10]), np.array([2, 3]))
    array([ 3,  4, 10, 11, 12])
    """
    before = np.cumsum(lengths) - lengths
    found: IntArray = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return found
