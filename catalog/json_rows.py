"""Lines of JSON parsed for their records, or for some fields of them as columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeAlias

import fastsimdjson
import orjson

from mixlake.catalog.errors import DataError
from mixlake.catalog.fields import value_at
from mixlake.catalog.records import DataFile, FieldPath, Span
from mixlake.catalog.spans import Spans

Bytes: TypeAlias = bytes | memoryview
_NOT_FINITE = re.compile(rb"nan|inf", re.IGNORECASE)


def parse_line(line: bytes | memoryview) -> Any:
    """Parse one line; NaN, Infinity and Inf are numbers, in whatever case.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        with suppress(ValueError, RecursionError):
            record = fastsimdjson.parse(line) if _NOT_FINITE.search(line) else None
            if isinstance(record, fastsimdjson.Object):  # what only Python takes for JSON comes as a dict
                return record.as_dict()
        raise ValueError(_reason(line, error)) from None


def _reason(line: bytes | memoryview, error: orjson.JSONDecodeError) -> str:
    """Say what is wrong with a line, and where in it: orjson tells the place in a file of one line."""
    try:
        bytes(line).decode()
    except UnicodeDecodeError as not_text:
        return f"not UTF-8: {not_text.reason} at byte {not_text.start + 1}"
    return f"{error.msg} at column {error.colno}"


def read_records(file: DataFile, pieces: Sequence[Bytes], spans: Spans) -> list[dict[str, Any]]:
    """Return the records that the bytes of some spans hold.

    Raises:
        DataError: a span holds something else than its number of records.
    """
    return [record for piece, span in zip(pieces, spans, strict=True) for record in _records(file, piece, span)]


def parse_columns(
    file: DataFile, pieces: Callable[[], Iterable[Bytes]], spans: Spans, fields: Sequence[FieldPath]
) -> dict[FieldPath, list[Any]]:
    """Return some fields of the records that the bytes of some spans hold.

    ``pieces`` gives those bytes, again where they have to be looked at once more.

    Records are views, of which nothing is copied but what is asked for: half the time of parsing all of them. They are
    let go one by one: hundreds of them at a time would keep Python's garbage collector busy for a fifth of the time.

    Raises:
        DataError: a span holds something else than its number of records.
    """
    num_rows = spans.num_rows.tolist()
    are_lines = max(num_rows, default=1) == 1
    try:
        lines = pieces() if are_lines else chain.from_iterable(map(_lines_of, pieces(), num_rows))
        columns = _columns(lines, fields)
        if all(len(column) == sum(num_rows) for column in columns.values()):
            return columns
    except (ValueError, RecursionError):
        pass  # found again, and named, one by one
    records = read_records(file, list(pieces()), spans)
    return {path: [value_at(record, path) for record in records] for path in fields}


def _columns(lines: Iterable[Bytes], fields: Sequence[FieldPath]) -> dict[FieldPath, list[Any]]:
    """Return fields of lines that are JSON objects, as they nearly always are.

    Raises:
        ValueError: one is something else, or of a kind that takes a closer look.
    """
    columns: dict[FieldPath, list[Any]] = {path: [] for path in fields}
    asked = [(path[0], path[1:], column.append) for path, column in columns.items()]
    known: tuple[str, ...] | None = None
    for line in lines:
        record = fastsimdjson.parse(line)
        if type(record) is not fastsimdjson.Object:  # what only Python takes for JSON is a dict
            raise ValueError
        if (layout := tuple(record)) != known:
            if len(set(layout)) < len(layout):  # of equal keys a view gives the first, but the last one counts
                raise ValueError
            known = layout
        for name, below, append in asked:
            value = record.get(name)
            append(value if type(value) is str and not below else _plain_at(value, below))
    return columns


def _plain_at(value: Any, path: FieldPath) -> Any:
    """Return what lies at a path below a value, as plain Python objects."""
    if type(value) is fastsimdjson.Object:
        value = value.as_dict()
    elif type(value) is fastsimdjson.Array:
        value = value.as_list()
    return value_at({"": value}, ("", *path))


def _records(file: DataFile, piece: Bytes, span: Span) -> list[dict[str, Any]]:
    try:
        records = [parse_line(line) for line in _lines(piece)]
    except ValueError as error:
        raise DataError(f"{file.uri}, {_rows(span)}: not JSON any more ({error})") from None
    others = set(map(type, records)) - {dict}
    if others:
        raise DataError(f"{file.uri}, {_rows(span)}: a record is no JSON object any more, but {others.pop().__name__}")
    if len(records) != span.row_stop - span.row_start:
        raise DataError(f"{file.uri}, {_rows(span)}: found {len(records)} records in their place")
    return records


def _lines(piece: Bytes) -> list[bytes]:
    return [line for line in bytes(piece).split(b"\n") if line.strip()]


def _lines_of(piece: Bytes, num_rows: int) -> Sequence[Bytes]:
    return [piece] if num_rows == 1 else _lines(piece)


def _rows(span: Span) -> str:
    is_one = span.row_stop == span.row_start + 1
    return f"row {span.row_start}" if is_one else f"rows {span.row_start} to {span.row_stop}"
