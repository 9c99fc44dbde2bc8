"""Contents of samples as they are read, each in its place, until they are taken in the order of delivery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.catalog.token_ranges import TokenRanges

Values: TypeAlias = "list[Any] | TokenRanges"
"""One value per sample: anything, or where all of them are documents of mapped ids, their ranges."""


class Contents:
    """Places for the contents of N samples; documents of mapped ids stay ranges, that nothing is done for each."""

    def __init__(self, num: int) -> None:
        self._values: list[Any] = [None] * num
        self._tokens = TokenRanges.none(num)

    def put(self, where: IntArray, values: Values) -> None:
        """Set the contents of some samples."""
        if isinstance(values, TokenRanges):
            self._tokens.put(where, values)
        else:
            put(self._values, where.tolist(), values)

    def take(self, where: IntArray) -> Values:
        """Return the contents of some samples, and forget them."""
        is_tokens = self._tokens.are_there(where)
        if is_tokens.all():
            return self._tokens.take(where)
        places = where.tolist()
        taken = [self._values[place] for place in places]
        put(self._values, places, [None] * len(places))
        tokenized = np.flatnonzero(is_tokens)
        put(taken, tokenized.tolist(), self._tokens.take(where[tokenized]))
        return taken


def put(target: list[Any], where: Sequence[int], values: Sequence[Any]) -> None:
    """Set the entries of a list at some places."""
    for index, value in zip(where, values, strict=True):
        target[index] = value
