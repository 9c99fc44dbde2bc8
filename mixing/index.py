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
from mixlake.mixing.mixture import Mixture
from mixlake.mixing.order import PassOrder
from mixlake.mixing.sorting import lexicographic_order

_MAX_RESIDENT_ROWS = 1 << 20
_MAX_SEGMENTS = 3


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
        return Rows(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})

    @staticmethod
    def concat(parts: list[Rows]) -> Rows:
        """Return all rows of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rows)})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Rows of several cells and blocks, sorted by (cell, block, file, row)."""

    key: IntArray
    """cell * number of blocks + block, sorted."""
    rows: Rows


class IndexReader:
    """Returns the rows of a cell in some blocks, in storage order."""

    def __init__(self, catalog: Catalog, mixture: Mixture, plan: CellPlan) -> None:
        self._plan = plan
        self._frame: DataFrame = index_frame(catalog, mixture, plan.predicates)
        self._words = [name for name in self._frame.schema().names if name.startswith("word_")]
        by_size = np.argsort(plan.num_samples_C, kind="stable")
        is_small = np.cumsum(plan.num_samples_C[by_size]) <= _MAX_RESIDENT_ROWS
        self._is_resident_C = np.zeros(plan.num_cells, bool)
        self._is_resident_C[by_size[is_small]] = True
        self._resident: _Piece | None = None
        self._segments: OrderedDict[tuple[int, int], _Piece] = OrderedDict()

    def rows(self, cell: int, blocks: IntArray, pass_number: int, order: PassOrder) -> Rows:
        """Return the rows of ``cell`` in ``blocks``, by block as given, then by file and row."""
        parts = []
        for block in blocks.tolist():
            piece = self._piece(cell, block, pass_number, order)
            key = cell * len(self._plan.block_number_B) + block
            start, stop = np.searchsorted(piece.key, [key, key + 1])
            parts.append(piece.rows.take(slice(int(start), int(stop))))
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
        if len(self._words) == 1:
            return f"word_0 IN ({', '.join(map(str, self._plan.words_CW[cells, 0].tolist()))})"
        alternatives = [
            " AND ".join(f"{name} = {value}" for name, value in zip(self._words, words, strict=True))
            for words in self._plan.words_CW[cells].tolist()
        ]
        return " OR ".join(f"({alternative})" for alternative in alternatives)


def _integers(column: pa.ChunkedArray) -> IntArray:
    filled = pc.fill_null(column, -1) if column.null_count else column
    return np.asarray(filled.to_numpy(), np.int64)


def _narrow(values: IntArray) -> npt.NDArray[np.integer[Any]]:
    """Return small numbers in two bytes: NumPy sorts these by counting."""
    return values.astype(np.int16) if values.max(initial=0) < 1 << 15 else values


def _find_rows(sorted_rows: IntArray, wanted: IntArray) -> IntArray:
    """Return the index in ``sorted_rows`` (lexicographically sorted) of every row of ``wanted``."""
    if sorted_rows.shape[1] == 1:
        return np.searchsorted(sorted_rows[:, 0], wanted[:, 0]).astype(np.int64)
    both, inverse = np.unique(np.concatenate([sorted_rows, wanted]), axis=0, return_inverse=True)
    assert len(both) == len(sorted_rows)
    return inverse.ravel()[len(sorted_rows) :].astype(np.int64)
