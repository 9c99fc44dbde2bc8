"""Messages from a worker to its trainer, through a pipe: what is large goes beside the pickle, and is copied once.

Texts go through memory that both have. Nothing has a name: whoever dies leaves nothing behind, and no two jobs can take
each other's.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
from codecs import utf_16_le_decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixlake.catalog.columns import as_text
from mixlake.catalog.records import IntArray
from mixlake.loaders.slots import Slots

if TYPE_CHECKING:
    import torch

_PIPE_BYTES = 1 << 20
"""What the kernel holds of a pipe, where it may: with its usual 64 kB, reader and writer wake each other 16 times a MB,
which takes as long as the copying."""
_HEAD = struct.Struct("=QQQq")
"""Number of parts; bytes of all of them; bytes of the pieces beside them; the slot they are in, or -1."""
_PROTOCOL = 5
"""The one that leaves buffers, as arrays have them, beside what it writes."""
_MAX_PARTS = 1000
"""Of one call: the kernel takes 1,024."""
_MIN_LENGTH = 64
"""Texts that are shorter, such as names, are often equal, and pickle sends equal ones once."""


class Outlet:
    """The end of a channel that a worker sends to."""

    def __init__(self, connection: Connection, slots: Slots | None) -> None:
        self._connection = connection
        self._slots = slots

    @classmethod
    def inherited(cls, descriptors: Sequence[int]) -> Outlet:
        """Return the one of which a process has inherited the descriptors."""
        slots = Slots(descriptors[1]) if len(descriptors) > 1 else None
        return cls(Connection(descriptors[0], readable=False), slots)

    @property
    def descriptors(self) -> list[int]:
        """What a process must inherit to have it."""
        return [self._connection.fileno(), *([self._slots.descriptor] if self._slots else [])]

    def send(self, message: Any, pieces: Sequence[Any] = ()) -> int:
        """Send a message, and pieces of bytes as they are; return how many bytes both took.

        Raises:
            OSError: nobody listens any more.
        """
        beside: list[Any] = []
        content = io.BytesIO()
        _Pickler(content, _PROTOCOL, False, beside.append).dump(message)
        parts = [content.getbuffer(), *(buffer.raw() for buffer in beside)]
        lengths = np.array([len(part) for part in parts], np.int64)
        num_bytes, num_beside = int(lengths.sum()), sum(map(len, pieces))
        slot = self._slots.put(pieces, num_beside) if self._slots and num_beside else None
        head = _HEAD.pack(len(parts), num_bytes, num_beside, -1 if slot is None else slot)
        rest = [memoryview(piece) for piece in pieces] if slot is None else []
        _write(self._connection.fileno(), [memoryview(head), lengths.data.cast("B"), *parts, *rest])
        return num_bytes + num_beside

    def close(self) -> None:
        """Let go of it: a process that was started has it."""
        self._connection.close()


class Inlet:
    """The end of a channel that a trainer receives from."""

    def __init__(self, connection: Connection, slots: Slots | None) -> None:
        self._connection = connection
        self._slots = slots

    def fileno(self) -> int:
        """Return what can be waited for."""
        return self._connection.fileno()

    @contextmanager
    def receive(self) -> Iterator[tuple[Any, memoryview]]:
        """Give the next message, and the pieces that were sent beside it, one after the other.

        The pieces are there only within the context. Arrays in the message are of memory of their own.

        Raises:
            EOFError: the other end is closed, or gone in the middle of a message.
        """
        descriptor = self._connection.fileno()
        num_parts, num_bytes, num_beside, slot = _HEAD.unpack(_read(descriptor, _HEAD.size))
        lengths = np.frombuffer(_read(descriptor, 8 * num_parts), np.int64)
        content = memoryview(_read(descriptor, num_bytes + (num_beside if slot < 0 else 0)))
        stops = np.cumsum(lengths).tolist()
        parts = [content[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        message = ForkingPickler.loads(parts[0], buffers=parts[1:])
        if slot < 0:
            yield message, content[num_bytes:]
            return
        assert self._slots is not None
        try:
            yield message, self._slots.look(slot, num_beside)
        finally:
            self._slots.free(slot)

    def close(self) -> None:
        """Listen no more."""
        self._connection.close()


def channel() -> tuple[Inlet, Outlet]:
    """Return both ends of a channel from a process to the one that starts it."""
    here, there = Pipe(duplex=False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a user's pipes have a bound together; a narrow one does the same, only slower
            fcntl.fcntl(here.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    slots = None
    with suppress(OSError):  # then everything goes through the pipe
        slots = Slots.make()
    return Inlet(here, slots), Outlet(there, slots)


def to_bytes(value: Any) -> bytes:
    """Return a value as bytes, for processes that are to load it themselves."""
    content = io.BytesIO()
    _Pickler(content, _PROTOCOL).dump(value)
    return content.getvalue()


def from_bytes(content: bytes) -> Any:
    """Return what became bytes."""
    return ForkingPickler.loads(content)


def _write(descriptor: int, parts: list[memoryview]) -> None:
    while parts:
        written = os.writev(descriptor, parts[:_MAX_PARTS])
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


def _read(descriptor: int, num_bytes: int) -> bytearray:
    content = bytearray(num_bytes)
    rest = memoryview(content)
    while rest:
        num = os.readv(descriptor, [rest])
        if not num:
            raise EOFError
        rest = rest[num:]
    return content


def _reduce_tensor(tensor: torch.Tensor, torch: Any) -> Any:
    """Send a tensor's content beside the pickle, whatever its type: numpy does not know all of torch's."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.requires_grad:
        return NotImplemented
    content = tensor.contiguous().flatten().view(torch.uint8)
    return _tensor, (content.numpy(), tensor.dtype, tensor.shape)


def _tensor(content: Any, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    import torch  # noqa: PLC0415  (workers that make no tensors need not have it)

    return torch.from_numpy(content).view(dtype).reshape(shape)


class _Pickler(ForkingPickler):
    """What connections of multiprocessing send with, but for tensors."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        return _reduce_tensor(value, torch) if torch and type(value) is torch.Tensor else NotImplemented


class _Joined(NamedTuple):
    """A column of texts, or pieces of bytes, that lie one after the other beside the message."""

    start: int
    """Where the first one begins."""
    stops: IntArray
    codecs: bytes
    """Of each, an index of `_DECODE`."""

    def values(self, content: memoryview) -> list[Any]:
        stops = self.stops.tolist()
        places = zip(self.codecs, [self.start, *stops], stops, strict=False)
        return [_DECODE[codec](content[start:stop]) for codec, start, stop in places]


class _Records(NamedTuple):
    """Dicts of the same fields, by column."""

    names: tuple[str, ...]
    columns: tuple[Any, ...]


def pack(items: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return items by column where they are dicts of the same fields, and texts and bytes of them to be sent beside.

    Many small objects take long to send. A memoryview in a field is a text, as `as_text` takes it, and arrives as a
    ``str``.
    """
    layouts = set(map(tuple, items)) if set(map(type, items)) == {dict} else set()
    if len(layouts) != 1 or not (names := layouts.pop()):
        return [
            {name: as_text(value) for name, value in item.items()} if type(item) is dict else item for item in items
        ], []
    beside: list[Any] = []
    columns = []
    start = 0
    for name in names:
        column, pieces = _pack_column([item[name] for item in items], start)
        columns.append(column)
        beside += pieces
        if isinstance(column, _Joined):
            start = int(column.stops[-1])
    return _Records(names, tuple(columns)), beside


def unpack(packed: Any, content: memoryview) -> list[Any]:
    """Return what was packed; ``content`` is what was sent beside it."""
    if not isinstance(packed, _Records):
        found: list[Any] = packed
        return found
    columns = [column.values(content) if isinstance(column, _Joined) else column for column in packed.columns]
    return [dict(zip(packed.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _pack_column(values: list[Any], start: int) -> tuple[Any, list[Any]]:
    kinds = set(map(type, values))
    if memoryview in kinds:
        if not kinds <= {str, memoryview}:
            return list(map(as_text, values)), []
    elif kinds not in ({str}, {bytes}) or sum(map(len, values)) < _MIN_LENGTH * len(values):
        return values, []
    pieces: list[Any] = [value.encode("utf-8", "surrogatepass") if type(value) is str else value for value in values]
    if kinds == {bytes}:
        codecs = bytes([_BYTES]) * len(values)
    else:
        codecs = bytes([_UTF_16 if type(value) is memoryview and value.format == "H" else _UTF_8 for value in values])
    pieces = [piece.cast("B") if codec == _UTF_16 else piece for piece, codec in zip(pieces, codecs, strict=True)]
    return _Joined(start, start + np.cumsum(list(map(len, pieces))), codecs), pieces


def _utf_8(content: memoryview) -> str:
    return str(content, "utf-8", "surrogatepass")


def _utf_16(content: memoryview) -> str:
    return utf_16_le_decode(content, "surrogatepass", True)[0]


_DECODE: tuple[Callable[[memoryview], Any], ...] = (_utf_8, _utf_16, bytes)
_UTF_8, _UTF_16, _BYTES = range(3)
