"""Writes the index of one registration: Parquet files in storage order, committed together at the end."""

from __future__ import annotations

import json
import os
import shutil
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake
from mixlake.catalog.properties import fitted

ROWS_PER_GROUP = 65_536
"""Small row groups, so that reading a few blocks of rows out of the index decodes little."""
_ROWS_PER_FILE = 4_194_304
_RISING = ("row", "byte_start", "byte_stop")
"""Columns whose values follow on each other."""


class SampleWriter:
    """Buffers rows, writes them to files that nobody sees, and publishes them with one commit.

    Property types may only widen while rows come in (all null so far, then int64, then double): files written before
    are rewritten once at the end. Leaving the context without ``commit`` deletes what was written.
    """

    def __init__(self, lake: Lake, registration: str, first_file_id: int = 0) -> None:
        self._lake = lake
        self._registration = registration
        self._first_file_id = first_file_id
        self._folder = os.path.join(lake.path(schema.SAMPLES), f"registration={registration}")
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._files: list[str] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows_in_file = 0
        self._is_committed = False

    def __enter__(self) -> SampleWriter:
        os.makedirs(self._folder)
        return self

    def __exit__(self, *exception: object) -> None:
        self._close_file()
        if not self._is_committed:
            shutil.rmtree(self._folder)

    def write(self, rows: pa.Table) -> None:
        """Take the next rows, in storage order; their file ids count from the first one."""
        if self._first_file_id:
            file_ids = pc.add(rows["file_id"], pa.scalar(self._first_file_id, pa.int32()))
            rows = rows.set_column(rows.schema.get_field_index("file_id"), "file_id", file_ids)
        self._buffer.append(rows)
        self._buffered += len(rows)
        if self._buffered >= ROWS_PER_GROUP:
            self._flush()

    def restart(self) -> None:
        """Forget what was written so far."""
        self._close_file()
        for path in self._files:
            os.remove(path)
        self._buffer, self._buffered, self._files = [], 0, []

    def finish(self, columns: pa.Schema) -> list[str]:
        """Close the files, bring every one to ``columns``, and return their paths in storage order.

        Raises:
            DataError: a value written earlier does not fit the type that later ones need.
        """
        self._flush()
        self._close_file()
        for path in self._files:
            if not pq.read_schema(path).equals(columns):
                _rewrite(path, columns)
        return list(self._files)

    def commit(self, columns: pa.Schema) -> None:
        """Publish the files in one commit to `samples`; without a row there is nothing to publish.

        Raises:
            DataError: a value written earlier does not fit the type that later ones need.
        """
        actions = [self._add_action(path) for path in self.finish(columns)]
        if actions:
            self._lake.add_files(schema.SAMPLES, actions, columns, action=f"register {self._registration}")
            self._is_committed = True

    def _flush(self) -> None:
        if not self._buffer:
            return
        table = pa.concat_tables([_cast(table, self._buffer[-1].schema) for table in self._buffer])
        self._buffer, self._buffered = [], 0
        if self._writer is None or self._writer.schema != table.schema or self._rows_in_file >= _ROWS_PER_FILE:
            self._close_file()
            path = os.path.join(self._folder, f"part-{len(self._files):05d}.parquet")
            self._files.append(path)
            self._writer = _writer(path, table.schema)
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._rows_in_file += len(table)

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._rows_in_file = None, 0

    def _add_action(self, path: str) -> AddAction:
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        position = {name: metadata.schema.names.index(name) for name in ("file_id", "block")}
        met = {name: [group.column(index).statistics for group in groups] for name, index in position.items()}
        stats = {
            "numRecords": metadata.num_rows,
            "minValues": {name: min(statistics.min for statistics in of_groups) for name, of_groups in met.items()},
            "maxValues": {name: max(statistics.max for statistics in of_groups) for name, of_groups in met.items()},
            "nullCount": dict.fromkeys(met, 0),
        }
        return AddAction(
            path=f"registration={self._registration}/{os.path.basename(path)}",
            size=os.path.getsize(path),
            partition_values={"registration": self._registration},
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps(stats),
        )


def _writer(path: str, columns: pa.Schema) -> pq.ParquetWriter:
    """Open a file for index rows: rising numbers as differences, everything else with a dictionary.

    With dictionaries throughout it would be three times as large, and take twice as long to write and to read.
    """
    repeating = [field for field in columns if field.name not in _RISING]
    leaves = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in repeating]
    encodings = dict.fromkeys(_RISING, "DELTA_BINARY_PACKED")
    return pq.ParquetWriter(path, columns, compression="zstd", use_dictionary=leaves, column_encoding=encodings)


def _rewrite(path: str, columns: pa.Schema) -> None:
    temporary = f"{path}.tmp"
    with pq.ParquetFile(path) as source, _writer(temporary, columns) as target:
        for batch in source.iter_batches(ROWS_PER_GROUP):
            target.write_table(_cast(pa.Table.from_batches([batch]), columns))
    os.replace(temporary, path)


def _cast(table: pa.Table, columns: pa.Schema) -> pa.Table:
    arrays = [fitted(table[field.name], field.type, f"property {field.name!r}") for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)
