"""Ranges of bytes of a file, plain or compressed, with as few reads as they allow."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from mixlake.catalog.buffers import Pieces, Slabs
from mixlake.catalog.compression import decompressed_content
from mixlake.catalog.data_files import open_file
from mixlake.catalog.errors import DataError
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile, IntArray, Span
from mixlake.catalog.spans import Spans

_MAX_GAP = 256
"""Ranges nearer than this are read as one. Out of the page cache, gaps of 16 kB would take up to 0.5 µs less a document
of 260 bytes to 6 kB, but then up to 17 times what is wanted is read, and disks are slower than that."""
_MAX_READ = 4 << 20


def read_ranges(
    file: DataFile, spans: Sequence[Span], cache: ReadCache, memory: Slabs | None = None
) -> list[memoryview]:
    """Return the bytes of some spans, in their order.

    Args:
        file: the file.
        spans: which of its bytes.
        cache: for what is decompressed.
        memory: to read into; None for fresh memory.

    Raises:
        DataError: the file is gone, damaged, or shorter than a span says.
    """
    if not len(spans):
        return []
    spans = Spans.of(spans)
    order = np.argsort(spans.byte_start, kind="stable")
    read_of_range, first, last = _coalesced(spans.byte_start[order], spans.byte_stop[order])
    pieces = _read(file, cache, first, last, memory)
    number = np.empty(len(order), np.int64)
    number[order] = read_of_range
    begins = pieces.begins[number] + spans.byte_start - first[number]
    ends = begins + spans.byte_stop - spans.byte_start
    return Pieces(pieces.contents, pieces.numbers[number], begins, ends).views()


def _coalesced(starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return which read each range belongs to, and where each read begins and ends; ``starts`` ascend."""
    reach = np.maximum.accumulate(stops)
    gaps = starts[1:] - reach[:-1]
    is_far = (gaps > _MAX_GAP) | ((gaps >= 0) & (np.diff(starts // _MAX_READ) > 0))
    begins = np.append(0, np.flatnonzero(is_far) + 1)
    number = np.zeros(len(starts), np.int64)
    number[begins[1:]] = 1
    return np.cumsum(number), starts[begins], reach[np.append(begins[1:], len(starts)) - 1]


def _read(file: DataFile, cache: ReadCache, starts: IntArray, stops: IntArray, memory: Slabs | None) -> Pieces:
    """Return ranges of a file."""
    lengths = stops - starts
    if file.compression is not None:
        read = decompressed_content(file, cache).read
        pieces = Pieces.apart(list(map(read, starts.tolist(), stops.tolist())))
        nums = list(map(len, pieces.contents))
    else:
        pieces = _fresh(lengths) if memory is None else memory.take(lengths)
        with open_file(file) as stream:
            nums = _read_into(file, stream.fileno(), starts.tolist(), pieces.views())
    short = np.flatnonzero(lengths != nums)
    if len(short):
        start, stop = int(starts[short[0]]), int(stops[short[0]])
        raise DataError(f"{file.uri}: bytes {start} to {stop} are not there any more")
    return pieces


def _fresh(lengths: IntArray) -> Pieces:
    return Pieces.apart([np.empty(length, np.uint8).data for length in lengths.tolist()])


def _read_into(file: DataFile, descriptor: int, starts: list[int], views: list[memoryview]) -> list[int]:
    """Read ranges; return how many bytes of each there are."""
    nums: list[int] = []
    try:
        nums.extend(os.preadv(descriptor, (view,), start) for view, start in zip(views, starts, strict=True))
    except OSError as error:
        start = starts[len(nums)]
        place = f"bytes {start} to {start + len(views[len(nums)])}"
        raise DataError(f"{file.uri}, {place}: cannot be read ({error.strerror})") from error
    return nums
