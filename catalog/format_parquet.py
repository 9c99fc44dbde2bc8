"""The ``parquet`` format: one row is one sample, a row group is a block; only needed columns are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixlake.catalog.errors import DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Span


class ParquetFormat:
    """Reads row groups; rows are numbered through the file."""

    name = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return every row group as a part."""
        del options
        try:
            metadata, _ = _layout(file)
        except DataError as error:
            problems.note(error, file)
            return []
        return [
            FilePart(file_id=file_id, file=file, start=group, stop=group + 1)
            for group in range(metadata.num_row_groups)
        ]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield every row group with the columns that the fields need."""
        del options
        for part in parts:
            try:
                yield from _blocks(part, fields, problems)
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
        key = (file.uri, file.modified_us)
        metadata, bounds = cache.get(key, lambda: _sized_layout(file))
        columns = None if fields is None else tuple(".".join(path) for path in fields)
        records: list[dict[str, Any]] = []
        for span in spans:
            row = span.row_start
            while row < span.row_stop:
                group = int(np.searchsorted(bounds, row, side="right")) - 1
                if group >= len(bounds) - 1:
                    raise DataError(f"{file.uri}: row {row} is not there; the file has {bounds[-1]} rows")
                stop = min(span.row_stop, int(bounds[group + 1]))
                table = cache.get((*key, group, columns), partial(_decode_sized, file, metadata, group, columns))
                records += table.slice(row - int(bounds[group]), stop - row).to_pylist()
                row = stop
        return records


def _blocks(part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Iterator[Block]:
    metadata, bounds = _layout(part.file)
    present = [path for path in fields if _has_field(metadata.schema.to_arrow_schema(), path)]
    names = [".".join(path) for path in present]
    stop = metadata.num_row_groups if part.stop < 0 else part.stop
    for group in range(part.start, stop):
        try:
            table = _decode(part.file, metadata, group, names)
        except DataError as error:
            problems.note(error, part.file)
            continue
        first_row, num_rows = int(bounds[group]), len(table)
        yield Block(
            file_ids=np.full(num_rows, part.file_id, np.int64),
            rows=np.arange(num_rows, dtype=np.int64) + first_row - int(bounds[part.start]),
            byte_starts=None,
            byte_stops=None,
            columns={path: _column(table, path) for path in present},
            num_bytes=metadata.row_group(group).total_byte_size,
            num_records=num_rows,
            place=partial(_place, first_row),
        )


def _place(first_row: int, index: int) -> str:
    return f"row {first_row + index}"


def _layout(file: DataFile) -> tuple[pq.FileMetaData, IntArray]:
    """Return a file's metadata, and the first row of every row group, and of the one after the last."""
    try:
        metadata = pq.read_metadata(file.uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.uri}: not a readable Parquet file ({error})") from error
    counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    return metadata, np.cumsum([0, *counts], dtype=np.int64)


def _sized_layout(file: DataFile) -> tuple[tuple[pq.FileMetaData, IntArray], int]:
    metadata, bounds = _layout(file)
    return (metadata, bounds), metadata.serialized_size


def _decode(file: DataFile, metadata: pq.FileMetaData, group: int, columns: Sequence[str] | None) -> pa.Table:
    # Opened anew for each row group: kept handles would soon be more than a process may have.
    try:
        with pq.ParquetFile(file.uri, metadata=metadata) as parquet:
            return parquet.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.uri}, row group {group}: cannot be decoded ({error})") from error


def _decode_sized(
    file: DataFile, metadata: pq.FileMetaData, group: int, columns: Sequence[str] | None
) -> tuple[pa.Table, int]:
    table = _decode(file, metadata, group, columns)
    return table, table.nbytes


def _has_field(schema: pa.Schema, path: FieldPath) -> bool:
    fields: Any = schema
    for name in path:
        index = fields.get_field_index(name)
        if index < 0:
            return False
        fields = fields.field(index).type
        if not isinstance(fields, pa.StructType):
            fields = pa.struct([])
    return True


def _column(table: pa.Table, path: FieldPath) -> pa.Array:
    column = table.column(path[0])
    if len(path) > 1:
        column = pc.struct_field(column, list(path[1:]))
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
