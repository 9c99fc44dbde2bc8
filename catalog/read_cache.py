"""A cache of decoded pieces of files, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from mixlake.catalog.buffers import BufferPool

Size: TypeAlias = int | Callable[[], int]
"""Bytes, now or whenever it is asked."""
_MAX_BEGUN = 64
"""Pieces that are being decoded before anybody asks for them: each may keep a file open."""
_NUM_REMEMBERED = 1 << 14
"""Pieces that had to leave and whose names are kept, some hundred bytes each."""


class ReadCache:
    """Keeps what was decoded last; the oldest pieces leave when a bound is exceeded.

    Pieces in memory and pieces that lie in temporary files have a bound of their own each. A piece that had to leave
    memory and is asked for again may go to a temporary file: memory is too small for what is in use, and decoding the
    same pieces over and over would take longer. Threads may share the cache: a piece that one of them is decoding is
    waited for, not decoded twice.

    >>> cache = ReadCache(max_bytes=10)
    >>> cache.get("a", lambda: ("decoded", 8)), cache.get("a", lambda: ("again", 8))
    ('decoded', 'decoded')
    """

    def __init__(self, max_bytes: int = 256 << 20, max_disk_bytes: int = 16 << 30, *, max_begun_bytes: int = 0) -> None:
        """Make an empty cache.

        Args:
            max_bytes: bound of what is kept in memory.
            max_disk_bytes: bound of what is kept in temporary files.
            max_begun_bytes: bound of what is being decoded before anybody asks for it.
        """
        self.max_bytes = max_bytes
        self._begun = _Begun(max_begun_bytes)
        self._in_memory = _Pieces(max_bytes)
        self._on_disk = _Pieces(max_disk_bytes)
        self.slabs = BufferPool()
        """Memory for what is read and not kept; as much of it as was ever in use at a time."""

    def get(
        self,
        key: Hashable,
        decode: Callable[[], tuple[Any, Size]],
        *,
        on_disk: bool = False,
        spill: Callable[[Any], tuple[Any, Size]] | None = None,
    ) -> Any:
        """Return the piece under ``key``; ``decode`` makes it, with its size in bytes, when it is not there.

        Args:
            key: names the piece.
            decode: returns the piece and its size; a function, where the piece may still grow.
            on_disk: it lies in a temporary file, mapped into memory.
            spill: returns the piece as one that lies in a temporary file, and its size there.
        """
        decode = partial(self._begun.finish, key, decode)
        if on_disk or self._on_disk.holds(key):
            return self._on_disk.get(key, decode)
        if spill is not None and self._in_memory.had_to_leave(key):
            with suppress(OSError):  # no space there: then it is decoded as often as it has to be
                return self._on_disk.get(key, lambda: spill(decode()[0]))
        return self._in_memory.get(key, decode)

    def holds(self, key: Hashable) -> bool:
        """Say whether a piece is there."""
        return self._in_memory.holds(key) or self._on_disk.holds(key)

    def begin(self, key: Hashable, start: Callable[[], Callable[[], tuple[Any, Size]]], num_bytes: int) -> bool:
        """Begin to decode a piece, unless it is there or has been begun; say whether it need not be decoded any more.

        Args:
            key: names the piece.
            start: begins, and returns what waits for the piece, and gives it and its size.
            num_bytes: about its size. As much as there is room for is begun, and is kept apart until it is asked for.
        """
        if self.holds(key):
            return True
        return not self._in_memory.had_to_leave(key) and self._begun.begin(key, start, num_bytes)

    @property
    def num_hits(self) -> int:
        """How often a piece was there."""
        return self._in_memory.num_hits + self._on_disk.num_hits

    @property
    def num_misses(self) -> int:
        """How often a piece had to be decoded."""
        return self._in_memory.num_misses + self._on_disk.num_misses


class _Begun:
    """Pieces that are being decoded for nobody yet."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: dict[Hashable, tuple[Callable[[], tuple[Any, Size]], int]] = {}
        self._lock = threading.Lock()

    def begin(self, key: Hashable, start: Callable[[], Callable[[], tuple[Any, Size]]], num_bytes: int) -> bool:
        with self._lock:
            if key not in self._pieces:
                held = sum(size for _, size in self._pieces.values())
                if held + num_bytes > self._max_bytes or len(self._pieces) >= _MAX_BEGUN:
                    return False
                self._pieces[key] = start(), num_bytes
            return True

    def finish(self, key: Hashable, decode: Callable[[], tuple[Any, Size]]) -> tuple[Any, Size]:
        with self._lock:
            wait, _ = self._pieces.pop(key, (decode, 0))
        return wait()


class _Pieces:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: OrderedDict[Hashable, tuple[Any, Size]] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding: dict[Hashable, threading.Lock] = {}
        self._left: OrderedDict[Hashable, None] = OrderedDict()
        self.num_hits = 0
        self.num_misses = 0

    def holds(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._pieces

    def had_to_leave(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._left

    def get(self, key: Hashable, decode: Callable[[], tuple[Any, Size]]) -> Any:
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
                self.num_hits += 1
                return self._pieces[key][0]
            turn = self._decoding.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._pieces:
                    self.num_hits += 1
                    return self._pieces[key][0]
                self.num_misses += 1
            piece, size = decode()
            with self._lock:
                self._pieces[key] = piece, size
                self._left.pop(key, None)
                self._decoding.pop(key, None)
                self._evict()
        return piece

    def _evict(self) -> None:
        sizes = [size() if callable(size) else size for _, size in self._pieces.values()]
        excess = sum(sizes) - self._max_bytes
        for size in sizes[:-1]:  # oldest first; the newest stays, however large it is
            if excess <= 0:
                break
            key, _ = self._pieces.popitem(last=False)
            self._left[key] = None
            excess -= size
        while len(self._left) > _NUM_REMEMBERED:
            self._left.popitem(last=False)
