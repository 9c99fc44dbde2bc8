"""What is delivered in the place of samples that cannot be read, and the record of it.

Under ``on_error="skip"`` a sample that cannot be read is replaced by the next one of its component in its chunk that
can be, in delivery order, from the chunk's end on from its start; where there is none, as of a component with a sample
or two in every chunk, by one out of the lane's chunks around it. So the proportions hold, the batches keep their sizes,
and as chunks belong to lanes whatever the number of ranks and workers, all of them replace alike. Where nothing of the
component is left, the loader stops: that others take its place is another mixture, which nobody has declared. Each
replacement is written down in `replaced` before it is delivered, and what is written down is kept to: a run that is
resumed gets what it got before, even where the file has been restored since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.dataset as pads

from mixlake.catalog import schema
from mixlake.catalog.lake import arrow_dataset
from mixlake.mixing import Run

Address = tuple[str, int, int]
"""Where a sample is: (registration, file_id, row)."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the content of a sample that could not be read."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A sample that could not be read, and the one that was delivered in its place: a row of `replaced`."""

    chunk: int
    component: str
    address: Address
    reason: str
    by: Address


class Replacements:
    """The replacements of one run."""

    def __init__(self, run: Run) -> None:
        """Read what has been replaced so far; of chunks before the one where it begins, in the runs it goes on from."""
        self._run = run
        self._by_chunk: dict[int, dict[Address, Replaced]] = {}
        lake = run.catalog.lake
        if not lake.has(schema.REPLACED):
            return
        names = [run.name, *(ancestor.name for ancestor in run.ancestors())]
        is_ours = pads.field("run").isin(names)
        for row in arrow_dataset(lake.table(schema.REPLACED)).to_table(filter=is_ours).to_pylist():
            if row["run"] == run.name or row["chunk"] < run.config.at_chunk:
                self._keep(
                    Replaced(
                        chunk=row["chunk"],
                        component=row["component"],
                        address=(row["registration"], row["file_id"], row["row"]),
                        reason=row["reason"],
                        by=(row["by_registration"], row["by_file_id"], row["by_row"]),
                    )
                )

    def of_chunk(self, number: int) -> dict[Address, Replaced]:
        """Return what has been replaced in a chunk, by address."""
        return dict(self._by_chunk.get(number, {}))

    def record(self, replaced: Sequence[Replaced]) -> None:
        """Write down replacements that are about to be delivered."""
        now = datetime.now(UTC)
        rows = [
            {
                "run": self._run.name,
                "chunk": each.chunk,
                "component": each.component,
                **dict(zip(("registration", "file_id", "row"), each.address, strict=True)),
                "reason": each.reason,
                **dict(zip(("by_registration", "by_file_id", "by_row"), each.by, strict=True)),
                "replaced_at": now,
            }
            for each in replaced
        ]
        table = pa.Table.from_pylist(rows, schema=schema.TABLES[schema.REPLACED].columns)
        self._run.catalog.lake.append(schema.REPLACED, table, action=f"replace {self._run.name}")
        for each in replaced:
            self._keep(each)

    def component(self, number: int) -> str:
        """Return the name of a component."""
        return self._run.components[number]

    def _keep(self, replaced: Replaced) -> None:
        self._by_chunk.setdefault(replaced.chunk, {})[replaced.address] = replaced
