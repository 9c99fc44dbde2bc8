"""The ``parquet`` format: row groups as blocks, and only the columns that are needed."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, DataError, DataFile, Span, arrow_blocks, format_parquet
from mixlake.catalog.format_parquet import ParquetFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart
from mixlake.catalog.spans import Spans

RECORDS: list[dict[str, Any]] = [
    {"text": "a", "meta": {"language": "de", "tags": ["x", "y"]}, "a.b": 1, "score": 0.5},
    {"text": "b", "meta": {"language": None, "tags": []}, "a.b": 2, "score": None},
    {"text": None, "meta": None, "a.b": None, "score": 1.5},
]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(path: Path, records: list[dict[str, Any]], **options: Any) -> DataFile:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path, **options)
    (file,) = find_files([str(path)], format_name="parquet")[1]
    return file


def scan(file: DataFile, *fields: FieldPath) -> list[Block]:
    parts = [FilePart(file_id=0, file=file)]
    return list(ParquetFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, Problems()))


def parts_of(file: DataFile) -> Sequence[FilePart]:
    return ParquetFormat().parts(0, file, {}, Problems())


def texts(records: list[dict[str, Any]]) -> list[str]:
    return [record["text"] for record in records]


def scan_leniently(file: DataFile, *fields: FieldPath) -> tuple[list[Block], list[str]]:
    """Scan as with ``on_error=skip``; return the blocks and what was left out."""
    problems = Problems(OnError.SKIP)
    parts = ParquetFormat().parts(0, file, {}, problems)
    blocks = list(ParquetFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, problems))
    return blocks, [str(problem) for problem in problems.found]


def damage(file: DataFile, group: int, column: int) -> None:
    """Overwrite where a column of a row group begins."""
    chunk = pq.read_metadata(file.uri).row_group(group).column(column)
    with open(file.uri, "r+b") as stream:
        stream.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        stream.write(b"\xff" * 30)


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


def test_each_row_is_a_sample_and_small_row_groups_share_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.parquet", [{"text": str(index)} for index in range(7)], row_group_size=2)
    num_bytes = [pq.read_metadata(file.uri).row_group(index).total_byte_size for index in range(4)]
    monkeypatch.setattr(arrow_blocks, "_BYTES_TOGETHER", num_bytes[0] + num_bytes[1])
    blocks = scan(file, ("text",))
    assert [block.rows.tolist() for block in blocks] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [block.columns[("text",)].to_pylist() for block in blocks] == [["0", "1", "2", "3"], ["4", "5", "6"]]
    assert [block.byte_starts for block in blocks] == [None, None]
    assert [block.num_bytes for block in blocks] == [sum(num_bytes[:2]), sum(num_bytes[2:])]
    assert [block.continues for block in blocks] == [False, False]


@pytest.mark.parametrize("bytes_at_once", [0, 64 << 20])
def test_a_large_row_group_is_several_blocks_that_one_read_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_at_once: int
) -> None:
    records = [{"text": f"row {index:05}"} for index in range(3000)]
    file = write(tmp_path / "a.parquet", records, row_group_size=2000, use_dictionary=False, compression="none")
    for module in (arrow_blocks, format_parquet):
        monkeypatch.setattr(module, "BYTES_PER_BLOCK", 6000)
    monkeypatch.setattr(format_parquet, "_BYTES_AT_ONCE", bytes_at_once)
    blocks = scan(file, ("text",))
    assert [row for block in blocks for row in block.rows.tolist()] == list(range(3000))
    assert [value for block in blocks for value in block.columns[("text",)].to_pylist()] == texts(records)
    assert [block.rows[0] for block in blocks if not block.continues] == [0, 2000]
    assert max(len(block.rows) for block in blocks) <= 500
    assert sum(block.num_records for block in blocks) == 3000


def test_parts_are_row_groups_and_count_their_rows_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"text": str(index)} for index in range(100)]
    file = write(tmp_path / "a.parquet", records, row_group_size=1)
    assert [(part.start, part.stop) for part in parts_of(file)] == [(0, -1)]
    monkeypatch.setattr(arrow_blocks, "BYTES_PER_PART", 2000)
    parts = parts_of(file)
    assert len(parts) > 3
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 100
    for part in parts:
        blocks = list(ParquetFormat().scan([part], {("text",): pa.string()}, {}, Problems()))
        assert [row for block in blocks for row in block.rows.tolist()] == list(range(part.stop - part.start))
        found = [value for block in blocks for value in block.columns[("text",)].to_pylist()]
        assert found == texts(records[part.start : part.stop])


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


@pytest.mark.parametrize("content", [b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 50])
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


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    (file,) = find_files([str(tmp_path)], format_name=None)[1]
    with pytest.raises(DataError, match=exactly(f"{file.uri}: the file is empty")):
        parts_of(file)
    assert scan_leniently(file) == ([], [f"{file.uri}: the file is empty"])


@pytest.mark.parametrize("bytes_at_once", [0, 64 << 20])
def test_a_row_group_that_cannot_be_decoded_is_refused_by_name_or_left_out_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_at_once: int
) -> None:
    monkeypatch.setattr(format_parquet, "_BYTES_AT_ONCE", bytes_at_once)
    file = write(tmp_path / "a.parquet", [{"text": str(index), "n": index} for index in range(6)], row_group_size=2)
    damage(file, group=1, column=0)
    message = rf"(?s)^{re.escape(file.uri)}, row group 1: cannot be decoded \(.+\)$"
    with pytest.raises(DataError, match=message):
        scan(file, ("text",))
    with pytest.raises(DataError, match=message):
        read(file, span(2, 3))
    blocks, problems = scan_leniently(file, ("text",))
    assert [row for block in blocks for row in block.rows.tolist()] == [0, 1, 4, 5]
    found = [value for block in blocks if len(block.rows) for value in block.columns[("text",)].to_pylist()]
    assert found == ["0", "1", "4", "5"]
    assert sum(block.num_records for block in blocks) == 6
    assert len(problems) == 1
    assert re.match(message, problems[0])


def test_a_damaged_page_in_the_middle_of_a_large_row_group_leaves_all_of_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"text": f"row {index:05}"} for index in range(3000)]
    options = {"use_dictionary": False, "compression": "zstd", "data_page_size": 1000, "write_batch_size": 10}
    file = write(tmp_path / "a.parquet", records, row_group_size=2000, **options)
    chunk = pq.read_metadata(file.uri).row_group(0).column(0)
    with open(file.uri, "r+b") as stream:
        stream.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        stream.write(b"\xff" * 200)
    for module in (arrow_blocks, format_parquet):
        monkeypatch.setattr(module, "BYTES_PER_BLOCK", 2000)
    monkeypatch.setattr(format_parquet, "_BYTES_AT_ONCE", 0)
    blocks, problems = scan_leniently(file, ("text",))
    assert [row for block in blocks for row in block.rows.tolist()] == list(range(2000, 3000))
    assert sum(block.num_records for block in blocks) == 3000
    assert len(problems) == 1


def test_columns_that_no_field_needs_do_no_harm(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    names = [pq.read_metadata(file.uri).row_group(0).column(index).path_in_schema for index in range(5)]
    for index, name in enumerate(names):
        if name != "meta.language":
            damage(file, group=0, column=index)
    (block,) = scan(file, ("meta", "language"))
    assert block.columns[("meta", "language")].to_pylist() == ["de", None, None]
    assert read(file, span(0, 1), fields=[("meta", "language")]) == [{"meta": {"language": "de"}}]


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.large_list(pa.large_string()), pa.list_(pa.string())),
        (pa.list_view(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.string(), 2), pa.list_(pa.string())),
        (pa.list_(pa.struct({"a": pa.large_string()})), pa.list_(pa.struct({"a": pa.string()}))),
        (pa.struct({"a": pa.list_(pa.large_string())}), pa.struct({"a": pa.list_(pa.string())})),
        (pa.large_binary(), pa.binary()),
        (pa.decimal128(9, 2), pa.decimal128(9, 2)),
    ],
)
def test_fields_come_in_the_plain_type_whatever_they_are_stored_in(
    tmp_path: Path, kind: pa.DataType, plain: pa.DataType
) -> None:
    samples: dict[Any, Any] = {pa.string(): "ä", pa.binary(): b"a", pa.decimal128(9, 2): Decimal("1.50")}
    samples |= {pa.list_(pa.string()): ["a", "b"], pa.struct({"a": pa.list_(pa.string())}): {"a": ["x"]}}
    values = [samples.get(plain, [{"a": "x"}, {"a": None}]), None]
    column = pa.array(values, plain).cast(kind) if plain == pa.string() else pa.array(values, kind)
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    (file,) = find_files([str(tmp_path)], format_name=None)[1]
    (block,) = scan(file, ("x",))
    assert block.columns[("x",)].type.equals(plain)
    assert block.columns[("x",)].to_pylist() == values
    assert [record["x"] for record in read(file, span(0, 2))] == values


def test_a_string_that_is_not_utf8_is_refused_with_its_row_or_left_out(tmp_path: Path) -> None:
    content = [b"a", b"b", b"\xff", b"d"]
    table = pa.table({"text": pa.array(content, pa.binary()).view(pa.string()), "n": range(4)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    (file,) = find_files([str(tmp_path)], format_name=None)[1]
    message = rf"^{re.escape(file.uri)}, row 2: field 'text' cannot be read \(Invalid UTF8 .+\)$"
    with pytest.raises(DataError, match=message):
        scan(file, ("text",))
    (block,), problems = scan_leniently(file, ("text",), ("n",))
    assert block.rows.tolist() == block.columns[("n",)].to_pylist() == [0, 1, 3]
    assert block.columns[("text",)].to_pylist() == ["a", "b", "d"]
    assert (block.num_records, block.place(2)) == (4, "row 3")
    assert len(problems) == 1
    assert re.match(message, problems[0])
    assert read(file, span(3, 4)) == [{"text": "d", "n": 3}]
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}, rows 2 to 4: cannot be read \(.+\)$"):
        read(file, span(2, 4))


def test_a_field_that_the_file_lacks_is_left_out_of_the_records(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    assert read(file, span(0, 2), fields=[("nosuch",)]) == [{}, {}]
    assert read(file, span(0, 1), fields=[("nosuch",), ("text",), ("meta", "x")]) == [{"text": "a"}]


def test_paths_with_spaces_and_any_letters(tmp_path: Path) -> None:
    (tmp_path / "größe 雪").mkdir()
    file = write(tmp_path / "größe 雪" / "a b.parquet", RECORDS)
    assert scan(file, ("text",))[0].columns[("text",)].to_pylist() == ["a", "b", None]
    assert read(file, span(0, 3)) == RECORDS


def test_a_row_past_the_end_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    with pytest.raises(DataError, match=exactly(f"{file.uri}: row 3 is not there; the file has 3 rows")):
        read(file, span(2, 4))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", RECORDS)
    os.remove(file.uri)
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}: not a readable Parquet file \(.+\)$"):
        read(file, span(0, 1))


# Registration


def test_a_field_that_one_file_lacks_is_null_there(catalog: Catalog, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.parquet", [{"text": "a", "language": "de"}])
    write(tmp_path / "data" / "b.parquet", [{"text": "b"}])
    catalog.register("docs", str(tmp_path / "data"), properties={"language": "language", "is_de": "language = 'de'"})
    found = catalog.sql("SELECT language, is_de FROM samples ORDER BY file_id").to_pylist()
    assert found == [{"language": "de", "is_de": True}, {"language": None, "is_de": None}]


def test_a_field_of_two_types_is_refused_naming_both_files(catalog: Catalog, tmp_path: Path) -> None:
    files = [write(tmp_path / "data" / f"{x!r}.parquet", [{"text": "a", "x": x}]) for x in (1, "one")]
    uris = sorted(file.uri for file in files)
    with pytest.raises(DataError) as caught:
        catalog.register("docs", str(tmp_path / "data"), properties={"x": "x"})
    assert [uri in str(caught.value) for uri in uris] == [True, True]


def test_a_damaged_row_group_is_written_down_and_the_rest_is_read_back(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_back: Callable[[str], list[dict[str, Any]]]
) -> None:
    monkeypatch.setattr(arrow_blocks, "BYTES_PER_PART", 1)
    records = [{"text": f"row {index}"} for index in range(9)]
    file = write(tmp_path / "a.parquet", records, row_group_size=2)
    damage(file, group=1, column=0)
    catalog.register("docs", file.uri, properties={"length": "character_length(text)"}, on_error="skip")
    assert read_back("docs") == [*records[:2], *records[4:]]
    (skipped,) = catalog.sql("SELECT uri, place FROM skipped").to_pylist()
    assert skipped == {"uri": file.uri, "place": "row group 1"}


def test_row_groups_are_decoded_by_threads_of_arrow_for_whoever_may_not_wait(tmp_path: Path) -> None:
    records = [
        {"text": f"{number:05} größer" * 800 if number % 50 else None, "part": {"a": number}, "number": number}
        for number in range(2000)
    ]
    file = write(tmp_path / "data" / "a.parquet", records, row_group_size=600)
    rows = [1999, 3, 700, 650, 1200, 4]
    spans = Spans.of([Span(row_start=row, row_stop=row + 1) for row in rows])
    fields: list[FieldPath] = [("text",), ("number",), ("missing",)]
    expected = {("text",): [records[row]["text"] for row in rows], ("number",): rows, ("missing",): [None] * len(rows)}

    def begin(cache: ReadCache, *fields: FieldPath) -> Callable[[], dict[FieldPath, list[Any]]] | None:
        return ParquetFormat().fetch_columns(file, spans, fields, {}, cache, may_wait=False, as_utf8=False)

    cache = ReadCache(max_begun_bytes=64 << 20)
    assert begin(cache, *fields) is None  # nobody has looked at its footer yet
    waited = ParquetFormat().fetch_columns(file, spans, fields, {}, ReadCache(), may_wait=True, as_utf8=False)
    assert waited is not None
    assert waited() == expected
    cached = ParquetFormat().fetch_columns(file, spans, [("part",)], {}, cache, may_wait=True, as_utf8=False)
    assert cached is not None
    begun, again = begin(cache, *fields), begin(cache, *fields)
    assert begun is not None
    assert again is not None
    assert begun() == expected
    assert again() == expected
    assert begin(cache, ("part", "a")) is None  # a column within a column
    damage(file, group=1, column=0)
    broken = begin(cache, ("text",))
    assert broken is not None
    with pytest.raises(DataError, match=r"a\.parquet, row group 1: cannot be decoded \("):
        broken()
