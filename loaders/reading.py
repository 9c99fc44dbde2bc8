"""Reads samples where they lie: by file, row and byte range, only the fields that are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixlake.catalog import Catalog, DataFile, Span
from mixlake.catalog.data_files import check_unchanged
from mixlake.catalog.fields import parse_path
from mixlake.catalog.formats import get_format
from mixlake.catalog.publishing import registered_files
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import FieldPath
from mixlake.mixing.chunks import Chunk, Delivery

Address = tuple[str, int, int]
"""Where a sample is: (registration, file_id, row)."""


class SampleReader:
    """Reads the intervals of chunks; files are opened once per call, and checked against what was registered."""

    def __init__(self, catalog: Catalog, *, fields: Sequence[str] | None, cache_bytes: int) -> None:
        """Open the reader.

        Args:
            catalog: the run's catalog version.
            fields: the record fields to read; None for all of them. The text field is always read.
            cache_bytes: bound of what is kept decoded.
        """
        self._catalog = catalog
        self._cache = ReadCache(cache_bytes)
        self._datasets = {name: dataset for dataset in catalog.list_datasets() for name in dataset.registrations}
        self._text_fields = {name: parse_path(dataset.text) for name, dataset in self._datasets.items()}
        self._fields = None if fields is None else [parse_path(name) for name in fields]
        self._files: dict[str, dict[int, DataFile]] = {}

    def text_field(self, registration: str) -> FieldPath:
        """Return the path of the text in a registration's records."""
        return self._text_fields[registration]

    def read(self, chunk: Chunk, intervals: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """Return the records of some intervals of a chunk.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        by_file: dict[tuple[str, int], list[int]] = {}
        for index in intervals:
            registration = chunk.registrations[chunk.intervals.registration[index]]
            by_file.setdefault((registration, int(chunk.intervals.file_id[index])), []).append(index)
        found: dict[int, list[dict[str, Any]]] = {}
        for (registration, file_id), indices in by_file.items():
            records = self._read_file(registration, file_id, [_span(chunk, index) for index in indices])
            start = 0
            for index in indices:
                stop = start + int(chunk.intervals.row_stop[index] - chunk.intervals.row_start[index])
                found[index] = records[start:stop]
                start = stop
        return found

    def _read_file(self, registration: str, file_id: int, spans: Sequence[Span]) -> list[dict[str, Any]]:
        dataset = self._datasets[registration]
        file = self._file(registration, file_id)
        check_unchanged(file, dataset.name, registration)
        fields = None
        if self._fields is not None:
            fields = list(dict.fromkeys([self.text_field(registration), *self._fields]))
        return get_format(dataset.format).read(file, spans, fields, dataset.options, self._cache)

    def _file(self, registration: str, file_id: int) -> DataFile:
        if registration not in self._files:
            dataset = self._datasets[registration].name
            self._files[registration] = registered_files(self._catalog.lake, dataset, registration)
        return self._files[registration][file_id]


class ChunkBuffer:
    """The records of one chunk by delivery position; each interval is read once and kept until it is used up."""

    def __init__(self, chunk: Chunk, order: Delivery, reader: SampleReader) -> None:
        self._chunk = chunk
        self._order = order
        self._reader = reader
        self._records: dict[int, list[dict[str, Any]]] = {}
        self._left: dict[int, int] = {}

    def read(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return the records at some delivery positions, in that order."""
        intervals = [int(self._order.interval[position]) for position in positions]
        missing = [index for index in dict.fromkeys(intervals) if index not in self._records]
        for index, records in self._reader.read(self._chunk, missing).items():
            self._records[index], self._left[index] = records, len(records)
        taken = []
        for position, index in zip(positions, intervals, strict=True):
            offset = int(self._order.row[position] - self._chunk.intervals.row_start[index])
            taken.append(self._records[index][offset])
            self._left[index] -= 1
            if not self._left[index]:
                del self._records[index], self._left[index]
        return taken

    def address(self, position: int) -> Address:
        """Return where the sample at a delivery position is."""
        index = int(self._order.interval[position])
        registration = self._chunk.registrations[self._chunk.intervals.registration[index]]
        return registration, int(self._chunk.intervals.file_id[index]), int(self._order.row[position])

    def text_field(self, address: Address) -> FieldPath:
        """Return the path of the text in the record at an address."""
        return self._reader.text_field(address[0])

    def num_bytes(self, position: int) -> int:
        """Return how many bytes a sample takes in its file; 0 where the format does not say."""
        index = int(self._order.interval[position])
        intervals = self._chunk.intervals
        rows = int(intervals.row_stop[index] - intervals.row_start[index])
        return int(intervals.byte_stop[index] - intervals.byte_start[index]) // rows


def _span(chunk: Chunk, index: int) -> Span:
    intervals = chunk.intervals
    return Span(
        row_start=int(intervals.row_start[index]),
        row_stop=int(intervals.row_stop[index]),
        byte_start=int(intervals.byte_start[index]),
        byte_stop=int(intervals.byte_stop[index]),
    )
