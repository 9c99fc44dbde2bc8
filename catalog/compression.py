"""Whole-file compression: told from names and from content, read as a stream or, for single samples, by range."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.data_files import mapped, open_file
from mixlake.catalog.errors import DataError
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile, Problem

SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
"""File name endings of the compressions there are."""
TAR_SUFFIXES = {".tgz": "gzip", ".tzst": "zstd", ".txz": "xz", ".tbz2": "bz2"}
"""What names of compressed tars may end in, too."""
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
_CHUNK_BYTES = 1 << 20
_MAX_STEP_BYTES = 16 << 20
"""At the end of every step a thread waits for the interpreter lock, up to 5 ms where another one computes."""
_DAMAGED = (OSError, EOFError, lzma.LZMAError, pa.ArrowException)


def compression_of(path: str) -> str | None:
    """Return what a file's name says that it is compressed with.

    >>> compression_of("pages.jsonl.zst"), compression_of("pages.jsonl"), compression_of("images.tgz")
    ('zstd', None, 'gzip')
    """
    suffixes = {**SUFFIXES, **TAR_SUFFIXES}
    return next((name for suffix, name in suffixes.items() if path.lower().endswith(suffix)), None)


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


class DecompressedStream(io.RawIOBase):
    """A compressed file's content, to read on from its start.

    Reading raises DataError where the file is damaged or ends too early.
    """

    def __init__(self, file: DataFile) -> None:
        super().__init__()
        self._file = file
        self._stream = _stream(file)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill ``target`` as far as the next read goes; return the number of bytes, 0 at the end."""
        try:
            num: int = self._stream.readinto(target)
        except _DAMAGED as error:
            raise DataError(
                Problem(file=self._file, place="", reason=f"cannot be decompressed ({_reason(error)})")
            ) from error
        return num

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stream.close()
        super().close()


def decompressed(file: DataFile) -> Iterator[bytes]:
    """Yield a compressed file's content in pieces of up to a megabyte.

    Raises:
        DataError: the file is damaged or ends too early; what could be decompressed has been yielded by then.
    """
    with DecompressedStream(file) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


class DecompressedContent:
    """A compressed file's content by range: decompressed once, and not much further than somebody has looked.

    What is decompressed lies in an unnamed temporary file, so memory does not grow with it. Once all of it does, it is
    mapped, and no file stays open: there may be more of them than a process may have open. What is there can be read
    while another thread decompresses what comes behind it.
    """

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._most = _MAX_STEP_BYTES
        self._stream = DecompressedStream(file)
        self._spill = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (until it is whole or nobody wants it)
        weakref.finalize(self, self._spill.close)
        weakref.finalize(self, self._stream.close)
        self._going_on = threading.Lock()
        self._looking = threading.Lock()  # so that the temporary file is not closed meanwhile
        self._damage: DataError | None = None
        self._may_end = False
        self._whole: memoryview | None = None
        self.num_bytes = 0
        """Bytes that are decompressed so far."""

    def has(self, stop: int) -> bool:
        """Say whether the bytes before ``stop`` are decompressed, as far as there are any."""
        return self._whole is not None or (self.num_bytes >= stop and not self._may_end)

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes from ``start`` to ``stop``, fewer where the content ends before.

        Raises:
            DataError: the file is damaged, or ends too early, before ``stop``.
        """
        if not self.has(stop):
            with self._going_on:
                while self._is_going_on() and self.num_bytes < stop:
                    self._go_on(stop)
                if self._is_going_on() and self._may_end:
                    self._go_on(stop)
        with self._looking:
            if self._whole is not None:
                return self._whole[start:stop]
            if self.num_bytes < stop and self._damage is not None:  # what comes behind it is not what was there
                raise self._damage
            return memoryview(os.pread(self._spill.fileno(), stop - start, start))

    def _is_going_on(self) -> bool:
        return self._whole is None and self._damage is None

    def _go_on(self, stop: int) -> None:
        """Decompress what is wanted, and as much again as there is, or some of that.

        After a piece that is shorter than it might be the end is likely.
        """
        wanted = max(stop - self.num_bytes, self.num_bytes, _CHUNK_BYTES)
        space = np.empty(min(wanted, self._most), np.uint8).data
        try:
            num = self._stream.readinto(space)
        except DataError as error:
            if self._most == _CHUNK_BYTES:
                self._damage = error
            else:
                self._begin_again()
            return
        rest = space[:num]
        while rest:
            rest = rest[self._spill.write(rest) :]
        self.num_bytes += num
        self._may_end = num < len(space)
        if not num:
            with self._looking:
                self._whole = mapped(f"/dev/fd/{self._spill.fileno()}") if self.num_bytes else memoryview(b"")
                self._spill.close()
            self._stream.close()

    def _begin_again(self) -> None:
        """Come to a damage in small steps from the start: of a step that fails, what lies before that is lost."""
        self._most = _CHUNK_BYTES
        self._stream.close()
        try:
            self._stream = DecompressedStream(self._file)
            weakref.finalize(self, self._stream.close)
            rest = self.num_bytes
            while rest:
                rest -= len(self._stream.read(min(rest, _CHUNK_BYTES)) or b"")
        except DataError as error:
            self._damage = error


def decompressed_content(file: DataFile, cache: ReadCache) -> DecompressedContent:
    """Return a compressed file's content, which stays while it is in the cache."""

    def decode() -> tuple[DecompressedContent, Callable[[], int]]:
        content = DecompressedContent(file)
        return content, lambda: content.num_bytes

    content: DecompressedContent = cache.get((file.uri, file.modified_us, "decompressed"), decode, on_disk=True)
    return content


def _stream(file: DataFile) -> Any:
    open_file(file).close()  # so that a file that is gone is named as such
    if file.compression == "xz":
        return lzma.open(file.uri)
    if file.compression == "bz2":  # Arrow's does not take joined members of which one is empty
        return bz2.open(file.uri)
    return pa.CompressedInputStream(pa.OSFile(file.uri), file.compression)


def _reason(error: BaseException) -> str:
    return "it ends too early" if isinstance(error, EOFError) or "Truncated" in str(error) else str(error)
