"""Reads samples where they lie: by file, row and byte range, only the fields that are needed, in groups of megabytes.

A chunk is read in groups: consecutive samples of its delivery order, of a bounded number of bytes, read file by file
and handed out by column. How a chunk is grouped decides when something is read, never what comes in which order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import Catalog, DataError, DataFile
from mixlake.catalog.columns import WHOLE, Columns, read_columns
from mixlake.catalog.data_files import check_unchanged
from mixlake.catalog.fields import parse_path, token_ids
from mixlake.catalog.formats import get_format
from mixlake.catalog.publishing import registered_files
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.spans import Spans, ranges
from mixlake.mixing.chunks import Chunk, Delivery

Address = tuple[str, int, int]
"""Where a sample is: (registration, file_id, row)."""
_MAX_GROUP_BYTES = 4 << 20
"""Larger groups are not faster, and the first sample of every lane waits for a whole one."""
_MAX_SAMPLES = 1 << 14
_NUM_THREADS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleGroup:
    """Some samples of a chunk, in delivery order, by column: one entry per sample everywhere."""

    contents: list[Any]
    """Value of each sample's text field as it was read: a ``str``, or a list or array of token ids."""
    columns: Columns
    """The other fields that were asked for; under `WHOLE` the records."""
    components: list[int]
    registrations: list[str]
    file_ids: list[int]
    rows: list[int]
    text_fields: dict[str, FieldPath]
    """Path of the text field, by registration."""

    def __len__(self) -> int:
        return len(self.components)

    def address(self, index: int) -> Address:
        """Return where a sample is."""
        return self.registrations[index], self.file_ids[index], self.rows[index]

    def content(self, index: int) -> str | IntArray:
        """Return a sample's text, or its token ids where it is tokenized already.

        Raises:
            DataError: the field holds neither.
        """
        value = self.contents[index]
        if isinstance(value, str):
            return value
        ids = token_ids(value)
        if ids is None:
            raise DataError(
                f"{self.place(index)} is {type(value).__name__}, expected text or token ids; "
                "leave such samples out with mixture.filter"
            )
        return ids

    def checked_contents(self) -> list[str | IntArray]:
        """Return every sample's content.

        Raises:
            DataError: a field holds neither text nor token ids.
        """
        if set(map(type, self.contents)) <= {str}:
            return self.contents
        return [self.content(index) for index in range(len(self))]

    def place(self, index: int) -> str:
        """Name the field that holds a sample's content, for messages."""
        registration, file_id, row = self.address(index)
        return f"{registration}, file {file_id}, row {row}: field {'.'.join(self.text_fields[registration])!r}"


class SampleReader:
    """Reads intervals of chunks, in threads of its own; files are checked against what was registered."""

    def __init__(self, catalog: Catalog, *, fields: Sequence[str] | None, cache_bytes: int, num_lanes: int = 1) -> None:
        """Open the reader.

        Args:
            catalog: the run's catalog version.
            fields: the record fields to read beside the text; None for whole records.
            cache_bytes: bound of what is kept decoded: a half for row groups and the like, a half for groups of
                samples, of which every lane has two at a time.
            num_lanes: how many lanes share it.
        """
        self._catalog = catalog
        self._cache = ReadCache(cache_bytes // 2)
        self.group_bytes = max(1, min(_MAX_GROUP_BYTES, cache_bytes // 4 // num_lanes))
        """Bound of a group of samples."""
        datasets = catalog.list_datasets()
        self._datasets = {name: dataset for dataset in datasets for name in dataset.registrations}
        self.text_fields = {name: parse_path(dataset.text) for name, dataset in self._datasets.items()}
        """Path of the text in the records, by registration."""
        self._mean_bytes = {
            part.registration: part.num_bytes // max(part.num_samples, 1) for d in datasets for part in d.parts
        }
        self.fields: list[FieldPath] = [WHOLE] if fields is None else [parse_path(name) for name in fields]
        """The fields that are read beside the text."""
        self._files: dict[str, dict[int, DataFile]] = {}
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, read: Callable[[], Any]) -> Future[Any]:
        """Have something done by one of the reading threads."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="mixlake-read")
        return self._threads.submit(read)

    def num_bytes(self, chunk: Chunk) -> IntArray:
        """Return about how many bytes a sample of each interval takes; where the format does not say, the mean."""
        intervals = chunk.intervals
        means = np.array([self._mean_bytes.get(name, 0) for name in chunk.registrations], np.int64)
        known = (intervals.byte_stop - intervals.byte_start) // (intervals.row_stop - intervals.row_start)
        return np.where(intervals.byte_start < 0, means[intervals.registration], known)

    def read(self, chunk: Chunk, wanted: IntArray) -> tuple[list[Any], Columns]:
        """Return contents and fields of all rows of some intervals, in their order.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        intervals = chunk.intervals
        num_rows = intervals.row_stop[wanted] - intervals.row_start[wanted]
        first = np.cumsum(num_rows) - num_rows
        total = int(num_rows.sum())
        contents: list[Any] = [None] * total
        columns: Columns = {path: [None] * total for path in self.fields}
        registrations, file_ids = intervals.registration[wanted], intervals.file_id[wanted]
        order = np.lexsort((intervals.row_start[wanted], file_ids, registrations))
        is_new = np.diff(registrations[order], prepend=-1) != 0
        is_new |= np.diff(file_ids[order], prepend=-1) != 0
        for mine in np.split(order, np.flatnonzero(is_new)[1:]):
            if not len(mine):
                continue
            registration = chunk.registrations[registrations[mine[0]]]
            found = self._read_file(registration, int(file_ids[mine[0]]), _spans(chunk, wanted[mine]))
            where = ranges(first[mine], num_rows[mine]).tolist()
            _put(contents, where, found[self.text_fields[registration]])
            for path in self.fields:
                _put(columns[path], where, found[path])
        return contents, columns

    def _read_file(self, registration: str, file_id: int, spans: Spans) -> Columns:
        dataset = self._datasets[registration]
        file = self._file(registration, file_id)
        check_unchanged(file, dataset.name, registration)
        fields = list(dict.fromkeys([self.text_fields[registration], *self.fields]))
        return read_columns(get_format(dataset.format), file, spans, fields, dataset.options, self._cache)

    def _file(self, registration: str, file_id: int) -> DataFile:
        with self._lock:
            if registration not in self._files:
                dataset = self._datasets[registration].name
                self._files[registration] = registered_files(self._catalog.lake, dataset, registration)
            return self._files[registration][file_id]


class ChunkBuffer:
    """The samples of one chunk by delivery position, read group by group.

    An interval is read once, as a whole, with the first of its samples that is due, and its other samples are kept.
    """

    def __init__(self, chunk: Chunk, order: Delivery, reader: SampleReader) -> None:
        self._chunk = chunk
        self._order = order
        self._reader = reader
        intervals = chunk.intervals
        self._num_rows = intervals.row_stop - intervals.row_start
        self._first = np.cumsum(self._num_rows) - self._num_rows
        sample = self._first[order.interval] + order.row - intervals.row_start[order.interval]
        num_samples = len(sample)
        self._position = np.empty(num_samples, np.int64)
        self._position[sample] = np.arange(num_samples)  # of every sample, counted through the intervals
        full = np.cumsum(reader.num_bytes(chunk)[order.interval]) // reader.group_bytes
        is_start = (np.diff(full, prepend=-1) > 0) | (np.arange(num_samples) % _MAX_SAMPLES == 0)
        self._group_starts = np.append(np.flatnonzero(is_start), num_samples)
        self._contents: list[Any] = [None] * num_samples
        self._columns: Columns = {path: [None] * num_samples for path in reader.fields}
        self._read_of_interval = np.full(len(intervals), -1, np.int64)
        self._reads: list[tuple[IntArray, Future[tuple[list[Any], Columns]]] | None] = []

    def group_stop(self, position: int) -> int:
        """Return the position behind the group to which the sample at a delivery position belongs."""
        return int(self._group_starts[np.searchsorted(self._group_starts, position, side="right")])

    def prefetch(self, position: int) -> None:
        """Begin to read the group of the sample at a delivery position, unless that has been done."""
        group = int(np.searchsorted(self._group_starts, position, side="right")) - 1
        start, stop = self._group_starts[group : group + 2]
        intervals = np.unique(self._order.interval[start:stop])
        intervals = intervals[self._read_of_interval[intervals] < 0]
        if len(intervals):
            self._read_of_interval[intervals] = len(self._reads)
            self._reads.append((intervals, self._reader.submit(lambda: self._reader.read(self._chunk, intervals))))

    def take(self, positions: IntArray) -> SampleGroup:
        """Return the samples at some delivery positions of one group, in that order; each can be taken once.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        self.prefetch(int(positions[0]))
        interval = self._order.interval[positions]
        for number in np.unique(self._read_of_interval[interval]).tolist():
            self._settle(number)
        places, intervals = positions.tolist(), self._chunk.intervals
        registrations = self._chunk.registrations
        return SampleGroup(
            contents=_take(self._contents, places),
            columns={path: _take(column, places) for path, column in self._columns.items()},
            components=self._order.component[positions].tolist(),
            registrations=[registrations[number] for number in intervals.registration[interval].tolist()],
            file_ids=intervals.file_id[interval].tolist(),
            rows=self._order.row[positions].tolist(),
            text_fields=self._reader.text_fields,
        )

    def _settle(self, number: int) -> None:
        """Wait for a read, and put what it brought where it belongs."""
        read = self._reads[number]
        if read is None:
            return
        intervals, future = read
        contents, columns = future.result()
        where = self._position[ranges(self._first[intervals], self._num_rows[intervals])].tolist()
        _put(self._contents, where, contents)
        for path, column in columns.items():
            _put(self._columns[path], where, column)
        self._reads[number] = None


def _put(target: list[Any], where: Sequence[int], values: Sequence[Any]) -> None:
    for index, value in zip(where, values, strict=True):
        target[index] = value


def _take(source: list[Any], where: Sequence[int]) -> list[Any]:
    taken = [source[index] for index in where]
    for index in where:
        source[index] = None
    return taken


def _spans(chunk: Chunk, wanted: IntArray) -> Spans:
    intervals = chunk.intervals
    return Spans(
        row_start=intervals.row_start[wanted],
        row_stop=intervals.row_stop[wanted],
        byte_start=intervals.byte_start[wanted],
        byte_stop=intervals.byte_stop[wanted],
    )
