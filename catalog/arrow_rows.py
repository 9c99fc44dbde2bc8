"""Rows of the columnar formats, read back: out of decoded row groups or record batches, as records or as columns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def read_columns(
    file: DataFile,
    spans: Spans,
    bounds: IntArray,
    fields: Sequence[FieldPath],
    decode: Callable[[int], Decoded],
) -> dict[FieldPath, list[Any]]:
    """Return fields of the rows of the spans, in the spans' order; each row group or record batch is decoded once.

    Args and errors are those of `read_rows`.
    """
    rows = spans.rows
    found: dict[FieldPath, list[Any]] = {path: [None] * len(rows) for path in fields}
    group_of_row = _groups_of(file, rows, bounds)
    for number in np.unique(group_of_row).tolist():
        where = np.flatnonzero(group_of_row == number)
        taken = _taken(file, decode(number), rows[where] - int(bounds[number]), int(bounds[number]))
        for path in fields:
            if has_field(taken.schema, path):
                column = found[path]
                for index, value in zip(where.tolist(), _values(file, taken, path), strict=True):
                    column[index] = value
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


def _values(file: DataFile, table: pa.Table, path: FieldPath) -> Sequence[Any]:
    """Return a field as Python values: texts as memoryviews of their UTF-8, lists of integers as arrays."""
    types = pa.types
    try:
        column = plain(column_at(table, path))
        if types.is_string(column.type):
            values: Sequence[Any] = _texts(column)
        elif types.is_binary(column.type):  # a quarter faster than to_pylist
            values = column.to_numpy(zero_copy_only=False).tolist()
        elif types.is_list(column.type) and types.is_integer(column.type.value_type) and not _has_nulls(column):
            integers, bounds = column.values.to_numpy(), column.offsets.to_pylist()
            values = [integers[start:stop] for start, stop in pairwise(bounds)]
        else:
            values = column.to_pylist()
    except _UNREADABLE as error:
        raise DataError(f"{file.uri}: field {'.'.join(path)!r} cannot be read ({error})") from error
    return values


def _texts(column: pa.StringArray) -> Sequence[Any]:
    column.validate(full=True)  # it has come from a file, and nobody looks at it again
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
