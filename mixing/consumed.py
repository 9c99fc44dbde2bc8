"""What a run and those that it goes on from have drawn, as rows of a catalog version that may be a newer one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing.chunks import ChunkLog

_CHUNKS_PER_READ = 512


def consumed_rows(chunks: ChunkLog, until: int, before: Catalog, after: Catalog) -> pa.Table:
    """Return the rows of the chunks in front of ``until``: registration, file_id, row, and how many times.

    A row is the same if its dataset, its file's URI and its number are: files that were refreshed, or registered anew
    with other properties, are found again. Rows of files that are gone are left out.

    Args:
        chunks: of the run.
        until: the first chunk that does not count.
        before: the catalog version that the chunks were drawn from.
        after: the one that the rows are for.
    """
    places = _places(before, after)
    keys: list[IntArray] = []
    for first in range(0, until, _CHUNKS_PER_READ):
        for chunk in chunks.read(first, min(first + _CHUNKS_PER_READ, until)):
            i = chunk.intervals
            lengths = i.row_stop - i.row_start
            place = [
                places.get((chunk.registrations[registration], file_id), -1)
                for registration, file_id in zip(i.registration.tolist(), i.file_id.tolist(), strict=True)
            ]
            row = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - i.row_start, lengths)
            keys.append(np.stack([np.repeat(np.array(place, np.int64), lengths), row], axis=1))
    rows, times = np.unique(np.concatenate([np.empty((0, 2), np.int64), *keys]), axis=0, return_counts=True)
    is_there = rows[:, 0] >= 0
    rows, times = rows[is_there], times[is_there]
    files = _files(after)
    return pa.table(
        {
            "registration": pa.array([registration for _, registration, _, _ in files], pa.string()).take(
                pa.array(rows[:, 0])
            ),
            "file_id": pa.array([file_id for _, _, file_id, _ in files], pa.int32()).take(pa.array(rows[:, 0])),
            "row": pa.array(rows[:, 1]),
            "times": pa.array(times.astype(np.int64)),
        }
    )


def _files(catalog: Catalog) -> list[tuple[str, str, int, str]]:
    """Return every file as (dataset, registration, file id, URI)."""
    rows = catalog.sql("SELECT dataset, registration, file_id, uri FROM files ORDER BY 1, 2, 3").to_pylist()
    return [(row["dataset"], row["registration"], row["file_id"], row["uri"]) for row in rows]


def _places(before: Catalog, after: Catalog) -> dict[tuple[str, int], int]:
    """Return, by registration and file id of one version, the number of the same file in the list of another."""
    numbers = {(dataset, uri): number for number, (dataset, _, _, uri) in enumerate(_files(after))}
    return {
        (registration, file_id): numbers[dataset, uri]
        for dataset, registration, file_id, uri in _files(before)
        if (dataset, uri) in numbers
    }
