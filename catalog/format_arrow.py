"""The ``arrow`` format: Arrow IPC files and streams, such as Hugging Face's ``save_to_disk`` writes; a row is a sample.

Files are mapped into memory. An IPC file holds the same messages as a stream, between its magic and its footer, so both
are read alike: one walk over the messages finds the record batches, without decoding them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from mixlake.catalog.arrow_blocks import ARROW_ERRORS, Piece, has_field, split_pieces, to_blocks
from mixlake.catalog.arrow_rows import Decoded, fetch_columns, read_rows
from mixlake.catalog.data_files import mapped
from mixlake.catalog.errors import DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.spans import Spans

_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_FILE_HEAD = 8
"""Bytes before the first message of an IPC file: the magic, padded."""
_ByteRange = tuple[int, int]


class ArrowFormat:
    """Reads record batches; rows are numbered through the file."""

    name = "arrow"
    suffixes: tuple[str, ...] = (".arrow", ".arrows", ".ipc", ".feather")
    companions: tuple[str, ...] = ("/state.json", "/dataset_info.json", "/dataset_dict.json")
    content = "text"
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return ranges of record batches; those before the place where a file is torn can be read."""
        del options
        try:
            layout = _layout(file)
        except DataError as error:
            problems.note(error, file)
            return []
        if layout.damage:
            place = f"record batch {len(layout.starts)}"
            problems.report(Problem(file=file, place=place, reason=layout.damage))
        return split_pieces(file_id, file, (layout.stops - layout.starts).tolist())

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the record batches with the columns that the fields need."""
        del options
        for part in parts:
            try:
                layout = _layout(part.file)
                columns = [path[0] for path in fields if has_field(layout.schema, path)]
                pieces = _pieces(part, layout, columns, problems)
                yield from to_blocks(part, int(layout.bounds[part.start]), pieces, fields, problems)
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
        """Return the rows of the spans, in their order; a record batch is decoded once while it stays in the cache."""
        del options
        layout = _kept_layout(file, cache)
        return read_rows(file, spans, layout.bounds, _decoder(file, layout, fields, cache))

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
        """Return what gives fields of the rows; a record batch is decoded once while it stays in the cache."""
        del options
        if not may_wait:
            return None
        layout = _kept_layout(file, cache)
        decode = _decoder(file, layout, fields, cache)
        return fetch_columns(file, spans, layout.bounds, fields, decode, as_utf8=as_utf8)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where the messages of a file lie."""

    content: memoryview
    schema: pa.Schema
    schema_range: _ByteRange
    dictionary_ranges: tuple[_ByteRange, ...]
    starts: IntArray
    """First byte of each record batch."""
    stops: IntArray
    bounds: IntArray
    """First row of each record batch, and of the one after the last."""
    damage: str
    """What is wrong behind the last record batch; empty where nothing is."""

    def decoded(self, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield some of the record batches, with some of the columns.

        Uncompressed ones are views of the mapped file.
        """
        if columns is not None and not columns:
            yield from (_without_columns(rows) for rows in np.diff(self.bounds[start : stop + 1]).tolist())
            return
        before = [reach for reach in self.dictionary_ranges if reach[0] < self.starts[start]]
        ranges = [self.schema_range, *before, (int(self.starts[start]), int(self.stops[stop - 1]))]
        source = pa.PythonFile(_Messages([self.content[first:last] for first, last in ranges]), "r")
        included = [] if columns is None else sorted({self.schema.get_field_index(name) for name in columns})
        with ipc.open_stream(source, options=ipc.IpcReadOptions(included_fields=included, use_threads=False)) as stream:
            yield from stream


class _Messages:
    """Messages that lie in several places, as one stream that is read without a copy."""

    closed = False

    def __init__(self, places: Sequence[memoryview]) -> None:
        self._places = list(places)

    def read(self, num_bytes: int) -> memoryview:
        while len(self._places) > 1 and not self._places[0]:
            del self._places[0]
        taken, self._places[0] = self._places[0][:num_bytes], self._places[0][num_bytes:]
        return taken

    def close(self) -> None:
        self._places = [memoryview(b"")]


@lru_cache(maxsize=4)  # what two threads scan at a time, and one file ahead each
def _layout(file: DataFile) -> _Layout:
    """Find the messages of a file.

    Raises:
        DataError: it has not even a schema.
    """
    content = mapped(file.uri)
    head = bytes(content[:_FILE_HEAD])
    if not head or head.startswith(_FEATHER_1):
        reason = "Feather version 1, which is not supported; write it anew" if head else "the file is empty"
        raise DataError(Problem(file=file, place="", reason=reason))
    is_file = head.startswith(_MAGIC)
    ranges: dict[str, list[_ByteRange]] = {"schema": [], "dictionary": [], "record batch": []}
    counts, damage = [0], ""
    try:
        for kind, reach, num_rows in _messages(content, _FILE_HEAD if is_file else 0):
            ranges.setdefault(kind, []).append(reach)
            if kind == "record batch":
                counts.append(num_rows)
        if is_file and bytes(content[-len(_MAGIC) :]) != _MAGIC:
            damage = "the footer of the file is torn"
    except ARROW_ERRORS as error:
        damage = f"the file is torn ({error})"
    if not ranges["schema"]:
        reason = f"neither an Arrow IPC file nor a stream{f': {damage}' if damage else ''}"
        raise DataError(Problem(file=file, place="", reason=reason))
    first, last = ranges["schema"][0]
    batches = np.array(ranges["record batch"], np.int64).reshape(-1, 2)
    return _Layout(
        content=content,
        schema=ipc.read_schema(pa.py_buffer(content[first:last])),
        schema_range=(first, last),
        dictionary_ranges=tuple(ranges["dictionary"]),
        starts=batches[:, 0],
        stops=batches[:, 1],
        bounds=np.cumsum(counts, dtype=np.int64),
        damage=damage,
    )


def _messages(content: memoryview, start: int) -> Iterator[tuple[str, _ByteRange, int]]:
    """Yield kind, byte range and number of rows of every message."""
    source = pa.BufferReader(pa.py_buffer(content))
    source.seek(start)
    for message in ipc.MessageReader.open_stream(source):
        stop = source.tell()
        num_rows = _num_rows(message.metadata) if message.type == "record batch" else 0
        yield message.type, (start, stop), num_rows
        start = stop


def _num_rows(metadata: pa.Buffer) -> int:
    """Return the number of rows of a record batch, out of the flatbuffer that describes it.

    A message's third field is its header, and the header's first field is the number of rows (the Arrow columnar
    format's Message.fbs; Arrow has verified the flatbuffer by then). Decoding the batch would tell it too, at the price
    of decompressing it.
    """
    raw = memoryview(metadata)

    def field(table: int, number: int) -> int | None:
        vtable = table - struct.unpack_from("<i", raw, table)[0]
        size, offset = struct.unpack_from("<H", raw, vtable)[0], 4 + 2 * number
        found = struct.unpack_from("<H", raw, vtable + offset)[0] if offset < size else 0
        return table + found if found else None

    header = field(struct.unpack_from("<I", raw, 0)[0], 2)
    assert header is not None
    length = field(header + struct.unpack_from("<I", raw, header)[0], 0)
    return 0 if length is None else int(struct.unpack_from("<q", raw, length)[0])


def _kept_layout(file: DataFile, cache: ReadCache) -> _Layout:
    def decode() -> tuple[_Layout, int]:
        layout = _layout(file)
        return layout, layout.starts.nbytes + layout.stops.nbytes + layout.bounds.nbytes

    layout: _Layout = cache.get((file.uri, file.modified_us), decode)
    return layout


def _decoder(
    file: DataFile, layout: _Layout, fields: Sequence[FieldPath] | None, cache: ReadCache
) -> Callable[[int], Decoded]:
    columns = None if fields is None else tuple(path[0] for path in fields if has_field(layout.schema, path))

    def decode(number: int) -> Decoded:
        key = (file.uri, file.modified_us, number, columns)
        decoded: Decoded = cache.get(
            key, lambda: Decoded.sized(_record_batch(file, layout, number, columns), is_trusted=False)
        )
        return decoded

    return decode


def _pieces(part: FilePart, layout: _Layout, columns: Sequence[str], problems: Problems) -> Iterator[Piece]:
    """Yield the record batches of a part; of those that cannot be decoded only that they are there."""
    stop = part.stop if part.stop >= 0 else len(layout.starts)
    batches = layout.decoded(part.start, stop, columns)
    for number in range(part.start, stop):
        table = None
        try:
            table = pa.Table.from_batches([next(batches)])
        except ARROW_ERRORS as error:
            problems.report(Problem(file=part.file, place=f"record batch {number}", reason=_undecodable(error)))
            batches = layout.decoded(number + 1, stop, columns)
        yield Piece(
            table=table,
            first_row=int(layout.bounds[number]),
            num_rows=int(layout.bounds[number + 1] - layout.bounds[number]),
            num_bytes=int(layout.stops[number] - layout.starts[number]),
        )


def _record_batch(file: DataFile, layout: _Layout, number: int, columns: Sequence[str] | None) -> pa.Table:
    try:
        batches = list(layout.decoded(number, number + 1, columns))
    except ARROW_ERRORS as error:
        raise DataError(f"{file.uri}, record batch {number}: {_undecodable(error)}") from error
    if not batches:
        raise DataError(f"{file.uri}, record batch {number}: is not there any more")
    return pa.Table.from_batches(batches)


def _without_columns(num_rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.Array.from_buffers(pa.struct([]), num_rows, [None]))


def _undecodable(error: BaseException) -> str:
    return f"cannot be decoded ({error})"
