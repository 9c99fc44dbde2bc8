"""The files of one run in a table that is partitioned by run, told apart by the numbers that they hold.

What belongs to training steps is stored once per step: the last one that is stored stands in the lake as an application
transaction of the commit that stored it. Whoever was killed and repeats steps, or does what another one does too, adds
none twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mixlake.catalog import LakeError, schema
from mixlake.catalog.lake import Fence, Lake

_COMMITS_PER_COMPACTION = 100
"""A commit takes longer the more files a table has, by 1 µs for each, and reading by 0.3 ms."""


class OfStep(Protocol):
    """Something of one training step."""

    @property
    def step(self) -> int:
        """The step."""


Item = TypeVar("Item", bound=OfStep)


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

    def last_step(self, application: str) -> int:
        """Return the last step that was stored by `append_once`; -1 for none."""
        if not self._lake.has(self._table):
            return -1
        found = self._lake.table(self._table).transaction_version(f"{application}:{self._run}")
        return -1 if found is None else found

    def append_once(
        self, items: Sequence[Item], to_arrow: Callable[[Sequence[Item]], pa.Table], *, application: str, action: str
    ) -> list[Item]:
        """Store in one commit what belongs to steps that come after those that are stored; return that.

        Args:
            items: in the order of their steps.
            to_arrow: makes rows of them.
            application: who stores them, apart from the run; the same for all who might store the same steps.
            action: what the commit does; it stands in the history.

        Raises:
            LakeError: the lake cannot be written.
        """
        while True:
            seen = self.last_step(application)
            new = [item for item in items if item.step > seen]
            if not new:
                return []
            fence = Fence(application=f"{application}:{self._run}", seen=seen, number=new[-1].step)
            try:
                self._lake.append(self._table, to_arrow(new), action=f"{action} {self._run}", fence=fence)
            except LakeError:
                if self.last_step(application) == seen:
                    raise  # nobody else has stored the same
                continue
            self.compact()
            return new

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
