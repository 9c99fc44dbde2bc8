"""Fields of long JSON lines as columns, by simdjson: for records of which only a little is asked for.

simdjson checks whole records, their UTF-8 too, at more than twice the speed of Arrow's parser, and copies nothing that
nobody asks for. But it holds the interpreter lock: it pays where there are too few cores for threads to make up for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import fastsimdjson
import pyarrow as pa
from fastsimdjson import Array, Object

from mixlake.catalog.parallel import num_cores
from mixlake.catalog.properties import common_type
from mixlake.catalog.records import FieldPath
from mixlake.catalog.text_regions import Region

_MAX_CORES = 2
"""On two, files are scanned 1.25 times as fast as with Arrow's parser, which is the faster one on three."""
_MIN_RECORD_BYTES = 1000
_MIN_BATCH_BYTES = 64
_MIN_RATIO = 8
"""How much longer records must be than what is asked for, for each value becomes a Python object."""


def is_faster(region: Region, fields: Mapping[FieldPath, pa.DataType]) -> bool:
    """Say whether simdjson is the faster parser for these lines, judging by the first; both give the same columns."""
    num_lines = max(len(region.newlines), 1)
    if num_cores() > _MAX_CORES or len(region) < num_lines * _MIN_RECORD_BYTES:
        return False
    first = region.content[: region.newlines[0] if len(region.newlines) else None]
    asked = _asked_values(first, 1, fields) or {}
    return len(region) >= num_lines * _MIN_RATIO * sum(len(str(values)) for values in asked.values())


def viewed_columns(
    content: memoryview, num_records: int, fields: Mapping[FieldPath, pa.DataType]
) -> dict[FieldPath, pa.Array] | None:
    """Return the fields of the lines, or None where the lines must be parsed one by one.

    Args:
        content: lines, of which each begins and ends as an object or is blank.
        num_records: how many of them are not blank.
        fields: the fields, each with the type that it is known to have.
    """
    values = _asked_values(content, num_records, fields)
    if values is None:
        return None
    columns = {path: _column(values[path[0]], path[1:], kind) for path, kind in fields.items()}
    return None if any(column is None for column in columns.values()) else columns


def _asked_values(content: memoryview, num_records: int, fields: Iterable[FieldPath]) -> dict[str, list[Any]] | None:
    """Return all values of the fields, those of each under its first name, or None where the records are not sound."""
    asked: dict[str, list[Any]] = {path[0]: [] for path in fields}
    known: tuple[str, ...] | None = None
    num = 0
    try:
        # In one batch: where batches end within a character, the record comes as a dict.
        for record in fastsimdjson.parse_many(content, format="lines", batch_size=len(content) + _MIN_BATCH_BYTES):
            num += 1
            if type(record) is not Object:  # what only Python takes for JSON, such as half a surrogate pair, is a dict
                return None
            if (layout := tuple(record)) != known:
                if len(set(layout)) < len(layout):  # of equal keys a view gives the first, but the last one counts
                    return None
                known = layout
            for name, values in asked.items():
                value = record.get(name)
                kind = type(value)
                values.append(value.as_dict() if kind is Object else value.as_list() if kind is Array else value)
    except (ValueError, RecursionError):
        return None
    return asked if num == num_records else None


def _column(values: list[Any], path: FieldPath, kind: pa.DataType) -> pa.Array | None:
    try:
        for name in path:
            values = [None if value is None else value.get(name) for value in values]
        column = pa.array(values)
        return column.cast(kind) if common_type(kind, column.type) == kind else None
    except (AttributeError, OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        return None
