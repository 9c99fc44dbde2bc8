"""Ranges of files: read, or given as they lie in memory where they do."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mixlake.catalog import DataError, DataFile, Span
from mixlake.catalog.buffers import Slabs
from mixlake.catalog.listing import find_files
from mixlake.catalog.ranged_reads import at_hand, read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.spans import Spans

LINES = [b'{"text": "%06d%s"}' % (number, b"x" * (number % 900)) for number in range(20_000)]


def write(path: Path) -> DataFile:
    content = b"\n".join(LINES) + b"\n"
    path.write_bytes(pa.Codec("zstd").compress(content, asbytes=True) if path.suffix == ".zst" else content)
    (file,) = find_files([str(path)], format_name="jsonl")[1]
    return file


def spans_of(rows: list[int]) -> Spans:
    stops = np.cumsum([len(line) + 1 for line in LINES]) - 1
    starts = stops - [len(line) for line in LINES]
    return Spans.of(
        [Span(row_start=row, row_stop=row + 1, byte_start=int(starts[row]), byte_stop=int(stops[row])) for row in rows]
    )


def forget(file: DataFile) -> None:
    """Take a file out of the page cache."""
    with open(file.uri, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


ROWS = [*range(0, 19_000, 7), 19_001, 19_002, 5]


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="what is in the page cache cannot be told")
def test_what_lies_in_the_page_cache_is_given_as_it_lies_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl")
    pieces = at_hand(file, spans_of(ROWS), ReadCache())
    assert pieces is not None
    assert list(pieces()) == list(pieces()) == [LINES[row] for row in ROWS]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache cannot be emptied")
def test_what_would_have_to_be_waited_for_is_not_at_hand_and_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl")
    forget(file)
    cache = ReadCache()
    if at_hand(file, spans_of(ROWS), cache) is not None:
        pytest.skip("this file system has nothing but memory")
    assert read_ranges(file, spans_of(ROWS), cache, Slabs(cache.slabs)) == [LINES[row] for row in ROWS]


def test_of_a_compressed_file_what_is_decompressed_is_at_hand(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.zst")
    cache = ReadCache()
    assert at_hand(file, spans_of(ROWS), cache) is None
    expected = [LINES[row] for row in ROWS]
    assert read_ranges(file, spans_of([0]), cache) == [LINES[0]]
    assert at_hand(file, spans_of([19_999]), cache) is None  # only its beginning is decompressed
    early = at_hand(file, spans_of(ROWS[:100]), cache)
    assert early is not None
    assert list(early()) == expected[:100]
    assert read_ranges(file, spans_of(ROWS), cache) == expected
    whole = at_hand(file, spans_of(ROWS), cache)
    assert whole is not None
    assert list(whole()) == list(early()) + expected[100:]


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="what is in the page cache cannot be told")
def test_what_was_cut_off_since_is_an_error_rather_than_the_end_of_the_process(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl")
    pieces = at_hand(file, spans_of(ROWS), ReadCache())
    assert pieces is not None
    os.truncate(file.uri, 100_000)
    with pytest.raises(DataError, match=r"a\.jsonl: bytes \d+ to \d+ are not there any more$"):
        list(pieces())
