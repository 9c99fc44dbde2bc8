"""Whole-file compression: told from names and content, streamed, and read by range."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import threading
from collections.abc import Callable
from contextlib import closing
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
    ".xz": lzma.compress,
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


def test_the_thread_ends_when_nobody_reads_on(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.gz", gzip.compress(CONTENT))
    with closing(decompressed(file)) as chunks:
        next(chunks)
        assert any(thread.name.startswith("decompress") for thread in threading.enumerate())
    assert not any(thread.name.startswith("decompress") for thread in threading.enumerate())


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


def test_content_is_decompressed_once_while_it_is_in_the_cache(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.gz", gzip.compress(CONTENT))
    cache = ReadCache()
    content = decompressed_content(file, cache)
    assert bytes(content[1000:2000]) == CONTENT[1000:2000]
    Path(file.uri).unlink()
    assert bytes(decompressed_content(file, cache)) == CONTENT
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be read (No such file or directory)")):
        decompressed_content(file, ReadCache())


def test_an_empty_content_can_be_had(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl.xz", lzma.compress(b""))
    assert bytes(decompressed_content(file, ReadCache())) == b""
