"""The ``jsonl`` format: one JSON object per line; blank lines are not samples.

A sample's byte range is its line without the newline, so a run of rows is one ranged read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mixlake.catalog.data_files import open_file
from mixlake.catalog.errors import DataError
from mixlake.catalog.fields import column_of, has_field
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, IntArray, Span

_BYTES_PER_BLOCK = 4 << 20
_MAX_GAP = 64 << 10
"""Ranges nearer than this are read as one: a seek costs more than the bytes between."""
_NEWLINE = 10
_SPACE = 32


class JsonLinesFormat:
    """Reads lines of JSON objects in regions of some megabytes."""

    name = "jsonl"
    suffixes: tuple[str, ...] = (".jsonl", ".ndjson", ".json")
    options: frozenset[str] = frozenset()

    def scan(
        self, files: Sequence[DataFile], fields: Sequence[FieldPath], options: Mapping[str, Any]
    ) -> Iterator[Block]:
        """Yield the lines of every file, region by region."""
        del options
        for file_id, file in enumerate(files):
            row, line = 0, 0
            for offset, region in _regions(file):
                starts, stops, lines = _lines(region, line)
                records = _parse(region, starts, stops, lines, file)
                columns = {path: column_of(records, path, f"{file.uri}, line", lines) for path in fields}
                present = {path: column for path, column in columns.items() if _is_present(column, records, path)}
                yield Block(
                    file_ids=np.full(len(records), file_id, np.int64),
                    rows=np.arange(row, row + len(records), dtype=np.int64),
                    byte_starts=starts + offset,
                    byte_stops=stops + offset,
                    columns=present,
                    num_bytes=len(region),
                )
                row += len(records)
                line += region.count(b"\n")

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the records of the spans, in their order, with as few reads as their ranges allow."""
        del fields, options, cache
        order = sorted(range(len(spans)), key=lambda index: spans[index].byte_start)
        records: list[list[dict[str, Any]]] = [[] for _ in spans]
        with open_file(file) as stream:
            for group in _coalesced(spans, order):
                start = spans[group[0]].byte_start
                stop = max(spans[index].byte_stop for index in group)
                content = os.pread(stream.fileno(), stop - start, start)
                for index in group:
                    span = spans[index]
                    piece = content[span.byte_start - start : span.byte_stop - start]
                    records[index] = _parse_span(piece, span, file)
        return [record for span_records in records for record in span_records]


def _regions(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of pieces of whole lines, each about a block long."""
    offset = 0
    rest: list[bytes] = []
    with open_file(file) as stream:
        while content := stream.read(_BYTES_PER_BLOCK):
            cut = content.rfind(b"\n") + 1
            if cut:
                region = b"".join([*rest, content[:cut]])
                yield offset, region
                offset += len(region)
                rest = []
            rest.append(content[cut:])
    if region := b"".join(rest):
        yield offset, region


def _lines(region: bytes, first_line: int) -> tuple[IntArray, IntArray, list[int]]:
    """Return start and stop of every line that is not blank, and its number in the file, counted from 1."""
    content = np.frombuffer(region, np.uint8)
    newlines = np.flatnonzero(content == _NEWLINE).astype(np.int64)
    stops = newlines if region.endswith(b"\n") else np.append(newlines, len(region))
    starts = np.concatenate([np.zeros(1, np.int64), newlines + 1])[: len(stops)]
    numbers = np.arange(first_line + 1, first_line + 1 + len(stops))
    maybe_blank = np.flatnonzero(content[starts] <= _SPACE)
    blank = [i for i in maybe_blank if not region[starts[i] : stops[i]].strip()]
    if blank:
        starts, stops, numbers = np.delete(starts, blank), np.delete(stops, blank), np.delete(numbers, blank)
    return starts, stops, numbers.tolist()


def _parse(
    region: bytes, starts: IntArray, stops: IntArray, lines: Sequence[int], file: DataFile
) -> list[dict[str, Any]]:
    view = memoryview(region)
    records = []
    for start, stop, line in zip(starts.tolist(), stops.tolist(), lines, strict=True):
        try:
            record = orjson.loads(view[start:stop])
        except orjson.JSONDecodeError as error:
            raise DataError(f"{file.uri}, line {line}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{file.uri}, line {line}: a record must be a JSON object, got {type(record).__name__}")
        records.append(record)
    return records


def _is_present(column: pa.Array, records: Sequence[Mapping[str, Any]], path: FieldPath) -> bool:
    return column.null_count < len(column) or any(has_field(record, path) for record in records)


def _coalesced(spans: Sequence[Span], order: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    start = stop = 0
    for index in order:
        span = spans[index]
        if group and (span.byte_start - stop > _MAX_GAP or span.byte_stop - start > _BYTES_PER_BLOCK):
            yield group
            group = []
        if not group:
            start = span.byte_start
        group.append(index)
        stop = max(stop, span.byte_stop)
    if group:
        yield group


def _parse_span(piece: bytes, span: Span, file: DataFile) -> list[dict[str, Any]]:
    try:
        records = [orjson.loads(line) for line in piece.split(b"\n") if line.strip()]
    except orjson.JSONDecodeError as error:
        raise DataError(f"{file.uri}, row {span.row_start}: not JSON any more ({error})") from None
    if len(records) != span.row_stop - span.row_start:
        raise DataError(
            f"{file.uri}, rows {span.row_start} to {span.row_stop}: found {len(records)} records in their place"
        )
    return records
