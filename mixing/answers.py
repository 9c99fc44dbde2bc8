"""Which cell rows of the index are of: predicates are asked once for all rows that have the same values.

With hundreds of predicates over a few columns of few values (language, source, kind), asking for each row takes longer
than all the rest of scheduling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import SessionContext

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CONSUMED, CellPlan, word_expressions

_MAX_COMBINATIONS = 1 << 16


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
        # Every name that is in the text as a word, wherever: too many do no harm.
        text = "\n".join(plan.predicates).lower()
        found = [name for name in columns if re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text)]
        self.columns = [*found, CONSUMED] if is_consumed else found
        """What a table of rows must have."""

    def cells(self, rows: pa.Table) -> IntArray:
        """Return the cell of each row."""
        if not self.columns:  # predicates that have the same answer for all
            return np.zeros(len(rows), np.int64)
        values = _without_views(rows.select(self.columns))
        combination = _combinations(values)
        if combination is None:
            return self._ask(values)
        example = np.zeros(int(combination.max(initial=0)) + 1, np.int64)
        example[combination] = np.arange(len(combination))
        present = np.flatnonzero(np.bincount(combination))
        cells = np.empty_like(example)
        cells[present] = self._ask(values.take(pa.array(example[present])))
        return np.asarray(cells[combination])

    def _ask(self, values: pa.Table) -> IntArray:
        frame = SessionContext().from_arrow(values.append_column("place", pa.array(np.arange(len(values)))))
        words = word_expressions(frame, self._plan.predicates, is_consumed=self._is_consumed)
        answers = frame.select("place", *words).to_arrow_table().sort_by("place").drop_columns(["place"])
        return find_rows(self._plan.words_CW, np.stack([column.to_numpy() for column in answers.columns], axis=1))


def _without_views(values: pa.Table) -> pa.Table:
    """Return a table whose strings are plain ones: of views no rows can be taken."""
    kinds = [pa.string() if pa.types.is_string_view(kind) else kind for kind in values.schema.types]
    return values.cast(pa.schema(list(zip(values.schema.names, kinds, strict=True))))


def _combinations(values: pa.Table) -> IntArray | None:
    """Return a number for each row that is the same for rows of the same values; None where these are too many."""
    if any(pa.types.is_nested(kind) for kind in values.schema.types):
        return None
    encoded = [pc.dictionary_encode(column.combine_chunks(), null_encoding="encode") for column in values.columns]
    sizes = [max(1, len(column.dictionary)) for column in encoded]
    if math.prod(sizes) > _MAX_COMBINATIONS:
        return None
    numbers = np.zeros(len(values), np.int64)
    for column, size in zip(encoded, sizes, strict=True):
        numbers = numbers * size + column.indices.to_numpy()
    return numbers


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
