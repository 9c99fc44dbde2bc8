"""Reading single chunks out of files of many: only what is asked for, in the order in which it is asked for."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, schema
from mixlake.mixing import chunk_files
from mixlake.mixing.chunk_files import ChunkFiles, write_chunks

STORED = pa.schema([field for field in schema.TABLES[schema.CHUNKS].columns if field.name != "run"])
COLUMNS = pa.schema([STORED.field(name) for name in ("chunk", "intervals", "component_order")])
NUM_SAMPLES = 1024


def rows(chunks: range) -> pa.Table:
    """Chunks with one interval each."""
    interval = {"component": "english", "registration": "books-1", "file_id": 3, "byte_start": None, "byte_stop": None}
    values: list[dict[str, Any]] = [
        {
            "chunk": n,
            "weights_version": 1,
            "stage": 0,
            "num_samples": NUM_SAMPLES,
            "intervals": [{**interval, "row_start": n, "row_stop": n + NUM_SAMPLES, "pass": 0}],
            "component_order": [n % 5] * NUM_SAMPLES,
            "is_last": n == 99,
            "created_at": datetime.now(UTC),
        }
        for n in chunks
    ]
    return pa.Table.from_pylist(values, schema=STORED)


def write(folder: Path, chunks: range) -> str:
    (file,) = write_chunks(str(folder), "exp1", rows(chunks))
    return str(folder / file.path)


def test_rows_come_in_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    found = ChunkFiles(COLUMNS).rows(write(tmp_path, range(10, 40)), [38, 11, 24, 7, 40])
    assert [row["chunk"].to_pylist() for row in found] == [[38], [11], [24]]
    assert [row["intervals"][0].as_py()[0]["row_start"] for row in found] == [38, 11, 24]
    assert [row["component_order"].to_pylist() for row in found] == [[[n % 5] * NUM_SAMPLES] for n in (38, 11, 24)]


def test_chunks_are_found_where_joined_files_are_not_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = pa.concat_tables([rows(range(20, 30)), rows(range(10)), rows(range(10, 20))])
    monkeypatch.setattr(chunk_files, "_SAMPLES_PER_GROUP", 2 * NUM_SAMPLES)
    (file,) = write_chunks(str(tmp_path), "exp1", joined)
    found = ChunkFiles(COLUMNS).rows(str(tmp_path / file.path), [*range(0, 30, 3), 30])
    assert [row["chunk"][0].as_py() for row in found] == list(range(0, 30, 3))


def test_a_column_that_is_younger_than_the_file_is_null(tmp_path: Path) -> None:
    younger = COLUMNS.append(pa.field("younger", pa.int32()))
    found = ChunkFiles(younger).rows(write(tmp_path, range(3)), [1])
    assert found[0]["younger"].to_pylist() == [None]


def test_more_files_than_are_kept_open_can_be_read_in_turn(tmp_path: Path) -> None:
    files = ChunkFiles(COLUMNS)
    paths = [write(tmp_path, range(n * 10, n * 10 + 10)) for n in range(7)]
    for _ in range(2):
        found = [files.rows(path, [n * 10 + 3])[0]["chunk"][0].as_py() for n, path in enumerate(paths)]
        assert found == [n * 10 + 3 for n in range(7)]


def test_chunks_of_few_intervals_share_row_groups_and_files_those_of_many_do_not(tmp_path: Path) -> None:
    chunks = rows(range(40))
    (file,) = write_chunks(str(tmp_path), "exp1", chunks)
    assert [group_size(tmp_path / file.path, group) for group in range(3)] == [16, 16, 8]
    intervals = pa.array([chunk * NUM_SAMPLES for chunk in chunks["intervals"].to_pylist()], chunks["intervals"].type)
    many = chunks.set_column(chunks.schema.get_field_index("intervals"), "intervals", intervals)
    files = write_chunks(str(tmp_path), "exp1", many)
    assert [json.loads(file.stats)["numRecords"] for file in files] == [40]
    assert {group_size(tmp_path / file.path, group) for file in files for group in range(20)} == {2}
    assert len(write_chunks(str(tmp_path), "exp1", pa.concat_tables([many, many]))) == 2


def group_size(path: Path, group: int) -> int:
    return int(pq.read_metadata(path).row_group(group).num_rows)


def test_a_file_is_told_apart_by_its_chunks_and_costs_the_log_little(tmp_path: Path) -> None:
    (action,) = write_chunks(str(tmp_path), "exp1", rows(range(90, 100)))
    stats = json.loads(action.stats)
    assert stats["numRecords"] == 10
    assert stats["minValues"] == {"chunk": 90, "is_last": False}
    assert stats["maxValues"] == {"chunk": 99, "is_last": True}
    assert len(action.stats) < 200


def test_files_of_lakes_that_deltalake_wrote_are_read_alike(tmp_path: Path) -> None:
    lake = Catalog.create(str(tmp_path / "lake")).lake
    run = pa.array(["exp1"] * 5)
    lake.append(schema.CHUNKS, rows(range(5)).add_column(0, "run", run), action="schedule")
    lake.compact(schema.CHUNKS, schema.RUN, "exp1", rows_per_group=2)
    (path,) = Path(lake.path(schema.CHUNKS)).rglob("*.parquet")
    theirs, ours = (ChunkFiles(COLUMNS).rows(str(p), [3, 4]) for p in (path, write(tmp_path, range(5))))
    assert [row.to_pylist() for row in theirs] == [row.to_pylist() for row in ours]
