"""Messages from one process to another, through a pipe: what is large goes beside the pickle, and is copied once.

Everything stays within the pipe: whoever dies leaves nothing behind, and no two jobs can take each other's names.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixlake.catalog.columns import as_text
from mixlake.catalog.records import IntArray

if TYPE_CHECKING:
    import torch

_PIPE_BYTES = 1 << 20
"""What the kernel holds of a pipe, where it may: with its usual 64 kB, reader and writer wake each other 16 times a MB,
which takes as long as the copying."""
_HEAD = struct.Struct("=QQ")
"""Number of parts; bytes of all of them."""
_PROTOCOL = 5
"""The one that leaves buffers, as arrays have them, beside what it writes."""
_MAX_PARTS = 1000
"""Of one call: the kernel takes 1,024."""
_MIN_LENGTH = 64
"""Texts that are shorter, such as names, are often equal, and pickle sends equal ones once."""


def widen(connection: Connection) -> None:
    """Have the kernel hold more of a pipe, so that both ends wait for each other less often."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a user's pipes have a bound together; a narrow one does the same, only slower
            fcntl.fcntl(connection.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def send(connection: Connection, message: Any) -> int:
    """Send a message; return how many bytes it took.

    Raises:
        OSError: nobody listens any more.
    """
    beside: list[Any] = []
    content = io.BytesIO()
    _Pickler(content, _PROTOCOL, False, beside.append).dump(message)
    parts = [content.getbuffer(), *(buffer.raw() for buffer in beside)]
    lengths = np.array([len(part) for part in parts], np.int64)
    num_bytes = int(lengths.sum())
    head = _HEAD.pack(len(parts), num_bytes)
    _write(connection.fileno(), [memoryview(head), lengths.data.cast("B"), *parts])
    return num_bytes


def receive(connection: Connection) -> Any:
    """Return the next message; arrays in it lie in what was received, and may be written to.

    Raises:
        EOFError: the other end is closed, or gone in the middle of a message.
    """
    descriptor = connection.fileno()
    num_parts, num_bytes = _HEAD.unpack(_read(descriptor, _HEAD.size))
    lengths = np.frombuffer(_read(descriptor, 8 * num_parts), np.int64)
    content = memoryview(_read(descriptor, num_bytes))
    stops = np.cumsum(lengths).tolist()
    parts = [content[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return ForkingPickler.loads(parts[0], buffers=parts[1:])


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
    """Texts, or pieces of bytes, one after the other."""

    content: np.ndarray
    stops: IntArray
    is_text: bool

    def values(self) -> list[Any]:
        content, stops = self.content.data, self.stops.tolist()
        places = zip([0, *stops], stops, strict=False)
        if not self.is_text:
            return [bytes(content[start:stop]) for start, stop in places]
        return [str(content[start:stop], "utf-8", "surrogatepass") for start, stop in places]


class _Records(NamedTuple):
    """Dicts of the same fields, by column."""

    names: tuple[str, ...]
    columns: tuple[Any, ...]


def pack(items: Sequence[Any]) -> Any:
    """Return items by column where they are dicts of the same fields; many small objects take long to send.

    A memoryview in a field is a text in UTF-8, and arrives as a ``str``.
    """
    layouts = set(map(tuple, items)) if set(map(type, items)) == {dict} else set()
    if len(layouts) != 1 or not (names := layouts.pop()):
        return [
            {name: as_text(value) for name, value in item.items()} if type(item) is dict else item for item in items
        ]
    return _Records(names, tuple(_pack_column([item[name] for item in items]) for name in names))


def unpack(packed: Any) -> list[Any]:
    """Return what was packed."""
    if not isinstance(packed, _Records):
        found: list[Any] = packed
        return found
    columns = [column.values() if isinstance(column, _Joined) else column for column in packed.columns]
    return [dict(zip(packed.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _pack_column(values: list[Any]) -> Any:
    kinds = set(map(type, values))
    if memoryview in kinds:
        if not kinds <= {str, memoryview}:
            return list(map(as_text, values))
    elif kinds not in ({str}, {bytes}) or sum(map(len, values)) < _MIN_LENGTH * len(values):
        return values
    pieces = [value.encode("utf-8", "surrogatepass") if type(value) is str else value for value in values]
    stops = np.cumsum([len(piece) for piece in pieces])
    return _Joined(np.frombuffer(b"".join(pieces), np.uint8), stops, kinds != {bytes})
