"""What reading a run costs and how well it is shuffled, foretold from its plan: nothing is drawn or read.

A block that is decoded as a whole (a Parquet row group, a compressed file) is decoded once by every lane that draws
some of its rows at a time, as if each lane were a rank of its own. Shuffled, a block belongs to one lane, but for the
last ones of a pass; in storage order all lanes draw from it. Formats that read samples by their bytes decode no more
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
from mixlake.mixing.queues import Parts, find_parts

FloatArray = npt.NDArray[np.float64]


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
    owners = lanes if window else 1
    order = pass_order(plan.num_rows_B, 0, 0, shuffled=window > 0, lanes=owners)  # another seed is as good
    mine = np.flatnonzero(component_C >= 0)
    parts = find_parts(plan, mine, order, lanes=owners, window=window)
    rate_C = _samples_per_chunk(plan, component_C, np.asarray(shares, np.float64), chunk_size)[mine]
    begin, end = _windows(parts, owners)
    # A lane draws from its queue as if it were all that the lane has: in every chunk of its own, of `owners` chunks.
    pace = rate_C[parts.cell] / owners
    with np.errstate(divide="ignore", invalid="ignore"):
        until = (plan.num_samples_C[mine] / rate_C).min()  # chunks until the first cell runs out
        first, last = begin / pace, end / pace
    is_drawn = first < until
    decoded = _decoded_rows(plan, parts, is_drawn, np.floor(first), np.ceil(last) - 1, lanes, owners)
    num, first, last = parts.num[is_drawn], first[is_drawn], last[is_drawn]
    weight = num * np.clip((until - first) / (last - first), 0, 1)  # what is drawn until then: of some cells hardly any
    apart = chunk_size / rate_C[parts.cell[is_drawn]]
    open_for = np.minimum(last, until) - first
    shuffled = np.maximum(open_for * chunk_size, chunk_size) / 3  # of two random places in as many samples
    return Locality(
        read_amplification=float(decoded / num.sum()),
        neighbour_distance=float(np.average(shuffled if window else apart, weights=weight)),
        unshuffled_distance=float(np.average(apart, weights=weight)),
    )


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


def _windows(parts: Parts, owners: int) -> tuple[FloatArray, FloatArray]:
    """Return between which positions of its queue each part's window is."""
    window = np.cumsum(np.append(True, np.diff(parts.window) != 0)) - 1
    size = np.bincount(window, parts.num)
    queue = (parts.cell * owners + parts.lane)[np.append(True, np.diff(window) != 0)]
    ends = np.cumsum(size)
    before = (ends - size)[np.searchsorted(queue, queue)]
    return (ends - size - before)[window], (ends - before)[window]


def _decoded_rows(
    plan: CellPlan,
    parts: Parts,
    is_drawn: npt.NDArray[np.bool_],
    first: FloatArray,
    last: FloatArray,
    lanes: int,
    owners: int,
) -> float:
    """Return the rows that all lanes decode: each visit of a block decodes it once per lane that has one of its rows.

    Cells that take their rows of a block at the same time, give or take a round of the lanes, share the visit. What a
    lane lacks in the last round of a pass it takes from others' parts of a block that it has a part of, too.
    """
    part = np.flatnonzero(is_drawn)
    place = parts.block[part] * owners + parts.lane[part]
    order = np.lexsort((first[part], place))
    place, part = place[order], part[order]
    num, first, last = parts.num[part], first[part], last[part]
    step = float(last.max(initial=0)) + lanes + 1
    reached = np.maximum.accumulate(last + place * step)
    is_start = np.append(True, (first + place * step)[1:] > reached[:-1] + lanes)
    starts = np.flatnonzero(is_start)
    chunks = np.maximum.reduceat(last, starts) - first[starts] + 1
    rows = np.add.reduceat(num, starts)
    visited = np.minimum(chunks, lanes) if owners == 1 else np.ones(len(starts))
    touched = visited * (1 - (1 - 1 / visited) ** rows)  # lanes with at least one of the rows
    return float((touched * plan.num_rows_B[place[starts] // owners]).sum())
