"""The ``.idx`` file of a Megatron-LM indexed dataset: where each document of the ``.bin`` file beside it lies.

A header (magic, version, code of the ids' type, number of sequences, number of document bounds), then per sequence its
length (int32) and its first byte (int64), the first sequence of every document and the end of the last (int64), and, in
multimodal datasets, a mode per sequence (int8). All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mixlake.catalog.data_files import mapped
from mixlake.catalog.errors import DataError
from mixlake.catalog.records import DataFile, IntArray, Problem

HEADER = struct.Struct("<9sQBQQ")
MAGIC = b"MMIDIDX\0\0"
VERSION = 1
TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_NOT_INTEGERS = {6: "float64", 7: "float32"}

_Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MegatronIndex:
    """The arrays of an ``.idx`` file, mapped into memory."""

    token_type: np.dtype[Any]
    lengths: _Array
    """Tokens of each sequence."""
    pointers: _Array
    """First byte of each sequence."""
    document_bounds: _Array
    """First sequence of each document, and of the one after the last."""
    modes: _Array | None

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.document_bounds) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """Consecutive documents."""

    first: int
    """Number of the first of them."""
    byte_starts: IntArray
    byte_stops: IntArray
    sequence_bounds: IntArray
    """First sequence of each, and of the one after the last."""

    @property
    def reach(self) -> tuple[int, int]:
        """The first byte, and the one behind the last."""
        return int(self.byte_starts[0]), int(self.byte_stops[-1])

    def slice(self, start: int, stop: int) -> Documents:
        """Return some of them."""
        return Documents(
            first=self.first + start,
            byte_starts=self.byte_starts[start:stop],
            byte_stops=self.byte_stops[start:stop],
            sequence_bounds=self.sequence_bounds[start : stop + 1],
        )


@lru_cache(maxsize=4)  # what two threads scan at a time, and one file ahead each
def open_index(file: DataFile) -> MegatronIndex:
    """Map the index of a file.

    Raises:
        DataError: it is missing, no index of a version and type that there is, torn, or of another file.
    """
    path = f"{file.uri.removesuffix('.bin')}.idx"
    try:
        content = mapped(path)
    except DataError as error:
        needs = str(error).replace(": ", ", which ", 1)
        raise _refusal(file, f"needs {needs}; for raw ids there is format='numpy'") from error
    if len(content) < HEADER.size or bytes(content[: len(MAGIC)]) != MAGIC:
        raise _refusal(file, f"{path} is not an index of Megatron's (MMIDIDX), or it is torn")
    _, version, code, num_sequences, num_bounds = HEADER.unpack_from(content)
    if version != VERSION or code not in TOKEN_TYPES:
        held = f"version {version}" if version != VERSION else f"items of type {_NOT_INTEGERS.get(code, code)}"
        raise _refusal(file, f"{path} has {held}; expected version {VERSION} and items of an integer type")
    size_plain = HEADER.size + num_sequences * (4 + 8) + num_bounds * 8
    if len(content) not in (size_plain, size_plain + num_sequences):
        raise _refusal(file, f"{path} is torn: {len(content)} bytes, where its header says {size_plain}")
    arrays = []
    offset = HEADER.size
    for count, kind in ((num_sequences, "<i4"), (num_sequences, "<i8"), (num_bounds, "<i8"), (num_sequences, "i1")):
        arrays.append(np.frombuffer(content[offset : offset + count * int(kind[-1])], kind))
        offset += count * int(kind[-1])
    index = MegatronIndex(
        token_type=np.dtype(TOKEN_TYPES[code]).newbyteorder("<"),
        lengths=arrays[0],
        pointers=arrays[1],
        document_bounds=arrays[2],
        modes=arrays[3] if len(content) > size_plain else None,
    )
    _check(file, path, index)
    return index


def _check(file: DataFile, path: str, index: MegatronIndex) -> None:
    """Refuse an index whose ends say that it is not this file's."""
    num_sequences = len(index.lengths)
    bounds = index.document_bounds
    if not len(bounds) or int(bounds[0]) != 0 or int(bounds[-1]) != num_sequences:
        reach = f"{int(bounds[0])} to {int(bounds[-1])}" if len(bounds) else "none"
        raise _refusal(file, f"{path} has {num_sequences} sequences, and documents over {reach} of them")
    item = index.token_type.itemsize
    num_bytes = int(index.pointers[-1]) + int(index.lengths[-1]) * item if num_sequences else 0
    if num_bytes != file.num_bytes:
        raise _refusal(file, f"the file has {file.num_bytes} bytes, and {path} is of one with {num_bytes}")


def _refusal(file: DataFile, reason: str) -> DataError:
    return DataError(Problem(file=file, place="", reason=reason))


def documents_of(file: DataFile, index: MegatronIndex, start: int, stop: int) -> Documents:
    """Return where some documents lie, checked: each must be as long as its sequences are together.

    Raises:
        DataError: they are not there, or the index contradicts itself.
    """
    if stop > index.num_documents:
        raise DataError(f"{file.uri}: document {stop - 1} is not there; the file has {index.num_documents} documents")
    bounds = index.document_bounds[start : stop + 1].astype(np.int64)
    if (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > len(index.lengths):
        raise _refusal(file, f"its index is damaged: documents {start} to {stop} have no sequences in order")
    lengths = index.lengths[bounds[0] : bounds[-1]].astype(np.int64) * index.token_type.itemsize
    pointers = index.pointers[bounds[0] : bounds[-1]].astype(np.int64)
    ends = pointers + lengths
    first = int(index.pointers[bounds[0]]) if bounds[0] < len(index.pointers) else file.num_bytes
    is_sound = (lengths >= 0) & (ends <= file.num_bytes)
    is_sound &= pointers == np.concatenate([[first], ends])[:-1]
    if first < 0 or not is_sound.all():
        sequence = int(bounds[0]) + (int(np.argmin(is_sound)) if first >= 0 else 0)
        raise _refusal(file, f"its index is damaged: sequence {sequence} does not follow the one before it")
    edges = np.append(pointers, ends[-1] if len(ends) else first)
    within = bounds - bounds[0]
    return Documents(first=start, byte_starts=edges[within[:-1]], byte_stops=edges[within[1:]], sequence_bounds=bounds)


def document_reach(index: MegatronIndex, rows: IntArray, num_bytes: int) -> tuple[IntArray, IntArray]:
    """Return the first byte of each document and the one behind it; a document without sequences lies at its place."""

    def place(sequences: _Array) -> IntArray:
        inside = sequences < len(index.pointers)
        places = np.full(len(sequences), num_bytes, np.int64)
        places[inside] = index.pointers[sequences[inside]]
        return places

    return place(index.document_bounds[rows]), place(index.document_bounds[rows + 1])
