"""Whole-file compression: told from names and content, streamed, and read by range."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mixlake.catalog import DataError, DataFile
from mixlake.catalog.compression import check_content, compression_of, decompressed, decompressed_content
from mixlake.catalog.listing import find_files
from mixlake.catalog.read_cache import ReadCache

CONTENT = b"".join(b"%d: some text that repeats itself\n" % number for number in range(200_000))
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(path: Path, content: bytes) -> DataFile:
    path.write_bytes(content)
    (file,) = find_files([str(path)], format_name="jsonl")[1]
    return file


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_is_streamed_whole(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a.jsonl{suffix}", COMPRESSORS[suffix](CONTENT))
    assert file.compression == compression_of(file.path)
    assert b"".join(decompressed(file)) == CONTENT


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_members_that_were_joined_are_read_as_one(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    file = write(tmp_path / f"a.jsonl{suffix}", compress(CONTENT) + compress(b"") + compress(b"end"))
    assert b"".join(decompressed(file)) == CONTENT + b"end"


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_truncated_file_gives_what_is_there_and_then_an_error(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESSORS[suffix](CONTENT)
    file = write(tmp_path / f"a.jsonl{suffix}", whole[: len(whole) // 2])
    had: list[bytes] = []
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be decompressed (it ends too early)")):
        had.extend(decompressed(file))
    assert CONTENT.startswith(b"".join(had))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_corrupt_file_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESSORS[suffix](CONTENT)
    at = 8 if suffix == ".zst" else len(whole) // 2  # this zstd writer adds no checksum, so only a wrong layout is seen
    file = write(tmp_path / f"a.jsonl{suffix}", whole[:at] + b"\xff" * 64 + whole[at + 64 :])
    with pytest.raises(DataError, match=f"^{re.escape(file.uri)}: cannot be decompressed \\(.+\\)$"):
        list(decompressed(file))


@pytest.mark.parametrize(
    ("name", "head", "found"),
    [
        ("a.jsonl", b"\x1f\x8b\x08", "that it is gzip"),
        ("a.jsonl.gz", b'{"a": 1}', "that it is not gzip"),
        ("a.jsonl.zst", b"BZh9", "that it is bz2"),
    ],
)
def test_content_that_belies_the_name_is_refused(name: str, head: bytes, found: str) -> None:
    file = DataFile(uri=f"/d/{name}", path=name, num_bytes=9, modified_us=0, compression=compression_of(name))
    with pytest.raises(DataError, match=f"^/d/{re.escape(name)}: its name says .+ {re.escape(found)}; rename it$"):
        check_content(file, head)


def test_content_is_decompressed_once_and_only_as_far_as_needed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.gz", gzip.compress(CONTENT))
    cache = ReadCache()
    content = decompressed_content(file, cache)
    assert content.read(1000, 2000) == CONTENT[1000:2000]
    assert 2000 <= content.num_bytes < len(CONTENT)
    Path(file.uri).unlink()
    content = decompressed_content(file, cache)
    assert content.read(len(CONTENT) - 10, len(CONTENT) + 10) == CONTENT[-10:]
    assert content.read(0, 10) == CONTENT[:10]
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be read (No such file or directory)")):
        decompressed_content(file, ReadCache())


def test_what_lies_before_a_damage_can_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(CONTENT)
    file = write(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2])
    content = decompressed_content(file, ReadCache())
    assert content.read(1000, 2000) == CONTENT[1000:2000]
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be decompressed (it ends too early)")):
        content.read(0, len(CONTENT))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_all_that_lies_before_a_damage_can_be_read_whatever_is_asked_for_first(tmp_path: Path, suffix: str) -> None:
    content = random.Random(0).randbytes(4 << 20)
    whole = COMPRESSORS[suffix](content)
    file = write(tmp_path / f"a.jsonl{suffix}", whole[: 3 << 20])
    there = decompressed_content(file, ReadCache())
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be decompressed (it ends too early)")):
        there.read(len(content) - 10, len(content))
    assert there.num_bytes >= 2 << 20
    assert there.read(0, 2 << 20) == content[: 2 << 20]


def test_files_leave_the_cache_by_what_they_have_grown_to(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl.gz", gzip.compress(CONTENT)) for name in "abc"]
    cache = ReadCache(max_disk_bytes=len(CONTENT) + (4 << 20))
    first = decompressed_content(files[0], cache)
    first.read(0, 10)
    assert decompressed_content(files[1], cache) is not first
    assert decompressed_content(files[0], cache) is first
    first.read(0, len(CONTENT))
    decompressed_content(files[1], cache).read(0, len(CONTENT))
    decompressed_content(files[2], cache)
    assert decompressed_content(files[0], cache) is not first


def test_an_empty_content_can_be_had(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.xz", lzma.compress(b""))
    assert len(decompressed_content(file, ReadCache()).read(0, 10)) == 0


def test_more_contents_are_kept_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    num_files = 100
    files = [
        write(tmp_path / f"{number}.jsonl.zst", pa.compress(b"text %03d" % number, codec="zstd", asbytes=True))
        for number in range(num_files)
    ]
    cache = ReadCache()
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, most))
    try:
        contents = [decompressed_content(file, cache).read(0, 8) for file in files]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    assert contents == [b"text %03d" % number for number in range(num_files)]
    assert bytes(decompressed_content(files[0], cache).read(5, 20)) == b"000"
    assert cache.num_misses == num_files
