"""Whole-file compression: told from names and from content, read as a stream or, for single samples, by range."""

from __future__ import annotations

import bz2
import lzma
import mmap
import queue
import tempfile
import threading
from collections.abc import Generator
from typing import IO, Any

import pyarrow as pa

from mixlake.catalog.data_files import open_file
from mixlake.catalog.errors import DataError
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile

SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
"""File name endings of the compressions there are."""
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
_CHUNK_BYTES = 1 << 20
_CHUNKS_AHEAD = 4


def compression_of(path: str) -> str | None:
    """Return what a file's name says that it is compressed with.

    >>> compression_of("pages.jsonl.zst"), compression_of("pages.jsonl")
    ('zstd', None)
    """
    return next((name for suffix, name in SUFFIXES.items() if path.lower().endswith(suffix)), None)


def with_compressions(*suffixes: str) -> tuple[str, ...]:
    """Return file name endings as they are, and with the ending of every compression behind them."""
    return tuple(suffix + compressed for suffix in suffixes for compressed in ("", *SUFFIXES))


def check_content(file: DataFile, head: bytes) -> None:
    """Refuse a file whose first bytes belie its name.

    Raises:
        DataError: it is compressed and its name does not say so, or the other way round.
    """
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if head and found != file.compression:
        raise DataError(
            f"{file.uri}: its name says that it is {file.compression or 'not compressed'}, "
            f"its content that it is {found or f'not {file.compression}'}; rename it"
        )


def decompressed(file: DataFile) -> Generator[bytes]:
    """Yield a compressed file's content in pieces of about a megabyte, decompressed by a thread of its own.

    Raises:
        DataError: the file is damaged or ends too early; what could be decompressed has been yielded by then.
    """
    ahead: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
    is_abandoned = threading.Event()

    def put(item: bytes | BaseException | None) -> None:
        while not is_abandoned.is_set():
            try:
                ahead.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def run() -> None:
        try:
            with _stream(file) as stream:
                while not is_abandoned.is_set() and (chunk := stream.read(_CHUNK_BYTES)):
                    put(chunk)
            put(None)
        except BaseException as error:  # noqa: BLE001  (raised again in the reading thread)
            put(error)

    thread = threading.Thread(target=run, name=f"decompress {file.path}", daemon=True)
    thread.start()
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, (OSError, lzma.LZMAError, EOFError)):
                raise DataError(f"{file.uri}: cannot be decompressed ({_reason(item)})") from item
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_abandoned.set()
        thread.join()


def decompressed_content(file: DataFile, cache: ReadCache) -> memoryview:
    """Return all of a compressed file's content, decompressed once while it stays in the cache.

    It lies in an unnamed temporary file that is mapped into memory, so that the system may drop its pages.

    Raises:
        DataError: the file is damaged or ends too early.
    """

    def decode() -> tuple[memoryview, int]:
        with tempfile.TemporaryFile() as spill:
            for chunk in decompressed(file):
                spill.write(chunk)
            spill.flush()
            num_bytes = spill.tell()
            content = mmap.mmap(spill.fileno(), num_bytes, access=mmap.ACCESS_READ) if num_bytes else b""
        return memoryview(content), num_bytes

    content: memoryview = cache.get((file.uri, file.modified_us, "decompressed"), decode, on_disk=True)
    return content


def _stream(file: DataFile) -> IO[bytes] | Any:
    open_file(file).close()  # so that a file that is gone is named as such
    if file.compression == "xz":
        return lzma.open(file.uri)
    if file.compression == "bz2":  # Arrow's does not take joined members of which one is empty
        return bz2.open(file.uri)
    return pa.CompressedInputStream(pa.OSFile(file.uri), file.compression)


def _reason(error: BaseException) -> str:
    return "it ends too early" if isinstance(error, EOFError) or "Truncated" in str(error) else str(error)
