"""A pass visits every block once, in an order that depends on the seed and the pass alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.mixing import order
from mixlake.mixing.order import pass_order

num_rows = st.lists(st.integers(1, 40_000), min_size=1, max_size=80)


def test_the_order_of_a_pass_never_changes_between_versions() -> None:
    found = pass_order(np.full(12, 10), seed=3, number=1, shuffled=True)
    assert found.blocks.tolist() == [11, 6, 10, 8, 4, 0, 3, 9, 2, 1, 7, 5]
    assert found.segment_B.tolist() == [0] * 12


def test_the_order_of_a_pass_over_several_segments_never_changes_between_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "ROWS_PER_RUN", 20)
    monkeypatch.setattr(order, "RUNS_PER_SEGMENT", 2)
    found = pass_order(np.full(12, 10), seed=3, number=1, shuffled=True)
    assert found.blocks.tolist() == [4, 3, 2, 5, 11, 6, 10, 7, 8, 0, 9, 1]
    assert found.segment_B.tolist() == [2, 2, 0, 0, 0, 0, 1, 1, 2, 2, 1, 1]


@settings(deadline=None)
@given(num_rows=num_rows, seed=st.integers(0, 2**63 - 1), number=st.integers(0, 9), shuffled=st.booleans())
def test_every_block_comes_once(num_rows: list[int], seed: int, number: int, shuffled: bool) -> None:
    found = pass_order(np.array(num_rows), seed, number, shuffled=shuffled)
    assert sorted(found.blocks.tolist()) == list(range(len(num_rows)))
    assert found.blocks[found.position_B].tolist() == list(range(len(num_rows)))


@settings(deadline=None)
@given(num_rows=num_rows, seed=st.integers(0, 2**63 - 1))
def test_an_unshuffled_pass_follows_storage(num_rows: list[int], seed: int) -> None:
    found = pass_order(np.array(num_rows), seed, 0, shuffled=False)
    assert found.blocks.tolist() == list(range(len(num_rows)))


@settings(deadline=None)
@given(num_rows=num_rows, seed=st.integers(0, 2**63 - 1), shuffled=st.booleans())
def test_a_segment_is_visited_at_one_go_and_is_a_bounded_number_of_rows(
    num_rows: list[int], seed: int, shuffled: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "ROWS_PER_RUN", 50_000)
        patch.setattr(order, "RUNS_PER_SEGMENT", 3)
        found = pass_order(np.array(num_rows), seed, 0, shuffled=shuffled)
    assert (np.diff(found.segment_B[found.blocks]) >= 0).all()
    assert np.bincount(found.segment_B, num_rows).max() < 3 * (50_000 + max(num_rows))


def test_passes_and_seeds_give_different_orders() -> None:
    orders = {
        tuple(pass_order(np.full(30, 100), seed, number, shuffled=True).blocks.tolist())
        for seed in range(3)
        for number in range(3)
    }
    assert len(orders) == 9


def test_segments_are_shuffled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "ROWS_PER_RUN", 100)
    monkeypatch.setattr(order, "RUNS_PER_SEGMENT", 1)
    found = pass_order(np.full(40, 50), seed=0, number=0, shuffled=True)
    visited = (found.blocks // 2)[::2].tolist()
    assert sorted(visited) == list(range(20))
    assert visited != list(range(20))


@settings(deadline=None)
@given(num_rows=num_rows, seed=st.integers(0, 2**63 - 1), lanes=st.integers(1, 9))
def test_of_any_blocks_that_are_dealt_after_one_another_each_lane_gets_one(
    num_rows: list[int], seed: int, lanes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "ROWS_PER_RUN", 50_000)
        patch.setattr(order, "RUNS_PER_SEGMENT", 3)
        found = pass_order(np.array(num_rows), seed, 0, shuffled=True, lanes=lanes)
    dealt = found.lane_B[np.argsort(found.segment_B, kind="stable")]
    for start in range(0, len(num_rows) - lanes + 1, lanes):
        assert sorted(dealt[start : start + lanes].tolist()) == list(range(lanes))
    assert found.lane_B.max() < lanes


def test_lanes_get_about_as_many_rows_whatever_the_blocks_hold() -> None:
    num_rows = np.random.Generator(np.random.Philox(0)).integers(100, 2000, 800)
    lane_B = pass_order(num_rows, 0, 0, shuffled=True, lanes=8).lane_B
    rows = np.bincount(lane_B, num_rows)
    assert np.ptp(rows) < 4 * 2000  # a third of what it were if they were dealt at random
