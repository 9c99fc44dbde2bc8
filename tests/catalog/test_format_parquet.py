"""The ``parquet`` format: row groups as blocks, and only the columns that are needed."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import DataError, DataFile, Span
from mixlake.catalog.format_parquet import ParquetFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart

RECORDS: list[dict[str, Any]] = [
    {"text": "a", "meta": {"language": "de", "tags": ["x", "y"]}, "a.b": 1, "score": 0.5},
    {"text": "b", "meta": {"language": None, "tags": []}, "a.b": 2, "score": None},
    {"text": None, "meta": None, "a.b": None, "score": 1.5},
]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(path: Path, records: list[dict[str, Any]], **options: Any) -> DataFile:
    pq.write_table(pa.Table.from_pylist(records), path, **options)
    (file,) = find_files([str(path)], format_name="parquet")[1]
    return file


def scan(file: DataFile, *fields: FieldPath) -> list[Block]:
    parts = [FilePart(file_id=0, file=file)]
    return list(ParquetFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, Problems()))


def span(start: int, stop: int) -> Span:
    return Span(row_start=start, row_stop=stop)


def read(file: DataFile, *spans: Span, fields: list[FieldPath] | None = None) -> list[dict[str, Any]]:
    return ParquetFormat().read(file, spans, fields, {}, ReadCache())


@pytest.fixture
def few_open_files() -> Iterator[int]:
    """Lets this process open no more than some files beyond those it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_each_row_is_a_sample_and_each_row_group_a_block(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [{"text": str(index)} for index in range(7)], row_group_size=3)
    blocks = scan(file, ("text",))
    assert [block.rows.tolist() for block in blocks] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [block.columns[("text",)].to_pylist() for block in blocks] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [block.byte_starts for block in blocks] == [None] * 3
    metadata = pq.read_metadata(file.uri)
    assert [block.num_bytes for block in blocks] == [metadata.row_group(i).total_byte_size for i in range(3)]


def test_fields_lie_in_structs_and_under_names_with_dots(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    (block,) = scan(file, ("meta", "language"), ("meta", "tags"), ("meta",), ("a.b",), ("nosuch",), ("text", "x"))
    assert {path: column.to_pylist() for path, column in block.columns.items()} == {
        ("meta", "language"): ["de", None, None],
        ("meta", "tags"): [["x", "y"], [], None],
        ("meta",): [record["meta"] for record in RECORDS],
        ("a.b",): [1, 2, None],
    }


def test_rows_are_read_back_whole_or_in_part(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS, row_group_size=2)
    assert read(file, span(0, 3)) == RECORDS
    assert read(file, span(2, 3), span(0, 1)) == [RECORDS[2], RECORDS[0]]
    assert read(file, span(1, 3), fields=[("text",)]) == [{"text": "b"}, {"text": None}]
    assert read(file, span(0, 1), fields=[("meta", "language")]) == [{"meta": {"language": "de"}}]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 40), group_size=st.integers(1, 15), num_cached=st.integers(0, 2000))
def test_any_spans_are_read_back_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, num_rows: int, group_size: int, num_cached: int
) -> None:
    records = [{"text": f"row {index}"} for index in range(num_rows)]
    file = write(tmp_path_factory.mktemp("any") / "a.parquet", records, row_group_size=group_size)
    starts = data.draw(st.lists(st.integers(0, num_rows - 1), max_size=5))
    spans = [span(start, data.draw(st.integers(start, num_rows))) for start in starts]
    wanted = [record for one in spans for record in records[one.row_start : one.row_stop]]
    assert ParquetFormat().read(file, spans, None, {}, ReadCache(num_cached)) == wanted


def test_a_file_without_rows_has_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    (file,) = find_files([str(path)], format_name=None)[1]
    assert sum(len(block.rows) for block in scan(file, ("text",))) == 0


def test_more_files_are_read_than_a_process_may_have_open(tmp_path: Path, few_open_files: int) -> None:
    files = [write(tmp_path / f"{index}.parquet", [{"text": str(index)}]) for index in range(few_open_files)]
    parts = [FilePart(file_id=index, file=file) for index, file in enumerate(files)]
    blocks = list(ParquetFormat().scan(parts, {("text",): pa.null()}, {}, Problems()))
    assert [block.file_ids.tolist() for block in blocks] == [[index] for index in range(few_open_files)]
    cache = ReadCache()
    read_back = [ParquetFormat().read(file, [span(0, 1)], None, {}, cache) for file in files]
    assert read_back == [[{"text": str(index)}] for index in range(few_open_files)]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 50])
def test_what_is_no_parquet_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    (file,) = find_files([str(path)], format_name=None)[1]
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}: not a readable Parquet file \(.+\)$"):
        scan(file)


def test_a_torn_file_is_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    os.truncate(file.uri, file.num_bytes - 10)
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}: not a readable Parquet file \(.+\)$"):
        scan(file)


def test_a_row_group_that_cannot_be_decoded_is_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    with open(file.uri, "r+b") as stream:
        stream.seek(len(b"PAR1"))
        stream.write(b"\xff" * 40)
    with pytest.raises(DataError, match=rf"(?s)^{re.escape(file.uri)}, row group 0: cannot be decoded \(.+\)$"):
        scan(file, ("text",))


def test_a_row_past_the_end_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    with pytest.raises(DataError, match=exactly(f"{file.uri}: row 3 is not there; the file has 3 rows")):
        read(file, span(2, 4))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    os.remove(file.uri)
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}: not a readable Parquet file \(.+\)$"):
        read(file, span(0, 1))
