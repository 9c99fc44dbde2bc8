"""A cell is one sequence per pass: the same however it is cut, and however its rows are fetched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, index, order
from mixlake.mixing.cell_rows import CellRows, spread
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import IndexReader, Rows
from mixlake.mixing.resolution import plan_cells, program_of

MakeMixture = Callable[..., Mixture]
Address = tuple[int, int, int]

windows = st.sampled_from([0, 1, 2, 4, 1000])


def planned(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return plan_cells(catalog, program_of(catalog, mixture))


@pytest.fixture(scope="module")
def mixture(make_mixture: MakeMixture) -> Mixture:
    return make_mixture(("language = 'de'", 1), ("quality > 0.7", 1), ("n % 40 = 1", 1), ("true", 1))


@pytest.fixture(scope="module")
def plan(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return planned(catalog, mixture)


@contextmanager
def tiny_segments(*, resident: int) -> Iterator[None]:
    """Many segments, of which one is kept; cells of more than ``resident`` rows in all are read from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "ROWS_PER_RUN", 150)
        patch.setattr(order, "RUNS_PER_SEGMENT", 2)
        patch.setattr(index, "_MAX_RESIDENT_ROWS", resident)
        patch.setattr(index, "_MAX_SEGMENTS", 1)
        yield


def addresses(rows: Rows) -> list[Address]:
    return list(zip(rows.registration.tolist(), rows.file_id.tolist(), rows.row.tolist(), strict=True))


def sequence(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, cell: int, *, seed: int = 0, window: int = 4, number: int = 0
) -> list[Address]:
    rows = CellRows(plan, IndexReader(catalog, program_of(catalog, mixture), plan), seed=seed, window=window)
    return addresses(rows.slice(cell, number, 0, int(plan.num_samples_C[cell])))


@settings(deadline=None, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), window=windows, number=st.integers(0, 3))
def test_a_pass_may_be_cut_anywhere_and_asked_for_in_any_order(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, data: st.DataObject, seed: int, window: int, number: int
) -> None:
    cell = data.draw(st.integers(0, plan.num_cells - 1))
    num = int(plan.num_samples_C[cell])
    whole = sequence(catalog, mixture, plan, cell, seed=seed, window=window, number=number)
    rows = CellRows(plan, IndexReader(catalog, program_of(catalog, mixture), plan), seed=seed, window=window)
    cuts = sorted(data.draw(st.sets(st.integers(1, num - 1), max_size=8)) | {0, num})
    for start, stop in data.draw(st.permutations(list(pairwise(cuts)))):
        assert addresses(rows.slice(cell, number, start, stop)) == whole[start:stop]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), window=windows)
def test_every_pass_has_every_row_of_the_cell_once(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, data: st.DataObject, seed: int, window: int
) -> None:
    cell = data.draw(st.integers(0, plan.num_cells - 1))
    stored = sequence(catalog, mixture, plan, cell, window=0)
    assert stored == sorted(set(stored))
    for number in range(3):
        assert sorted(sequence(catalog, mixture, plan, cell, seed=seed, window=window, number=number)) == stored


def test_without_a_window_a_pass_follows_storage(catalog: Catalog, mixture: Mixture, plan: CellPlan) -> None:
    for cell in range(plan.num_cells):
        stored = sequence(catalog, mixture, plan, cell, seed=9, window=0, number=2)
        assert stored == sorted(stored)


def test_passes_and_seeds_have_orders_of_their_own(catalog: Catalog, mixture: Mixture, plan: CellPlan) -> None:
    cell = int(plan.num_samples_C.argmax())
    orders = {
        tuple(sequence(catalog, mixture, plan, cell, seed=seed, number=number))
        for seed in range(3)
        for number in range(3)
    }
    assert len(orders) == 9


def test_passes_cells_and_windows_are_each_permuted_on_their_own(
    make_catalog: Callable[..., Catalog], make_mixture: MakeMixture, tmp_path: Path
) -> None:
    records = [{"text": "x", "n": n} for n in range(80)]
    catalog = make_catalog(tmp_path, {"a": records, "b": records}, {"n": "n"})  # one block each
    mixture = make_mixture(("n % 2 = 0", 1), ("true", 1))
    plan = planned(catalog, mixture)
    assert plan.num_samples_C.tolist() == [80, 80]
    assert len(plan.num_rows_B) == 2
    orders = []
    for cell in range(2):
        for number in range(2):
            drawn = sequence(catalog, mixture, plan, cell, window=1, number=number)
            orders += [[row // 2 for _, _, row in window] for window in (drawn[:40], drawn[40:])]
    assert all(sorted(one) == list(range(40)) for one in orders)
    assert len({tuple(one) for one in orders}) == 8


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_of_blocks_is_finished_before_the_next_begins(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, window: int
) -> None:
    samples = catalog.sql("SELECT registration, file_id, row, block FROM samples").to_pandas()
    blocks = {(plan.registrations.index(r), f, w): (r, b) for r, f, w, b in samples.itertuples(index=False)}
    for cell in range(plan.num_cells):
        visited = [blocks[address] for address in sequence(catalog, mixture, plan, cell, window=window)]
        firsts = list(dict.fromkeys(visited))
        windows = [set(firsts[start : start + window]) for start in range(0, len(firsts), window)]
        assert len(firsts) > 20 or plan.num_samples_C[cell] < 100
        position = 0
        for members in windows:
            length = sum(block in members for block in visited)
            assert set(visited[position : position + length]) == members
            position += length


def test_all_cells_visit_the_blocks_in_one_order(catalog: Catalog, mixture: Mixture, plan: CellPlan) -> None:
    samples = catalog.sql("SELECT registration, file_id, row, block FROM samples").to_pandas()
    blocks = {(plan.registrations.index(r), f, w): (r, b) for r, f, w, b in samples.itertuples(index=False)}
    orders = [
        list(dict.fromkeys(blocks[address] for address in sequence(catalog, mixture, plan, cell, window=1)))
        for cell in range(plan.num_cells)
    ]
    longest = max(orders, key=len)
    places = {block: place for place, block in enumerate(longest)}
    assert len(longest) > 25
    for visited in orders:
        known = [places[block] for block in visited if block in places]
        assert known == sorted(known)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**63 - 1), window=windows, number=st.integers(0, 2), resident=st.integers(0, 1500))
def test_rows_fetched_in_segments_are_those_kept_in_memory(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, seed: int, window: int, number: int, resident: int
) -> None:
    found = []
    for limit in (1 << 20, resident):
        with tiny_segments(resident=limit):
            rows = CellRows(plan, IndexReader(catalog, program_of(catalog, mixture), plan), seed=seed, window=window)
            parts: list[list[Address]] = [[] for _ in range(plan.num_cells)]
            for start in range(0, int(plan.num_samples_C.max()), 100):  # all cells side by side, as a scheduler draws
                for cell, num in enumerate(plan.num_samples_C.tolist()):
                    if start < num:
                        parts[cell] += addresses(rows.slice(cell, number, start, min(start + 100, num)))
            found.append(parts)
    assert found[0] == found[1]


# Spreading a component over its cells


sizes_of_cells = st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(any)


def spread_all(sizes: list[int]) -> list[int]:
    return list(spread(np.array(sizes), np.zeros(len(sizes), np.int64), sum(sizes)).tolist())


def test_cells_come_in_proportion_to_their_sizes() -> None:
    assert spread_all([2, 4]) == [1, 0, 1, 1, 0, 1]
    assert spread_all([1, 1, 1]) == [0, 1, 2]
    assert spread_all([0, 3, 0, 3]) == [1, 3, 1, 3, 1, 3]
    assert spread(np.array([5]), np.array([1]), 3).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(sizes=sizes_of_cells)
def test_all_samples_are_spread(sizes: list[int]) -> None:
    assert np.bincount(spread_all(sizes), minlength=len(sizes)).tolist() == sizes


@settings(deadline=None)
@given(sizes=sizes_of_cells, data=st.data())
def test_a_spread_that_is_cut_anywhere_and_continued_is_the_same(sizes: list[int], data: st.DataObject) -> None:
    whole = spread_all(sizes)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    taken = np.bincount(np.array(whole[:start], np.int64), minlength=len(sizes))
    assert spread(np.array(sizes), taken, stop - start).tolist() == whole[start:stop]


@settings(deadline=None)
@given(sizes=sizes_of_cells)
def test_every_prefix_of_a_spread_is_in_proportion(sizes: list[int]) -> None:
    cells = np.array(spread_all(sizes))
    share = np.array(sizes) / sum(sizes)
    taken = np.cumsum(cells[:, None] == np.arange(len(sizes)), axis=0)
    ideal = np.arange(1, len(cells) + 1)[:, None] * share
    assert (np.abs(taken - ideal) <= 0.5 + share * len(sizes) / 2 + 1e-9).all()


@settings(deadline=None)
@given(data=st.data(), sizes=sizes_of_cells)
def test_cells_that_are_behind_come_first(data: st.DataObject, sizes: list[int]) -> None:
    taken = [data.draw(st.integers(0, size)) for size in sizes]
    found = spread(np.array(sizes), np.array(taken), sum(sizes) - sum(taken)).tolist()
    assert found == [
        c
        for c, _ in sorted(
            ((c, j) for c in range(len(sizes)) for j in range(taken[c], sizes[c])),
            key=lambda cj: ((cj[1] + 0.5) / sizes[cj[0]], cj[0]),
        )
    ]


def test_a_large_component_is_spread_without_listing_it() -> None:
    cells = spread(np.array([10**11, 3 * 10**11]), np.array([10**10, 3 * 10**10]), 1000)
    assert np.bincount(cells).tolist() == [250, 750]
