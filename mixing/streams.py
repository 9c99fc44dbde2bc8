"""The next samples of a component: from its cells, pass by pass and band by band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_rows import CellRows, spread
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.index import Rows
from mixlake.mixing.mixture import OnExhausted, Unit
from mixlake.mixing.program import Leaf, Program

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

    def num_left(self, plan: CellPlan, cursor: Cursor) -> int:
        """Return how many samples it can still draw; ``ENDLESS`` where that has no end."""
        if not len(self.cells):
            return 0
        if self.max_passes is None:
            return ENDLESS
        passes, positions = (np.array(values, np.int64)[self.cells] for values in (cursor.passes, cursor.positions))
        left = (self.max_passes - passes) * plan.num_samples_C[self.cells] - positions
        return int(np.maximum(left, 0).sum())


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
class Piece:
    """Samples that a component takes from one cell in one pass."""

    cell: int
    pass_number: int
    start: int
    """Position in the cell's pass."""
    rows: Rows
    order: IntArray
    """Which of the component's samples each of them is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Leg:
    """Cells that are drawn from together, in proportion to their sizes, until all of them are through their pass."""

    cells: IntArray
    pass_number: int
    sizes: IntArray
    taken: IntArray

    @property
    def num_left(self) -> int:
        return int(self.sizes.sum() - self.taken.sum())


class Stream:
    """The next samples of one component.

    Of its cells those come first that were gone through least often, and of these those of the first band. So a
    component goes through a pass to its end before it begins the next, whatever other stages drew from its cells.
    """

    def __init__(self, source: Source, plan: CellPlan, cell_rows: CellRows, unit: Unit, cursor: Cursor) -> None:
        cells = source.cells
        self.on_exhausted = source.on_exhausted
        self.num_left = source.num_left(plan, cursor)
        self._source = source
        self._cell_rows = cell_rows
        self._counts_samples = unit is Unit.SAMPLES
        self._sizes_C = plan.num_samples_C[cells]
        self._passes = np.array(cursor.passes, np.int64)[cells]
        self._positions = np.array(cursor.positions, np.int64)[cells]
        self._legs: list[_Leg] = []
        self._units = np.empty(0, np.int64)
        self._num_done = 0
        ratio = 1.0 if source.ratio is None else source.ratio
        self.mean_units = max(1.0, ratio * int(plan.num_units_C[cells].sum())) / max(1, int(self._sizes_C.sum()))

    def units(self, num: int) -> IntArray:
        """Return the units of the next samples: ``num`` of them or, if it has fewer, all."""
        num = min(num, self.num_left)
        if self._counts_samples:
            return np.ones(num, np.int64)
        if self._num_done + num > len(self._units):
            self._units = np.empty(self._num_done + num, np.int64)
            for piece in self._pieces(len(self._units)):
                self._units[piece.order] = self._charged(piece.rows.units)
        return self._units[self._num_done : self._num_done + num]

    def units_taken(self) -> IntArray:
        """Return the units of the samples that were taken."""
        return np.ones(self._num_done, np.int64) if self._counts_samples else self._units[: self._num_done]

    def advance(self, num: int) -> None:
        """Take the next ``num`` samples."""
        self._num_done += num
        self.num_left -= num if self._source.max_passes is not None else 0

    def pieces(self) -> Iterator[Piece]:
        """Return the samples that were taken, leg by leg and cell by cell."""
        return self._pieces(self._num_done)

    def _charged(self, units: IntArray) -> IntArray:
        """Return what samples count where that is estimated: at least one unit, unless they are empty."""
        ratio = self._source.ratio
        return units if ratio is None else np.maximum(np.rint(units * ratio).astype(np.int64), np.minimum(units, 1))

    def _pieces(self, num: int) -> Iterator[Piece]:
        done = 0
        number = 0
        while done < num:
            leg = self._leg(number)
            here = min(num - done, leg.num_left)
            place = spread(leg.sizes, leg.taken, here)
            counts = np.bincount(place, minlength=len(leg.cells))
            orders = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
            for cell, start, order in zip(leg.cells.tolist(), leg.taken.tolist(), orders, strict=True):
                if len(order):
                    rows = self._cell_rows.slice(cell, leg.pass_number, start, start + len(order))
                    yield Piece(cell=cell, pass_number=leg.pass_number, start=start, rows=rows, order=order + done)
            done += here
            number += 1

    def _leg(self, number: int) -> _Leg:
        while len(self._legs) <= number:
            bands = self._source.bands
            level = np.lexsort((bands, self._passes))[0]
            mine = np.flatnonzero((self._passes == self._passes[level]) & (bands == bands[level]))
            leg = _Leg(
                cells=self._source.cells[mine],
                pass_number=int(self._passes[level]),
                sizes=self._sizes_C[mine],
                taken=self._positions[mine].copy(),
            )
            self._legs.append(leg)
            self._passes[mine] += 1
            self._positions[mine] = 0
        return self._legs[number]
