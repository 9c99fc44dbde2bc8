"""Lexicographic order of several columns, by one sort of one word where they fit into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixlake.catalog.records import IntArray

_WORD_BITS = 63


def packed(columns: Sequence[IntArray]) -> IntArray | None:
    """Return words that are in the order of the rows, or None where the columns do not fit into 63 bits.

    Words of rows that differ only in the last column differ by as much as the last column does; words of other rows
    differ by more than one.

    Args:
        columns: of whole numbers from 0, the most significant first.
    """
    most = [int(column.max(initial=0)) for column in columns]
    columns = [column for column, value in zip(columns[:-1], most[:-1], strict=True) if value] + [columns[-1]]
    widths = [(value + 1).bit_length() for value in [*filter(None, most[:-1]), most[-1]]]  # so that none is all ones
    if sum(widths) > _WORD_BITS:
        return None
    words = columns[0]
    for column, width in zip(columns[1:], widths[1:], strict=True):
        words = (words << width) + column
    return words


def lexicographic_order(columns: Sequence[IntArray]) -> IntArray | None:
    """Return the stable order of the rows by all columns, the most significant first; None where they are in order."""
    words = packed(columns)
    if words is None:
        return np.lexsort(list(columns)[::-1])
    if (words[1:] >= words[:-1]).all():
        return None
    return np.argsort(words, kind="stable")
