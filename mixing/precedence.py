"""Who may commit a run's next chunk: a scheduler does, one after the other, until somebody wants to get in between.

The word is one number per run, an application transaction of the `chunks` table: odd while somebody has precedence.
Every commit of chunks is fenced with it, so that one which is under way when precedence is taken is refused, however
fast its scheduler is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from mixlake.catalog import LakeError, schema
from mixlake.catalog.lake import Fence, Lake

_PATIENCE_SECONDS = 10.0
"""How long a scheduler waits for those who have precedence; they may have died."""
_POLL_SECONDS = 0.01


class Precedence:
    """Precedence over the scheduler of one run."""

    def __init__(self, lake: Lake, run: str) -> None:
        self._lake = lake
        self._application = f"precedence:{run}"
        self._seen: int | None = None

    def fence(self) -> Fence:
        """Return what refuses a commit of chunks if somebody takes precedence before it."""
        if self._seen is None:
            self._seen = self._number()
        return Fence(application=self._application, seen=self._seen, number=self._seen)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have precedence: what others are about to commit is refused, and they wait until this is left."""
        self.give_way()
        number = self._take()
        try:
            yield
        finally:
            with contextlib.suppress(LakeError):  # they lost patience and took it over: theirs to give back
                self._write(seen=number, number=number + 1)
            self._seen = self._number()

    def give_way(self) -> bool:
        """Wait while somebody has precedence; say whether anybody has had it since the last commit was prepared."""
        before = self._seen
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (number := self._number()) % 2 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._seen = number
        return before is not None and number != before

    def _take(self) -> int:
        while True:
            seen = self._number()
            self._seen = seen + 1 + seen % 2  # over an odd number of somebody who died
            try:
                self._write(seen=seen, number=self._seen)
            except LakeError:
                self.give_way()  # another one was faster
            else:
                return self._seen

    def _number(self) -> int:
        return self._lake.table(schema.CHUNKS).transaction_version(self._application) or 0

    def _write(self, *, seen: int, number: int) -> None:
        empty = schema.TABLES[schema.CHUNKS].columns.empty_table()
        fence = Fence(application=self._application, seen=seen, number=number)
        self._lake.append(schema.CHUNKS, empty, action=self._application, fence=fence)
