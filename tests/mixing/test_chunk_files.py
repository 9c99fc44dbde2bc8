"""Reading single chunks out of files of many: only what is asked for, in the order in which it is asked for."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixlake.mixing.chunk_files import ChunkFiles

COLUMNS = pa.schema([("chunk", pa.int64()), ("order", pa.list_(pa.int16())), ("younger", pa.int32())])


def write(path: Path, chunks: range) -> str:
    table = pa.table({"order": [[n] * 3 for n in chunks], "chunk": list(chunks)})
    pq.write_table(table.select(["chunk", "order"]), path, row_group_size=4)
    return str(path)


def test_rows_come_in_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a", range(10, 40))
    rows = ChunkFiles(COLUMNS).rows(path, [38, 11, 24, 7, 40])
    assert [row["chunk"].to_pylist() for row in rows] == [[38], [11], [24]]
    assert [row["order"].to_pylist() for row in rows] == [[[38] * 3], [[11] * 3], [[24] * 3]]


def test_a_column_that_is_younger_than_the_file_is_null(tmp_path: Path) -> None:
    rows = ChunkFiles(COLUMNS).rows(write(tmp_path / "a", range(3)), [1])
    assert rows[0]["younger"].to_pylist() == [None]


def test_more_files_than_are_kept_open_can_be_read_in_turn(tmp_path: Path) -> None:
    files = ChunkFiles(COLUMNS)
    paths = [write(tmp_path / str(n), range(n * 10, n * 10 + 10)) for n in range(7)]
    for _ in range(2):
        found = [files.rows(path, [n * 10 + 3])[0]["chunk"][0].as_py() for n, path in enumerate(paths)]
        assert found == [n * 10 + 3 for n in range(7)]
