"""Ranges of bytes of a file, plain or compressed, with as few reads as they allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from mixlake.catalog.buffers import Pieces, Slabs
from mixlake.catalog.compression import DecompressedContent, decompressed_content
from mixlake.catalog.data_files import mapped, open_file
from mixlake.catalog.errors import DataError
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile, IntArray, Span
from mixlake.catalog.spans import Spans

_MAX_GAP = 256
"""Ranges nearer than this are read as one. Out of the page cache, gaps of 16 kB would take up to 0.5 µs less a document
of 260 bytes to 6 kB, but then up to 17 times what is wanted is read, and disks are slower than that."""
_MAX_READ = 4 << 20
_LEAST_MAPPED = 1 << 20
"""What a mapped file counts at least, for a process may have only so many of them."""
_NUM_PROBES = 8

OneByOne: TypeAlias = Callable[[], Iterator[memoryview]]
"""Gives pieces one by one, whenever it is called."""


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


def at_hand(file: DataFile, spans: Spans, cache: ReadCache, *, may_wait: bool = False) -> OneByOne | None:
    """Return what gives the bytes of spans one by one, as they lie in memory; None where they do not.

    What lies in memory anyway is parsed the fastest where it lies: nothing is copied, and no other thread is woken. Of
    a plain file a few ranges are looked at, and the others are taken to be where those are; a wrong guess costs nothing
    but time.

    Args:
        file: the file.
        spans: which of its bytes.
        cache: for what is decompressed or mapped.
        may_wait: whether what is not decompressed yet may be waited for.

    Raises:
        DataError: the file is gone, or damaged; what is returned raises what `read_ranges` does.
    """
    if not len(spans):
        return None
    if file.compression is not None:
        content, stop = decompressed_content(file, cache), int(spans.byte_stop.max())
        if may_wait:
            content.read(stop, stop)
        return partial(_decompressed, file, content, spans) if may_wait or content.has(stop) else None
    with open_file(file) as stream:
        probed = spans.byte_start[:: -(-len(spans) // _NUM_PROBES)].tolist()
        if not all(_is_in_memory(stream.fileno(), start) for start in probed):
            return None
    return partial(_mapped, file, spans, cache)


def _is_in_memory(descriptor: int, start: int) -> bool:
    """Say whether a byte is in the page cache; where that cannot be told, as on some file systems, it is not."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        os.preadv(descriptor, (bytearray(1),), start, os.RWF_NOWAIT)
    except OSError:
        return False
    return True


def _mapped(file: DataFile, spans: Spans, cache: ReadCache) -> Iterator[memoryview]:
    """Return ranges of a file as they lie in memory; what looks behind the end of a mapped file dies of it."""
    key = (file.uri, file.modified_us, "mapped")
    content = cache.get(key, lambda: (mapped(file.uri), max(file.num_bytes, _LEAST_MAPPED)), on_disk=True)
    with open_file(file) as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
    behind = np.flatnonzero(spans.byte_stop > min(num_bytes, len(content)))
    if len(behind):
        raise _gone(file, int(spans.byte_start[behind[0]]), int(spans.byte_stop[behind[0]]))
    return map(content.__getitem__, map(slice, spans.byte_start.tolist(), spans.byte_stop.tolist()))


def _decompressed(file: DataFile, content: DecompressedContent, spans: Spans) -> Iterator[memoryview]:
    for start, stop in zip(spans.byte_start.tolist(), spans.byte_stop.tolist(), strict=True):
        piece = content.read(start, stop)
        if len(piece) < stop - start:
            raise _gone(file, start, stop)
        yield piece


def _gone(file: DataFile, start: int, stop: int) -> DataError:
    return DataError(f"{file.uri}: bytes {start} to {stop} are not there any more")


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
        raise _gone(file, int(starts[short[0]]), int(stops[short[0]]))
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
