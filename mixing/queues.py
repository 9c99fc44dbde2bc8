"""The samples of some cells in one pass: a queue for each cell and lane, of which any part can be had.

Blocks belong to lanes, and a lane's queue of a cell has the cell's rows of the lane's blocks, in the order of the pass,
window by window; inside a window they are permuted. So that the lanes get equally many, whatever their blocks hold, the
rows of the last blocks are cut at any row: the lanes share them out in long runs, and the very last one evenly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixlake.catalog.records import IntArray
from mixlake.catalog.spans import ranges
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import RESIDENT, Piece, Rows
from mixlake.mixing.order import PassOrder
from mixlake.mixing.randomness import Purpose, scattered

_LEVELLED_BLOCKS = 4
"""Blocks per lane, late in a cell's pass, that make up for what the blocks before them gave the lanes."""
_COMMON_BLOCKS = 1
"""Blocks at the end of a cell's pass of which every lane has a part: what the last chunks lack and take from the queues
of other lanes, they take from there. Otherwise each lane would decode the last blocks of most others for a few rows."""
_RANDOM_BITS = 24
_MAX_ORDERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Rows of a cell in a block that one lane draws, in the order of (cell, lane, position of the block in the pass).

    One entry per part; cells are counted among those that were asked for.
    """

    cell: IntArray
    lane: IntArray
    block: IntArray
    first: IntArray
    """How many of the cell's rows of the block come before, in storage order."""
    num: IntArray
    window: IntArray
    """Windows are numbered through; a window is of one cell, lane and segment."""

    def __len__(self) -> int:
        return len(self.num)


def find_parts(plan: CellPlan, cells: IntArray, order: PassOrder, *, lanes: int, window: int) -> Parts:
    """Return what each lane draws of some cells in a pass, in windows of up to ``window`` blocks."""
    starts, stops = np.searchsorted(plan.entry_cell_E, [cells, cells + 1])
    entry = ranges(starts, stops - starts)
    cell = np.repeat(np.arange(len(cells)), stops - starts)
    block = plan.entry_block_E[entry]
    by_pass = np.lexsort((order.position_B[block], cell))
    block, num = block[by_pass], plan.entry_samples_E[entry][by_pass]
    to_end = np.cumsum(stops - starts)[cell] - np.arange(len(cell))  # 1 for the last entry of a cell
    is_common = to_end <= (_COMMON_BLOCKS if lanes > 1 else 0)
    is_dealt = to_end > (_COMMON_BLOCKS + _LEVELLED_BLOCKS * lanes if lanes > 1 else 0)
    which = np.flatnonzero(is_dealt)
    lane, first, num_P = order.lane_B[block[which]], np.zeros(len(which), np.int64), num[which]
    for entries in (np.flatnonzero(~is_dealt & ~is_common), np.flatnonzero(is_common)):
        owned_CQ = np.bincount(cell[which] * lanes + lane, num_P, minlength=len(cells) * lanes).reshape(-1, lanes)
        total_C = owned_CQ.sum(axis=1) + np.bincount(cell[entries], num[entries], minlength=len(cells))
        lacking_CQ = np.maximum(total_C[:, None] - lanes * owned_CQ, 0).astype(np.int64)
        entry, lane_L, first_L, num_L = _level(cell[entries], num[entries], lacking_CQ)
        which, lane = np.append(which, entries[entry]), np.append(lane, lane_L)
        first, num_P = np.append(first, first_L), np.append(num_P, num_L)
    by_queue = np.lexsort((which, lane, cell[which]))
    cell, lane, block = cell[which][by_queue], lane[by_queue], block[which][by_queue]
    return Parts(
        cell=cell,
        lane=lane,
        block=block,
        first=first[by_queue],
        num=num_P[by_queue],
        window=_windows(cell * lanes + lane, order.segment_B[block], window),
    )


def _level(cell: IntArray, num: IntArray, lacking_CQ: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Share out the rows of entries among lanes, in proportion to what each lacks, each lane's in one run.

    Returns:
        For every part: which entry, lane, rows of the entry that come before, number of rows.
    """
    num_cells, lanes = lacking_CQ.shape
    total_C = np.bincount(cell, num, minlength=num_cells).astype(np.int64)
    lacking = np.cumsum(lacking_CQ, axis=1)
    bounds_CQ = total_C[:, None] * lacking // np.maximum(lacking[:, -1:], 1) + (np.cumsum(total_C) - total_C)[:, None]
    ends = np.cumsum(num)
    stops = np.union1d(ends, bounds_CQ[total_C > 0])
    stops = stops[stops > 0]
    starts = np.append(0, stops[:-1]) if len(stops) else stops
    entry = np.searchsorted(ends, starts, side="right")
    lane = np.searchsorted(bounds_CQ.ravel(), starts, side="right") % lanes
    return entry, lane, starts - (ends - num)[entry], stops - starts


def _windows(queue: IntArray, segment: IntArray, size: int) -> IntArray:
    """Return the window of each part: each queue's parts in a segment are cut into windows of about equal size.

    The last part is a window of its own: what lanes draw from one another's queues, they draw from there.
    """
    is_last = np.append(queue[1:] != queue[:-1], True)
    is_new = np.append(True, (np.diff(queue) != 0) | (np.diff(segment) != 0) | is_last[1:])[: len(queue)]
    group = np.cumsum(is_new) - 1
    lengths = np.bincount(group)
    rank = np.arange(len(queue)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    windows = -(-lengths // max(size, 1))
    return np.asarray(rank * windows[group] // lengths[group] + np.repeat(np.cumsum(windows) - windows, lengths))


class Queues:
    """The queues of some cells in one pass."""

    def __init__(
        self,
        parts: Parts,
        cells: IntArray,
        piece_of: IntArray,
        fetch: Callable[[int], Piece],
        prepare: Callable[[int], None],
        *,
        lanes: int,
        seed: int,
        pass_number: int,
        shuffled: bool,
    ) -> None:
        """Make the queues.

        Args:
            parts: what each lane draws of the cells.
            cells: the cells.
            piece_of: the piece of the index that has each of the parts.
            fetch: returns a piece.
            prepare: is told of a piece that will soon be fetched.
            lanes: how many there are.
            seed: of the run.
            pass_number: which pass it is.
            shuffled: whether the rows of a window are permuted.
        """
        queue = parts.cell * lanes + parts.lane
        self.cells = cells
        self.pass_number = pass_number
        self.sizes_CQ = np.bincount(queue, parts.num, minlength=len(cells) * lanes).astype(np.int64)
        self.sizes_CQ = self.sizes_CQ.reshape(-1, lanes)
        self._parts, self._piece_of, self._fetch, self._prepare = parts, piece_of, fetch, prepare
        self._seed, self._shuffled = seed, shuffled
        self._begin = np.cumsum(self.sizes_CQ.ravel()) - self.sizes_CQ.ravel()
        # A stretch is what a queue has in one piece: consecutive in the queue, and in the piece's order of drawing.
        is_new = np.append(True, (np.diff(queue) != 0) | (np.diff(piece_of) != 0))[: len(queue)]
        firsts = np.flatnonzero(is_new)
        self._stretch_piece, self._stretch_queue = piece_of[firsts], queue[firsts]
        lengths = np.add.reduceat(parts.num, firsts)
        self._stretch_stop = np.cumsum(lengths)
        self._stretch_start = self._stretch_stop - lengths
        by_piece = np.argsort(self._stretch_piece, kind="stable")
        ends = np.cumsum(lengths[by_piece])
        piece_begin = np.append(0, ends)[np.searchsorted(self._stretch_piece[by_piece], self._stretch_piece[by_piece])]
        self._stretch_place = np.empty_like(lengths)
        self._stretch_place[by_piece] = ends - lengths[by_piece] - piece_begin
        self._orders: OrderedDict[int, IntArray] = OrderedDict()

    def rows(self, cell: IntArray, lane: IntArray, start: IntArray, num: IntArray) -> Rows:
        """Return the rows of parts of queues, one after the other: ``num`` rows from position ``start`` on of each."""
        begin = self._begin[cell * self.sizes_CQ.shape[1] + lane] + start
        first, last = (self._stretch_stop.searchsorted(at, side="right") for at in (begin, begin + num - 1))
        self._announce(last, begin + num, num)
        count = last - first + 1
        part = np.repeat(np.arange(len(count)), count)
        stretch = ranges(first, count)
        starts = np.maximum(begin[part], self._stretch_start[stretch])
        lengths = np.minimum((begin + num)[part], self._stretch_stop[stretch]) - starts
        places = starts - self._stretch_start[stretch] + self._stretch_place[stretch]
        pieces = self._stretch_piece[stretch]
        index = ranges(places, lengths)
        if (pieces == pieces[0]).all():
            return self._take(int(pieces[0]), index)
        piece_of_row = np.repeat(pieces, lengths)
        by_piece = np.argsort(piece_of_row, kind="stable")
        rows = [self._take(piece, index[piece_of_row == piece]) for piece in np.unique(pieces).tolist()]
        return Rows.concat(rows).take(np.argsort(by_piece))

    def _announce(self, stretch: IntArray, reached: IntArray, num: IntArray) -> None:
        """Tell which pieces are next where little is left of a stretch: a quarter, or less than is taken now."""
        start, stop = self._stretch_start[stretch], self._stretch_stop[stretch]
        is_late = stop - reached < np.maximum(num, (stop - start) // 4)
        here = stretch[is_late & (stretch < len(self._stretch_queue) - 1)]
        coming = here[self._stretch_queue[here] == self._stretch_queue[here + 1]] + 1
        for piece in np.unique(self._stretch_piece[coming]).tolist():
            if piece != RESIDENT:
                self._prepare(piece)

    def _take(self, number: int, index: IntArray) -> Rows:
        piece = self._fetch(number)
        if number not in self._orders:
            self._orders[number] = self._order_of(piece, number)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
        self._orders.move_to_end(number)
        rows = self._orders[number][index]
        is_run = rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        return piece.rows.take(slice(rows[0], rows[-1] + 1) if is_run else rows)

    def _order_of(self, piece: Piece, number: int) -> IntArray:
        """Return the rows of the cells in a piece in the order of drawing: queue by queue, window by window."""
        parts, mine = self._parts, np.flatnonzero(self._piece_of == number)
        mine = mine[np.lexsort((parts.first[mine], parts.block[mine], parts.cell[mine]))]
        num, row = parts.num[mine], piece.rows_of(self.cells)
        assert len(row) == num.sum()
        if self._shuffled and parts.first[mine].any():  # blocks that lanes share: which rows they get is random
            block = np.repeat(np.cumsum(parts.first[mine] == 0), num)
            row = row[_random_order(block, self._words(piece.addresses[row], 1))]
        window = np.repeat(np.unique(parts.window[mine], return_inverse=True)[1], num)
        if not self._shuffled:
            return row[np.argsort(window, kind="stable")]
        return row[_random_order(window, self._words(piece.addresses[row], 0))]

    def _words(self, addresses: IntArray, number: int) -> npt.NDArray[np.uint64]:
        return scattered(addresses, self._seed, Purpose.ROWS, self.pass_number, number) >> np.uint64(64 - _RANDOM_BITS)


def _random_order(group: IntArray, words: npt.NDArray[np.uint64]) -> IntArray:
    """Return the order by group and, inside a group, by words of ``_RANDOM_BITS``; what is equal stays in order."""
    bits = len(group).bit_length()
    if int(group.max()).bit_length() + _RANDOM_BITS + bits > 64:
        return np.lexsort((words, group))
    keys = (group.astype(np.uint64) << np.uint64(_RANDOM_BITS)) | words
    keys = (keys << np.uint64(bits)) | np.arange(len(group), dtype=np.uint64)
    keys.sort()  # numbers that all differ: five times as fast as finding their order
    return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)
