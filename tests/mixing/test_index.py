"""Rows come out of the index the same, whether a cell is kept in memory or fetched segment by segment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datafusion import col
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing import Mixture, index, order
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index import RESIDENT, IndexReader, Rows
from mixlake.mixing.order import PassOrder, pass_order
from mixlake.mixing.resolution import plan_cells, program_of

MakeMixture = Callable[..., Mixture]

WHERES = ("language = 'de'", "kind = 'code' AND quality > 0.4", "n % 5 = 0", "language IS NULL")


def planned(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return plan_cells(catalog, program_of(catalog, mixture))


def owners(catalog: Catalog, plan: CellPlan, mixture: Mixture) -> Any:
    return plan.owners(program_of(catalog, mixture).segments[0].leaves)


@pytest.fixture(scope="module")
def mixture(make_mixture: MakeMixture) -> Mixture:
    return make_mixture(*((where, 1) for where in WHERES), unit="bytes", filter="quality < 0.95")


@pytest.fixture(scope="module")
def plan(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return planned(catalog, mixture)


@pytest.fixture(scope="module")
def cell_of(frame: pd.DataFrame, plan: CellPlan) -> pd.Series:
    """The cell of each sample of the frame, found without queries; -1 for what the filter leaves out."""
    bits = [
        frame.language == "de",
        (frame.kind == "code") & (frame.quality > 0.4),
        frame.n % 5 == 0,
        frame.language.isna(),
    ]
    word = sum(bit.astype(int) * 2**place for place, bit in enumerate(bits))
    cell = word.map({value: number for number, value in enumerate(plan.words_CW[:, 0].tolist())})
    return cell.where(frame.quality < 0.95, -1).fillna(-1).astype(int)


def expected(frame: pd.DataFrame, cell_of: pd.Series, plan: CellPlan, cell: int, blocks: IntArray) -> list[list[int]]:
    """(registration, file, row, units) of a cell's samples, by block as given and then in storage order."""
    rows = []
    mine = frame[cell_of == cell]
    for block in blocks.tolist():
        registration = int(plan.block_registration_B[block])
        in_block = (mine.registration == plan.registrations[registration]) & (mine.block == plan.block_number_B[block])
        found = mine[in_block].sort_values(["file_id", "row"])
        rows += [[registration, *address] for address in found[["file_id", "row", "num_bytes"]].to_numpy().tolist()]
    return rows


def rows_of(reader: IndexReader, plan: CellPlan, cell: int, number: int, passes: PassOrder) -> Rows:
    """All rows of a cell, in the order of storage."""
    if reader.is_resident_C[cell]:
        numbers = [RESIDENT]
    else:
        blocks = plan.entry_block_E[plan.entry_cell_E == cell]
        numbers = np.unique(passes.segment_B[blocks]).tolist()
    pieces = [reader.piece(number, passes, segment) for segment in numbers]
    rows = Rows.concat([piece.rows.take(piece.rows_of(np.array([cell]))) for piece in pieces])
    return rows.take(np.lexsort((rows.row, rows.file_id, rows.registration)))


def addresses(rows: Rows) -> list[list[int]]:
    columns = (rows.registration, rows.file_id, rows.row, rows.units)
    return [list(address) for address in zip(*(column.tolist() for column in columns), strict=True)]


def test_the_whole_cell_is_found_in_its_blocks(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, frame: pd.DataFrame, cell_of: pd.Series
) -> None:
    reader = IndexReader(catalog, program_of(catalog, mixture), plan)
    blocks = np.arange(len(plan.num_rows_B))
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=True)
    assert plan.num_cells > 8
    for cell in range(plan.num_cells):
        rows = rows_of(reader, plan, cell, 0, passes)
        assert len(rows) == plan.num_samples_C[cell]
        assert addresses(rows) == expected(frame, cell_of, plan, cell, blocks)


@settings(deadline=None, max_examples=15)
@given(data=st.data(), resident=st.sampled_from([0, 100, 500, 1 << 20]), segments=st.integers(1, 3))
def test_rows_are_the_same_however_little_is_kept_in_memory(
    catalog: Catalog,
    mixture: Mixture,
    plan: CellPlan,
    frame: pd.DataFrame,
    cell_of: pd.Series,
    data: st.DataObject,
    resident: int,
    segments: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_MAX_RESIDENT_ROWS", resident)
        patch.setattr(index, "_MAX_SEGMENTS", segments)
        patch.setattr(order, "ROWS_PER_RUN", 150)
        patch.setattr(order, "RUNS_PER_SEGMENT", 2)
        reader = IndexReader(catalog, program_of(catalog, mixture), plan)
        orders = [pass_order(plan.num_rows_B, 5, number, shuffled=True) for number in range(2)]
        assert orders[0].segment_B.max() > 3
        for _ in range(6):
            number, cell = data.draw(st.tuples(st.integers(0, 1), st.integers(0, plan.num_cells - 1)))
            segment = data.draw(st.integers(0, int(orders[number].segment_B.max())))
            piece = reader.piece(number, orders[number], RESIDENT if reader.is_resident_C[cell] else segment)
            blocks = np.flatnonzero((orders[number].segment_B == segment) | reader.is_resident_C[cell])
            rows = piece.rows.take(piece.rows_of(np.array([cell])))
            assert addresses(rows) == expected(frame, cell_of, plan, cell, blocks)


def test_cells_of_several_words_are_fetched_in_segments_too(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheres = [f"n % 70 = {remainder}" for remainder in range(70)]
    mixture = make_mixture(*((where, 1) for where in wheres))
    plan = planned(catalog, mixture)
    component = owners(catalog, plan, mixture)
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=False)
    for resident in (0, 1000, 1 << 20):
        monkeypatch.setattr(index, "_MAX_RESIDENT_ROWS", resident)
        reader = IndexReader(catalog, program_of(catalog, mixture), plan)
        for cell in range(0, plan.num_cells, 9):
            mine = frame[frame.n % 70 == component[cell]]
            rows = rows_of(reader, plan, cell, 0, passes)
            wanted = mine.sort_values(["dataset", "file_id", "row"])[["file_id", "row"]].to_numpy().tolist()
            assert [address[1:3] for address in addresses(rows)] == wanted


def test_rows_carry_the_bytes_that_hold_them(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, frame: pd.DataFrame
) -> None:
    reader = IndexReader(catalog, program_of(catalog, mixture), plan)
    rows = rows_of(reader, plan, 0, 0, pass_order(plan.num_rows_B, 0, 0, shuffled=False))
    uris = catalog.sql("SELECT registration, file_id, uri FROM files").to_pandas()
    contents = {(r, f): Path(uri).read_bytes() for r, f, uri in uris.itertuples(index=False)}
    numbers = frame.set_index(["registration", "file_id", "row"]).n
    for position in range(0, len(rows), 10):
        registration = plan.registrations[rows.registration[position]]
        file_id, row = int(rows.file_id[position]), int(rows.row[position])
        start, stop = int(rows.byte_start[position]), int(rows.byte_stop[position])
        record = contents[registration, file_id][start:stop]
        assert f'"n": {numbers[registration, file_id, row]},'.encode() in record


def test_no_more_segments_are_kept_than_allowed(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_MAX_RESIDENT_ROWS", 0)
    monkeypatch.setattr(index, "_MAX_SEGMENTS", 2)
    monkeypatch.setattr(order, "ROWS_PER_RUN", 150)
    monkeypatch.setattr(order, "RUNS_PER_SEGMENT", 1)
    reader = IndexReader(catalog, program_of(catalog, mixture), plan)
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=True)
    for segment in range(int(passes.segment_B.max()) + 1):
        reader.piece(0, passes, segment)
        assert len(reader._segments) <= 2


def test_segments_are_read_ahead_by_another_thread_and_no_more_of_them_than_allowed(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_MAX_RESIDENT_ROWS", 0)
    monkeypatch.setattr(order, "ROWS_PER_RUN", 150)
    monkeypatch.setattr(order, "RUNS_PER_SEGMENT", 1)
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=True)
    program = program_of(catalog, mixture)
    reader, alone = IndexReader(catalog, program, plan), IndexReader(catalog, program, plan)
    reader.prepare(0, passes, 1)
    assert not reader._ahead  # nobody reads ahead
    with reader.reading_ahead():
        for number in (1, 2, 3):
            reader.prepare(0, passes, number)
        assert list(reader._ahead) == [(0, 1), (0, 2)]
        found = [addresses(reader.piece(0, passes, number).rows) for number in (2, 3, 1)]
        assert not reader._ahead
        reader.prepare(0, passes, 1)
        assert not reader._ahead
    assert found == [addresses(alone.piece(0, passes, number).rows) for number in (2, 3, 1)]


def test_what_is_kept_holds_no_more_than_its_cells(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_size = plan.num_samples_C.argsort()
    resident = int(plan.num_samples_C[by_size[:3]].sum())
    monkeypatch.setattr(index, "_MAX_RESIDENT_ROWS", resident)
    reader = IndexReader(catalog, program_of(catalog, mixture), plan)
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=True)
    assert reader.is_resident_C[by_size].tolist() == [True] * 3 + [False] * (plan.num_cells - 3)
    assert len(reader.piece(0, passes, RESIDENT).rows) == resident
    assert len(reader.piece(0, passes, 0).rows) == plan.num_samples_C.sum() - resident


def test_rows_are_in_storage_order_whatever_order_the_engine_returns_them_in(
    catalog: Catalog, mixture: Mixture, plan: CellPlan
) -> None:
    passes = pass_order(plan.num_rows_B, 0, 0, shuffled=True)
    reader, mixed = (IndexReader(catalog, program_of(catalog, mixture), plan) for _ in range(2))
    mixed._frame = mixed._frame.sort(col("row").sort(ascending=False), col("file_id").sort(ascending=False))
    for cell in range(plan.num_cells):
        assert addresses(rows_of(mixed, plan, cell, 0, passes)) == addresses(rows_of(reader, plan, cell, 0, passes))


def test_rows_are_taken_and_joined_in_order() -> None:
    numbers = np.arange(6)
    rows = Rows(
        registration=numbers, file_id=numbers, row=numbers, byte_start=-numbers, byte_stop=numbers, units=numbers
    )
    joined = Rows.concat([rows.take(slice(4, 6)), rows.take(np.array([3, 0]))])
    assert len(joined) == 4
    assert joined.row.tolist() == [4, 5, 3, 0]
    assert joined.byte_start.tolist() == [-4, -5, -3, 0]
