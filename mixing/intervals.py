"""Drawn samples, sorted by chunk, component and storage, and merged into runs of consecutive rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.index import Rows
from mixlake.mixing.sorting import packed


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervals:
    """Runs of consecutive rows, sorted by component, pass, registration, file and row. One entry per interval."""

    component: IntArray
    """Index into the weights version's components."""
    registration: IntArray
    """Index into ``Chunk.registrations``."""
    file_id: IntArray
    row_start: IntArray
    row_stop: IntArray
    byte_start: IntArray
    byte_stop: IntArray
    pass_number: IntArray

    def __len__(self) -> int:
        return len(self.row_start)

    def take(self, part: slice) -> Intervals:
        """Return some of the intervals."""
        return Intervals(**{name: getattr(self, name)[part] for name in _COLUMNS})

    @staticmethod
    def concat(parts: Sequence[Intervals]) -> Intervals:
        """Return all intervals of the parts, in order."""
        return Intervals(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(Intervals))


def merge_rows(
    rows: Rows, *, chunk: IntArray, component: IntArray, pass_number: IntArray
) -> tuple[Intervals, IntArray]:
    """Return the intervals of all chunks, one chunk's after the other's, and the chunk of each. All are by sample."""
    columns = [chunk, component, pass_number, rows.registration, rows.file_id, rows.row]
    words = packed(columns)
    if words is None:
        order = np.lexsort(columns[::-1])
        *same, last = (np.diff(column[order]) for column in columns)
        follows = (last == 1) & ~np.any(same, axis=0)
    else:
        order = np.argsort(words, kind="stable")
        follows = np.diff(words[order]) == 1
    firsts = np.flatnonzero(np.append(True, ~follows))
    start, stop = order[firsts], order[np.append(firsts[1:], len(order)) - 1]
    intervals = Intervals(
        component=component[start],
        registration=rows.registration[start],
        file_id=rows.file_id[start],
        row_start=rows.row[start],
        row_stop=rows.row[stop] + 1,
        byte_start=rows.byte_start[start],
        byte_stop=rows.byte_stop[stop],
        pass_number=pass_number[start],
    )
    return intervals, chunk[start]
