"""The writer of the index: small row groups in storage order, types that widen, one commit or nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, DataError, LakeError, sample_writer, schema
from mixlake.catalog.lake import Lake
from mixlake.catalog.sample_writer import ROWS_PER_GROUP, SampleWriter

INDEX = [field for field in schema.TABLES[schema.SAMPLES].columns if field.name != schema.REGISTRATION]


def rows(start: int, values: pa.Array) -> pa.Table:
    """Index rows from number ``start`` on, with a property ``x``."""
    count = len(values)
    columns = {
        "file_id": pa.array([0] * count, pa.int32()),
        "block": pa.array([0] * count, pa.int32()),
        "row": pa.array(range(start, start + count), pa.int64()),
        "byte_start": pa.nulls(count, pa.int64()),
        "byte_stop": pa.nulls(count, pa.int64()),
    }
    return pa.table({**columns, "x": values})


def columns(kind: pa.DataType) -> pa.Schema:
    return pa.schema([*INDEX, pa.field("x", kind)])


def files(lake: Lake, registration: str) -> list[Path]:
    return sorted(Path(lake.path(schema.SAMPLES), f"registration={registration}").iterdir())


def stored(lake: Lake) -> list[dict[str, Any]]:
    table = lake.table(schema.SAMPLES).to_pyarrow_table()
    names = table.schema.names
    return [{name: row[name] for name in ("row", "x") if name in names} for row in table.sort_by("row").to_pylist()]


@pytest.fixture
def lake(catalog: Catalog) -> Lake:
    return catalog.lake


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_writer, "ROWS_PER_GROUP", 3)


def test_rows_lie_in_storage_order_in_row_groups_that_a_small_read_decodes(lake: Lake) -> None:
    with SampleWriter(lake, "a-1") as writer:
        for start in range(0, 200_000, 40_000):
            writer.write(rows(start, pa.array(range(start, start + 40_000))))
        writer.commit(columns(pa.int64()))
    (path,) = files(lake, "a-1")
    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert sum(sizes) == 200_000
    assert max(sizes) <= ROWS_PER_GROUP == 65_536
    assert pq.read_table(path)["row"].to_pylist() == list(range(200_000))
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.row_group(0).column(2).statistics.has_min_max


def test_rising_numbers_are_stored_as_differences_and_everything_else_with_a_dictionary(lake: Lake) -> None:
    tags = pa.array([["a", "b"], ["a"]])
    with SampleWriter(lake, "a-1") as writer:
        writer.write(rows(0, tags).append_column("language", pa.array(["de", "en"])))
        (path,) = writer.finish(pa.schema([*columns(tags.type), pa.field("language", pa.string())]))
        group = pq.read_metadata(path).row_group(0)
    encodings = {column.path_in_schema: column.encodings for column in map(group.column, range(group.num_columns))}
    differences = {name for name, used in encodings.items() if "DELTA_BINARY_PACKED" in used}
    assert differences == {"row", "byte_start", "byte_stop"}
    assert {name for name, used in encodings.items() if "RLE_DICTIONARY" in used} == set(encodings) - differences


@pytest.mark.usefixtures("small_groups")
def test_a_file_is_closed_when_it_has_many_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_writer, "_ROWS_PER_FILE", 6)
    with SampleWriter(lake, "a-1") as writer:
        for start in range(0, 14, 2):
            writer.write(rows(start, pa.array([start, start + 1])))
        writer.commit(columns(pa.int64()))
    assert [pq.read_table(path)["row"].to_pylist() for path in files(lake, "a-1")] == [
        list(range(8)),
        list(range(8, 14)),
    ]
    assert stored(lake) == [{"row": row, "x": row} for row in range(14)]


@pytest.mark.usefixtures("small_groups")
def test_files_of_narrower_types_are_brought_to_the_last(lake: Lake) -> None:
    parts = [pa.nulls(4), pa.array([1, 2, 3, 4]), pa.array([0.5, None, 1.5, 2.0]), pa.array([7.0])]
    with SampleWriter(lake, "a-1") as writer:
        for index, part in enumerate(parts):
            writer.write(rows(4 * index, part))
        writer.commit(columns(pa.float64()))
    assert [row["x"] for row in stored(lake)] == [*[None] * 4, 1.0, 2.0, 3.0, 4.0, 0.5, None, 1.5, 2.0, 7.0]
    assert [path.name for path in files(lake, "a-1")] == [f"part-{index:05}.parquet" for index in range(3)]
    assert {pq.read_schema(path).field("x").type for path in files(lake, "a-1")} == {pa.float64()}


@settings(max_examples=6, deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(-9, 9), min_size=1, max_size=7), min_size=1, max_size=6))
def test_whatever_was_written_is_what_is_stored(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int | None]]
) -> None:
    lake = Catalog.create(str(tmp_path_factory.mktemp("any"))).lake
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_writer, "ROWS_PER_GROUP", 3)
        patch.setattr(sample_writer, "_ROWS_PER_FILE", 5)
        with SampleWriter(lake, "a-1") as writer:
            start = 0
            for part in parts:
                writer.write(rows(start, pa.array(part, pa.int64())))
                start += len(part)
            writer.commit(columns(pa.int64()))
    values = [value for part in parts for value in part]
    assert stored(lake) == [{"row": row, "x": value} for row, value in enumerate(values)]
    groups = [
        metadata.row_group(index).num_rows
        for metadata in map(pq.read_metadata, files(lake, "a-1"))
        for index in range(metadata.num_row_groups)
    ]
    assert max(groups) <= 3


def test_nothing_is_seen_before_the_commit_and_nothing_is_left_without_one(lake: Lake) -> None:
    def write_and_fail() -> None:
        with SampleWriter(lake, "a-1") as writer:
            writer.write(rows(0, pa.array([1] * ROWS_PER_GROUP)))
            assert len(files(lake, "a-1")) == 1
            assert stored(lake) == []
            raise DataError("a line is torn")

    with pytest.raises(DataError, match=r"^a line is torn$"):
        write_and_fail()
    assert [path.name for path in Path(lake.path(schema.SAMPLES)).iterdir()] == ["_delta_log"]
    assert lake.table(schema.SAMPLES).version() == 0


@pytest.mark.usefixtures("small_groups")
def test_integers_that_no_number_holds_are_refused_and_leave_nothing(lake: Lake) -> None:
    def write_both() -> None:
        with SampleWriter(lake, "a-1") as writer:
            writer.write(rows(0, pa.array([2**53 + 1] * 3)))
            writer.write(rows(3, pa.array([0.5] * 3)))
            writer.commit(columns(pa.float64()))

    with pytest.raises(DataError, match=r"^property 'x' does not fit double: .*9007199254740993.*$"):
        write_both()
    assert [path.name for path in Path(lake.path(schema.SAMPLES)).iterdir()] == ["_delta_log"]


def test_a_column_that_another_process_added_with_another_type_is_refused(lake: Lake) -> None:
    with SampleWriter(lake, "a-1") as writer:
        writer.write(rows(0, pa.array([1])))
        writer.commit(columns(pa.int64()))

    def write_other() -> None:
        with SampleWriter(Lake(lake.uri), "b-1") as writer:
            writer.write(rows(0, pa.array(["one"])))
            writer.commit(columns(pa.string()))

    message = "samples@2: another process made 'x' int64, here it is string; cast it, or give it another name"
    with pytest.raises(LakeError, match=f"^{re.escape(message)}$"):
        write_other()
    assert stored(lake) == [{"row": 0, "x": 1}]
