"""Files of chunks: written so that a reader which needs a few chunks of a snapshot decodes little more than those."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake

_INTERVALS_PER_GROUP, _SAMPLES_PER_GROUP = 1 << 11, 1 << 14
_GROUPS_PER_FILE = 16  # or up to twice as many, where that is one file less
"""Of thousands of chunks a reader needs those of its lanes. For each it parses a footer, as long as its file has row
groups, and decodes one of these: 0.1 ms for either, however long the intervals are. Writing takes 0.2 ms for each. A
file more makes commits a microsecond slower."""
_COMPACTED_BYTES = 1 << 19
_INTERVAL = "intervals.list.element."
_NAMES = [_INTERVAL + name for name in ("component", "registration")]
_PACKED = [_INTERVAL + name for name in ("file_id", "row_start", "row_stop", "byte_start", "byte_stop")]
"""Sorted numbers, stored as the bits of their differences: 40% smaller than with zstd, and decoded in half the time."""
_REPETITIVE = [*_NAMES, _INTERVAL + "pass", "component_order.list.element", "weights_version", "stage", "num_samples"]
_STATISTICS = ["chunk", "is_last"]
"""What the log tells files apart by. Those of all columns would be three quarters of a footer, and a cursor's twice its
length in the log."""
_NEEDED = [
    _INTERVAL + name for name in ("registration", "file_id", "row_start", "row_stop", "byte_start", "byte_stop", "pass")
]
"""Of intervals; their component is known from the order of components. Every column takes 20 µs."""
_MAX_OPEN = 4


def write_chunks(folder: str, run: str, rows: pa.Table) -> list[AddAction]:
    """Write consecutive chunks of a run as files of the `chunks` table; nobody sees them until they are committed.

    Args:
        folder: of the table.
        run: whose they are; a partition of its own.
        rows: without the column ``run``.
    """
    os.makedirs(os.path.join(folder, f"{schema.RUN}={run}"), exist_ok=True)
    per_group = _rows_per_group(rows)
    num_files = max(1, len(rows) // (per_group * _GROUPS_PER_FILE))
    starts = range(0, len(rows), -(-len(rows) // num_files))
    return [_write(folder, run, rows.slice(start, starts.step), per_group) for start in starts]


def compact_chunks(lake: Lake, run: str, rows: pa.Table) -> None:
    """Join the files of a run that are small.

    Args:
        lake: where they are.
        run: the run.
        rows: chunks like those that they have.
    """
    size: dict[str, int] = {"file_bytes": _COMPACTED_BYTES, "rows_per_group": _rows_per_group(rows)}
    lake.compact(schema.CHUNKS, schema.RUN, run, statistics=_STATISTICS, **size)


def _write(folder: str, run: str, rows: pa.Table, rows_per_group: int) -> AddAction:
    path = f"{schema.RUN}={run}/part-{uuid.uuid4()}.parquet"
    full = os.path.join(folder, path)
    pq.write_table(
        rows,
        full,
        row_group_size=rows_per_group,
        use_dictionary=_REPETITIVE,
        column_encoding=dict.fromkeys(_PACKED, "DELTA_BINARY_PACKED"),
        compression=dict.fromkeys(["component_order.list.element", "cursor"], "zstd"),
        write_statistics=_STATISTICS,
        store_schema=False,
    )
    first, last = ({name: rows[name][place].as_py() for name in _STATISTICS} for place in (0, -1))
    stats = {"numRecords": len(rows), "minValues": first, "maxValues": last, "nullCount": dict.fromkeys(_STATISTICS, 0)}
    return AddAction(
        path=path,
        size=os.path.getsize(full),
        partition_values={schema.RUN: run},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps(stats),
    )


def _rows_per_group(rows: pa.Table) -> int:
    """Return how many chunks are decoded together: fewer, where they have more intervals."""
    num_intervals: int = pc.sum(pc.list_value_length(rows["intervals"])).as_py()
    by_samples: int = _SAMPLES_PER_GROUP // rows["num_samples"][0].as_py()
    return max(1, min(by_samples, _INTERVALS_PER_GROUP * len(rows) // num_intervals))


def file_intervals(path: str, until: int) -> pa.RecordBatch:
    """Return the rows that the chunks of a file in front of one have drawn: registration, file_id, row_start, row_stop.

    They are decoded as a whole: chunk by chunk it takes several times as long.
    """
    wanted = ["registration", "file_id", "row_start", "row_stop"]
    columns = ["chunk", *(_INTERVAL + name for name in wanted)]
    table = pq.ParquetFile(path, pre_buffer=False).read(columns, use_threads=False)
    values = table.filter(pc.field("chunk") < until)["intervals"].combine_chunks().flatten()
    return pa.RecordBatch.from_struct_array(values).select(wanted)


class ChunkFiles:
    """The files that were read last. Their footers are read once each."""

    def __init__(self, columns: pa.Schema) -> None:
        """Open none yet.

        Args:
            columns: what to read; ``chunk`` is one of them. Intervals come without their components, and with names of
                registrations as dictionaries.
        """
        self._columns = columns
        self._open: OrderedDict[str, _ChunkFile] = OrderedDict()

    def rows(self, path: str, numbers: Sequence[int]) -> list[pa.RecordBatch]:
        """Return the rows of those chunks that a file has, one each, in the order of ``numbers``."""
        if path not in self._open:
            self._open[path] = _ChunkFile(path, self._columns)
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path].rows(numbers)


class _ChunkFile:
    def __init__(self, path: str, columns: pa.Schema) -> None:
        self._file = pq.ParquetFile(pa.OSFile(path), read_dictionary=_NEEDED[:1], pre_buffer=False)
        names = self._file.schema_arrow.names
        present = [name for name in columns.names if name in names]
        self._present = [leaf for name in present for leaf in (_NEEDED if name == "intervals" else [name])]
        self._younger = [field for field in columns if field.name not in names]
        self._place = names.index("chunk")  # as it stands in front of the nested columns

    def rows(self, numbers: Sequence[int]) -> list[pa.RecordBatch]:
        groups = sorted({group for number in numbers if (group := self._group(number)) is not None})
        found: dict[int, pa.RecordBatch] = {}
        missing = set(numbers)
        for group in groups:  # one by one: of several, Arrow cannot read nested dictionaries
            table = self._file.read_row_group(group, columns=self._present, use_threads=False)
            for field in self._younger:
                table = table.append_column(field, pa.nulls(len(table), field.type))
            for batch in table.to_batches():
                here = batch["chunk"].to_pylist()
                found.update((number, batch.slice(index, 1)) for index, number in enumerate(here) if number in missing)
        return [found[number] for number in numbers if number in found]

    def _group(self, number: int) -> int | None:
        """Return the row group that has a chunk. They are in order and of one length, unless files were joined."""
        num_groups: int = self._file.metadata.num_row_groups
        num_rows: int = self._file.metadata.row_group(0).num_rows
        nearest = min(max((number - self._bounds(0)[0]) // num_rows, 0), num_groups - 1)
        candidates: list[int] = [nearest, *range(num_groups)]
        bounds = ((group, *self._bounds(group)) for group in candidates)
        return next((group for group, first, last in bounds if first <= number <= last), None)

    def _bounds(self, group: int) -> tuple[int, int]:
        statistics = self._file.metadata.row_group(group).column(self._place).statistics
        return int(statistics.min), int(statistics.max)
