"""Which cell rows of the index are of: predicates are asked once for all rows that have the same values.

With hundreds of predicates over a few columns of few values (language, source, kind), asking for each row takes longer
than all the rest of scheduling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import SessionContext

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index_frames import CONSUMED, named_columns, word_expressions

_MAX_COMBINATIONS = 1 << 16
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """Values that were met, and the cells of those of their combinations that predicates were asked for."""

    values: Sequence[pa.Array]
    """By column."""
    cells: IntArray
    """One axis per column; ``_UNKNOWN`` where nothing was asked."""

    @classmethod
    def nothing(cls, columns: Sequence[str]) -> Self:
        return cls(values=[], cells=np.empty((0,) * len(columns), np.int64))

    def with_values(self, found: Sequence[pa.Array]) -> Self | None:
        """Return it with values that may be new, or None where their combinations are too many."""
        before = self.values or [values[:0] for values in found]
        is_new = [pc.is_null(pc.index_in(v, value_set=b)) for v, b in zip(found, before, strict=True)]
        values = [pa.concat_arrays([b, v.filter(n)]) for b, v, n in zip(before, found, is_new, strict=True)]
        shape = [len(column) for column in values]
        if math.prod(shape) > _MAX_COMBINATIONS:
            return None
        grown = [(0, num - had) for num, had in zip(shape, self.cells.shape, strict=True)]
        return replace(self, values=values, cells=np.pad(self.cells, grown, constant_values=_UNKNOWN))

    def combinations(self, encoded: Sequence[pa.DictionaryArray]) -> IntArray:
        """Return the place in ``cells``, flattened, of each row."""
        numbers = (
            np.asarray(pc.index_in(column.dictionary, value_set=known).to_numpy(), np.int64)[column.indices.to_numpy()]
            for column, known in zip(encoded, self.values, strict=True)
        )
        return np.asarray(np.ravel_multi_index(tuple(numbers), self.cells.shape), np.int64)


class Answers:
    """Finds the cells of rows by the columns that the predicates can be about."""

    def __init__(self, plan: CellPlan, columns: Sequence[str], *, is_consumed: bool) -> None:
        """Prepare the answers.

        Args:
            plan: the cells.
            columns: all that the index has.
            is_consumed: whether rows that were drawn before are cells of their own.
        """
        self._plan = plan
        self._is_consumed = is_consumed
        found = named_columns(plan.predicates, columns)
        self.columns = [*found, CONSUMED] if is_consumed else found
        """What a table of rows must have."""
        self._known = _Known.nothing(self.columns)

    def cells(self, rows: pa.Table) -> IntArray:
        """Return the cell of each row."""
        if not self.columns:  # predicates that have the same answer for all
            return np.zeros(len(rows), np.int64)
        values = _without_views(rows.select(self.columns))
        if any(pa.types.is_nested(kind) for kind in values.schema.types):
            return self._ask(values)
        encoded = [pc.dictionary_encode(column.combine_chunks(), null_encoding="encode") for column in values.columns]
        found = [column.dictionary for column in encoded]
        known = self._known.with_values(found) or _Known.nothing(self.columns).with_values(found)
        if known is None:
            return self._ask(values)
        self._known, combination = known, known.combinations(encoded)
        example = np.full(known.cells.size, -1)
        example[combination] = np.arange(len(combination))
        missing = np.flatnonzero((example >= 0) & (known.cells.ravel() == _UNKNOWN))
        if len(missing):
            known.cells.ravel()[missing] = self._ask(values.take(pa.array(example[missing])))
        return np.asarray(known.cells.ravel()[combination])

    def _ask(self, values: pa.Table) -> IntArray:
        frame = SessionContext().from_arrow(values.append_column("place", pa.array(np.arange(len(values)))))
        words = word_expressions(frame, self._plan.predicates, is_consumed=self._is_consumed)
        answers = frame.select("place", *words).to_arrow_table().sort_by("place").drop_columns(["place"])
        return find_rows(self._plan.words_CW, np.stack([column.to_numpy() for column in answers.columns], axis=1))


def _without_views(values: pa.Table) -> pa.Table:
    """Return a table whose strings are plain ones: of views no rows can be taken."""
    kinds = [pa.string() if pa.types.is_string_view(kind) else kind for kind in values.schema.types]
    return values.cast(pa.schema(list(zip(values.schema.names, kinds, strict=True))))


def find_rows(sorted_rows: IntArray, wanted: IntArray) -> IntArray:
    """Return the index in ``sorted_rows`` (lexicographically sorted) of every row of ``wanted``; all are there.

    Column by column, rows are numbered by the values up to it: comparing whole rows takes twenty times as long.
    """
    known, found = np.zeros(len(sorted_rows), np.int64), np.zeros(len(wanted), np.int64)
    for column, wanted_column in zip(sorted_rows.T, wanted.T, strict=True):
        values = np.unique(column)
        known = known * len(values) + np.searchsorted(values, column)
        beginnings = np.unique(known)
        known = np.searchsorted(beginnings, known)
        found = np.searchsorted(beginnings, found * len(values) + np.searchsorted(values, wanted_column))
    return found.astype(np.int64)
