"""The ``parquet`` format: one row is one sample, a row group is what one read decodes; only needed columns are.

Row groups are opened again for each part, as kept handles would soon be more than a process may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mixlake.catalog.arrow_blocks import (
    ARROW_ERRORS,
    BYTES_PER_BLOCK,
    Piece,
    has_field,
    split_pieces,
    to_blocks,
)
from mixlake.catalog.arrow_rows import Decoded, fetch_columns, read_rows
from mixlake.catalog.errors import DataError
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.spans import Spans

_BYTES_AT_ONCE = 64 << 20
"""Row groups beyond this are decoded piece by piece, so that memory stays bounded however large they are."""
_STREAM_BYTES = 1 << 20
_LEAST_BEGUN_BYTES = 1 << 20
"""Smaller row groups are decoded in less than what it takes to have that done."""
_ALL_ROWS = 1 << 30


class ParquetFormat:
    """Reads row groups; rows are numbered through the file."""

    name = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")
    companions: tuple[str, ...] = ()
    content = "text"
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return ranges of row groups."""
        del options
        try:
            metadata = _layout(file).metadata
        except DataError as error:
            problems.note(error, file)
            return []
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
        return split_pieces(file_id, file, sizes)

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the row groups with the columns that the fields need."""
        del options
        for part in parts:
            try:
                layout = _layout(part.file)
                bounds = layout.bounds
                with _opened(part.file, layout.metadata) as parquet:
                    pieces = _pieces(part, parquet, bounds, _names(parquet.schema_arrow, fields), problems)
                    yield from to_blocks(part, int(bounds[part.start]), pieces, fields, problems)
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
        """Return the rows of the spans, in their order; a row group is decoded once while it stays in the cache."""
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
        """Return what gives fields of the rows; a row group is decoded once while it stays in the cache.

        What may not wait has row groups decoded by Arrow's threads. They do not need the interpreter lock, for which a
        Python thread waits a dozen times per row group, up to 5 ms each time that another one computes.
        """
        del options
        if not may_wait and not cache.holds(_layout_key(file)):
            return None
        layout = _kept_layout(file, cache)
        fetch = partial(
            fetch_columns, file, spans, layout.bounds, fields, _decoder(file, layout, fields, cache), as_utf8=as_utf8
        )
        if may_wait:
            return fetch()
        numbers = np.unique(np.searchsorted(layout.bounds, spans.rows, side="right") - 1).tolist()
        if not all(_begin(file, layout, number, fields, cache) for number in numbers):
            return None
        return partial(_called, fetch)

    def bytes_per_sample(self, file: DataFile) -> int:
        """Return the mean of what all columns take before they are compressed."""
        metadata = _layout(file).metadata
        num_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        return int(num_bytes // max(metadata.num_rows, 1))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the rows of a file lie."""

    metadata: pq.FileMetaData
    bounds: IntArray
    """First row of every row group, and of the one after the last."""
    fragment: pads.ParquetFileFragment | None = None
    """The file, as Arrow's threads read it."""


@lru_cache(maxsize=4)  # what two threads scan at a time, and one file ahead each: a footer may have many megabytes
def _layout(file: DataFile) -> _Layout:
    if not file.num_bytes:
        raise DataError(Problem(file=file, place="", reason="the file is empty"))
    try:
        metadata = pq.read_metadata(file.uri)
    except ARROW_ERRORS as error:
        reason = f"not a readable Parquet file ({error})"
        raise DataError(Problem(file=file, place="", reason=reason)) from error
    counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    return _Layout(metadata, np.cumsum([0, *counts], dtype=np.int64))


def _layout_key(file: DataFile) -> tuple[str, int]:
    return file.uri, file.modified_us


def _kept_layout(file: DataFile, cache: ReadCache) -> _Layout:
    def decode() -> tuple[_Layout, int]:
        layout = _layout(file)
        fragment = pads.ParquetFileFormat().make_fragment(file.uri, pafs.LocalFileSystem())
        fragment.ensure_complete_metadata()
        return replace(layout, fragment=fragment), 2 * layout.metadata.serialized_size

    layout: _Layout = cache.get(_layout_key(file), decode)
    return layout


def _decoder(
    file: DataFile, layout: _Layout, fields: Sequence[FieldPath] | None, cache: ReadCache
) -> Callable[[int], Decoded]:
    wanted = None if fields is None else tuple(fields)

    def decode(group: int) -> Decoded:
        decoded: Decoded = cache.get(
            (*_layout_key(file), group, wanted),
            lambda: Decoded.sized(_row_group(file, layout.metadata, group, wanted), is_trusted=True),
            spill=Decoded.spilled,
        )
        return decoded

    return decode


def _called(fetch: Callable[[], Callable[[], dict[FieldPath, list[Any]]]]) -> dict[FieldPath, list[Any]]:
    return fetch()()


def _begin(file: DataFile, layout: _Layout, group: int, fields: Sequence[FieldPath], cache: ReadCache) -> bool:
    """Have a row group decoded, unless it is already; say whether that can be waited for."""
    fragment = layout.fragment
    num_bytes = layout.metadata.row_group(group).total_byte_size
    names = list(dict.fromkeys(path[0] for path in fields if len(path) == 1))
    if fragment is None or num_bytes < _LEAST_BEGUN_BYTES or len(names) < len(fields):
        return False
    names = [name for name in names if name in fragment.physical_schema.names]

    def start() -> Callable[[], tuple[Decoded, int]]:
        scanner = pads.Scanner.from_fragment(
            fragment.subset(row_group_ids=[group]), columns=names, batch_size=_ALL_ROWS, batch_readahead=1
        )
        return partial(_await_row_group, file, group, scanner.to_reader())

    try:
        return cache.begin((*_layout_key(file), group, tuple(fields)), start, num_bytes)
    except ARROW_ERRORS:  # whoever needs it says what is wrong
        return False


def _await_row_group(file: DataFile, group: int, reader: pa.RecordBatchReader) -> tuple[Decoded, int]:
    try:
        table = reader.read_all()
    except ARROW_ERRORS as error:
        raise DataError(f"{file.uri}, row group {group}: {_undecodable(error)}") from error
    return Decoded.sized(table, is_trusted=True)


def _opened(file: DataFile, metadata: pq.FileMetaData) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.uri, metadata=metadata, pre_buffer=False, buffer_size=_STREAM_BYTES)
    except ARROW_ERRORS as error:
        raise DataError(f"{file.uri}: cannot be read ({error})") from error


def _names(schema: pa.Schema, fields: Sequence[FieldPath] | Mapping[FieldPath, pa.DataType]) -> list[str]:
    """Return Parquet's names of the columns that hold the fields; those of a struct's fields are joined by dots."""
    return [".".join(path) for path in fields if has_field(schema, path)]


def _pieces(
    part: FilePart, parquet: pq.ParquetFile, bounds: IntArray, names: Sequence[str], problems: Problems
) -> Iterator[Piece]:
    """Yield the row groups of a part; of one that is damaged only that it is there, so that all of it is left out."""
    for group in range(part.start, part.stop if part.stop >= 0 else len(bounds) - 1):
        row, stop = int(bounds[group]), int(bounds[group + 1])
        num_rows, num_bytes = stop - row, parquet.metadata.row_group(group).total_byte_size
        is_large = num_bytes > _BYTES_AT_ONCE
        try:
            if is_large and problems.on_error is OnError.SKIP:
                for _ in _decoded(parquet, group, names):  # nothing of it may be passed on unless all of it is sound
                    pass
            for number, table in enumerate(_decoded(parquet, group, names)):
                yield Piece(
                    table=table,
                    first_row=row,
                    num_rows=len(table),
                    num_bytes=num_bytes * len(table) // max(num_rows, 1),
                    slice_number=number if is_large else None,
                )
                row += len(table)
        except ARROW_ERRORS as error:
            problems.report(Problem(file=part.file, place=f"row group {group}", reason=_undecodable(error)))
            yield Piece(table=None, first_row=row, num_rows=stop - row, num_bytes=0)


def _decoded(parquet: pq.ParquetFile, group: int, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a row group: as a whole, or some megabytes of it at a time where it is large."""
    described = parquet.metadata.row_group(group)
    if described.total_byte_size <= _BYTES_AT_ONCE:
        yield parquet.read_row_group(group, columns=list(names), use_threads=False)
        return
    num_rows = max(1, described.num_rows * BYTES_PER_BLOCK // described.total_byte_size)
    for batch in parquet.iter_batches(num_rows, row_groups=[group], columns=list(names), use_threads=False):
        yield pa.Table.from_batches([batch])


def _row_group(file: DataFile, metadata: pq.FileMetaData, group: int, fields: Sequence[FieldPath] | None) -> pa.Table:
    with _opened(file, metadata) as parquet:
        names = None if fields is None else _names(parquet.schema_arrow, fields)
        try:
            table = parquet.read_row_group(group, columns=names, use_threads=False)
        except ARROW_ERRORS as error:
            raise DataError(f"{file.uri}, row group {group}: {_undecodable(error)}") from error
    if fields is not None:  # a column called "a.b" comes along with the field b of a column a
        table = table.select([name for name in dict.fromkeys(path[0] for path in fields) if name in table.column_names])
    return table


def _undecodable(error: BaseException) -> str:
    return f"cannot be decoded ({error})"
