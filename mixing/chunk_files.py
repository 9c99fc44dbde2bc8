"""Files of chunks, kept open: a reader that needs a few chunks of a large snapshot decodes little more than those."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_MAX_OPEN = 4


class ChunkFiles:
    """The files that were read last. Their footers are read once each."""

    def __init__(self, columns: pa.Schema) -> None:
        """Open none yet.

        Args:
            columns: what to read; ``chunk`` is one of them.
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
        self._file = pq.ParquetFile(path)
        self._columns = columns
        metadata = self._file.metadata
        place = self._file.schema_arrow.names.index("chunk")  # as it stands in front of the nested columns
        found = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        self._first, self._last = (np.array([getattr(s, name) for s in found], np.int64) for name in ("min", "max"))

    def rows(self, numbers: Sequence[int]) -> list[pa.RecordBatch]:
        wanted = np.asarray(numbers, np.int64)[:, None]
        groups = np.flatnonzero(((self._first <= wanted) & (wanted <= self._last)).any(axis=0)).tolist()
        if not groups:
            return []
        present = [name for name in self._columns.names if name in self._file.schema_arrow.names]
        table = self._file.read_row_groups(groups, columns=present, use_threads=False)
        for field in self._columns:
            if field.name not in present:  # a column that is younger than the file
                table = table.append_column(field, pa.nulls(len(table), field.type))
        place = {number: index for index, number in enumerate(table["chunk"].to_pylist())}
        return [table.slice(place[n], 1).to_batches()[0] for n in wanted[:, 0].tolist() if n in place]
