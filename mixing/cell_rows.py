"""The samples of every cell, pass by pass, as queues."""

from __future__ import annotations

import functools

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import RESIDENT, IndexReader
from mixlake.mixing.order import PassOrder, pass_order
from mixlake.mixing.queues import Queues, find_parts

_MAX_PASS_ORDERS = 4
"""Components that are repeated are in different passes; orders are found again where they are more."""


class CellRows:
    """Finds the queues of cells; those in use are kept."""

    def __init__(self, plan: CellPlan, reader: IndexReader, *, seed: int, window: int, lanes: int) -> None:
        self.num_lanes = lanes if window else 1
        """Lanes that own blocks: in storage order all lanes draw from one queue."""
        self._plan = plan
        self._reader = reader
        self._seed = seed
        self._window = window
        self._orders: dict[int, PassOrder] = {}
        self._queues: dict[tuple[int, int], Queues] = {}

    def queues(self, cells: IntArray, pass_number: int) -> Queues:
        """Return the queues of some cells, at least one, in a pass."""
        key = (int(cells[0]), pass_number)
        found = self._queues.get(key)
        if found is None or not np.array_equal(found.cells, cells):
            found = self._queues[key] = self._find(cells, pass_number)
            self._queues.pop((key[0], pass_number - 2), None)
        return found

    def _find(self, cells: IntArray, pass_number: int) -> Queues:
        order = self._order(pass_number)
        parts = find_parts(self._plan, cells, order, lanes=self.num_lanes, window=self._window)
        is_resident = self._reader.is_resident_C[cells][parts.cell]
        return Queues(
            parts,
            cells,
            np.where(is_resident, RESIDENT, order.segment_B[parts.block]),
            functools.partial(self._reader.piece, pass_number, order),
            functools.partial(self._reader.prepare, pass_number, order),
            lanes=self.num_lanes,
            seed=self._seed,
            pass_number=pass_number,
            shuffled=self._window > 0,
        )

    def _order(self, pass_number: int) -> PassOrder:
        if pass_number not in self._orders:
            while len(self._orders) >= _MAX_PASS_ORDERS:
                del self._orders[next(iter(self._orders))]
            self._orders[pass_number] = pass_order(
                self._plan.num_rows_B, self._seed, pass_number, shuffled=self._window > 0, lanes=self.num_lanes
            )
        return self._orders[pass_number]
