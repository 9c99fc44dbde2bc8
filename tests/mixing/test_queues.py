"""Lanes share out the blocks of a pass: every row is one lane's, and few blocks are those of several."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog.records import IntArray
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.order import PassOrder, pass_order
from mixlake.mixing.queues import Parts, find_parts

entry_tables = st.integers(1, 60).flatmap(
    lambda num_blocks: st.lists(
        st.lists(st.integers(0, 30), min_size=num_blocks, max_size=num_blocks).filter(any), min_size=1, max_size=4
    )
)


def make_plan(samples_CB: IntArray) -> CellPlan:
    """A plan of cells that have so many samples in each block."""
    cell, block = np.nonzero(samples_CB)
    num_cells, num_blocks = samples_CB.shape
    sizes = samples_CB.sum(axis=1)
    return CellPlan(
        predicates=(),
        matches_CP=np.zeros((num_cells, 0), bool),
        words_CW=np.arange(num_cells)[:, None],
        registrations=("a",),
        block_registration_B=np.zeros(num_blocks, np.int64),
        block_number_B=np.arange(num_blocks),
        num_rows_B=samples_CB.sum(axis=0),
        entry_cell_E=cell,
        entry_block_E=block,
        entry_samples_E=samples_CB[cell, block],
        num_samples_C=sizes,
        num_units_C=sizes,
        num_passes_C=np.zeros(num_cells, np.int64),
    )


def shared_out(plan: CellPlan, *, lanes: int, window: int = 4, seed: int = 0) -> tuple[Parts, PassOrder]:
    order = pass_order(plan.num_rows_B, seed, 0, shuffled=True, lanes=lanes)
    return find_parts(plan, np.arange(plan.num_cells), order, lanes=lanes, window=window), order


@settings(deadline=None)
@given(samples=entry_tables, lanes=st.integers(1, 9), window=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_row_of_every_cell_and_block_is_in_one_part(
    samples: list[list[int]], lanes: int, window: int, seed: int
) -> None:
    plan = make_plan(np.array(samples))
    parts, order = shared_out(plan, lanes=lanes, window=window, seed=seed)
    rows = sorted(
        (cell, block, row)
        for cell, block, first, num in zip(
            *(column.tolist() for column in (parts.cell, parts.block, parts.first, parts.num)), strict=True
        )
        for row in range(first, first + num)
    )
    assert rows == [
        (cell, block, row)
        for cell, blocks in enumerate(samples)
        for block, num in enumerate(blocks)
        for row in range(num)
    ]
    assert (parts.num > 0).all()
    queue = parts.cell * lanes + parts.lane
    assert (np.diff(queue) >= 0).all()
    assert (np.diff(order.position_B[parts.block])[np.diff(queue) == 0] > 0).all()


@settings(deadline=None)
@given(samples=entry_tables, lanes=st.integers(1, 9), window=st.integers(1, 5))
def test_a_window_is_of_one_queue_and_no_more_blocks_than_allowed(
    samples: list[list[int]], lanes: int, window: int
) -> None:
    parts, _ = shared_out(make_plan(np.array(samples)), lanes=lanes, window=window)
    assert (np.diff(parts.window) >= 0).all()
    assert np.bincount(parts.window).max() <= window
    queue = parts.cell * lanes + parts.lane
    assert (np.diff(parts.window)[np.diff(queue) != 0] > 0).all()


def test_what_is_drawn_of_a_cell_does_not_depend_on_the_cells_asked_for_with_it() -> None:
    plan = make_plan(np.random.Generator(np.random.Philox(1)).integers(0, 20, (5, 90)))
    whole, order = shared_out(plan, lanes=4)
    for cell in range(5):
        alone = find_parts(plan, np.array([cell]), order, lanes=4, window=4)
        mine = whole.cell == cell
        for name in ("lane", "block", "first", "num"):
            assert getattr(alone, name).tolist() == getattr(whole, name)[mine].tolist()
        assert np.diff(alone.window).tolist() == np.diff(whole.window[mine]).tolist()


@settings(deadline=None, max_examples=30)
@given(
    lanes=st.integers(2, 8),
    num_blocks=st.integers(1, 300),
    seed=st.integers(0, 99),
    shares=st.lists(st.integers(1, 50), min_size=1, max_size=4),
)
def test_lanes_get_equally_many_of_every_interleaved_cell_and_share_few_blocks(
    lanes: int, num_blocks: int, seed: int, shares: list[int]
) -> None:
    random = np.random.Generator(np.random.Philox(seed))
    samples = random.poisson(np.array(shares)[:, None] * 20, (len(shares), num_blocks)) + 1
    plan = make_plan(samples)
    parts, _ = shared_out(plan, lanes=lanes)
    for cell in range(len(shares)):
        mine = parts.cell == cell
        per_lane = np.bincount(parts.lane[mine], parts.num[mine], minlength=lanes)
        assert np.ptp(per_lane) <= 1
    pairs = np.unique(parts.block * lanes + parts.lane)
    assert len(pairs) - num_blocks <= (1 + len(shares)) * 2 * (lanes - 1)


@pytest.mark.parametrize("num_blocks", [1, 5, 40, 300])
def test_every_lane_has_an_equal_part_of_the_block_that_a_pass_ends_with(num_blocks: int) -> None:
    random = np.random.Generator(np.random.Philox(0))
    plan = make_plan(random.poisson([[100], [900]], (2, num_blocks)))
    parts, order = shared_out(plan, lanes=8)
    for cell in range(2):
        mine = (parts.cell == cell) & (parts.block == order.blocks[-1])
        assert parts.lane[mine].tolist() == list(range(8))
        assert np.ptp(parts.num[mine]) <= 1
    pairs = np.unique(parts.block * 8 + parts.lane)
    assert len(pairs) - num_blocks <= 7 + 2 * 7  # those of the last block, and where what is levelled is cut


def test_cells_that_lie_apart_are_levelled_each_by_itself() -> None:
    samples = np.zeros((4, 400), np.int64)
    for cell in range(4):
        samples[cell, cell * 100 : (cell + 1) * 100] = 1000
    parts, _ = shared_out(make_plan(samples), lanes=8)
    per_lane = np.zeros((4, 8))
    np.add.at(per_lane, (parts.cell, parts.lane), parts.num)
    assert np.ptp(per_lane, axis=1).max() <= 1


def test_one_lane_draws_everything() -> None:
    plan = make_plan(np.full((2, 9), 5))
    parts, order = shared_out(plan, lanes=1)
    assert parts.block.tolist() == order.blocks.tolist() * 2
    assert not parts.first.any()
