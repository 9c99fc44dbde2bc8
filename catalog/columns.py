"""Samples read back by column: of each field that is asked for, a list with one value per row.

A format that decodes whole columns gives them so (`ReadsColumns`); of any other the records are turned. Either way a
value is what Python works with at once: a text is a ``str``, bytes are ``bytes``, and where a format holds lists of
integers by column, such as token ids, each is a numpy array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mixlake.catalog.fields import value_at
from mixlake.catalog.formats import Format
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile, FieldPath
from mixlake.catalog.spans import Spans

Columns: TypeAlias = dict[FieldPath, list[Any]]

WHOLE: FieldPath = ()
"""The path of a record itself."""


@runtime_checkable
class ReadsColumns(Protocol):
    """A format that has columns to give; it need not."""

    def read_columns(
        self,
        file: DataFile,
        spans: Spans,
        fields: Sequence[FieldPath],
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> Columns:
        """Return the fields of the rows, which come in the spans' order; None where a record has no such field.

        Several threads may read at a time.

        Raises:
            DataError: the file is not what it was when it was scanned.
        """


def read_columns(
    data_format: Format,
    file: DataFile,
    spans: Spans,
    fields: Sequence[FieldPath],
    options: Mapping[str, Any],
    cache: ReadCache,
) -> Columns:
    """Return some fields of the rows of many spans of a file, in the spans' order; `WHOLE` is the record as a dict.

    Raises:
        DataError: the file is not what it was when it was scanned.
    """
    if WHOLE not in fields and isinstance(data_format, ReadsColumns):
        return data_format.read_columns(file, spans, fields, options, cache)
    records = data_format.read(file, spans, None if WHOLE in fields else fields, options, cache)
    return {path: _column(records, path) for path in fields}


def _column(records: Sequence[dict[str, Any]], path: FieldPath) -> list[Any]:
    if len(path) == 1:
        name = path[0]
        return [record.get(name) for record in records]
    return [value_at(record, path) for record in records]
