"""Gets a run's chunks as lanes need them: from the lake, scheduling them on the way where this process may."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from datetime import UTC, datetime

from mixlake.catalog import ConfigError, ScheduleError
from mixlake.mixing import Run
from mixlake.mixing.chunks import Chunk

_CHUNKS_PER_READ = 32
_MAX_CHUNKS = 256
_POLL_SECONDS = 0.02


class ChunkFeed:
    """Hands out chunks by number, and waits for those that are not there yet."""

    def __init__(self, run: Run, *, schedules: bool, lookahead: int, timeout: float) -> None:
        """Open the feed.

        Args:
            run: the run.
            schedules: draw missing chunks here and now, ``lookahead`` at a time, instead of waiting for them.
            lookahead: chunks.
            timeout: seconds to wait for a chunk that somebody else schedules.
        """
        self._run = run
        self._schedules = schedules
        self._lookahead = lookahead
        self._timeout = timeout
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._last: int | None = None

    def has(self, number: int) -> bool:
        """Say whether a chunk is at hand, so that getting it takes no time."""
        return number in self._chunks

    def get(self, number: int) -> Chunk | None:
        """Return chunk ``number``, or None where the run ends before it.

        Raises:
            ScheduleError: nobody scheduled it in time.
        """
        if self._run.process_id != os.getpid():
            raise ConfigError(
                "a forked process cannot use the lake's handles; start workers with "
                "multiprocessing_context='forkserver' or 'spawn'"
            )
        deadline = time.monotonic() + self._timeout
        while number not in self._chunks:
            if self._last is not None and number > self._last:
                return None
            self._read(number)
            if number in self._chunks or (self._last is not None and number > self._last):
                continue
            if self._schedules:
                self._run.schedule(max(self._lookahead, 1))
            elif time.monotonic() > deadline:
                raise ScheduleError(self._overdue(number))
            else:
                self._run.demand.raise_to(number)
                time.sleep(_POLL_SECONDS)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def _read(self, number: int) -> None:
        for chunk in self._run.chunks.read(number, number + _CHUNKS_PER_READ):
            self._chunks.setdefault(chunk.number, chunk)
            if chunk.is_last:
                self._last = chunk.number
        while len(self._chunks) > _MAX_CHUNKS:
            self._chunks.popitem(last=False)
        if number not in self._chunks:
            last, _, is_last, _ = self._run.chunks.last()
            self._last = last if is_last else None

    def _overdue(self, number: int) -> str:
        last, _, _, written = self._run.chunks.last()
        age = "" if written is None else f", written {(datetime.now(UTC) - written).total_seconds():.0f} s ago"
        return (
            f"run {self._run.name!r}: waited {self._timeout:.0f} s for chunk {number}; the last one is {last}{age}. "
            "Is something scheduling the run (rank 0's loader, or mixlake schedule)?"
        )
