"""Ranges of bytes of a file, plain or compressed, with as few reads as they allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

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


def read_ranges(file: DataFile, spans: Sequence[Span], cache: ReadCache) -> list[memoryview]:
    """Return the bytes of some spans, in their order.

    Raises:
        DataError: the file is gone, damaged, or shorter than a span says.
    """
    if not len(spans):
        return []
    spans = Spans.of(spans)
    order = np.argsort(spans.byte_start, kind="stable")
    starts, stops = spans.byte_start[order], spans.byte_stop[order]
    read_of_range, first, last = _coalesced(starts, stops)
    with _reader(file, cache) as read:
        contents = [memoryview(read(start, stop)) for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
    begins, ends = (starts - first[read_of_range]).tolist(), (stops - first[read_of_range]).tolist()
    pieces = [memoryview(b"")] * len(order)
    for index, number, begin, end in zip(order.tolist(), read_of_range.tolist(), begins, ends, strict=True):
        pieces[index] = contents[number][begin:end]
        if len(pieces[index]) != end - begin:
            span = spans[index]
            raise DataError(f"{file.uri}: bytes {span.byte_start} to {span.byte_stop} are not there any more")
    return pieces


def _coalesced(starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return which read each range belongs to, and where each read begins and ends; ``starts`` ascend."""
    reach = np.maximum.accumulate(stops)
    gaps = starts[1:] - reach[:-1]
    is_far = (gaps > _MAX_GAP) | ((gaps >= 0) & (np.diff(starts // _MAX_READ) > 0))
    begins = np.append(0, np.flatnonzero(is_far) + 1)
    number = np.zeros(len(starts), np.int64)
    number[begins[1:]] = 1
    return np.cumsum(number), starts[begins], reach[np.append(begins[1:], len(starts)) - 1]


@contextmanager
def _reader(file: DataFile, cache: ReadCache) -> Iterator[Callable[[int, int], bytes]]:
    if file.compression is not None:
        yield decompressed_content(file, cache).read
        return
    with open_file(file) as stream:
        yield partial(_read, file, stream.fileno())


def _read(file: DataFile, descriptor: int, start: int, stop: int) -> bytes:
    try:
        return os.pread(descriptor, stop - start, start)
    except OSError as error:
        raise DataError(f"{file.uri}, bytes {start} to {stop}: cannot be read ({error.strerror})") from error
