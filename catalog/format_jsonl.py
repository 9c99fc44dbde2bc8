"""The ``jsonl`` format: one JSON object per line, plain or compressed; blank lines are not samples.

``NaN``, ``Infinity`` and ``Inf``, in whatever case, are read as numbers: Python and others write them, though JSON does
not have them.

A sample's byte range is its line without the newline, so a run of rows is one ranged read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog import json_views
from mixlake.catalog.buffers import BufferPool, Slabs
from mixlake.catalog.compression import with_compressions
from mixlake.catalog.errors import DataError
from mixlake.catalog.fields import columns_of
from mixlake.catalog.json_columns import fast_columns
from mixlake.catalog.json_rows import parse_columns, parse_line, read_records
from mixlake.catalog.parallel import in_order, num_cores
from mixlake.catalog.problems import Problems
from mixlake.catalog.ranged_reads import at_hand, read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.spans import Spans
from mixlake.catalog.text_regions import BYTES_PER_PART, Region, regions, split_bytes

_SPACE = 32
_MIN_BYTES_FOR_THREADS = 1 << 20
_REGIONS_AHEAD = 4
"""How many regions of a compressed file may wait to be parsed."""
_Parsed = tuple[Block, Sequence[Problem]]


class JsonLinesFormat:
    """Reads lines of JSON objects in regions of some megabytes."""

    name = "jsonl"
    suffixes: tuple[str, ...] = with_compressions(".jsonl", ".ndjson", ".json")
    companions: tuple[str, ...] = ()
    content = "text"
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return ranges of bytes of plain files; a line belongs to the part that its first byte lies in."""
        del options, problems
        return split_bytes(file_id, file, BYTES_PER_PART)

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the lines of every part, region by region."""
        del options
        for part in parts:
            try:
                yield from _scan(part, fields, problems)
            except DataError as error:
                problems.note(error, part.file)

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the records of the spans, in their order, with as few reads as their ranges allow."""
        del fields, options
        spans = Spans.of(spans)
        return read_records(file, read_ranges(file, spans, cache), spans)

    def fetch_columns(
        self,
        file: DataFile,
        spans: Spans,
        fields: Sequence[FieldPath],
        options: Mapping[str, Any],
        cache: ReadCache,
        *,
        may_wait: bool,
        as_utf8: bool,
    ) -> Callable[[], dict[FieldPath, list[Any]]] | None:
        """Read the lines of the spans, unless they are in memory anyway; return what parses fields of them."""
        del options, as_utf8
        in_memory = at_hand(file, spans, cache, may_wait=may_wait)
        if in_memory is not None:
            return partial(parse_columns, file, in_memory, spans, fields)
        if not may_wait:
            return None
        memory = Slabs(cache.slabs)
        pieces = read_ranges(file, spans, cache, memory)

        def parse() -> dict[FieldPath, list[Any]]:
            columns = parse_columns(file, lambda: pieces, spans, fields)
            memory.free()
            return columns

        return parse


def _scan(part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Iterator[Block]:
    def parse(region: Region) -> Iterator[_Parsed]:
        found = Problems(problems.on_error)
        yield _block(region, part, fields, found), found.found

    is_small = part.file.compression is None or part.file.num_bytes < _MIN_BYTES_FOR_THREADS
    parsed = chain.from_iterable(map(parse, regions(part))) if is_small else _in_threads(part, fields, parse)
    row = 0
    for block, found in parsed:
        problems.found += found
        yield replace(block, rows=block.rows + row)
        row += block.num_records


def _in_threads(
    part: FilePart, fields: Mapping[FieldPath, pa.DataType], parse: Callable[[Region], Iterator[_Parsed]]
) -> Iterator[_Parsed]:
    """Parse a compressed file, which cannot be scanned in parts: one thread decompresses ahead, others parse."""
    buffers = BufferPool()

    def parse_and_free(region: Region) -> Iterator[_Parsed]:
        yield from parse(region)
        buffers.give_back(region.buffer)

    first = next(regions(part), None)
    is_alone = first is not None and json_views.is_faster(first, fields)
    # Decompression waits while simdjson holds the interpreter lock: the longer the regions, the less often.
    to_regions = partial(regions, buffers=buffers, scale=2 if is_alone else 1)
    ahead = in_order(to_regions, [part], num_threads=1, results_ahead=_REGIONS_AHEAD)
    if is_alone:
        return chain.from_iterable(map(parse_and_free, ahead))
    return in_order(parse_and_free, ahead, num_cores())


def _block(region: Region, part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Block:
    starts, stops = _lines(region)
    rows = np.arange(len(starts), dtype=np.int64)
    columns = fast_columns(region, starts, stops, fields)
    num_records = len(starts)
    if columns is None:
        columns, kept = _slow_columns(region, starts, stops, fields, part.file, problems)
        starts, stops, rows = starts[kept], stops[kept], rows[kept]
    return Block(
        file_ids=np.full(len(rows), part.file_id, np.int64),
        rows=rows,
        byte_starts=starts + region.offset,
        byte_stops=stops + region.offset,
        columns=columns,
        num_bytes=len(region),
        num_records=num_records,
        place=partial(_place, region, starts),
        continues=part.file.compression is not None and region.offset > 0,
    )


def _place(region: Region, starts: IntArray, index: int) -> str:
    return f"line {region.line(int(starts[index]))}"


def _lines(region: Region) -> tuple[IntArray, IntArray]:
    """Return start and stop of every line of the region that is not blank."""
    content = np.frombuffer(region.content, np.uint8)
    ends_in_line = not len(region.newlines) or region.newlines[-1] != len(content) - 1
    stops = np.append(region.newlines, len(content)) if ends_in_line else region.newlines
    starts = np.concatenate([np.zeros(1, np.int64), region.newlines + 1])[: len(stops)]
    has_text = starts < stops
    starts, stops = starts[has_text], stops[has_text]
    blank = [
        i for i in np.flatnonzero(content[starts] <= _SPACE) if not bytes(region.content[starts[i] : stops[i]]).strip()
    ]
    return np.delete(starts, blank), np.delete(stops, blank)


def _slow_columns(
    region: Region,
    starts: IntArray,
    stops: IntArray,
    fields: Mapping[FieldPath, pa.DataType],
    file: DataFile,
    problems: Problems,
) -> tuple[dict[FieldPath, pa.Array], IntArray]:
    """Parse line by line; return the fields that the records have, and which of the lines are sound."""
    report = partial(_report, region, starts, stops, file, problems)
    records: list[dict[str, Any]] = []
    kept: list[int] = []
    for index, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        try:
            record = parse_line(region.content[start:stop])
        except ValueError as error:
            report(index, f"not JSON ({error})")
            continue
        if isinstance(record, dict):
            records.append(record)
            kept.append(index)
        else:
            report(index, f"a record must be a JSON object, got {_kind(record)}")
    columns, sound = columns_of(records, fields, lambda index, reason: report(kept[index], reason))
    return columns, np.array(kept, np.int64)[sound]


def _report(
    region: Region,
    starts: IntArray,
    stops: IntArray,
    file: DataFile,
    problems: Problems,
    index: int,
    reason: str,
) -> None:
    problems.report(
        Problem(
            file=file,
            place=f"line {region.line(int(starts[index]))}",
            reason=reason,
            byte_start=int(starts[index]) + region.offset,
            byte_stop=int(stops[index]) + region.offset,
        )
    )


def _kind(record: Any) -> str:
    return "null" if record is None else type(record).__name__
