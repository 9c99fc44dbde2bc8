"""Gets a run's chunks as lanes need them: out of the lake, from whoever schedules them."""

from __future__ import annotations

import bisect
import os
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from mixlake.catalog import ScheduleError
from mixlake.mixing import Run
from mixlake.mixing.chunks import Chunk

_SAMPLES_PER_READ = 1 << 15
_MAX_SAMPLES = 1 << 19
"""Bound of the chunks that are kept, 50 bytes a sample."""
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.5
"""Seconds. In a job of thousands of processes every look at the lake counts."""


class Supply(Protocol):
    """Who schedules the chunks that are not there yet."""

    def want(self, number: int, waited: float) -> None:
        """Do something so that a chunk will be there, and wait a little, or do not return before it is.

        Args:
            number: the chunk.
            waited: seconds that it has been waited for.
        """


class Drawing:
    """Draws missing chunks here and now."""

    def __init__(self, run: Run, lookahead: int) -> None:
        self._run = run
        self._lookahead = lookahead

    def want(self, number: int, waited: float) -> None:  # noqa: ARG002
        """Draw some more chunks."""
        self._run.schedule(self._lookahead)


class Waiting:
    """Waits for another process, longer from time to time, and says in the lake what it waits for.

    All lanes need a chunk of a round of lanes at about the same time. So whoever has to wait asks for the whole round,
    after a moment that differs from process to process: of thousands that wait, one has to write.
    """

    def __init__(self, run: Run, timeout: float) -> None:
        self._run = run
        self._timeout = timeout
        self._asked = -1
        self._patience = random.Random(os.getpid()).uniform(0.05, 0.25)  # seconds; nothing but time depends on it

    def want(self, number: int, waited: float) -> None:
        """Wait a little.

        Raises:
            ScheduleError: the chunk has been waited for long enough.
        """
        if waited > self._patience and number > self._asked:
            lanes = self._run.config.lanes
            self._asked = (number // lanes + 1) * lanes - 1
            self._run.demand.raise_to(self._asked)
        if waited > self._timeout:
            raise ScheduleError(self._overdue(number))
        time.sleep(min(max(_FIRST_WAIT, waited / 4), _LONGEST_WAIT, self._timeout))

    def _overdue(self, number: int) -> str:
        last, _, _, written = self._run.chunks.last()
        age = "" if written is None else f", written {(datetime.now(UTC) - written).total_seconds():.0f} s ago"
        return (
            f"run {self._run.name!r}: waited {self._timeout:.0f} s for chunk {number}; the last one is {last}{age}. "
            "Is something scheduling the run (rank 0's loader, or mixlake schedule)?"
        )


class ChunkFeed:
    """Hands out the chunks of some lanes by number, and waits for those that are not there yet.

    A read of the lake brings the next chunks of all these lanes, and none of the others'.
    """

    def __init__(self, run: Run, lanes: Sequence[int], supply: Supply) -> None:
        """Open the feed.

        Args:
            run: the run.
            lanes: whose chunks will be asked for, in ascending order.
            supply: who schedules.
        """
        self._run = run
        self._lanes = list(lanes)
        self._supply = supply
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._last: int | None = None
        self._num_kept = max(2 * len(self._lanes), _MAX_SAMPLES // run.config.chunk_size)
        self._num_read = max(1, _SAMPLES_PER_READ // run.config.chunk_size)

    def has(self, number: int) -> bool:
        """Say whether a chunk is at hand."""
        return number in self._chunks

    def get(self, number: int) -> Chunk | None:
        """Return chunk ``number``, or None where the run ends before it.

        Raises:
            ScheduleError: nobody scheduled it in time.
        """
        began = time.monotonic()
        while number not in self._chunks:
            if self._last is not None and number > self._last:
                return None
            self._read(number)
            if number not in self._chunks and (self._last is None or number <= self._last):
                self._supply.want(number, time.monotonic() - began)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def _read(self, number: int) -> None:
        for chunk in self._run.chunks.pick(self._next_numbers(number)):
            self._chunks.setdefault(chunk.number, chunk)
            if chunk.is_last:
                self._last = chunk.number
        while len(self._chunks) > self._num_kept:
            self._chunks.popitem(last=False)
        if number not in self._chunks:
            last, is_last = self._run.chunks.end()
            self._last = last if is_last else None

    def _next_numbers(self, number: int) -> list[int]:
        """Return the numbers of the lanes' next chunks from ``number`` on, as many as are read at a time."""
        num_lanes = self._run.config.lanes
        first_round, lane = divmod(number, num_lanes)
        start = bisect.bisect_left(self._lanes, lane)
        places = range(start, start + self._num_read)
        return [
            (first_round + place // len(self._lanes)) * num_lanes + self._lanes[place % len(self._lanes)]
            for place in places
        ]
