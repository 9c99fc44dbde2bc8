"""Rows of the columnar formats, read back: out of decoded row groups or record batches, as records or as columns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.arrow_blocks import ARROW_ERRORS, column_at, has_field, plain
from mixlake.catalog.data_files import mapped
from mixlake.catalog.errors import DataError
from mixlake.catalog.records import DataFile, FieldPath, IntArray, Span
from mixlake.catalog.spans import Spans

_UNREADABLE = (*ARROW_ERRORS, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Some columns of a row group or record batch."""

    table: pa.Table
    is_sound: bool
    """Whether all of it can be looked into; if not, single rows may."""

    @classmethod
    def sized(cls, table: pa.Table, *, is_trusted: bool) -> tuple[Decoded, int]:
        """Return a decoded table and its bytes.

        Args:
            table: the columns.
            is_trusted: whether a decoder has made its offsets, as Parquet's does; else all of it is looked through.
                Text that is not UTF-8 is noticed when it becomes a string.
        """
        try:
            table.validate(full=not is_trusted)
        except ARROW_ERRORS:
            return cls(table=table, is_sound=False), table.nbytes
        return cls(table=table, is_sound=True), table.nbytes

    def spilled(self) -> tuple[Decoded, int]:
        """Return it mapped from an unnamed temporary file, and its bytes there; nothing of it is held in memory.

        Raises:
            OSError: the file cannot be written.
        """
        with tempfile.TemporaryFile() as file:
            path = f"/dev/fd/{file.fileno()}"
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, self.table.schema) as writer:
                writer.write_table(self.table)
            content = mapped(path)
        with pa.ipc.open_stream(pa.py_buffer(content)) as reader:
            return Decoded(table=reader.read_all(), is_sound=self.is_sound), len(content)


def read_rows(
    file: DataFile, spans: Sequence[Span], bounds: IntArray, decode: Callable[[int], Decoded]
) -> list[dict[str, Any]]:
    """Return the rows of the spans as records, in the spans' order.

    Args:
        file: for messages.
        spans: which rows.
        bounds: first row of every row group or record batch, and of the one after the last.
        decode: returns a row group or record batch by number.

    Raises:
        DataError: a row is not there, or holds what is no value of its column's type.
    """
    records: list[dict[str, Any]] = []
    for span in spans:
        row = span.row_start
        while row < span.row_stop:
            number = int(_groups_of(file, np.array([row]), bounds)[0])
            stop = min(span.row_stop, int(bounds[number + 1]))
            first = row - int(bounds[number])
            records += _records(file, decode(number), slice(first, first + stop - row), row)
            row = stop
    return records


def fetch_columns(
    file: DataFile,
    spans: Spans,
    bounds: IntArray,
    fields: Sequence[FieldPath],
    decode: Callable[[int], Decoded],
    *,
    as_utf8: bool,
) -> Callable[[], dict[FieldPath, list[Any]]]:
    """Decode what holds the rows of the spans, each row group or record batch once; return what gives fields of them.

    Decoding and copying is done without the interpreter lock, making strings with it. Args and errors are those of
    `read_rows`; with ``as_utf8`` texts are memoryviews of UTF-8.
    """
    rows = spans.rows
    group_of_row = _groups_of(file, rows, bounds)
    taken = []
    for number in np.unique(group_of_row).tolist():
        where = np.flatnonzero(group_of_row == number)
        table = _taken(file, decode(number), rows[where] - int(bounds[number]), int(bounds[number]))
        here = [path for path in fields if has_field(table.schema, path)]
        taken.append((where.tolist(), {path: _plain(file, table, path, is_checked=as_utf8) for path in here}))
    return partial(_put_together, file, taken, fields, len(rows), as_utf8=as_utf8)


def _put_together(
    file: DataFile,
    taken: Sequence[tuple[list[int], dict[FieldPath, pa.Array]]],
    fields: Sequence[FieldPath],
    num_rows: int,
    *,
    as_utf8: bool,
) -> dict[FieldPath, list[Any]]:
    found: dict[FieldPath, list[Any]] = {path: [None] * num_rows for path in fields}
    for where, columns in taken:
        for path, column in columns.items():
            target = found[path]
            for index, value in zip(where, _values(file, column, path, as_utf8=as_utf8), strict=True):
                target[index] = value
    return found


def _groups_of(file: DataFile, rows: IntArray, bounds: IntArray) -> IntArray:
    if len(rows) and rows.max() >= bounds[-1]:
        raise DataError(f"{file.uri}: row {rows.max()} is not there; the file has {bounds[-1]} rows")
    return np.searchsorted(bounds, rows, side="right") - 1


def _taken(file: DataFile, decoded: Decoded, indices: IntArray, first_row: int) -> pa.Table:
    if decoded.is_sound:
        return decoded.table.take(pa.array(indices))
    rows = [_sound(file, decoded, slice(index, index + 1), first_row + index) for index in indices.tolist()]
    return pa.concat_tables(rows)


def _records(file: DataFile, decoded: Decoded, part: slice, first_row: int) -> list[dict[str, Any]]:
    if not decoded.table.num_columns:
        return [{} for _ in range(part.start, part.stop)]
    rows = _sound(file, decoded, part, first_row)
    try:
        records: list[dict[str, Any]] = rows.to_pylist()
    except _UNREADABLE as error:
        raise DataError(f"{_rows(file, first_row, len(rows))} cannot be read ({error})") from error
    return records


def _sound(file: DataFile, decoded: Decoded, part: slice, first_row: int) -> pa.Table:
    """Return consecutive rows, which begin at ``first_row`` of the file.

    Raises:
        DataError: they hold what is no value of its column's type.
    """
    rows = decoded.table.slice(part.start, part.stop - part.start)
    try:
        if not decoded.is_sound:
            rows.validate(full=True)
    except ARROW_ERRORS as error:
        raise DataError(f"{_rows(file, first_row, len(rows))} cannot be read ({error})") from error
    return rows


def _plain(file: DataFile, table: pa.Table, path: FieldPath, *, is_checked: bool) -> pa.Array:
    """Return a field; if it is to be checked, nobody looks at its texts again before they are sent somewhere."""
    try:
        column = plain(column_at(table, path))
        if is_checked and pa.types.is_string(column.type):
            column.validate(full=True)
    except ARROW_ERRORS as error:
        raise _not_readable(file, path, error) from error
    return column


def _values(file: DataFile, column: pa.Array, path: FieldPath, *, as_utf8: bool) -> Sequence[Any]:
    """Return a field as Python values: lists of integers as arrays, texts as memoryviews if that is asked for."""
    types = pa.types
    try:
        if types.is_string(column.type) and as_utf8:
            values: Sequence[Any] = _texts(column)
        elif types.is_string(column.type) or types.is_binary(column.type):  # a quarter faster than to_pylist
            values = column.to_numpy(zero_copy_only=False).tolist()
        elif types.is_list(column.type) and types.is_integer(column.type.value_type) and not _has_nulls(column):
            integers, bounds = column.values.to_numpy(), column.offsets.to_pylist()
            values = [integers[start:stop] for start, stop in pairwise(bounds)]
        else:
            values = column.to_pylist()
    except _UNREADABLE as error:
        raise _not_readable(file, path, error) from error
    return values


def _not_readable(file: DataFile, path: FieldPath, error: BaseException) -> DataError:
    return DataError(f"{file.uri}: field {'.'.join(path)!r} cannot be read ({error})")


def _texts(column: pa.StringArray) -> Sequence[Any]:
    _, offsets, content = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].tolist()
    view = memoryview(content or b"")
    values: list[memoryview | None] = [view[start:stop] for start, stop in pairwise(bounds)]
    for index in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist() if column.null_count else ():
        values[index] = None
    return values


def _has_nulls(column: pa.ListArray) -> bool:
    return bool(column.null_count or column.values.null_count)


def _rows(file: DataFile, first_row: int, num_rows: int) -> str:
    return f"{file.uri}, rows {first_row} to {first_row + num_rows}:"
