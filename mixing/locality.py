"""What reading a run costs and how well it is shuffled, foretold from its plan: nothing is drawn or read.

A block that is decoded as a whole (a Parquet row group, a compressed file) is decoded once by every lane that has some
of its rows at a time, as if each lane were a rank of its own. Formats that read samples by their bytes decode no more
than they deliver, whatever the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.order import pass_order

FloatArray = npt.NDArray[np.float64]
_LEAST_CHUNK_BITS = 8
_MOST_CHUNK_BITS = 20
"""Chunks of a million samples: as many as a lane can be expected to hold open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Locality:
    """What is expected while no component has run out."""

    read_amplification: float
    """Rows decoded over rows delivered, all lanes together, where blocks are decoded as a whole."""
    neighbour_distance: float
    """Samples between two that are neighbours in their component's files, as they are delivered by the whole run."""
    unshuffled_distance: float
    """The same, without shuffling."""


def expected_locality(
    plan: CellPlan, component_C: IntArray, shares: Sequence[float], *, window: int, chunk_size: int, lanes: int
) -> Locality:
    """Return how much more than it delivers a run decodes, and how far it moves neighbours apart.

    Args:
        plan: the cells, and the blocks where they have samples.
        component_C: the component of each cell, or -1.
        shares: of the units, by component; they sum to 1.
        window: blocks mixed at a time; 0 keeps storage order.
        chunk_size: samples per chunk.
        lanes: of the run.
    """
    rate_C = _samples_per_chunk(plan, component_C, np.asarray(shares, np.float64), chunk_size)
    cell, block, num, begin, end = _windows(plan, window)
    with np.errstate(divide="ignore", invalid="ignore"):
        until = (plan.num_samples_C / rate_C).min()  # chunks until the first cell runs out
        first, last = begin / rate_C[cell], end / rate_C[cell]
    is_drawn = first < until
    cell, block, num, first, last = cell[is_drawn], block[is_drawn], num[is_drawn], first[is_drawn], last[is_drawn]
    decoded = _decoded_rows(plan, block, num, np.floor(first), np.ceil(last) - 1, lanes)
    weight = num * 1.0
    apart = chunk_size / rate_C[cell]
    shuffled = np.maximum((last - first) * chunk_size, chunk_size) / 3  # of two random places in as many samples
    return Locality(
        read_amplification=float(decoded / num.sum()),
        neighbour_distance=float(np.average(shuffled if window else apart, weights=weight)),
        unshuffled_distance=float(np.average(apart, weights=weight)),
    )


def suggested_chunk_size(
    plan: CellPlan, component_C: IntArray, shares: Sequence[float], *, window: int, lanes: int, limit: float = 1.5
) -> int | None:
    """Return the smallest power of two as a chunk size whose read amplification is within a limit, if there is one."""
    for chunk_size in (1 << bits for bits in range(_LEAST_CHUNK_BITS, _MOST_CHUNK_BITS + 1)):
        found = expected_locality(plan, component_C, shares, window=window, chunk_size=chunk_size, lanes=lanes)
        if found.read_amplification <= limit:
            return chunk_size
    return None


def _samples_per_chunk(plan: CellPlan, component_C: IntArray, shares: FloatArray, chunk_size: int) -> FloatArray:
    """Return how many samples of each cell a chunk has in the mean."""
    mine = component_C >= 0
    num_components = len(shares)
    samples, units = (
        np.bincount(component_C[mine], values[mine], minlength=num_components)
        for values in (plan.num_samples_C, plan.num_units_C)
    )
    taken = shares * samples / np.maximum(units, 1)  # samples per unit of the run
    per_sample = taken / taken.sum() / np.maximum(samples, 1)
    return np.where(mine, per_sample[component_C] * plan.num_samples_C * chunk_size, 0.0)


def _windows(plan: CellPlan, window: int) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Return cell, block, samples, and first and last position of the window in its cell, for every entry of the plan.

    The order of the blocks is that of one pass of seed 0; another is as good.
    """
    order = pass_order(plan.num_rows_B, 0, 0, shuffled=window > 0)
    by_pass = np.lexsort((order.position_B[plan.entry_block_E], plan.entry_cell_E))
    cell, num = plan.entry_cell_E[by_pass], plan.entry_samples_E[by_pass]
    first_entry_C = np.searchsorted(cell, np.arange(plan.num_cells))
    rank = np.arange(len(cell)) - first_entry_C[cell]
    is_start = rank % max(window, 1) == 0
    number = np.cumsum(is_start) - 1
    sizes = np.bincount(number, num).astype(np.int64)
    begins = np.cumsum(sizes) - sizes
    before_C = np.append(0, np.cumsum(plan.num_samples_C)[:-1])
    begin = begins[number] - before_C[cell]
    return cell, plan.entry_block_E[by_pass], num, begin, begin + sizes[number]


def _decoded_rows(
    plan: CellPlan, block: IntArray, num: IntArray, first: FloatArray, last: FloatArray, lanes: int
) -> float:
    """Return the rows that all lanes decode: each visit of a block decodes it once per lane that has one of its rows.

    Cells that take their rows of a block at the same time, give or take a round of the lanes, share the visit.
    """
    order = np.lexsort((first, block))
    block, num, first, last = block[order], num[order], first[order], last[order]
    step = float(last.max(initial=0)) + lanes + 1
    reached = np.maximum.accumulate(last + block * step)
    is_start = np.append(True, (first + block * step)[1:] > reached[:-1] + lanes)
    starts = np.flatnonzero(is_start)
    chunks = np.maximum.reduceat(last, starts) - first[starts] + 1
    rows = np.add.reduceat(num, starts)
    visited = np.minimum(chunks, lanes)
    touched = visited * (1 - (1 - 1 / visited) ** rows)  # lanes with at least one of the rows
    return float((touched * plan.num_rows_B[block[starts]]).sum())
