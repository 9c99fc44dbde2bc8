"""The order of one pass over the blocks, the same for all cells, and the lane that draws each block.

Blocks are shuffled in two levels, so that the index is read in long runs however large it is: the storage order is cut
into runs of about a row group of the index, the runs are shuffled and taken some at a time (a segment), and the blocks
of a segment are shuffled among themselves. A lake of up to half a million samples is one segment, so its blocks are
shuffled without limits.

Every block belongs to one lane, so that it is decoded once, although chunks are small and all lanes draw at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.randomness import Purpose, permutation

ROWS_PER_RUN = 65_536
RUNS_PER_SEGMENT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PassOrder:
    """The order in which a pass visits the blocks."""

    blocks: IntArray
    """Block at each position."""
    position_B: IntArray
    """Position of each block."""
    segment_B: IntArray
    """Segment of each block; a segment is a run of positions that is fetched from the index at once."""
    lane_B: IntArray
    """The lane that each block belongs to."""


def pass_order(num_rows_B: IntArray, seed: int, number: int, *, shuffled: bool, lanes: int = 1) -> PassOrder:
    """Return the order of pass ``number`` over blocks that have ``num_rows_B`` rows each.

    >>> pass_order(np.array([5, 5, 5]), seed=0, number=0, shuffled=False).blocks.tolist()
    [0, 1, 2]
    """
    run_B = (np.cumsum(num_rows_B) - num_rows_B) // ROWS_PER_RUN
    runs, run_B = np.unique(run_B, return_inverse=True)
    place_of_run = np.arange(len(runs))
    if shuffled:
        place_of_run = np.argsort(permutation(len(runs), seed, Purpose.SEGMENTS, number))
    segment_B = place_of_run[run_B] // RUNS_PER_SEGMENT
    within_B = np.arange(len(num_rows_B))
    if shuffled:
        within_B = np.argsort(permutation(len(num_rows_B), seed, Purpose.BLOCKS, number))
    lane_B = _deal(num_rows_B, segment_B, lanes)
    by_lane = np.lexsort((within_B, lane_B, segment_B))
    pair = (segment_B * lanes + lane_B)[by_lane]
    turn_B = np.empty_like(by_lane)
    turn_B[by_lane] = np.arange(len(pair)) - np.searchsorted(pair, pair)
    # Block by block the lanes take turns, so that wherever a pass is looked at they have had equally many.
    blocks = np.lexsort((within_B, turn_B, segment_B)).astype(np.int64)
    return PassOrder(blocks=blocks, position_B=np.argsort(blocks), segment_B=segment_B.astype(np.int64), lane_B=lane_B)


def _deal(num_rows_B: IntArray, segment_B: IntArray, lanes: int) -> IntArray:
    """Return the lane of each block: segment by segment, each lane gets one of every ``lanes`` blocks.

    They are neighbours in storage, and so as a rule alike in what they hold, whatever the order of the pass is. Lanes
    take turns in getting the largest, so that all of them get about as many rows.
    """
    by_storage = np.argsort(segment_B, kind="stable")
    deal = np.arange(len(num_rows_B)) // lanes
    by_size = np.lexsort((-num_rows_B[by_storage], deal))
    place = np.arange(len(num_rows_B)) % lanes
    lane_B = np.empty(len(num_rows_B), np.int64)
    lane_B[by_storage[by_size]] = np.where(deal % 2, lanes - 1 - place, place)
    return lane_B
