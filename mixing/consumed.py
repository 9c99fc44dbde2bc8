"""How often a run and those that it goes on from have drawn each row of a catalog version, which may be a newer one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import Expr, column, udf

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.catalog.spans import ranges

_GONE = -1
_FILE_COLUMNS = pa.schema(
    [("dataset", pa.string()), ("registration", pa.string()), ("file_id", pa.int32()), ("uri", pa.string())]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumed:
    """Counts by row, of those files only of which some row was drawn: four bytes for each of their rows."""

    places: dict[str, IntArray]
    """By registration and file id, the file's place in the list of all files."""
    first_F: IntArray
    """By place, where the file's counts begin; -1 where nothing was drawn."""
    times: npt.NDArray[np.int32]

    def expression(self) -> Expr:
        """Return how often a row of the samples was drawn, to be selected."""
        kinds = [pa.string(), pa.int32(), pa.int64()]
        return udf(self._times, kinds, pa.int64(), "stable", "consumed_times")(
            column("registration"), column("file_id"), column("row")
        )

    def _times(self, registration: pa.Array, file_id: pa.Array, row: pa.Array) -> pa.Array:
        place = _places_of(self.places, registration, file_id)
        first = self.first_F[place]
        found = np.zeros(len(row), np.int64)
        is_drawn = (place != _GONE) & (first >= 0)
        found[is_drawn] = self.times[(first + row.to_numpy())[is_drawn]]
        return pa.array(found)


def find_consumed(drawn: Iterable[pa.RecordBatch], before: Sequence[Catalog], after: Catalog) -> Consumed:
    """Count how often each row was drawn.

    A row is the same if its dataset, its file's URI and its number are: files that were refreshed, or registered anew
    with other properties, are found again. Rows of files that are gone are left out.

    Args:
        drawn: runs of rows: registration, file_id, row_start, row_stop.
        before: the catalog versions that they were drawn from.
        after: the one that the rows are for.
    """
    files = _files(after)
    here = _places([files], files)
    theirs = _places([_files(catalog) for catalog in before], files)
    num_rows_F = _num_rows(after, here, len(files))
    first_F = np.full(len(files), _GONE, np.int64)
    times, used = np.zeros(0, np.int32), 0
    for part in drawn:
        start, stop = (part[name].to_numpy() for name in ("row_start", "row_stop"))
        place = _places_of(theirs, part["registration"], part["file_id"])
        stop = np.minimum(stop, num_rows_F[place])
        is_there = (place != _GONE) & (start < stop)
        place, start, lengths = place[is_there], start[is_there], (stop - start)[is_there]
        new = np.flatnonzero((np.bincount(place, minlength=len(files)) > 0) & (first_F == _GONE))
        first_F[new] = used + np.cumsum(num_rows_F[new]) - num_rows_F[new]
        used += int(num_rows_F[new].sum())
        if used > len(times):
            times = np.concatenate([times, np.zeros(max(used, 2 * len(times)) - len(times), np.int32)])
        np.add.at(times, ranges(first_F[place] + start, lengths), 1)
    return Consumed(places=here, first_F=first_F, times=times[:used])


def _num_rows(catalog: Catalog, places: dict[str, IntArray], num_files: int) -> IntArray:
    """Return one more than the number of the last row of each file."""
    query = "SELECT registration, file_id, max(row) + 1 AS num_rows FROM samples GROUP BY registration, file_id"
    rows = catalog.sql(query).to_arrow_table()
    found = np.zeros(num_files, np.int64)
    place = _places_of(places, rows["registration"].combine_chunks(), rows["file_id"].combine_chunks())
    found[place] = rows["num_rows"].to_numpy()
    return found


def _places_of(places: dict[str, IntArray], registration: pa.Array, file_id: pa.Array) -> IntArray:
    """Return the place of the file of each row."""
    encoded = pc.dictionary_encode(registration)
    names = encoded.dictionary.to_pylist()
    if len(names) == 1:
        return np.asarray(places[names[0]][file_id.to_numpy()], np.int64)
    begin = np.cumsum([0, *(len(places[name]) for name in names)])
    joined = np.concatenate([np.empty(0, np.int64), *(places[name] for name in names)])
    return np.asarray(joined[begin[encoded.indices.to_numpy()] + file_id.to_numpy()], np.int64)


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
