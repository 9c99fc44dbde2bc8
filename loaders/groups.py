"""The samples of a chunk, read in groups: consecutive ones of its delivery order, some megabytes of them.

A group is read file by file, the next one while the last is handed out, which is done by column. How a chunk is grouped
decides when something is read, never what comes in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
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
from mixlake.loaders.replacing import Address, Replaced, Unreadable
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
        self._reads: list[tuple[IntArray, Future[Callable[[], Read]]] | None] = []

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
            self._reads.append((intervals, self._reader.begin(self._chunk, intervals)))

    def take(self, positions: IntArray) -> SampleGroup:
        """Return the samples at some delivery positions of one group, in that order; each can be taken once.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        self.prefetch(int(positions[0]))
        interval = self._order.interval[positions]
        for number in np.unique(self._read_of_interval[interval]).tolist():
            self._settle(number)
        places = positions.tolist()
        contents = self._contents.take(positions)
        columns = {path: _take(column, places) for path, column in self._columns.items()}
        sources = positions
        if self._reader.replacements is not None:
            contents = list(contents)
            sources = self._replace(positions, contents, columns)
        intervals, interval = self._chunk.intervals, self._order.interval[sources]
        registrations = self._chunk.registrations
        return SampleGroup(
            contents=contents,
            columns=columns,
            components=self._order.component[positions].tolist(),
            registrations=[registrations[number] for number in intervals.registration[interval].tolist()],
            file_ids=intervals.file_id[interval].tolist(),
            rows=self._order.row[sources].tolist(),
            text_fields=self._reader.text_fields,
        )

    def _settle(self, number: int) -> None:
        """Wait for a read, or do it here if no thread has begun it; put what it brought where it belongs."""
        read = self._reads[number]
        if read is None:
            return
        intervals, future = read
        parse = self._reader.fetch(self._chunk, intervals) if future.cancel() else future.result()
        contents, columns = parse()
        where = self._position[ranges(self._first[intervals], self._num_rows[intervals])]
        self._contents.put(where, contents)
        for path, column in columns.items():
            put(self._columns[path], where.tolist(), column)
        self._reads[number] = None

    def _address(self, position: int) -> Address:
        interval = self._order.interval[position]
        registration = self._chunk.registrations[self._chunk.intervals.registration[interval]]
        return registration, int(self._chunk.intervals.file_id[interval]), int(self._order.row[position])

    def _replace(self, positions: IntArray, contents: list[Any], columns: Columns) -> IntArray:
        """Put other samples in the place of those that cannot be read; return where each comes from."""
        replacements = self._reader.replacements
        assert replacements is not None
        known = replacements.of_chunk(self._chunk.number)
        sources, found = positions.copy(), []
        for index, position in enumerate(positions.tolist()):
            is_bad = isinstance(contents[index], Unreadable)
            if not is_bad and not (known and self._address(position) in known):
                continue
            address = self._address(position)
            before = known.get(address)
            reason = before.reason if before else contents[index].reason
            sources[index] = source = self._find(position, reason, known)
            contents[index], values = self._read_again(source)
            for path, value in values.items():
                columns[path][index] = value
            by, component = self._address(source), replacements.component(int(self._order.component[position]))
            if before is None or before.by != by:
                found.append(
                    Replaced(chunk=self._chunk.number, component=component, address=address, reason=reason, by=by)
                )
        if found:
            replacements.record(found)
        return sources

    def _find(self, position: int, reason: str, known: Mapping[Address, Replaced]) -> int:
        """Return the position of the sample that replaces one: what did before, or the next one that can be read.

        Raises:
            DataError: no sample of its component in this chunk can be read.
        """
        mine = np.flatnonzero(self._order.component == self._order.component[position])
        after = np.roll(mine, -int(np.searchsorted(mine, position, side="right"))).tolist()
        before = known.get(self._address(position))
        if before is not None:
            after.sort(key=lambda candidate: self._address(candidate) != before.by)
        for candidate in after:
            if candidate != position and self._address(candidate) not in known:
                content, _ = self._read_again(candidate)
                if not isinstance(content, Unreadable):
                    return int(candidate)
        raise DataError(
            f"chunk {self._chunk.number}: no sample of the component can take the place of one that cannot be read: "
            f"{reason}"
        )

    def _read_again(self, position: int) -> tuple[Any, dict[FieldPath, Any]]:
        """Read one sample, whether it has been taken or not."""
        interval = self._order.interval[[position]]
        contents, columns = self._reader.read(self._chunk, interval)
        offset = int(self._order.row[position] - self._chunk.intervals.row_start[interval[0]])
        return contents[offset], {path: column[offset] for path, column in columns.items()}


def _take(source: list[Any], where: Sequence[int]) -> list[Any]:
    taken = [source[index] for index in where]
    for index in where:
        source[index] = None
    return taken
