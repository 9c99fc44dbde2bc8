"""Which chunks are waited for: loaders say so in the lake, and a scheduler that follows them looks there.

The word is one number per run, an application transaction of the `feedback` table in a commit without rows.
"""

from __future__ import annotations

from mixlake.catalog import LakeError, schema
from mixlake.catalog.lake import Fence, Lake


class Demand:
    """The last chunk of a run that somebody waited for."""

    def __init__(self, lake: Lake, run: str) -> None:
        self._lake = lake
        self._application = f"demand:{run}"

    def last(self) -> int:
        """Return the last chunk that was waited for; -1 for none."""
        found = self._lake.table(schema.FEEDBACK).transaction_version(self._application)
        return -1 if found is None else found

    def raise_to(self, chunk: int) -> None:
        """Say that a chunk is waited for, unless that or a later one is waited for already."""
        seen = self.last()
        if seen >= chunk:
            return
        empty = schema.TABLES[schema.FEEDBACK].columns.empty_table()
        fence = Fence(application=self._application, seen=seen, number=chunk)
        try:
            self._lake.append(schema.FEEDBACK, empty, action=f"wait {self._application}", fence=fence)
        except LakeError:
            self.raise_to(chunk)  # another loader said something in between
