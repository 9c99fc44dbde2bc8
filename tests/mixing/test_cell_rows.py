"""A cell is a queue per lane and pass: the same however it is cut, and however its rows are fetched."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, index, order
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import IndexReader, Piece, Rows
from mixlake.mixing.order import PassOrder
from mixlake.mixing.resolution import plan_cells, program_of

MakeMixture = Callable[..., Mixture]
Address = tuple[int, int, int]

windows = st.sampled_from([0, 1, 2, 4, 1000])
lane_counts = st.sampled_from([1, 2, 3, 8])


def planned(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return plan_cells(catalog, program_of(catalog, mixture))


@pytest.fixture(scope="module")
def mixture(make_mixture: MakeMixture) -> Mixture:
    return make_mixture(("language = 'de'", 1), ("quality > 0.7", 1), ("n % 40 = 1", 1), ("true", 1))


@pytest.fixture(scope="module")
def plan(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return planned(catalog, mixture)


@contextmanager
def tiny_segments(*, resident: int, runs: bool = True) -> Iterator[None]:
    """Many segments, of which one is kept; cells of more than ``resident`` rows in all are read from them."""
    with pytest.MonkeyPatch.context() as patch:
        if runs:
            patch.setattr(order, "ROWS_PER_RUN", 150)
            patch.setattr(order, "RUNS_PER_SEGMENT", 2)
        patch.setattr(index, "_MAX_RESIDENT_ROWS", resident)
        patch.setattr(index, "_MAX_SEGMENTS", 1)
        yield


def addresses(rows: Rows) -> list[Address]:
    return list(zip(rows.registration.tolist(), rows.file_id.tolist(), rows.row.tolist(), strict=True))


def make_rows(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, *, seed: int = 0, window: int = 4, lanes: int = 1
) -> CellRows:
    reader = IndexReader(catalog, program_of(catalog, mixture), plan)
    return CellRows(plan, reader, seed=seed, window=window, lanes=lanes)


def part(
    rows: CellRows, cell: int, lane: int, start: int, stop: int, *, number: int = 0, cells: Sequence[int] = ()
) -> list[Address]:
    """The rows from one position of a queue to another, the cell asked for among others."""
    cells = sorted({cell, *cells})
    queues = rows.queues(np.array(cells), number)
    place = (np.array([value]) for value in (cells.index(cell), lane, start, stop - start))
    return addresses(queues.rows(*place)) if stop > start else []


def lengths(rows: CellRows, cell: int, number: int = 0) -> list[int]:
    return [int(size) for size in rows.queues(np.array([cell]), number).sizes_CQ[0]]


def sequence(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, cell: int, *, number: int = 0, **settings: int
) -> list[Address]:
    """All rows of a cell's pass, lane by lane."""
    rows = make_rows(catalog, mixture, plan, **settings)
    sizes = lengths(rows, cell, number)
    return [row for lane, size in enumerate(sizes) for row in part(rows, cell, lane, 0, size, number=number)]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), window=windows, number=st.integers(0, 3), lanes=lane_counts)
def test_a_queue_may_be_cut_anywhere_and_asked_for_in_any_order_with_any_other_cells(
    catalog: Catalog,
    mixture: Mixture,
    plan: CellPlan,
    data: st.DataObject,
    seed: int,
    window: int,
    number: int,
    lanes: int,
) -> None:
    cell = data.draw(st.integers(0, plan.num_cells - 1))
    rows = make_rows(catalog, mixture, plan, seed=seed, window=window, lanes=lanes)
    sizes = lengths(rows, cell, number)
    lane = data.draw(st.sampled_from([lane for lane, size in enumerate(sizes) if size]))
    whole = part(rows, cell, lane, 0, sizes[lane], number=number)
    others = data.draw(st.sets(st.integers(0, plan.num_cells - 1)))
    with tiny_segments(resident=data.draw(st.sampled_from([0, 1500, 1 << 20])), runs=False):
        again = make_rows(catalog, mixture, plan, seed=seed, window=window, lanes=lanes)
        cuts = sorted(data.draw(st.sets(st.integers(0, sizes[lane]), max_size=8)) | {0, sizes[lane]})
        for start, stop in data.draw(st.permutations(list(pairwise(cuts)))):
            assert part(again, cell, lane, start, stop, number=number, cells=sorted(others)) == whole[start:stop]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), window=windows, lanes=lane_counts)
def test_every_pass_has_every_row_of_the_cell_once(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, data: st.DataObject, seed: int, window: int, lanes: int
) -> None:
    cell = data.draw(st.integers(0, plan.num_cells - 1))
    stored = sequence(catalog, mixture, plan, cell, window=0)
    assert stored == sorted(set(stored))
    assert len(stored) == plan.num_samples_C[cell]
    for number in range(3):
        drawn = sequence(catalog, mixture, plan, cell, seed=seed, window=window, number=number, lanes=lanes)
        assert sorted(drawn) == stored


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
        assert len(firsts) > 20 or plan.num_samples_C[cell] < 100
        last = {block: position for position, block in enumerate(visited)}
        first = {block: position for position, block in reversed(list(enumerate(visited)))}
        most = max(sum(first[block] <= at <= last[block] for block in firsts) for at in first.values())
        assert most == window if plan.num_samples_C[cell] > 150 else most <= window
        assert firsts[-1] == visited[-1]
        assert len(set(visited[-visited.count(firsts[-1]) :])) == 1  # the last block is a window of its own


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
@given(
    seed=st.integers(0, 2**63 - 1),
    window=windows,
    number=st.integers(0, 2),
    resident=st.integers(0, 1500),
    lanes=lane_counts,
)
def test_rows_fetched_in_segments_are_those_kept_in_memory(
    catalog: Catalog,
    mixture: Mixture,
    plan: CellPlan,
    seed: int,
    window: int,
    number: int,
    resident: int,
    lanes: int,
) -> None:
    cells = np.arange(plan.num_cells)
    found = []
    for limit in (1 << 20, resident):
        with tiny_segments(resident=limit):
            rows = make_rows(catalog, mixture, plan, seed=seed, window=window, lanes=lanes)
            queues = rows.queues(cells, number)
            cell, lane = np.nonzero(queues.sizes_CQ)
            sizes = queues.sizes_CQ[cell, lane]
            parts: list[Address] = []
            for start in range(0, int(sizes.max()), 100):  # all queues side by side, as a scheduler draws
                left = start < sizes
                num = np.minimum(sizes[left] - start, 100)
                parts += addresses(queues.rows(cell[left], lane[left], np.full(left.sum(), start), num))
            found.append(parts)
    assert found[0] == found[1]
    assert len(set(found[0])) == plan.num_samples_C.sum()


def test_what_a_queue_needs_next_is_read_ahead(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, num = int(plan.num_samples_C.argmax()), 20
    with tiny_segments(resident=0):
        (size,) = lengths(make_rows(catalog, mixture, plan), cell)
        whole = sequence(catalog, mixture, plan, cell)
        reader = IndexReader(catalog, program_of(catalog, mixture), plan)
        rows = CellRows(plan, reader, seed=0, window=4, lanes=1)
        fetch, here = reader._fetch_segment, []

        def counted(passes: PassOrder, number: int) -> Piece:
            if threading.current_thread() is threading.main_thread():
                here.append(number)
            return fetch(passes, number)

        monkeypatch.setattr(reader, "_fetch_segment", counted)
        with reader.reading_ahead():
            cut = [part(rows, cell, 0, start, min(start + num, size)) for start in range(0, size, num)]
    assert [row for rows in cut for row in rows] == whole
    assert len(here) == 1
