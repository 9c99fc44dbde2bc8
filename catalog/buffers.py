"""Memory that is used again and again: fresh memory costs as much as parsing what is put into it."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np

from mixlake.catalog.records import IntArray

_SLAB_BYTES = 256 << 10


class BufferPool:
    """Buffers to use again."""

    def __init__(self) -> None:
        self._free: SimpleQueue[bytearray] = SimpleQueue()

    def take(self, num_bytes: int) -> bytearray:
        """Return a buffer of at least that size, whatever is in it."""
        try:
            buffer = self._free.get_nowait()
        except Empty:
            return bytearray(num_bytes)
        return buffer if len(buffer) >= num_bytes else bytearray(num_bytes)

    def give_back(self, buffer: bytearray) -> None:
        """Take a buffer that nobody looks at any more."""
        self._free.put(buffer)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where pieces of memory lie: one entry per piece in the arrays."""

    contents: list[memoryview]
    numbers: IntArray
    """Which of the contents each lies in."""
    begins: IntArray
    ends: IntArray

    @classmethod
    def apart(cls, contents: list[memoryview]) -> Pieces:
        """Return pieces that are contents of their own."""
        lengths = np.array(list(map(len, contents)), np.int64)
        return cls(contents, np.arange(len(contents)), np.zeros_like(lengths), lengths)

    def views(self) -> list[memoryview]:
        """Return the pieces."""
        contents = self.contents
        places = zip(self.numbers.tolist(), self.begins.tolist(), self.ends.tolist(), strict=True)
        return [contents[number][begin:end] for number, begin, end in places]


class Slabs:
    """Memory for many small pieces that are read together, and done with together.

    >>> slabs = Slabs(BufferPool())
    >>> list(map(len, slabs.take(np.array([5000, 10_000_000, 1])).views()))
    [5000, 10000000, 1]
    """

    def __init__(self, pool: BufferPool) -> None:
        """Take from a pool of which nobody takes anything else."""
        self._pool = pool
        self._taken: list[bytearray] = []

    def take(self, lengths: IntArray) -> Pieces:
        """Return memory for pieces of some lengths, whatever is in it."""
        ends = np.cumsum(lengths)
        begins = ends - lengths
        numbers = np.empty(len(lengths), np.int64)
        contents: list[memoryview] = []
        start = 0
        while start < len(lengths):
            before = begins[start]
            stop = int(np.searchsorted(ends, before + _SLAB_BYTES, side="right"))
            if stop > start:
                self._taken.append(self._pool.take(_SLAB_BYTES))
                contents.append(memoryview(self._taken[-1]))
            else:  # larger than a slab
                stop = start + 1
                contents.append(memoryview(bytearray(int(lengths[start]))))
            numbers[start:stop] = len(contents) - 1
            begins[start:stop] -= before
            start = stop
        return Pieces(contents, numbers, begins, begins + lengths)

    def free(self) -> None:
        """Give all of it back to the pool: nobody looks at it any more."""
        for slab in self._taken:
            self._pool.give_back(slab)
        self._taken = []
