"""The next samples of a component: from its cells, pass by pass and band by band, and from the queues of its lanes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.index import Rows
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Leaf, Program
from mixlake.mixing.queues import Queues

ENDLESS = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The cells that a component draws from while a definition is in force, and by which rules."""

    cells: IntArray
    bands: IntArray
    """The place of each cell in the component's order; the same for all where it has none."""
    on_exhausted: OnExhausted
    max_passes: int | None
    ratio: float | None
    """Units per unit that is counted; None where they are the same."""

    def charged(self, units: IntArray) -> IntArray:
        """Return what samples count where that is estimated: at least one unit, unless they are empty."""
        if self.ratio is None:
            return units
        return np.asarray(np.maximum(np.rint(units * self.ratio).astype(np.int64), np.minimum(units, 1)))


def find_sources(program: Program, plan: CellPlan, leaves: Sequence[Leaf]) -> list[Source]:
    """Return the source of each of the program's components while ``leaves`` are what they are."""
    owner_C = plan.owners(leaves)
    band_C = np.zeros(plan.num_cells, np.int64)
    for index, leaf in enumerate(leaves):
        if leaf.bands:
            mine = np.flatnonzero(owner_C == index)
            columns = [plan.predicates.index(predicate) for predicate in leaf.bands]
            matches = plan.matches_CP[mine][:, columns]
            band_C[mine] = np.where(matches.any(axis=1), matches.argmax(axis=1), len(columns))
    by_name: dict[str, list[int]] = {}
    for index, leaf in enumerate(leaves):
        by_name.setdefault(leaf.name, []).append(index)
    sources = []
    for name in program.components:
        indices = by_name.get(name, [])
        first = leaves[indices[0]] if indices else None
        cells = np.flatnonzero(np.isin(owner_C, indices)).astype(np.int64)
        sources.append(
            Source(
                cells=cells,
                bands=band_C[cells],
                on_exhausted=OnExhausted.REDISTRIBUTE if first is None else first.on_exhausted,
                max_passes=1 if first is None else first.max_passes,
                ratio=None if program.tokens_per_byte is None else program.tokens_per_byte.get(name),
            )
        )
    return sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """How much of every cell is taken."""

    passes_C: IntArray
    taken_CQ: IntArray
    """Of the cell's pass, by lane that owns the samples."""

    @classmethod
    def at(cls, cursor: Cursor) -> Stock:
        """Return the stock where a run stands."""
        return cls(passes_C=np.array(cursor.passes, np.int64), taken_CQ=np.array(cursor.taken, np.int64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """Samples that a component takes from some queues, one queue's after the other's."""

    queues: Queues
    cell: IntArray
    """Index into the queues' cells; one entry per queue, as for ``lane``, ``start`` and ``num``."""
    lane: IntArray
    start: IntArray
    num: IntArray
    order: IntArray
    """Which of the component's samples each of them is."""

    def rows(self) -> Rows:
        """Return the rows of the samples."""
        return self.queues.rows(self.cell, self.lane, self.start, self.num)


class Stream:
    """The next samples of one component.

    Of its cells those come first that were gone through least often, and of these those of the first band. So a
    component goes through a pass to its end before it begins the next, whatever other stages drew from its cells.
    Cells are drawn from together in proportion to their sizes. A chunk takes what its lane owns, and where that has
    run out, what other lanes own: so every pass is finished.
    """

    def __init__(self, source: Source, plan: CellPlan, cell_rows: CellRows, unit: Unit, stock: Stock) -> None:
        self.source = source
        self.on_exhausted = source.on_exhausted
        self.counts_samples = unit is Unit.SAMPLES
        self.takes: list[Take] = []
        """All that was taken."""
        self.passes = stock.passes_C[source.cells]
        """By cell of the source."""
        self.taken = stock.taken_CQ[source.cells]
        """By cell of the source, and lane."""
        self._cell_rows = cell_rows
        sizes = plan.num_samples_C[source.cells]
        self.num_left = self._num_left(sizes)
        ratio = 1.0 if source.ratio is None else source.ratio
        self.mean_units = max(1.0, ratio * int(plan.num_units_C[source.cells].sum())) / max(1, int(sizes.sum()))
        self._num_taken = 0
        self._lane, self._num_here, self._num_chunks = 0, 0, 1
        self._waiting: list[tuple[int, int]] = []
        """Samples of chunks, and their lanes, that are counted and not yet taken."""
        self._units: dict[int, IntArray] = {}
        """By lane, the units of its next samples, as many as are known."""
        self._is_lending = False
        """Whether the chunk needs more samples than its lane owns, and so changes what other lanes get."""

    def _num_left(self, sizes: IntArray) -> int:
        """Return how many samples it can still draw; ``ENDLESS`` where that has no end."""
        if not len(sizes):
            return 0
        if self.source.max_passes is None:
            return ENDLESS
        left = (self.source.max_passes - self.passes) * sizes - self.taken.sum(axis=1)
        return int(np.maximum(left, 0).sum())

    def enter(self, lane: int, num_chunks: int) -> None:
        """Go on with a chunk of a lane, of which so many are drawn: their sizes are looked up at once."""
        if self._num_here:
            self._waiting.append((self._num_here, self._lane))
            self._units[self._lane] = self._units[self._lane][self._num_here :]
            if self._is_lending:
                self.settle()
        self._lane, self._num_here, self._num_chunks = lane, 0, num_chunks

    def settle(self) -> None:
        """Take what chunks that are left behind have counted: of many together, as that takes as long as of one."""
        if self._waiting:
            num_K, lane_K = np.array(self._waiting, np.int64).T
            self.take(num_K, lane_K)
            self._waiting = []
        if self._is_lending:
            self._units, self._is_lending = {}, False

    def units(self, num: int) -> IntArray:
        """Return the units of the next samples: ``num`` of them or, if it has fewer, all."""
        num = min(num, self.num_left)
        if self.counts_samples:
            return np.ones(num, np.int64)
        if not num:  # as of a component that a stage does without: it has no cells to look at
            return np.empty(0, np.int64)
        stop = self._num_here + num
        if self._lane not in self._units or stop > len(self._units[self._lane]):
            self._look_ahead(stop)
        return self._units[self._lane][self._num_here : stop]

    def advance(self, num: int) -> None:
        """Count the next ``num`` samples as the chunk's."""
        self._num_here += num
        self.num_left -= num if self.source.max_passes is not None else 0

    def take(self, num_K: IntArray, lane_K: IntArray) -> None:
        """Take samples for consecutive chunks: how many for each, and of which lane it is."""
        num_K = num_K.copy()
        while num_K.any():
            members = self._level()
            queues = self._cell_rows.queues(self.source.cells[members], int(self.passes[members[0]]))
            taken = self.taken[members]
            given_KQ = lend(num_K, lane_K, (queues.sizes_CQ - taken).sum(axis=0))
            counts, order = pick(queues.sizes_CQ, taken, given_KQ, lane_K)
            lane, cell = np.nonzero(counts.T)
            if len(order):  # none where other definitions have drawn all of these cells, in a level with others
                self.takes.append(
                    Take(
                        queues=queues,
                        cell=cell,
                        lane=lane,
                        start=taken[cell, lane],
                        num=counts[cell, lane],
                        order=order + self._num_taken,
                    )
                )
            self._num_taken += len(order)
            num_K -= given_KQ.sum(axis=1)
            taken += counts
            is_through = bool((taken == queues.sizes_CQ).all())
            self.taken[members] = 0 if is_through else taken
            self.passes[members] += is_through

    def _look_ahead(self, num: int) -> None:
        """Find the units of the lane's next samples, for some chunks to come if it owns as many."""
        self.settle()
        members, lane = self._level(), self._lane
        queues = self._cell_rows.queues(self.source.cells[members], int(self.passes[members[0]])) if num else None
        left = 0 if queues is None else int((queues.sizes_CQ[:, lane] - self.taken[members, lane]).sum())
        self._is_lending = num > left
        num = max(num, min(left, num * self._num_chunks))
        ahead = self._copy()
        ahead.take(np.array([num]), np.array([lane]))
        units = np.empty(num, np.int64)
        for take in ahead.takes:
            units[take.order] = self.source.charged(take.rows().units)
        self._units[lane] = units

    def _copy(self) -> Self:
        other = copy.copy(self)
        other.passes, other.taken, other.takes, other._num_taken = self.passes.copy(), self.taken.copy(), [], 0
        return other

    def _level(self) -> IntArray:
        """Return the cells that come next, as indices into the source's."""
        bands = self.source.bands
        level = np.lexsort((bands, self.passes))[0]
        return np.flatnonzero((self.passes == self.passes[level]) & (bands == bands[level]))


def lend(num_K: IntArray, lane_K: IntArray, left_Q: IntArray) -> IntArray:
    """Return how many samples chunks take from each lane's queues: all that they want, while there are any.

    A chunk takes what its own lane owns, and where that has run out, what the lanes after it own: the same lanes for
    all components, so that few blocks are read for that.

    Args:
        num_K: how many samples each chunk wants.
        lane_K: its lane.
        left_Q: how many each lane owns.

    >>> lend(np.array([3, 3, 3]), np.array([0, 1, 0]), np.array([4, 9])).tolist()
    [[3, 0], [0, 3], [1, 2]]
    """
    given_KQ = np.zeros((len(num_K), len(left_Q)), np.int64)
    given_KQ[np.arange(len(num_K)), lane_K] = num_K
    if (given_KQ.sum(axis=0) <= left_Q).all():
        return given_KQ
    given_KQ[:] = 0
    left = left_Q.tolist()
    for chunk, (wanted, own) in enumerate(zip(num_K.tolist(), lane_K.tolist(), strict=True)):
        lane, lacking = own, wanted
        while lacking and any(left):
            while not left[lane]:
                lane = (lane + 1) % len(left)
            some = min(lacking, left[lane])
            given_KQ[chunk, lane] += some
            left[lane] -= some
            lacking -= some
    return given_KQ


def pick(sizes_CQ: IntArray, taken_CQ: IntArray, given_KQ: IntArray, lane_K: IntArray) -> tuple[IntArray, IntArray]:
    """Return how many samples are taken from each queue, and which they are, lane by lane and cell by cell.

    A chunk's samples are those of its own lane, then those of the lanes after it: of whatever it takes, a part comes
    first that does not depend on how much it takes.
    """
    num_cells, lanes = sizes_CQ.shape
    lane_KQ = (lane_K[:, None] + np.arange(lanes)) % lanes
    lane = np.repeat(lane_KQ.ravel(), np.take_along_axis(given_KQ, lane_KQ, axis=1).ravel())
    by_lane = np.argsort(lane.astype(np.int16), kind="stable") if lanes > 1 else np.arange(len(lane))
    num_Q = given_KQ.sum(axis=0)
    if num_cells == 1:
        return num_Q[None, :], by_lane
    queue = spread(sizes_CQ, taken_CQ, num_Q) + np.repeat(np.arange(lanes) * num_cells, num_Q)
    counts_QC = np.bincount(queue, minlength=lanes * num_cells).astype(np.int64).reshape(lanes, num_cells)
    return counts_QC.T, by_lane[np.argsort(queue, kind="stable")]


def spread(sizes_CQ: IntArray, taken_CQ: IntArray, num_Q: IntArray) -> IntArray:
    """Return which cell each of a lane's next samples comes from, in proportion to the cells' sizes, lane by lane.

    Cut anywhere and continued from what was taken, it is the same sequence.

    Args:
        sizes_CQ: samples of each cell in a pass, by lane.
        taken_CQ: how many of them were taken before.
        num_Q: how many to take of each lane; no more than are left.

    >>> spread(np.array([[2], [4]]), np.array([[0], [0]]), np.array([6])).tolist()
    [1, 0, 1, 1, 0, 1]
    >>> spread(np.array([[2], [4]]), np.array([[1], [2]]), np.array([3])).tolist()
    [1, 0, 1]
    """
    # Sample j of a cell of n has its place at (j + 1/2) / n of the pass; by the last place surely reached, each cell
    # has taken half a sample less than its proportion, or more.
    reached_Q = (taken_CQ.sum(axis=0) + num_Q + len(sizes_CQ) / 2) / np.maximum(sizes_CQ.sum(axis=0), 1)
    reached_Q = np.where(num_Q > 0, reached_Q, 0.0)
    most_CQ = np.where(num_Q > 0, np.ceil(reached_Q * sizes_CQ + 1).astype(np.int64), taken_CQ)
    ahead = (np.clip(most_CQ, taken_CQ, sizes_CQ) - taken_CQ).T.ravel()
    lane, cell = np.divmod(np.repeat(np.arange(len(ahead)), ahead), len(sizes_CQ))
    begin = np.cumsum(ahead) - ahead
    sample = np.arange(len(cell)) - np.repeat(begin - taken_CQ.T.ravel(), ahead)
    order = np.lexsort(((sample + 0.5) / sizes_CQ[cell, lane], lane))
    lengths = np.bincount(lane, minlength=len(num_Q))
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return cell[order[rank < np.repeat(num_Q, lengths)]]
