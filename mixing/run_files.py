"""The files of one run in a table that is partitioned by run, told apart by the numbers that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake

_COMMITS_PER_COMPACTION = 100
"""A commit takes longer the more files a table has, by 1 µs for each, and reading by 0.3 ms."""


class _File(NamedTuple):
    """A file of one commit, or of several that were joined."""

    first: int
    last: int
    path: str


class RunFiles:
    """The rows of one run in a table, ordered by a whole number that grows with the commits."""

    def __init__(self, lake: Lake, table: str, run: str, column: str) -> None:
        self._lake = lake
        self._table = table
        self._run = run
        self._column = column
        self._files: list[_File] = []
        self._version = -1

    def read(self, first: int) -> pa.Table:
        """Return the rows whose number is ``first`` or more, in its order; files that hold only others stay closed."""
        self._refresh()
        columns = schema.TABLES[self._table].columns
        fields = pa.schema([field for field in columns if field.name != schema.RUN])
        paths = [f"{self._lake.path(self._table)}/{file.path}" for file in self._files if file.last >= first]
        if not paths:
            return fields.empty_table()
        files = pads.dataset(paths, schema=fields, format="parquet")
        rows = files.to_table(filter=pads.field(self._column) >= first, use_threads=False)
        return rows.sort_by(self._column)

    def is_empty(self) -> bool:
        """Say whether there is no row of the run."""
        self._refresh()
        return not self._files

    def compact(self) -> None:
        """Join the run's files when there are many."""
        self._refresh()
        if len(self._files) > _COMMITS_PER_COMPACTION:
            self._lake.compact(self._table, schema.RUN, self._run)

    def _refresh(self) -> None:
        if not self._lake.has(self._table):
            return
        handle = self._lake.table(self._table)
        if handle.version() == self._version:
            return
        actions = pa.table(handle.get_add_actions(flatten=True))
        mine = actions.filter(pc.equal(actions["partition.run"], self._run)) if len(actions) else actions
        names: Sequence[str] = (f"min.{self._column}", f"max.{self._column}", "path")
        columns = [mine[name].to_pylist() for name in names] if len(mine) else []
        self._files = sorted(_File(*values) for values in zip(*columns, strict=True))
        self._version = handle.version()
