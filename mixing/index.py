"""Rows of the index, fetched in large segments for all cells together and kept in bounded memory.

Cells that are small stay in memory as a whole: a rare component runs through the blocks much faster than the others,
and must not pull a segment in for every few rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import DataFrame

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.catalog.spans import ranges
from mixlake.mixing.answers import Answers, find_rows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.consumed import Consumed
from mixlake.mixing.index_frames import index_frame
from mixlake.mixing.order import PassOrder
from mixlake.mixing.program import Program
from mixlake.mixing.sorting import lexicographic_order

_MAX_RESIDENT_ROWS = 1 << 20
_MAX_RESIDENT_SHARE = 1 / 16
"""Of all samples: larger cells find some of their rows in every segment, and are not worth reading the whole index."""
_MAX_SEGMENTS = 8
"""Of up to 30 MB each. Components that lie apart in storage draw from a segment each, and must not take turns in
reading them anew."""
_MAX_AHEAD = 2

_FILE_STRIDE = np.int64(0x1E3779B97F4A7C15)
_REGISTRATION_STRIDE = np.int64(0x2545F4914F6CDD1D)


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


RESIDENT = -1
"""The piece of the index that has the small cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows of several cells and blocks, in storage order."""

    rows: Rows
    addresses: IntArray
    """A number for each row that is, in the whole index, practically its own."""
    by_cell: IntArray
    """The rows by cell."""
    first_C: IntArray
    """Where in ``by_cell`` the rows of each cell begin, and at last where those of the last cell end."""

    def rows_of(self, cells: IntArray) -> IntArray:
        """Return which rows are of some cells, one cell's after the other's, each in storage order."""
        starts, lengths = self.first_C[cells], self.first_C[cells + 1] - self.first_C[cells]
        return self.by_cell[ranges(starts, lengths)]


class IndexReader:
    """Returns pieces of the index: segments of a pass, and the small cells as a whole."""

    def __init__(self, catalog: Catalog, program: Program, plan: CellPlan, consumed: Consumed | None = None) -> None:
        self.is_resident_C = _small_cells(plan.num_samples_C)
        """Which cells are in the piece that stays in memory instead of in segments."""
        self._plan = plan
        self._answers = Answers(plan, catalog.samples().schema().names, is_consumed=consumed is not None)
        self._frame: DataFrame = index_frame(catalog, program, consumed, values=self._answers.columns)
        self._answered: DataFrame = index_frame(catalog, program, consumed)
        is_same = {"registration": len(plan.registrations) == 1, "units": program.unit_property is None}
        self._left_out = [name for name, is_known in is_same.items() if is_known]
        """Columns that are not read, as all rows have the same."""
        self._words = [name for name in self._answered.schema().names if name.startswith("word_")]
        self._resident: Piece | None = None
        self._segments: OrderedDict[tuple[int, int], Piece] = OrderedDict()
        self._ahead: dict[tuple[int, int], Future[Piece]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._answering = Lock()

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Let another thread read, meanwhile, the segments that are soon needed."""
        with ThreadPoolExecutor(1, thread_name_prefix="mixlake-index") as thread:
            self._thread = thread
            try:
                yield
            finally:
                for segment in self._ahead.values():
                    segment.cancel()
                self._ahead, self._thread = {}, None

    def prepare(self, pass_number: int, order: PassOrder, number: int) -> None:
        """Begin to read a segment that is soon needed, where segments are read ahead (see `reading_ahead`)."""
        key = (pass_number, number)
        if self._thread is None or key in self._segments or key in self._ahead or len(self._ahead) >= _MAX_AHEAD:
            return
        self._ahead[key] = self._thread.submit(self._fetch_segment, order, number)

    def piece(self, pass_number: int, order: PassOrder, number: int) -> Piece:
        """Return the segment ``number`` of a pass, or the small cells' piece."""
        if number == RESIDENT:
            if self._resident is None:
                self._resident = self._fetch_small_cells()
            return self._resident
        key = (pass_number, number)
        if key not in self._segments:
            ahead = self._ahead.pop(key, None)
            self._segments[key] = ahead.result() if ahead else self._fetch_segment(order, number)
            if len(self._segments) > _MAX_SEGMENTS:
                self._segments.popitem(last=False)
        self._segments.move_to_end(key)
        return self._segments[key]

    def _fetch_segment(self, order: PassOrder, number: int) -> Piece:
        blocks = np.flatnonzero(order.segment_B == number)
        frame = self._frame.filter(self._frame.parse_sql_expr(self._block_predicate(blocks)))
        rows = frame.drop(*self._left_out).to_arrow_table()
        with self._answering:
            cells = self._answers.cells(rows)
        return self._make_piece(rows, cells, ~self.is_resident_C)

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

    def _fetch_small_cells(self) -> Piece:
        """Go through the whole index for the rows of the cells that are kept in memory."""
        frame, plan = self._answered, self._plan
        if not self.is_resident_C.all():
            frame = frame.filter(frame.parse_sql_expr(self._cell_predicate(np.flatnonzero(self.is_resident_C))))
        rows = frame.drop(*self._left_out).to_arrow_table()
        cell = find_rows(plan.words_CW, np.stack([_integers(rows[word]) for word in self._words], axis=1))
        return self._make_piece(rows, cell, self.is_resident_C)

    def _make_piece(self, table: pa.Table, cell: IntArray, is_wanted_C: npt.NDArray[np.bool_]) -> Piece:
        plan = self._plan
        registration = self._registrations(table)
        number, known = _integers(table["block"]), plan.block_number_B
        if "registration" not in self._left_out:
            number, known = registration << 32 | number, plan.block_registration_B << 32 | known
        block = _places(number, known)
        file_id, row = _integers(table["file_id"]), _integers(table["row"])
        rows = Rows(
            registration=registration,
            file_id=file_id,
            row=row,
            byte_start=_integers(table["byte_start"]),
            byte_stop=_integers(table["byte_stop"]),
            units=np.ones(len(table), np.int64) if "units" in self._left_out else _integers(table["units"]),
        )
        storage = lexicographic_order([block, file_id, row])  # None, as a rule: the index is read in storage order
        if storage is not None:
            rows, cell = rows.take(storage), cell[storage]
        if not is_wanted_C.all():
            wanted = np.flatnonzero(is_wanted_C[cell])
            rows, cell = rows.take(wanted), cell[wanted]
        sizes_C = np.bincount(cell, minlength=plan.num_cells)
        return Piece(
            rows=rows,
            addresses=_addresses(rows),
            by_cell=np.argsort(_narrow(cell), kind="stable"),
            first_C=np.append(0, np.cumsum(sizes_C)),
        )

    def _registrations(self, table: pa.Table) -> IntArray:
        if "registration" in self._left_out:
            return np.zeros(len(table), np.int64)
        return _integers(pc.index_in(table["registration"].cast(pa.string()), pa.array(self._plan.registrations)))

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


def _places(keys: IntArray, known: IntArray) -> IntArray:
    """Return where each of some keys stands among those that are known; most keys are as the one before them."""
    firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    return np.repeat(np.searchsorted(known, keys[firsts]), np.diff(np.append(firsts, len(keys))))


def _addresses(rows: Rows) -> IntArray:
    with np.errstate(over="ignore"):
        return np.asarray(rows.row + rows.file_id * _FILE_STRIDE + rows.registration * _REGISTRATION_STRIDE)


def _integers(column: pa.ChunkedArray) -> IntArray:
    filled = pc.fill_null(column, -1) if column.null_count else column
    return np.asarray(filled.to_numpy(), np.int64)


def _narrow(values: IntArray) -> npt.NDArray[np.integer[Any]]:
    """Return small numbers in two bytes: NumPy sorts these by counting."""
    return values.astype(np.int16) if values.max(initial=0) < 1 << 15 else values
