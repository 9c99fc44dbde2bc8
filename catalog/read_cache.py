"""A cache of decoded pieces of files, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class ReadCache:
    """Keeps what was decoded last; the oldest pieces leave when ``max_bytes`` is exceeded.

    >>> cache = ReadCache(max_bytes=10)
    >>> cache.get("a", lambda: ("decoded", 8)), cache.get("a", lambda: ("again", 8))
    ('decoded', 'decoded')
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self.max_bytes = max_bytes
        self._pieces: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Hashable, decode: Callable[[], tuple[Any, int]]) -> Any:
        """Return the piece under ``key``; ``decode`` makes it, with its size in bytes, when it is not there."""
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key][0]
        piece, num_bytes = decode()
        self._pieces[key] = (piece, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self.max_bytes and len(self._pieces) > 1:
            _, (_, dropped) = self._pieces.popitem(last=False)
            self._num_bytes -= dropped
        return piece
