"""Rows of the index, fetched in large segments for all cells together and kept in bounded memory.

Cells that are small stay in memory as a whole: a rare component runs through the blocks much faster than the others,
and must not pull a segment in for every few rows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import DataFrame

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan, index_frame
from mixlake.mixing.order import PassOrder
from mixlake.mixing.program import Program
from mixlake.mixing.sorting import lexicographic_order

_MAX_RESIDENT_ROWS = 1 << 20
_MAX_RESIDENT_SHARE = 1 / 16
"""Of all samples: larger cells find some of their rows in every segment, and are not worth reading the whole index."""
_MAX_SEGMENTS = 8
"""Of up to 30 MB each. Components that lie apart in storage draw from a segment each, and must not take turns in
reading them anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Addresses of samples; all arrays have one entry per sample."""

    registration: IntArray
    """Index into the plan's registrations."""
    file_id: IntArray
    row: IntArray
    byte_start: IntArray
    """-1 where the format addresses by row alone, as is ``byte_stop``."""
    byte_stop: IntArray
    units: IntArray

    def __len__(self) -> int:
        return len(self.row)

    def take(self, indices: IntArray | slice) -> Rows:
        """Return some of the rows."""
        return Rows(**{name: getattr(self, name)[indices] for name in _COLUMNS})

    @staticmethod
    def concat(parts: list[Rows]) -> Rows:
        """Return all rows of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(Rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Rows of several cells and blocks, sorted by (cell, block, file, row)."""

    key: IntArray
    """cell * number of blocks + block, sorted."""
    rows: Rows


class IndexReader:
    """Returns the rows of a cell in some blocks, in storage order."""

    def __init__(self, catalog: Catalog, program: Program, plan: CellPlan, consumed: pa.Table | None = None) -> None:
        self._plan = plan
        self._frame: DataFrame = index_frame(catalog, program, consumed)
        self._words = [name for name in self._frame.schema().names if name.startswith("word_")]
        self._is_resident_C = _small_cells(plan.num_samples_C)
        self._resident: _Piece | None = None
        self._segments: OrderedDict[tuple[int, int], _Piece] = OrderedDict()

    def rows(self, cell: int, blocks: IntArray, pass_number: int, order: PassOrder) -> Rows:
        """Return the rows of ``cell`` in ``blocks``, by block as given, then by file and row."""
        keys = cell * len(self._plan.block_number_B) + blocks
        segments = order.segment_B[blocks] if not self._is_resident_C[cell] else np.zeros(len(blocks), np.int64)
        cuts = np.flatnonzero(np.diff(segments)) + 1
        parts = []
        for mine in np.split(keys, cuts) if len(cuts) else [keys]:
            piece = self._piece(cell, int(mine[0]) % len(self._plan.block_number_B), pass_number, order)
            starts, stops = piece.key.searchsorted(mine), piece.key.searchsorted(mine, side="right")
            lengths = stops - starts
            skipped = starts - (np.cumsum(lengths) - lengths)
            parts.append(piece.rows.take(np.arange(lengths.sum()) + np.repeat(skipped, lengths)))
        return Rows.concat(parts)

    def _piece(self, cell: int, block: int, pass_number: int, order: PassOrder) -> _Piece:
        if self._is_resident_C[cell]:
            if self._resident is None:
                self._resident = self._fetch(self._frame, cells=np.flatnonzero(self._is_resident_C))
            return self._resident
        key = (pass_number, int(order.segment_B[block]))
        if key not in self._segments:
            blocks = np.flatnonzero(order.segment_B == key[1])
            frame = self._frame.filter(self._frame.parse_sql_expr(self._block_predicate(blocks)))
            self._segments[key] = self._fetch(frame, cells=np.flatnonzero(~self._is_resident_C))
            if len(self._segments) > _MAX_SEGMENTS:
                self._segments.popitem(last=False)
        self._segments.move_to_end(key)
        return self._segments[key]

    def _block_predicate(self, blocks: IntArray) -> str:
        """Return the blocks as few ranges: they prune files and row groups of the index."""
        registration, number = self._plan.block_registration_B[blocks], self._plan.block_number_B[blocks]
        is_start = np.append(True, (np.diff(blocks) != 1) | (np.diff(registration) != 0))
        starts = np.flatnonzero(is_start)
        stops = np.append(starts[1:], len(blocks)) - 1
        return " OR ".join(
            f"(registration = '{self._plan.registrations[registration[a]]}' "
            f"AND block BETWEEN {number[a]} AND {number[b]})"
            for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
        )

    def _fetch(self, frame: DataFrame, cells: IntArray) -> _Piece:
        plan = self._plan
        if len(cells) < plan.num_cells:
            frame = frame.filter(frame.parse_sql_expr(self._cell_predicate(cells)))
        table = frame.to_arrow_table()
        registration = _integers(pc.index_in(table["registration"].cast(pa.string()), pa.array(plan.registrations)))
        block = np.searchsorted(
            plan.block_registration_B << 32 | plan.block_number_B, registration << 32 | _integers(table["block"])
        )
        file_id, row = _integers(table["file_id"]), _integers(table["row"])
        cell = _find_rows(plan.words_CW, np.stack([_integers(table[word]) for word in self._words], axis=1))
        storage = lexicographic_order([block, file_id, row])  # None, as a rule: the index is read in storage order
        by_cell = np.argsort(_narrow(cell if storage is None else cell[storage]), kind="stable")
        order = by_cell if storage is None else storage[by_cell]
        if len(cells) < plan.num_cells:
            order = order[np.isin(cell, cells)[order]]
        rows = Rows(
            registration=registration[order],
            file_id=file_id[order],
            row=row[order],
            byte_start=_integers(table["byte_start"])[order],
            byte_stop=_integers(table["byte_stop"])[order],
            units=_integers(table["units"])[order],
        )
        return _Piece(key=cell[order] * len(plan.block_number_B) + block[order], rows=rows)

    def _cell_predicate(self, cells: IntArray) -> str:
        """Return a predicate that the cells match, and of the others only few: to test for each cell takes too long."""
        values = (np.unique(column).tolist() for column in self._plan.words_CW[cells].T)
        pairs = zip(self._words, values, strict=True)
        return " AND ".join(f"{name} IN ({', '.join(map(str, numbers))})" for name, numbers in pairs)


def _small_cells(num_samples_C: IntArray) -> npt.NDArray[np.bool_]:
    """Return which cells to keep in memory: all of them in a small lake, in a large one those that are rare."""
    is_small_C = np.zeros(len(num_samples_C), bool)
    total = int(num_samples_C.sum())
    by_size = np.argsort(num_samples_C, kind="stable")
    is_within = np.cumsum(num_samples_C[by_size]) <= _MAX_RESIDENT_ROWS
    is_rare = num_samples_C[by_size] <= total * _MAX_RESIDENT_SHARE
    is_small_C[by_size[is_within & (is_rare | (total <= _MAX_RESIDENT_ROWS))]] = True
    return is_small_C


def _integers(column: pa.ChunkedArray) -> IntArray:
    filled = pc.fill_null(column, -1) if column.null_count else column
    return np.asarray(filled.to_numpy(), np.int64)


def _narrow(values: IntArray) -> npt.NDArray[np.integer[Any]]:
    """Return small numbers in two bytes: NumPy sorts these by counting."""
    return values.astype(np.int16) if values.max(initial=0) < 1 << 15 else values


def _find_rows(sorted_rows: IntArray, wanted: IntArray) -> IntArray:
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
