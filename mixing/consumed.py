"""What a run and those that it goes on from have drawn, as rows of a catalog version that may be a newer one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing.chunks import Chunk, ChunkLog

_CHUNKS_PER_READ = 512
_ROW_BITS = 40
_GONE = -1
_FILE_COLUMNS = pa.schema(
    [("dataset", pa.string()), ("registration", pa.string()), ("file_id", pa.int32()), ("uri", pa.string())]
)


def consumed_rows(chunks: ChunkLog, until: int, before: Sequence[Catalog], after: Catalog) -> pa.Table:
    """Return the rows of the chunks in front of ``until``: registration, file_id, row, and how many times.

    A row is the same if its dataset, its file's URI and its number are: files that were refreshed, or registered anew
    with other properties, are found again. Rows of files that are gone are left out.

    Args:
        chunks: of the run.
        until: the first chunk that does not count.
        before: the catalog versions that the chunks were drawn from.
        after: the one that the rows are for.
    """
    files = _files(after)
    places = _places([_files(catalog) for catalog in before], files)
    keys: list[IntArray] = [np.empty(0, np.int64)]
    for first in range(0, until, _CHUNKS_PER_READ):
        keys += [_keys(chunk, places) for chunk in chunks.read(first, min(first + _CHUNKS_PER_READ, until))]
    rows, times = np.unique(np.concatenate(keys), return_counts=True)
    place = pa.array(rows >> _ROW_BITS)
    return pa.table(
        {
            "registration": files["registration"].take(place),
            "file_id": files["file_id"].take(place),
            "row": pa.array(rows & ((1 << _ROW_BITS) - 1)),
            "times": pa.array(times.astype(np.int64)),
        }
    )


def _keys(chunk: Chunk, places: dict[str, IntArray]) -> IntArray:
    """Return a key for every row of a chunk whose file is still there: its file's place, then its number."""
    i = chunk.intervals
    place = np.full(len(i), _GONE, np.int64)
    for number, registration in enumerate(chunk.registrations):
        mine = i.registration == number
        place[mine] = places[registration][i.file_id[mine]]
    is_there = place != _GONE
    place, start, stop = place[is_there], i.row_start[is_there], i.row_stop[is_there]
    lengths = stop - start
    row = np.arange(lengths.sum()) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    return np.asarray(np.repeat(place << _ROW_BITS, lengths) | row, np.int64)


def _files(catalog: Catalog) -> pa.Table:
    """Return dataset, registration, file_id and uri of every file."""
    files = catalog.sql("SELECT dataset, registration, file_id, uri FROM files ORDER BY 1, 2, 3").to_arrow_table()
    return files.cast(_FILE_COLUMNS)


def _places(before: Sequence[pa.Table], after: pa.Table) -> dict[str, IntArray]:
    """Return, by registration and file id of one version, the place of the same file in the list of another."""
    keys = zip(after["dataset"].to_pylist(), after["uri"].to_pylist(), strict=True)
    numbers = {key: number for number, key in enumerate(keys)}
    places: dict[str, dict[int, int]] = {}
    for files in before:
        for row in files.to_pylist():
            number = numbers.get((row["dataset"], row["uri"]), _GONE)
            places.setdefault(row["registration"], {})[row["file_id"]] = number
    found = {}
    for registration, number_of_file in places.items():
        found[registration] = np.full(max(number_of_file) + 1, _GONE, np.int64)
        found[registration][list(number_of_file)] = list(number_of_file.values())
    return found
