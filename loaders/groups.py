"""The samples of a chunk, read in groups: consecutive ones of its delivery order, some megabytes of them.

A group is read file by file, the next one while the last is handed out, which is done by column. How a chunk is grouped
decides when something is read, never what comes in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import DataError
from mixlake.catalog.columns import Columns, as_text
from mixlake.catalog.fields import token_ids
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.spans import ranges
from mixlake.loaders.contents import Contents, Values, put
from mixlake.loaders.reading import Read, SampleReader
from mixlake.loaders.replacing import Address
from mixlake.mixing.chunks import Chunk, Delivery

_MAX_SAMPLES = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleGroup:
    """Some samples of a chunk, in delivery order, by column: one entry per sample everywhere."""

    contents: Values
    """Value of each sample's text field as it was read: text (``str``, or a memoryview of UTF-8 where the reader may
    give that), or a list or array of token ids."""
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

    def addresses(self, start: int, stop: int) -> list[Address]:
        """Return where some samples are."""
        where = slice(start, stop)
        return list(zip(self.registrations[where], self.file_ids[where], self.rows[where], strict=True))

    def content(self, index: int) -> str | IntArray:
        """Return a sample's text, or its token ids where it is tokenized already.

        Raises:
            DataError: the field holds neither.
        """
        value = self.contents[index]
        if isinstance(value, str | memoryview):
            return str(as_text(value))
        ids = token_ids(value)
        if ids is None:
            raise DataError(
                f"{self.place(index)} is {type(value).__name__}, expected text or token ids; "
                "leave such samples out with mixture.filter"
            )
        return ids

    def checked_contents(self) -> list[Any]:
        """Return every sample's content; a text may still be UTF-8.

        Raises:
            DataError: a field holds neither text nor token ids.
        """
        if isinstance(self.contents, list) and set(map(type, self.contents)) <= {str, memoryview}:
            return self.contents
        return [self.content(index) for index in range(len(self))]

    def place(self, index: int) -> str:
        """Name the field that holds a sample's content, for messages."""
        registration, file_id, row = self.address(index)
        return f"{registration}, file {file_id}, row {row}: field {'.'.join(self.text_fields[registration])!r}"


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
        full = np.cumsum(reader.held_bytes(chunk)[order.interval]) // reader.group_bytes
        is_start = (np.diff(full, prepend=-1) > 0) | (np.arange(num_samples) % _MAX_SAMPLES == 0)
        self._group_starts = np.append(np.flatnonzero(is_start), num_samples)
        self._contents = Contents(num_samples)
        self._columns: Columns = {path: [None] * num_samples for path in reader.fields}
        self._read_of_interval = np.full(len(intervals), -1, np.int64)
        self._reads: list[tuple[IntArray, Callable[[], Read]] | None] = []

    def group_stop(self, position: int) -> int:
        """Return the position behind the group to which the sample at a delivery position belongs."""
        return int(self._group_starts[np.searchsorted(self._group_starts, position, side="right")])

    def prefetch(self, position: int) -> None:
        """Begin to read the group of the sample at a delivery position, unless that has been done."""
        group = int(np.searchsorted(self._group_starts, position, side="right")) - 1
        start, stop = self._group_starts[group : group + 2]
        is_due = np.zeros(len(self._read_of_interval), bool)
        is_due[self._order.interval[start:stop]] = True
        intervals = np.flatnonzero(is_due & (self._read_of_interval < 0))
        if len(intervals):
            self._read_of_interval[intervals] = len(self._reads)
            self._reads.append((intervals, self._reader.begin(self._chunk, intervals)))

    def take(self, positions: IntArray) -> SampleGroup:
        """Return the samples at some delivery positions of one group, in that order; each can be taken once.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        self.prefetch(int(positions[0]))
        interval = self._order.interval[positions]
        for number in sorted(set(self._read_of_interval[interval].tolist())):
            self._settle(number)
        places = positions.tolist()
        contents = self._contents.take(positions)
        if self._reader.replacements is not None:
            contents = list(contents)
        intervals, registrations = self._chunk.intervals, self._chunk.registrations
        return SampleGroup(
            contents=contents,
            columns={path: _take(column, places) for path, column in self._columns.items()},
            components=self._order.component[positions].tolist(),
            registrations=[registrations[number] for number in intervals.registration[interval].tolist()],
            file_ids=intervals.file_id[interval].tolist(),
            rows=self._order.row[positions].tolist(),
            text_fields=self._reader.text_fields,
        )

    def _settle(self, number: int) -> None:
        """Put what a read brings where it belongs."""
        begun = self._reads[number]
        if begun is None:
            return
        intervals, read = begun
        contents, columns = read()
        where = self._position[ranges(self._first[intervals], self._num_rows[intervals])]
        self._contents.put(where, contents)
        for path, column in columns.items():
            put(self._columns[path], where.tolist(), column)
        self._reads[number] = None


def _take(source: list[Any], where: Sequence[int]) -> list[Any]:
    taken = [source[index] for index in where]
    for index in where:
        source[index] = None
    return taken
