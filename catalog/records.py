"""The records that registration, formats and loading pass to one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IntArray: TypeAlias = npt.NDArray[np.int64]
FieldPath: TypeAlias = tuple[str, ...]
"""Names from the top of a record down to one field: ``("meta", "language")``."""


class RecordFunction(Protocol):
    """Computes a property of many samples at once. Frozen dataclasses can be computed anew when files are added."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs, in the order of the columns that it gets."""

    def __call__(self, records: pa.RecordBatch) -> pa.Array:
        """Return one value per record."""


Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as ``progress(done, total, unit)`` while long work goes on; ``total`` may grow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file of a dataset as it was when it was registered (or, before that, listed)."""

    uri: str
    """Where it lies: an absolute path."""
    path: str
    """Its path relative to the folder that was registered, with forward slashes."""
    num_bytes: int
    modified_us: int
    """Modification time in microseconds since 1970."""
    compression: str | None = None
    """What the whole file is compressed with: ``gzip``, ``zstd``, ``xz`` or ``bz2``; None for plain files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """A part of a file that can be scanned by itself, at the same time as others."""

    file_id: int
    file: DataFile
    start: int = 0
    """Where it starts, in the format's own measure: a byte, a row group; 0 is the start of the file."""
    stop: int = -1
    """Where it stops, in the same measure; -1 is the end of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Consecutive rows of one file, and the bytes that hold them where the format knows (else -1)."""

    row_start: int
    row_stop: int
    byte_start: int = -1
    byte_stop: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some samples as a format's scan reports them, in storage order. All arrays have one entry per sample."""

    file_ids: IntArray
    rows: IntArray
    """Number of each sample's record, counted from the first record of the part; records left out count too."""
    byte_starts: IntArray | None
    """First byte of each sample in its file (decompressed, where it is compressed); None where the format addresses by
    row alone."""
    byte_stops: IntArray | None
    columns: dict[FieldPath, pa.Array]
    """Those of the fields asked for that the block's records have."""
    num_bytes: int
    """Bytes that one read of this block decodes."""
    num_records: int
    """Records that the block went over, those left out included."""
    place: Callable[[int], str]
    """Names where in its file the i-th sample of the block lies, for messages: ``line 17``; empty where the file says
    it all. Called only when something is wrong, so it may be slow."""
    continues: bool = False
    """Whether a read decodes it together with the block before, as it does with all of a compressed file."""

    def take(self, indices: IntArray) -> Block:
        """Return some of the samples, as a block of the same records."""
        place = self.place
        return replace(
            self,
            file_ids=self.file_ids[indices],
            rows=self.rows[indices],
            byte_starts=None if self.byte_starts is None else self.byte_starts[indices],
            byte_stops=None if self.byte_stops is None else self.byte_stops[indices],
            columns={path: column.take(pa.array(indices)) for path, column in self.columns.items()},
            place=lambda index: place(int(indices[index])),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A record, or the rest of a file, that cannot be registered: a row of `skipped`."""

    file: DataFile
    place: str
    """Where in the file: ``line 17``, ``behind line 17``, ``row group 3``; empty for the file as a whole."""
    reason: str
    byte_start: int | None = None
    byte_stop: int | None = None

    def __str__(self) -> str:
        return f"{self.file.uri}{', ' if self.place else ''}{self.place}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFunction:
    """A property computed by a Python function instead of SQL."""

    function: Callable[[pa.RecordBatch], pa.Array]
    fields: tuple[str, ...]
    """The fields it needs; it gets a record batch of these."""

    def __call__(self, records: pa.RecordBatch) -> pa.Array:
        """Return one value per record."""
        return self.function(records)


@dataclass(frozen=True, kw_only=True, slots=True)
class Property:
    """A typed column about samples, and where it comes from."""

    name: str
    type: str
    """Arrow type, as `str(pa.DataType)` writes it."""
    expression: str
    """The SQL expression over the record, or the qualified name of the batch function."""
    origin: str
    """``sql`` or ``function``."""

    def to_row(self) -> dict[str, str]:
        """Return the property as a row of `datasets.properties`."""
        return {
            "name": self.name,
            "type": self.type,
            "expression": self.expression,
            "origin": self.origin,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """Samples that were taken out of a dataset, and are kept out of what it is refreshed with."""

    where: str
    """The predicate that they matched."""
    reason: str
    user: str
    removed_at: datetime
    num_samples: int
    """How many there were."""

    def to_row(self) -> dict[str, Any]:
        """Return the removal as an entry of `datasets.removals`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One live registration of a dataset: a row of `datasets`. Registrations never change, they are replaced."""

    number: int
    """Its place among the parts; a registration that takes the place of another takes its number."""
    registration: str
    num_files: int
    num_samples: int
    num_bytes: int
    registered_at: datetime

    def to_row(self) -> dict[str, Any]:
        """Return what a row of `datasets` holds of the part alone."""
        row = asdict(self)
        return {"part": row.pop("number"), **row}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A named collection of files, as one catalog version shows it."""

    name: str
    uris: tuple[str, ...]
    """The folders, globs and paths that it was registered with."""
    exclude: tuple[str, ...] | None
    """Patterns of the paths that were left out; None where an older version of Mixlake registered it."""
    format: str
    text: str
    """The record field that holds a sample's text."""
    options: dict[str, Any]
    properties: tuple[Property, ...]
    field_types: dict[FieldPath, pa.DataType]
    """The types of the record fields that properties were computed from, where they decide what an expression means."""
    removals: tuple[Removal, ...]
    """What was removed, in order."""
    parts: tuple[Part, ...]
    """By number: what was registered at first, then what refreshing added."""

    @property
    def registrations(self) -> tuple[str, ...]:
        """The ids of the parts, in order."""
        return tuple(part.registration for part in self.parts)

    @property
    def num_files(self) -> int:
        """Files of all parts."""
        return sum(part.num_files for part in self.parts)

    @property
    def num_samples(self) -> int:
        """Samples of all parts."""
        return sum(part.num_samples for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Bytes of the files of all parts."""
        return sum(part.num_bytes for part in self.parts)
