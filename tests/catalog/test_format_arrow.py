"""The ``arrow`` format: IPC files and streams, Hugging Face folders, torn files."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc as ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import DataError, DataFile, Span, arrow_blocks
from mixlake.catalog.format_arrow import ArrowFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart

KINDS = [(True, None), (True, "lz4"), (True, "zstd"), (False, None), (False, "lz4"), (False, "zstd")]
RECORDS: list[dict[str, Any]] = [
    {"text": f"row {index}", "meta": {"language": "de" if index % 2 else None, "n": index}, "tags": ["x"] * (index % 3)}
    for index in range(20)
]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(
    path: Path,
    table: pa.Table | list[dict[str, Any]],
    rows_per_batch: int = 1000,
    *,
    is_file: bool = False,
    **options: Any,
) -> DataFile:
    table = table if isinstance(table, pa.Table) else pa.Table.from_pylist(table)
    make = ipc.new_file if is_file else ipc.new_stream
    with make(str(path), table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return found(path)


def found(path: Path) -> DataFile:
    (file,) = find_files([str(path)], format_name="arrow")[1]
    return file


def parts_of(file: DataFile, problems: Problems | None = None) -> Sequence[FilePart]:
    return ArrowFormat().parts(0, file, {}, problems or Problems())


def scan(file: DataFile, *fields: FieldPath, problems: Problems | None = None) -> list[Block]:
    problems = problems or Problems()
    parts = parts_of(file, problems)
    return list(ArrowFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, problems))


def rows_of(blocks: list[Block]) -> list[int]:
    return [row for block in blocks for row in block.rows.tolist()]


def values_of(blocks: list[Block], *path: str) -> list[Any]:
    return [value for block in blocks if len(block.rows) for value in block.columns[path].to_pylist()]


def span(start: int, stop: int) -> Span:
    return Span(row_start=start, row_stop=stop)


def read(file: DataFile, *spans: Span, fields: list[FieldPath] | None = None) -> list[dict[str, Any]]:
    return ArrowFormat().read(file, spans, fields, {}, ReadCache())


@pytest.fixture
def few_open_files() -> Iterator[int]:
    """Lets this process open no more than some files beyond those it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Scanning and reading


@pytest.mark.parametrize(("is_file", "compression"), KINDS)
def test_files_and_streams_are_scanned_and_read_whatever_their_compression(
    tmp_path: Path, is_file: bool, compression: str | None
) -> None:
    file = write(tmp_path / "größe 雪.arrow", RECORDS, 7, is_file=is_file, compression=compression)
    blocks = scan(file, ("text",), ("meta", "language"), ("tags",), ("meta", "x"))
    assert rows_of(blocks) == list(range(20))
    assert values_of(blocks, "text") == [record["text"] for record in RECORDS]
    assert values_of(blocks, "meta", "language") == [record["meta"]["language"] for record in RECORDS]
    assert values_of(blocks, "tags") == [record["tags"] for record in RECORDS]
    assert ("meta", "x") not in blocks[0].columns
    assert read(file, span(0, 20)) == RECORDS
    assert read(file, span(19, 20), span(5, 8)) == [RECORDS[19], *RECORDS[5:8]]
    assert read(file, span(6, 8), fields=[("text",)]) == [{"text": "row 6"}, {"text": "row 7"}]
    assert read(file, span(0, 2), fields=[("nosuch",)]) == [{}, {}]
    assert sum(len(block.rows) for block in scan(file)) == 20


@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 40), batch=st.integers(1, 15), kind=st.sampled_from(KINDS))
def test_any_spans_are_read_back_in_their_order(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    num_rows: int,
    batch: int,
    kind: tuple[bool, str | None],
) -> None:
    records = [{"text": f"row {index}", "n": index} for index in range(num_rows)]
    path = tmp_path_factory.mktemp("any") / "a.arrow"
    file = write(path, records, batch, is_file=kind[0], compression=kind[1])
    starts = data.draw(st.lists(st.integers(0, num_rows - 1), max_size=5))
    spans = [span(start, data.draw(st.integers(start, num_rows))) for start in starts]
    cache = ReadCache(data.draw(st.integers(0, 2000)))
    wanted = [record for one in spans for record in records[one.row_start : one.row_stop]]
    assert ArrowFormat().read(file, spans, None, {}, cache) == wanted


def test_batches_of_any_length_are_counted(tmp_path: Path) -> None:
    schema = pa.schema({"n": pa.int64()})
    lengths = [0, 1, 3, 0, 1000, 65536, 0]
    with ipc.new_stream(str(tmp_path / "a.arrow"), schema) as writer:
        for length in lengths:
            writer.write_batch(pa.record_batch({"n": range(length)}, schema))
    file = found(tmp_path / "a.arrow")
    assert rows_of(scan(file)) == list(range(sum(lengths)))
    assert [read(file, span(row, row + 1)) for row in (0, 1, 4, 1004)] == [[{"n": n}] for n in (0, 0, 0, 0)]


def test_parts_are_record_batches_and_count_their_rows_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.arrow", RECORDS, 1)
    assert [(part.start, part.stop) for part in parts_of(file)] == [(0, -1)]
    monkeypatch.setattr(arrow_blocks, "BYTES_PER_PART", 3000)
    parts = parts_of(file)
    assert len(parts) > 3
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 20
    for part in parts:
        blocks = list(ArrowFormat().scan([part], {("text",): pa.string()}, {}, Problems()))
        assert rows_of(blocks) == list(range(part.stop - part.start))
        assert values_of(blocks, "text") == [record["text"] for record in RECORDS[part.start : part.stop]]


def test_a_large_batch_is_several_blocks_that_one_read_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.arrow", [{"text": f"row {index:05}"} for index in range(3000)], 2000)
    monkeypatch.setattr(arrow_blocks, "BYTES_PER_BLOCK", 6000)
    blocks = scan(file, ("text",))
    assert rows_of(blocks) == list(range(3000))
    assert values_of(blocks, "text") == [f"row {index:05}" for index in range(3000)]
    assert [block.rows[0] for block in blocks if not block.continues] == [0, 2000]
    assert max(len(block.rows) for block in blocks) <= 1000


def test_dictionaries_are_those_that_hold_at_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [
        pa.record_batch({"x": pa.array(values).dictionary_encode()})
        for values in (["a", "b"], ["b", "a"], ["c", "d"], ["d", "e", "c"])
    ]
    with ipc.new_stream(str(tmp_path / "a.arrow"), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file = found(tmp_path / "a.arrow")
    wanted = ["a", "b", "b", "a", "c", "d", "d", "e", "c"]
    assert [record["x"] for record in read(file, span(0, 9))] == wanted
    assert [read(file, span(row, row + 1))[0]["x"] for row in range(9)] == wanted
    assert values_of(scan(file, ("x",)), "x") == wanted
    monkeypatch.setattr(arrow_blocks, "BYTES_PER_PART", 1)
    parts = parts_of(file)
    assert len(parts) == 4
    assert values_of(list(ArrowFormat().scan(parts[2:], {("x",): pa.string()}, {}, Problems())), "x") == wanted[4:]


def test_a_file_without_rows_has_no_sample(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([], pa.string())})
    for is_file in (False, True):
        file = write(tmp_path / "a.arrow", table, is_file=is_file)
        assert rows_of(scan(file, ("text",))) == []
        with pytest.raises(DataError, match=exactly(f"{file.uri}: row 0 is not there; the file has 0 rows")):
            read(file, span(0, 1))


def test_feather_files_are_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(pa.Table.from_pylist(RECORDS), str(tmp_path / "a.feather"))
    data_format, (file,) = find_files([str(tmp_path)], format_name=None)
    assert data_format.name == "arrow"
    assert read(file, span(0, 20)) == RECORDS


def test_more_files_are_read_than_a_process_may_have_open(tmp_path: Path, few_open_files: int) -> None:
    files = [write(tmp_path / f"{index}.arrow", [{"text": str(index)}]) for index in range(few_open_files)]
    assert [values_of(scan(file, ("text",)), "text") for file in files] == [[str(i)] for i in range(few_open_files)]
    cache = ReadCache()
    read_back = [ArrowFormat().read(file, [span(0, 1)], None, {}, cache) for file in files]
    assert read_back == [[{"text": str(index)}] for index in range(few_open_files)]


# Hugging Face folders


def save_to_disk(folder: Path, *shards: list[dict[str, Any]]) -> None:
    """Write a folder as ``datasets.Dataset.save_to_disk`` does: streams of batches of 1000 rows, and two JSON files."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05}-of-{len(shards):05}.arrow" for index in range(len(shards))]
    for name, records in zip(names, shards, strict=True):
        schema = pa.Table.from_pylist(records).schema
        features = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}}}}
        write(folder / name, pa.Table.from_pylist(records, schema.with_metadata({"huggingface": json.dumps(features)})))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def test_a_saved_dataset_is_found_without_its_side_files(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "saved", RECORDS[:9], RECORDS[9:])
    data_format, files = find_files([str(tmp_path / "saved")], format_name=None)
    assert data_format.name == "arrow"
    assert [file.path for file in files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [record for file in files for record in read(file, span(0, sum(len(b.rows) for b in scan(file))))] == RECORDS


@pytest.mark.parametrize("below", ["", "/**", "/**/*"])
def test_a_saved_dataset_dict_is_found_in_its_folders(tmp_path: Path, below: str) -> None:
    save_to_disk(tmp_path / "saved" / "train", RECORDS)
    save_to_disk(tmp_path / "saved" / "test", RECORDS[:1])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data_format, files = find_files([f"{tmp_path}/saved{below}"], format_name=None)
    assert data_format.name == "arrow"
    assert [file.path for file in files] == ["test/data-00000-of-00001.arrow", "train/data-00000-of-00001.arrow"]


def test_json_files_of_these_names_are_samples_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"text": "a"}')
    data_format, files = find_files([str(tmp_path)], format_name=None)
    assert (data_format.name, [file.path for file in files]) == ("jsonl", ["state.json"])


# Damaged input


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"FEA1" + b"\0" * 50, "Feather version 1, which is not supported; write it anew"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    file = found(tmp_path / "a.arrow")
    with pytest.raises(DataError, match=exactly(f"{file.uri}: {reason}")):
        scan(file)
    problems = Problems(OnError.SKIP)
    assert scan(file, problems=problems) == []
    assert [str(problem) for problem in problems.found] == [f"{file.uri}: {reason}"]


@pytest.mark.parametrize("content", [b"no arrow at all", b"{}\n", b"ARROW1\0\0", b"\0" * 99, b"\xff" * 99], ids=repr)
def test_what_is_no_arrow_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    file = found(tmp_path / "a.arrow")
    with pytest.raises(DataError, match=f"^{re.escape(file.uri)}: neither an Arrow IPC file nor a stream"):
        scan(file)


@pytest.mark.parametrize(("is_file", "compression"), [(True, None), (False, None), (False, "zstd")])
def test_a_torn_file_is_refused_or_registered_as_far_as_it_goes(
    tmp_path: Path, is_file: bool, compression: str | None
) -> None:
    whole = write(tmp_path / "whole.arrow", RECORDS, 4, is_file=is_file, compression=compression)
    content = Path(whole.uri).read_bytes()
    seen = set()
    for length in range(0, len(content), 37):
        (tmp_path / "a.arrow").write_bytes(content[:length])
        file = found(tmp_path / "a.arrow")
        problems = Problems(OnError.SKIP)
        blocks = scan(file, ("text",), problems=problems)
        num_rows = len(rows_of(blocks))
        seen.add(num_rows)
        assert num_rows % 4 == 0
        assert values_of(blocks, "text") == [record["text"] for record in RECORDS[:num_rows]]
        if num_rows:
            assert read(file, span(0, num_rows)) == RECORDS[:num_rows]
        if problems.found:
            assert re.match(rf"{re.escape(file.uri)}(, record batch {num_rows // 4})?: ", str(problems.found[0]))
            with pytest.raises(DataError, match=exactly(str(problems.found[0]))):
                scan(file, ("text",))
        else:
            assert num_rows
            assert not is_file  # a stream may end behind any batch
    assert seen >= {0, 4, 8, 12, 16}


def test_a_batch_that_cannot_be_decoded_is_refused_or_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "a.arrow", RECORDS, 4, compression="zstd")
    content = bytearray(Path(file.uri).read_bytes())
    magics = [match.start() for match in re.finditer(re.escape(b"\x28\xb5\x2f\xfd"), content)]
    content[magics[len(magics) // 5] + 4 : magics[len(magics) // 5] + 12] = b"\xff" * 8
    Path(file.uri).write_bytes(content)
    message = rf"^{re.escape(file.uri)}, record batch 1: cannot be decoded \(.+\)$"
    with pytest.raises(DataError, match=message):
        scan(file, ("text",))
    with pytest.raises(DataError, match=message):
        read(file, span(4, 5))
    problems = Problems(OnError.SKIP)
    blocks = scan(file, ("text",), problems=problems)
    assert rows_of(blocks) == [0, 1, 2, 3, *range(8, 20)]
    assert sum(block.num_records for block in blocks) == 20
    assert [re.match(message, str(problem)) is not None for problem in problems.found] == [True]
    assert values_of(scan(file, ("tags",)), "tags") == [record["tags"] for record in RECORDS]  # another column


def test_offsets_that_lead_nowhere_are_refused_with_their_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.arrow", pa.table({"text": ["a", "b", "c"], "n": [7, 8, 9]}))
    content = Path(file.uri).read_bytes()
    offsets = [pa.array(ends, pa.int32()).buffers()[1].to_pybytes() for ends in ([0, 1, 2, 3], [0, 1, 2, 10**9])]
    assert content.count(offsets[0]) == 1
    Path(file.uri).write_bytes(content.replace(*offsets))
    message = rf"^{re.escape(file.uri)}, row 2: field 'text' cannot be read \(.+\)$"
    with pytest.raises(DataError, match=message):
        scan(file, ("text",))
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}, rows 0 to 3: cannot be read \(.+\)$"):
        read(file, span(0, 3))
    problems = Problems(OnError.SKIP)
    (block,) = scan(file, ("text",), ("n",), problems=problems)
    assert block.columns[("text",)].to_pylist() == ["a", "b"]
    assert (block.columns[("n",)].to_pylist(), block.rows.tolist()) == ([7, 8], [0, 1])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.arrow", RECORDS)
    os.remove(file.uri)
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be read (No such file or directory)")):
        read(file, span(0, 1))
