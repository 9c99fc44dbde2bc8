"""The samples of a cell as one sequence per pass, of which any part can be had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import IndexReader, Rows
from mixlake.mixing.order import PassOrder, pass_order
from mixlake.mixing.randomness import Purpose, permutation


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How one cell goes through the blocks in one pass."""

    blocks: IntArray
    """The blocks where it has samples, in the order of the pass."""
    ends: IntArray
    """Samples up to the end of each window of blocks."""

    def begin(self, window: int) -> int:
        """Return how many samples come before a window."""
        return int(self.ends[window - 1]) if window else 0


class CellRows:
    """Maps positions of a cell's pass to rows: a window of blocks after the other, each window's rows permuted."""

    def __init__(self, plan: CellPlan, reader: IndexReader, *, seed: int, window: int) -> None:
        self._plan = plan
        self._reader = reader
        self._seed = seed
        self._window = window
        self._orders: dict[int, PassOrder] = {}
        self._layouts: dict[tuple[int, int], _Layout] = {}
        self._open_windows: dict[int, tuple[tuple[int, int], Rows]] = {}
        self._first_entry_C = np.searchsorted(plan.entry_cell_E, np.arange(plan.num_cells + 1))

    def slice(self, cell: int, pass_number: int, start: int, stop: int) -> Rows:
        """Return the rows at positions ``start`` to ``stop`` of the cell's pass."""
        layout = self._layout(cell, pass_number)
        first, last = np.searchsorted(layout.ends, [start, stop - 1], side="right").tolist()
        parts = []
        if cell in self._open_windows and self._open_windows[cell][0] == (pass_number, first):
            begin, end = layout.begin(first), layout.begin(first + 1)
            parts.append(self._open_windows[cell][1].take(slice(start - begin, min(stop, end) - begin)))
            start, first = min(stop, end), first + 1
        if start < stop:
            begin = layout.begin(first)
            rows = self._rows_of_windows(cell, pass_number, range(first, last + 1), layout)
            parts.append(rows.take(slice(start - begin, stop - begin)))
            self._open_windows[cell] = ((pass_number, last), rows.take(slice(layout.begin(last) - begin, None)))
        return Rows.concat(parts)

    def _layout(self, cell: int, pass_number: int) -> _Layout:
        key = (cell, pass_number)
        if key not in self._layouts:
            entries = slice(int(self._first_entry_C[cell]), int(self._first_entry_C[cell + 1]))
            blocks = self._plan.entry_block_E[entries]
            order = np.argsort(self._order(pass_number).position_B[blocks])
            totals = np.cumsum(self._plan.entry_samples_E[entries][order])
            step = max(self._window, 1)
            ends = np.append(totals[step - 1 : -1 : step], totals[-1])
            self._layouts[key] = _Layout(blocks=blocks[order], ends=ends)
            self._layouts.pop((cell, pass_number - 2), None)
        return self._layouts[key]

    def _order(self, pass_number: int) -> PassOrder:
        if pass_number not in self._orders:
            self._orders[pass_number] = pass_order(
                self._plan.num_rows_B, self._seed, pass_number, shuffled=self._window > 0
            )
        return self._orders[pass_number]

    def _rows_of_windows(self, cell: int, pass_number: int, windows: range, layout: _Layout) -> Rows:
        """Return the rows of consecutive windows, each window's permuted; windows may be many and small."""
        step = max(self._window, 1)
        blocks = layout.blocks[windows.start * step : windows.stop * step]
        rows = self._reader.rows(cell, blocks, pass_number, self._order(pass_number))
        if not self._window:
            return rows
        begins = [layout.begin(window) - layout.begin(windows.start) for window in [*windows, windows.stop]]
        order = [
            begin + permutation(end - begin, self._seed, Purpose.ROWS, window, cell, pass_number)
            for window, begin, end in zip(windows, begins[:-1], begins[1:], strict=True)
        ]
        return rows.take(np.concatenate(order))


def spread(sizes: IntArray, taken: IntArray, num: int) -> IntArray:
    """Return which cell each of the next ``num`` samples comes from, in proportion to the cells' sizes.

    Cut anywhere and continued from what was taken, it is the same sequence.

    Args:
        sizes: samples of each cell in a pass.
        taken: how many of them were taken before.
        num: how many to take; no more than are left.

    >>> spread(np.array([2, 4]), np.array([0, 0]), 6).tolist()
    [1, 0, 1, 1, 0, 1]
    >>> spread(np.array([2, 4]), np.array([1, 2]), 3).tolist()
    [1, 0, 1]
    """
    if len(sizes) == 1 or not num:
        return np.zeros(num, np.int64)
    # Sample j of a cell of n has its place at (j + 1/2) / n of the pass; by the last place surely reached, each cell
    # has taken half a sample less than its proportion, or more.
    reached = (int(taken.sum()) + num + len(sizes) / 2) / int(sizes.sum())
    ahead = np.clip(np.ceil(reached * sizes + 1).astype(np.int64), taken, sizes) - taken
    cells = np.repeat(np.arange(len(sizes)), ahead)
    sample = np.arange(len(cells)) - np.repeat(np.cumsum(ahead) - ahead - taken, ahead)
    return cells[np.argsort((sample + 0.5) / sizes[cells], kind="stable")][:num]
